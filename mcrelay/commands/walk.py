"""A walk of ``mcrelay doctor`` along one rule or stream: the evidence, and what the stages have found by now. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mcrelay.commands.evidence import subject_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcrelay.commands.evidence import Evidence, Input, LinkLook, Subject
    from mcrelay.model.frame import Datagram
    from mcrelay.model.stream import Address

    Flows: TypeAlias = dict[tuple[str, Address], dict[Datagram, int]]  # how many of each kind, by link and group

Row = dict[str, Any]
State = Literal["ok", "warning", "broken", "skipped"]
Found = tuple[State, str, str] | tuple[State, str]  # what a stage says: state, text, remedy


@dataclass(frozen=True, slots=True)
class Finding:
    """What one stage says. ``remedy`` is a command or what else to do, "" where the cause was not seen."""

    stage: str
    state: State
    text: str
    remedy: str = ""


class Index:
    """The evidence by what the stages look for: there may be thousands of rules."""

    def __init__(self, evidence: Evidence) -> None:
        relay = evidence.relay
        self.flows = _by_group({name: look.flows for name, look in evidence.looks.items()})
        self.sent = _by_group({name: look.sent for name, look in evidence.looks.items()})
        self.groups = {(row["ifname"], row["group"]): row for row in (relay.groups if relay else [])}
        outputs = [output for row in (relay.rules if relay else []) for output in row["outputs"]]
        self.ends = {(output["source_address"], output["source_port"]) for output in outputs}
        self.takers: dict[tuple[str, str], list[tuple[str, Input]]] = {}  # rules by link and group
        for row in relay.rules if relay else ():
            for each in subject_of(row).inputs if "inputs" in row else ():
                self.takers.setdefault((each.link, str(each.group)), []).append((row["name"], each))
        before, after = (relay.before, relay.after) if relay else ({}, {})
        self.rules = by_name(before, after, "rules", "name")
        self.links = by_name(before, after, "links", "ifname")


def _by_group(seen: Mapping[str, Mapping[Datagram, int]]) -> Flows:
    found: Flows = {}
    for name, flows in seen.items():
        for flow, count in flows.items():
            found.setdefault((name, flow.group), {})[flow] = count
    return found


def by_name(before: Row, after: Row, what: str, key: str) -> dict[str, tuple[Row, Row]]:
    """The counters of each rule or link before and after the look."""
    first = {row[key]: row for row in before.get(what, ())}
    return {row[key]: (first[row[key]], row) for row in after.get(what, ()) if row[key] in first}


class Walk:
    """A subject, the evidence, and which stages were broken so far."""

    def __init__(self, subject: Subject, evidence: Evidence, index: Index) -> None:
        self.subject = subject
        self.evidence = evidence
        self.index = index
        self.broken: list[str] = []

    def look(self, name: str) -> LinkLook | None:
        """What was seen on a link, None where nothing could be."""
        look = self.evidence.looks.get(name)
        return None if look is None or look.trouble else look

    def because(self, *stages: str) -> str:
        """Say that earlier stages make a look here worthless; "" where they do not."""
        held = [each for each in self.broken if each in stages]
        if held:
            return f"not before {' and '.join(held)} is mended"
        return "the rule is disabled" if self.subject.disabled else ""

    def flows(self, each: Input) -> dict[Datagram, int]:
        """What arrived for the group of an input, by kind, and how much of it; with ``own`` what this host sent too."""
        return self._of(each, self.index.flows) | (self.sent_here(each) if each.own else {})

    def sent_here(self, each: Input) -> dict[Datagram, int]:
        """What this host itself sends to the group there, less what outputs do."""
        sent = self._of(each, self.index.sent)
        return {flow: count for flow, count in sent.items() if not _ends_of(flow) & self.index.ends}

    def _of(self, each: Input, flows: Flows) -> dict[Datagram, int]:
        if not self.look(each.link):
            return {}
        if each.group_count == 1:
            return flows.get((each.link, each.group), {})
        return {
            flow: count
            for (link, group), found in flows.items()
            if link == each.link and each.takes(group)
            for flow, count in found.items()
        }


def _ends_of(flow: Datagram) -> set[tuple[str, int | str]]:
    """What outputs that send such datagrams show as their source address and port."""
    return set(itertools.product((str(flow.source), "keep"), (flow.source_port, "keep")))


def moved(counters: dict[str, tuple[Row, Row]], name: str) -> Row:
    """By how much the counters of a rule or link grew during the look; empty where there are none."""
    found: Row = _difference(*counters[name]) if name in counters else {}
    return found


def _difference(before: Any, after: Any) -> Any:
    if isinstance(after, dict):
        return {key: _difference((before or {}).get(key), value) for key, value in after.items()}
    if isinstance(after, list):
        return [_difference(*pair) for pair in zip(before or after, after, strict=False)]
    if isinstance(after, int | float) and isinstance(before, int | float) and not isinstance(after, bool):
        return after - before
    return after
