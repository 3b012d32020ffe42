"""What was changed at run time, and what a reload changes: configurations compared and altered. Pure.

Run-time changes are not stored: they are the difference between the rules that run and those of the files.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, TypeAlias

from mcrelay.config import checks
from mcrelay.config.ends import rule_key
from mcrelay.config.flags import words
from mcrelay.config.parse import RUNTIME
from mcrelay.config.writer import facts
from mcrelay.errors import Complaint, ConfigError, UsageError
from mcrelay.model.address import shown
from mcrelay.model.rule import DEFAULT_CONTROL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcrelay.config.ends import Place, Where
    from mcrelay.model.rule import Config, Rule

Kind: TypeAlias = Literal["delete", "enable", "disable", "replace", "add"]

_ORDER: tuple[Kind, ...] = (
    "delete",
    "enable",
    "disable",
    "replace",
    "add",
)  # each must be read after the ones before it


@dataclass(frozen=True, slots=True)
class Change:
    """One rule that runs differently from the files; ``rule`` is None if it was deleted."""

    kind: Kind
    name: str
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """The changes from one configuration to another; ``restart`` holds keys that only a restart applies."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]  # rule -> what differs, a line each
    restart: tuple[str, ...]


def same(a: Rule | None, b: Rule | None) -> bool:
    """Whether two rules do the same, whatever their origin."""
    return (a is None) == (b is None) and (a is None or b is None or replace(a, origin=b.origin) == b)


def find_rule(running: Config, name: str) -> Rule:
    """Find a rule by its name. Raises UsageError with those that it may have meant."""
    if rule := running.rules.get(name):
        return rule
    near = get_close_matches(name, running.rules, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`mcrelay show` lists those that are"
    raise UsageError(f"there is no rule {shown(name)}; {hint}")


def with_rule(running: Config, files: Config, rule: Rule) -> Config:
    """Put a rule in, at its old place if it has one. A rule equal to the one in the files has origin "file" again."""
    filed = files.rules.get(rule.name)
    rule = filed if filed is not None and same(rule, filed) else replace(rule, origin="runtime")
    return replace(running, rules={**running.rules, rule.name: rule})


def without_rule(running: Config, name: str) -> Config:
    """Take a rule out."""
    return replace(running, rules={other: rule for other, rule in running.rules.items() if other != name})


def runtime_changes(files: Config, running: Config) -> list[Change]:
    """Find every rule that runs differently from the files, in an order in which the changes can be made again."""
    found = [Change("delete", name) for name in files.rules if name not in running.rules]
    for name, rule in running.rules.items():
        filed = files.rules.get(name)
        if filed is None:
            found.append(Change("add", name, rule))
        elif same(rule, replace(filed, enabled=rule.enabled)):
            if rule.enabled != filed.enabled:
                found.append(Change("enable" if rule.enabled else "disable", name, rule))
        else:
            found.append(Change("replace", name, rule))
    return sorted(found, key=lambda change: _ORDER.index(change.kind))


def keep(files: Config, changes: Iterable[Change], where: Where) -> Config:
    """Lay run-time changes over new files. Raises ConfigError where they contradict each other.

    A rule that now stands in the files as it runs has origin "file". Deleting or disabling a rule that the files no
    longer hold counts as done.
    """
    merged = files
    complaints = []
    for change in changes:
        filed = files.rules.get(change.name)
        if change.kind == "delete":
            merged = without_rule(merged, change.name)
        elif change.rule is None or (filed is None and change.kind == "disable"):
            continue
        elif change.kind == "add" and filed is not None and not same(filed, change.rule):
            file, line = where(rule_key(change.name))
            problem = "stands here, and another rule of this name was added at run time"
            remedy = f"rename this one, or delete the other: mcrelay delete {change.name}"
            complaints.append(Complaint(file, line, rule_key(change.name), problem, remedy))
        elif filed is not None and change.kind in {"enable", "disable"}:
            merged = with_rule(merged, files, replace(filed, enabled=change.rule.enabled))
        else:
            merged = with_rule(merged, files, change.rule)
    mine = tuple(f"{rule_key(name)}." for name, rule in merged.rules.items() if rule.origin == "runtime")

    def place(key: str) -> Place:
        return RUNTIME if key.startswith(mine) else where(key)

    complaints += [each for each in checks.find(merged.rules, place) if not each.warning]
    if complaints:
        raise ConfigError(sorted(complaints))
    return merged


def lost(changes: Iterable[Change], after: Config) -> list[Change]:
    """Find the run-time changes that *after* lacks, each as the change that would restore it."""
    found = []
    for change in changes:
        now = after.rules.get(change.name)
        if change.rule is None:
            if now is not None:
                found.append(change)
        elif change.kind in {"enable", "disable"}:
            if now is not None and now.enabled != change.rule.enabled:
                found.append(change)
        elif not same(now, change.rule):
            found.append(replace(change, kind="add" if now is None else "replace"))
    return sorted(found, key=lambda change: _ORDER.index(change.kind))


def command(change: Change, control: str = DEFAULT_CONTROL) -> str:
    """Write the command that makes a change, for a shell."""
    said = ["mcrelay", change.kind, change.name]
    if change.rule is not None and change.kind in {"add", "replace"}:
        said += words(change.rule)
    if control != DEFAULT_CONTROL:
        said += ["--socket", control]
    return shlex.join(said)


def compare(before: Config, after: Config, started: Config) -> Difference:
    """Compare the rules with those that ran *before*, and the keys that need a restart with those it *started* with.

    A key of ``[relay]`` with the value that runs needs no restart: the command line may have given it.
    """
    added = tuple(name for name in after.rules if name not in before.rules)
    removed = tuple(name for name in before.rules if name not in after.rules)
    changed = {
        name: _difference(rule, after.rules[name])
        for name, rule in before.rules.items()
        if name in after.rules and not same(rule, after.rules[name])
    }
    restart = [
        f"relay.{each.name}"
        for each in fields(after.relay)
        if getattr(after.relay, each.name) not in {getattr(started.relay, each.name), getattr(before.relay, each.name)}
    ]
    named = sorted(started.links.keys() | after.links.keys())
    restart += [f"links.{name}" for name in named if started.links.get(name) != after.links.get(name)]
    return Difference(added, removed, changed, tuple(restart))


def _difference(before: Rule, after: Rule) -> tuple[str, ...]:
    was, now = facts(before), facts(after)
    lines = []
    for part, held in was.items():
        kept = now.get(part, {})
        changed = [key for key in held if key in kept and kept[key] != held[key]]
        lines += [f"{part} {key}: {held[key]} -> {kept[key]}".lstrip() for key in changed]
    lines += [f"{part} removed" for part in was if part not in now]
    lines += [f"{part} added" for part in now if part not in was]
    return tuple(lines)
