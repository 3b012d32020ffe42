"""TOML text to its data, and to the line on which every key and every list element stands."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from contextlib import suppress
from typing import Any, TypeAlias

from mcrelay.errors import Complaint, ConfigError
from mcrelay.model.address import shown

Path: TypeAlias = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_EMPTY = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")  # what may stand between two expressions
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED_KEY = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'")
_TEXT = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""(?:""?)?'  # up to two quotes may stand before the closing three
    r"|'''(?:[^']|'(?!''))*'''(?:''?)?"
    r"|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'",
    re.DOTALL,
)
_WORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]*|[^\s,\]}#]+")  # a date and its time may have a blank between
_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_UNQUOTED = re.compile(r"""\s*[^=#]+=\s*(?P<value>[^\s"'\[{#][^#]*?)\s*(?:#.*)?$""")


def read(file: str, text: str) -> tuple[dict[str, Any], dict[Path, int]]:
    """Parse *text*: its data, and the 1-based line of every path in it (list elements by their index).

    Raises ConfigError with one complaint where the text is not TOML.
    """
    text = text.replace("\r\n", "\n")
    scan = _Scan(text)
    try:
        data = tomllib.loads(text)
        scan.document()
    except RecursionError:
        raise ConfigError([_unfit(file, 1, "lists or tables stand too deep in each other", "keep it flat")]) from None
    except ValueError as error:  # tomllib.TOMLDecodeError, or a number too long for int()
        raise ConfigError([_syntax(file, text, str(error))]) from None
    return data, scan.lines


def _unfit(file: str, line: int, problem: str, remedy: str) -> Complaint:
    return Complaint(file, line, "TOML", problem, remedy)


def _syntax(file: str, text: str, message: str) -> Complaint:
    """Turn tomllib's message into a complaint that names the common mistakes."""
    at = _AT.search(message)
    rows = text.split("\n")
    last = len(text.rstrip().split("\n"))
    line = int(at[1]) if at and at[1] else last if at else 1
    problem = message[: at.start()] if at else message
    scan = _Scan(text)
    with suppress(ValueError, RecursionError):  # the walk reaches the fault, or passes it
        scan.document()
    for path, first, again in scan.repeats:
        if again == line:
            return Complaint(file, line, key_text(path), f"already stands on line {first}", "remove one of the two")
    quotes = 'text stands in double quotes, e.g. "233.252.0.1:5000%eth0"'
    if (unquoted := _UNQUOTED.match(rows[line - 1])) and not _is_value(value := unquoted["value"]):
        lower = value.lower() in {"true", "false"}
        return _unfit(file, line, f"{shown(value)} is not a value", f"write {value.lower()}" if lower else quotes)
    remedy = quotes if problem == "Invalid value" else "see https://toml.io for how to write it"
    return _unfit(file, line, f"cannot be read: {problem[:1].lower()}{problem[1:]}", remedy)


def _is_value(text: str) -> bool:
    try:
        tomllib.loads(f"value = {text}")
    except ValueError:
        return False
    return True


def key_text(path: Path) -> str:
    """Write a path as in ``rules.hdmi-lobby.outputs[1].ttl``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if BARE_KEY.fullmatch(part) else _quoted(part))
    return text


def _quoted(key: str) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else repr(c)[1:-1] for c in key) + '"'


class _Scan:
    """Walks over TOML text and notes the line of each key. tomllib decides whether the text is right.

    Text that is not TOML ends the walk with a ValueError; the lines noted until then are kept.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.repeats: list[tuple[Path, int, int]] = []  # a key written twice, and both lines
        self._written: set[Path] = set()  # named in full by a header or a key, not only passed through
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._lengths: dict[Path, int] = {}  # of arrays of tables

    def document(self) -> None:
        """Walk over the whole text."""
        table: Path = ()
        self._skip(_EMPTY)
        while self.at < len(self.text):
            if self._ahead("["):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_EMPTY)

    def _header(self) -> Path:
        line = self._line()
        array = self._ahead("[[")
        self.at += 2 if array else 1
        keys = self._keys()
        self._expect("]]" if array else "]")
        path: Path = ()
        for key in keys[:-1]:
            path = self._inside((*path, key), line)
        path = (*path, keys[-1])
        if not array:
            self._write(path, line)
            return path
        self.lines.setdefault(path, line)
        index = self._lengths.get(path, 0)
        self._lengths[path] = index + 1
        self.lines[(*path, index)] = line
        return (*path, index)

    def _inside(self, path: Path, line: int) -> Path:
        """Pass through a table; in an array of tables it is the latest one."""
        self.lines.setdefault(path, line)
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _pair(self, table: Path) -> None:
        line = self._line()
        *parents, key = self._keys()
        for parent in parents:
            table = (*table, parent)
            self.lines.setdefault(table, line)
        self._write((*table, key), line)
        self._expect("=")
        self._value((*table, key))

    def _write(self, path: Path, line: int) -> None:
        if path in self._written:
            self.repeats.append((path, self.lines[path], line))
        self._written.add(path)
        self.lines[path] = line

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while self._ahead("."):
            self._expect(".")
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        self._skip(_BLANK)
        if self._ahead(('"', "'")):
            quoted = self._match(_QUOTED_KEY)
            key = str(tomllib.loads(f"key = {quoted}")["key"])
        else:
            key = self._match(BARE_KEY)
        self._skip(_BLANK)
        return key

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        if self._ahead("["):
            self._list(path)
        elif self._ahead("{"):
            self._inline(path)
        elif self._ahead(('"', "'")):
            self._match(_TEXT)
        else:
            self._match(_WORD)

    def _list(self, path: Path) -> None:
        self._expect("[")
        index = 0
        self._skip(_EMPTY)
        while not self._ahead("]"):
            self.lines[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1
            self._next("]")
        self._expect("]")

    def _inline(self, path: Path) -> None:
        self._expect("{")
        self._skip(_EMPTY)
        while not self._ahead("}"):
            self._pair(path)
            self._next("}")
        self._expect("}")

    def _next(self, closing: str) -> None:
        """Pass the comma before the next element, unless the list or table closes."""
        self._skip(_EMPTY)
        if not self._ahead(closing):
            self._expect(",")
            self._skip(_EMPTY)

    def _line(self) -> int:
        return bisect_right(self._newlines, self.at - 1) + 1

    def _ahead(self, text: str | tuple[str, ...]) -> bool:
        return self.text.startswith(text, self.at)

    def _expect(self, text: str) -> None:
        if not self._ahead(text):
            raise ValueError(f"no {text} at line {self._line()}")
        self.at += len(text)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"unreadable at line {self._line()}")
        self.at = match.end()
        return match[0]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        assert match is not None, "blanks may be empty"
        self.at = match.end()
