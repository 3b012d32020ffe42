"""The tables of one file: the good values, and a complaint for each of the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from mcrelay.config import lines as toml_lines
from mcrelay.config import presets
from mcrelay.config.schema import COMMON, INPUT, LINK, OUTPUT, RELAY, RULE, not_yet
from mcrelay.errors import Complaint, SettingError
from mcrelay.model.notation import EXAMPLE, NAME, NAME_REMEDY, parse_stream
from mcrelay.model.rule import Input, Output, Rule
from mcrelay.model.values import Each
from mcrelay.model.wording import written

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mcrelay.config.ends import Place
    from mcrelay.model.option import Option
    from mcrelay.model.stream import Stream

_ENDS = ("input", "inputs", "outputs")
_HOME = (
    dict.fromkeys(RELAY, "[relay]")
    | dict.fromkeys(LINK, "[links.NAME]")
    | dict.fromkeys([*RULE, *_ENDS, *presets.KEYS], "[rules.NAME]")
)


@dataclass(frozen=True, slots=True)
class Draft:
    """The readable part of a rule; ``kept`` holds the place in the file of each of its outputs."""

    rule: Rule
    output_indexes: tuple[int, ...]


class FileReader:
    """One file that is being read: the lines of its keys, and the complaints about them."""

    def __init__(self, file: str, lines: Mapping[str, int], complaints: list[Complaint]) -> None:
        self.file = file
        self._lines = lines
        self._complaints = complaints
        self._made: dict[str, str] = {}  # key of a rule that a preset made -> key of the preset's table

    def place(self, key: str) -> Place:
        """Give the place of a key, or of its table if the key is missing."""
        while key and key not in self._lines:
            key = self._made.get(key) or parent(key)
        return self.file, self._lines.get(key, 1 if self._lines else 0)

    def complain(self, key: str, problem: str, remedy: str) -> None:
        """Note what is wrong with a key."""
        file, line = self.place(key)
        self._complaints.append(Complaint(file, line, key, problem, remedy))

    def attempt(self, path: str, check: Callable[[Any], Any], value: Any) -> Any:
        """Return the checked value; None and a complaint if the check refuses it."""
        try:
            return check(value)
        except SettingError as error:
            self.complain(path, error.problem, error.remedy)
            return None

    def unknown(self, path: str, key: str, known: Mapping[str, object] | Sequence[str]) -> None:
        """Complain of a key that cannot stand where it stands."""
        if key in _HOME:
            self.complain(path, "cannot stand here", f"it belongs in {_HOME[key]}")
        elif near := get_close_matches(key, known, n=1):
            self.complain(path, "unknown key", f"did you mean {near[0]}?")
        elif near := get_close_matches(key, _HOME, n=1, cutoff=0.8):
            self.complain(path, "unknown key", f"did you mean {near[0]}? It belongs in {_HOME[near[0]]}")
        else:
            self.complain(path, "unknown key", f"known here: {', '.join(k for k in known if k != 'inputs')}")

    def stray(self, path: str, key: str, table: str) -> None:
        """Complain of a plain value where only named tables stand."""
        name = "NAME" if key in _HOME else key
        self.complain(path, "is not a table", f"write {table.replace('NAME', name)} on a line of its own")

    def keys(
        self, above: str, table: Mapping[str, Any], rows: Mapping[str, Option], ends: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Check a table's keys and return the good ones; *ends* are known keys that the caller reads."""
        good = {}
        for key, value in table.items():
            path = f"{above}.{toml_lines.key_text((key,))}"
            if key in rows:
                read = self._key(path, rows[key], value)
                if read is not None:
                    good[key] = read
            elif key not in ends:
                self.unknown(path, key, [*ends, *rows])
        return good

    def _key(self, path: str, row: Option, value: Any) -> Any:
        check = row.check
        if not isinstance(check, Each):
            read = self.attempt(path, check, value)
        elif not isinstance(value, list):
            self.complain(path, f"{written(value)} is not a list", f"write {row.key} = {check.example}")
            return None
        else:
            items = [self.attempt(f"{path}[{i}]", check.item, item) for i, item in enumerate(value)]
            read = None if any(item is None for item in items) else self.attempt(path, check.whole, items)
        if read is not None:
            self._refuse(path, row.key, read)
        return read

    def _refuse(self, path: str, feature: str, value: Any) -> bool:
        """Complain of a value that is not built yet. It is legal otherwise, and the checks go on with it."""
        refusal = not_yet(feature, value)
        if refusal is not None:
            self.complain(path, refusal.problem, refusal.remedy)
        return refusal is not None

    def rule(
        self, name: str, table: Mapping[str, Any], defaults: Mapping[str, Any], origin: Literal["file", "runtime"]
    ) -> Draft:
        """Read one rule: all its readable parts."""
        path = toml_lines.key_text(("rules", name))
        if not NAME.fullmatch(name):
            self.complain(path, f"{written(name)} cannot be a rule's name", NAME_REMEDY)
        options = _over(defaults, table, self.keys(path, table, RULE, _ENDS))
        taken = self._input(path, table, options)
        outputs: list[Output] = []
        kept: list[int] = []
        for index, value in enumerate(self._output_list(path, table)):
            output = self._output(f"{path}.outputs[{index}]", value, options, taken)
            if output is not None:
                outputs.append(output)
                kept.append(index)
        own = {key: value for key, value in options.items() if key not in INPUT and key not in OUTPUT}
        rule = Rule(name, (taken,) if taken else (), tuple(outputs), origin=origin, **own)
        return Draft(rule, tuple(kept))

    def preset(self, name: str, table: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Draft]:
        """Read a rule that is a preset: the drafts of the rules that it stands for."""
        path = toml_lines.key_text(("rules", name))
        if not NAME.fullmatch(name):
            self.complain(path, f"{written(name)} cannot be a rule's name", NAME_REMEDY)
        allowed = {key: row for key, row in RULE.items() if key in presets.MAY_STAND}
        said = [key for key in table if key in _ENDS or (key in RULE and key not in allowed)]
        good = self.keys(path, {k: v for k, v in table.items() if k not in said}, allowed, presets.KEYS)
        for key in said:
            fits = ", ".join([*presets.KEYS, *presets.MAY_STAND])
            self.complain(f"{path}.{key}", "cannot stand beside a preset, which says it", f"a preset has {fits}")
        found = {}
        for key, read in (("preset", presets.read_preset), ("links", presets.read_links)):
            if key in table:
                found[key] = self.attempt(f"{path}.{key}", read, table[key])
            else:
                example = 'preset = "mdns"' if key == "preset" else presets.EXAMPLE
                self.complain(f"{path}.{key}", "is missing: a preset has a set of links", f"write {example}")
        if found.get("preset") is None or found.get("links") is None:
            return []
        options = _over({key: value for key, value in defaults.items() if key in allowed}, table, good)
        made = self.attempt(path, lambda _: presets.rules_of(name, found["preset"], found["links"], options), table)
        self._made |= {toml_lines.key_text(("rules", own)): path for own in made or {}}
        return [Draft(rule, tuple(range(len(rule.outputs)))) for rule in (made or {}).values()]

    def _input(self, rule: str, table: Mapping[str, Any], options: Mapping[str, Any]) -> Input | None:
        if "inputs" in table:
            self._refuse(f"{rule}.inputs", "inputs", table["inputs"])
        if "inputs" in table and "input" not in table:
            return None
        path, value = self._end(rule, table, "input", [*RULE, *_ENDS])
        if isinstance(value, dict):
            options = _over(options, value, self.keys(path, value, INPUT, ("from",)))
            path, value = self._end(path, value, "from", INPUT)
        stream = self._stream(path, value)
        return None if stream is None else Input(stream, **{k: options[k] for k in INPUT if k in options})

    def _output_list(self, rule: str, table: Mapping[str, Any]) -> list[Any]:
        path = f"{rule}.outputs"
        example = f'outputs = ["{EXAMPLE}"]'
        key = _meant("outputs", table, [*RULE, *_ENDS])
        if key is None:
            self.complain(path, "is missing", f"write {example}")
            return []
        value = table[key]
        if isinstance(value, list):
            if not value:
                self.complain(
                    path, "an empty list sends nothing", f"write {example}, or enabled = false to pause the rule"
                )
            return value
        if key == "outputs":
            quoted = f"outputs = [{written(value)}]" if isinstance(value, str) else example
            self.complain(path, f"{written(value)} is not a list", f"write {quoted}")
        return [value] if isinstance(value, (str, dict)) else []

    def _output(self, path: str, value: Any, options: Mapping[str, Any], taken: Input | None) -> Output | None:
        options = {key: said for key, said in options.items() if key in COMMON}
        if isinstance(value, dict):
            options = _over(options, value, self.keys(path, value, OUTPUT, ("to",)))
            path, value = self._end(path, value, "to", OUTPUT)
        stream = self._stream(path, value)
        if stream is None:
            return None
        if stream.port is None and taken is not None:
            stream = replace(stream, port=taken.stream.port)
        return Output(stream, **{row.field: options.get(key, row.default_of(stream)) for key, row in OUTPUT.items()})

    def _end(self, path: str, table: Mapping[str, Any], name: str, known: Collection[str]) -> tuple[str, Any]:
        """Find the value of a key that must be there, and its path; None and a complaint if it is not."""
        key = _meant(name, table, known)
        if key is None:
            self.complain(f"{path}.{name}", "is missing", f'write {name} = "{EXAMPLE}"')
            return path, None
        return f"{path}.{toml_lines.key_text((key,))}", table[key]

    def _stream(self, path: str, value: Any) -> Stream | None:
        if value is None:  # missing, and complained of
            return None
        if not isinstance(value, str):
            self.complain(path, f"{written(value)} is not a stream", f'write it in double quotes, e.g. "{EXAMPLE}"')
            return None
        stream: Stream | None = self.attempt(path, parse_stream, value)
        return stream


def _over(inherited: Mapping[str, Any], table: Mapping[str, Any], good: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a table's good values over the inherited ones. A key with a faulty value inherits nothing."""
    return {**{key: value for key, value in inherited.items() if key not in table}, **good}


def _meant(name: str, table: Mapping[str, Any], known: Collection[str]) -> str | None:
    """The key itself, or its only plausible misspelling, which is reported; its value is still checked."""
    if name in table:
        return name
    near = (key for key in table if key not in known and get_close_matches(key, [name, *known], n=1) == [name])
    return next(near, None)


def parent(key: str) -> str:
    """Remove the last part of a key path."""
    return key[: max(key.rfind("."), key.rfind("["), 0)]
