"""``mcrelay save``: writes rules that only run into a file, with the rights of the user who asks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import sys
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcrelay.commands.options import relay_options
from mcrelay.commands.table import answer, say
from mcrelay.config import lines as toml_lines
from mcrelay.config.ends import rule_key
from mcrelay.config.files import config_paths, read, saved_path
from mcrelay.config.parse import parse_config, parse_rule
from mcrelay.config.writer import rule_table, toml_table
from mcrelay.control.client import ask
from mcrelay.errors import ConfigError, OperationError
from mcrelay.model.instance import control_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mcrelay.config.parse import Parsed
    from mcrelay.model.rule import Rule

HEADING = "# Rules that were added at run time, written by `mcrelay save`, which keeps whatever else stands here.\n"


@click.command(epilog="\b\nExample:\n  mcrelay save")
@click.option("--to", "target", metavar="FILE", type=click.Path(path_type=Path), help="Write this file instead.")
@relay_options
def save(target: Path | None, socket_path: str | None) -> None:
    """Write the rules that only run into conf.d/90-saved.toml beside the main configuration.

    The command writes with your rights, in one step, and touches no other file. If another file has to be changed, it
    says where, and the exit code is 1. Rules that were saved before stay, and so does all else in the file.
    """
    asked = ask(socket_path, "changes", read_only=True)
    paths, instance = [Path(path) for path in asked["paths"]], asked["instance"]
    wanted = [Wanted(each["name"], _rule(each["name"], each["rule"])) for each in asked["changes"]]
    if not wanted:
        answer("nothing to save: what runs is what the files say")
        return
    try:
        target = (target or saved_path(paths, instance)).absolute()
        read_there = config_paths(paths, instance)
        with _folder(target) as folder:
            saving = merge(wanted, _read(read_there, target), str(target), control_path(instance))
            if saving.text is not None:
                _write(target, saving.text, folder, like=target if target.exists() else read_there[0])
    except OSError as error:
        what = f"cannot write {target or 'beside the configuration'}: {error.strerror}"
        missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
        cure = "make its folder" if missing else "run this as a user who may write there"
        raise OperationError(f"{what}; {cure}, or name another file with --to") from error
    if saving.written:
        answer(f"saved {', '.join(saving.written)} to {target}")
    if saving.removed:
        answer(f"removed {', '.join(saving.removed)} from {target}")
    if saving.there:
        answer(f"in a file already: {', '.join(saving.there)}")
    if saving.text is not None:
        if os.path.realpath(target) in map(os.path.realpath, config_paths(paths, instance)):
            rest = "" if saving.refused else "nothing else is to be done: "
            answer(f"{rest}the next reload or start reads {target.name}")
        else:
            say(f"warning: the relay does not read {target}: start it with a further -c {target}")
    for refusal in saving.refused:
        say(f"mcrelay: {refusal}")
    sys.exit(OperationError.exit_code if saving.refused else 0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rule as it should be after the next reload; ``rule`` is None if it was deleted."""

    name: str
    rule: Rule | None


@dataclass(slots=True)
class Saving:
    """The text to write, and its rules; ``text`` is None if the file stays as it is."""

    text: str | None = None
    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def merge(wanted: Iterable[Wanted], files: Sequence[tuple[str, str]], target: str, control: str) -> Saving:
    """Work the wanted rules into the text of *target*, one of the files or a new one. Pure.

    Raises ConfigError if the files have faults, or would have them with the new text.
    """
    parsed = parse_config(files, control)
    text = dict(files).get(target, HEADING)
    saving = Saving()
    for each in wanted:
        file, line = parsed.where(rule_key(each.name))
        filed = parsed.config.rules.get(each.name)
        if filed is None:
            if each.rule is not None:
                text = _append(text, _written(each.rule, parsed))
                saving.written.append(each.name)
        elif each.rule is not None and _alike(filed, each.rule):
            saving.there.append(each.name)
        elif file != target:
            saving.refused.append(_elsewhere(each, filed, f"{file}:{line}"))
        elif each.rule is None:
            text = _replaced(text, target, each.name, "")
            saving.removed.append(each.name)
        else:
            text = _replaced(text, target, each.name, _written(each.rule, parsed))
            saving.written.append(each.name)
    if saving.written or saving.removed:
        parse_config([*(file for file in files if file[0] != target), (target, text)], control)
        saving.text = text
    return saving


def _rule(name: str, table: dict[str, Any] | None) -> Rule | None:
    return None if table is None else parse_rule(name, table, {})


def _alike(filed: Rule, rule: Rule) -> bool:
    return replace(rule, origin=filed.origin) == filed


def _elsewhere(wanted: Wanted, filed: Rule, place: str) -> str:
    """Say why a change cannot be saved, and what to write in the file that has the rule."""
    if wanted.rule is None:
        return f"{wanted.name} was deleted, but stands in a file that save leaves alone: delete it at {place}"
    if _alike(filed, replace(wanted.rule, enabled=filed.enabled)):
        enabled = str(wanted.rule.enabled).lower()
        return f"{wanted.name} stands in a file that save leaves alone: write enabled = {enabled} at {place}"
    table = toml_table(("rules", wanted.name), rule_table(wanted.rule)).rstrip()
    return f"{wanted.name} stands in a file that save leaves alone: put this in its place at {place}\n{table}"


def _written(rule: Rule, parsed: Parsed) -> str:
    return toml_table(("rules", rule.name), rule_table(rule, parsed.defaults))


def _append(text: str, table: str) -> str:
    return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{chr(10) if text else ''}{table}"


def _replaced(text: str, target: str, name: str, table: str) -> str:
    """Replace the table of a rule, and keep its comment lines; an empty *table* removes it.

    Comments after its last key belong to the next table, and stay. Raises OperationError if anything else would change:
    not every way to write a rule can be cut out.
    """
    lines = toml_lines.read(target, text)[1]
    rule = ("rules", name)
    rows = text.split("\n")
    start = lines[rule] - 1
    later = [line - 1 for path, line in lines.items() if line - 1 > start and path[:2] != rule]
    end = min(later, default=len(rows))
    while end > start + 1 and (not rows[end - 1].strip() or _is_comment(rows[end - 1])):
        end -= 1
    new = table.rstrip("\n").split("\n") if table else []
    new[1:1] = [row for row in rows[start + 1 : end] if _is_comment(row)]
    replaced = "\n".join([*rows[:start], *new, *rows[end:]])
    expected = _rules_of(text)
    del expected[name]
    with contextlib.suppress(tomllib.TOMLDecodeError):
        if _rules_of(replaced) == expected | _rules_of(table) and _but_rules(replaced) == _but_rules(text):
            return replaced
    raise OperationError(f"{target}:{start + 1}: {name} is not written as save would; change it there by hand")


def _is_comment(row: str) -> bool:
    return row.lstrip().startswith("#")


def _rules_of(text: str) -> dict[str, Any]:
    rules: dict[str, Any] = tomllib.loads(text).get("rules", {})
    return rules


def _but_rules(text: str) -> dict[str, Any]:
    return tomllib.loads(text) | {"rules": {}}


def _read(paths: Sequence[Path], target: Path) -> list[tuple[str, str]]:
    """Read the files of the relay, and the target by the name that the user gave."""
    real = os.path.realpath(target)
    others = [path for path in paths if os.path.realpath(path) != real]
    texts, complaints = read([*others, *([target] if target.exists() else [])])
    if complaints:
        raise ConfigError(complaints)
    return texts


@contextlib.contextmanager
def _folder(target: Path) -> Iterator[int]:
    """Lock the folder of the target, so that one command saves at a time; make the folder if it is missing."""
    folder = Path(os.path.realpath(target)).parent
    if not folder.exists():
        folder.mkdir()
        folder.chmod(0o755)  # independent of the umask: the relay is another user, and must read there
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _write(target: Path, text: str, folder: int, like: Path) -> None:
    """Replace the file in one step: a reader, or a power failure, finds the old text or the new one.

    It gets the owner and mode of *like*: the relay is another user, and must be able to read it.
    """
    example = like.stat()
    name = Path(os.path.realpath(target)).name
    draft = f".{name}.{secrets.token_hex(4)}"  # hidden: no relay reads it
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
            with contextlib.suppress(PermissionError):  # only root gives files away
                os.fchown(fd, example.st_uid, example.st_gid)
            os.fchmod(fd, stat.S_IMODE(example.st_mode))
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise
    os.fsync(folder)
