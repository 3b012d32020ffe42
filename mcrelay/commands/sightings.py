"""What arrives on a link while a rule gets nothing, and how it differs from what the rule wants; in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from mcrelay.config.overlaps import meet
from mcrelay.linux import bpf
from mcrelay.linux.packets import PacketSocket
from mcrelay.model.frame import read_datagram
from mcrelay.model.ports import names_port
from mcrelay.model.stream import Stream

if TYPE_CHECKING:
    from mcrelay.model.frame import Datagram
    from mcrelay.model.rule import Input

MOST = 256  # kinds of datagram that are told apart; a flood of spoofed ones costs no more
SAID = 3  # of other groups


@dataclass(frozen=True, slots=True, order=True)
class Sighting:
    """One kind of datagram that was seen. ``vlan`` 0 is untagged."""

    group: str
    port: int
    source: str
    vlan: int
    fragment: bool


class Sightings:
    """Looks at the multicast of a link, or at what is sent to one address, until it is closed."""

    def __init__(self, link: str, wanted: Input) -> None:
        """Raises LinkError or OperationError where the link cannot be looked at."""
        address = wanted.stream.address
        program = bpf.multicast_filter() if address.is_multicast else bpf.fitting_filter([address])[0]
        self._tap = PacketSocket(link, program, sent=False)
        self._link = link
        self._wanted = wanted
        self._seen: Counter[Sighting] = Counter()

    def close(self) -> None:
        """Look no more; what was seen stays."""
        self._tap.close()

    def look(self) -> None:
        """Take in what has come since."""
        for frame in self._tap.read():
            datagram = read_datagram(frame)
            if datagram is not None:
                kind = _kind(datagram)
                if kind in self._seen or len(self._seen) < MOST:
                    self._seen[kind] += datagram.count

    def said(self, seconds: float) -> list[str]:
        """A sentence for each kind of datagram of the rule's group, else for the busiest of other groups."""
        return describe(self._seen, self._wanted, self._link, seconds)


def describe(seen: Counter[Sighting], wanted: Input, link: str, seconds: float) -> list[str]:
    """Say what was seen in so many seconds, the most frequent first."""
    groups = replace(wanted.stream, port="any")
    near: Counter[Sighting] = Counter()
    others: Counter[Sighting] = Counter()
    for each, n in seen.items():
        if meet(Stream(ip_address(each.group), "any"), groups):
            near[each] += n
        else:
            others[replace(each, source="", fragment=False)] += n
    lines = [f"{_arrives(each, link, n, seconds)}; {_difference(each, wanted)}" for each, n in near.most_common(SAID)]
    if lines:
        return lines
    return [f"another group: {_arrives(each, link, n, seconds)}" for each, n in others.most_common(SAID)]


def _kind(datagram: Datagram) -> Sighting:
    return Sighting(
        str(datagram.group), datagram.port, str(datagram.source), datagram.vlan or 0, fragment=datagram.fragment
    )


def _arrives(each: Sighting, link: str, number: int, seconds: float) -> str:
    source = f" from {each.source}" if each.source else ""
    port = f" to port {each.port}" if each.port else ""
    vlan = f" in VLAN {each.vlan}" if each.vlan else ""
    return f"{each.group} arrives on {link}{vlan}{source}{port}, {max(number / max(seconds, 0.1), 1):.0f}/s"


def _difference(each: Sighting, wanted: Input) -> str:
    """What the rule wants that this datagram is not."""
    stream = wanted.stream
    wants = []
    if each.vlan and wanted.vlan == "none":
        wants.append(f"it untagged: take the input from a link of that VLAN, or say vlan = {each.vlan}")
    elif isinstance(wanted.vlan, int) and each.vlan != wanted.vlan:
        wants.append(f"VLAN {wanted.vlan}")
    if stream.source is not None and str(stream.source) != each.source:
        wants.append(f"source {stream.source}")
    if each.port and not names_port(stream.port, each.port):
        wants.append(f"port {stream.port}")
    if wants:
        return f"this rule wants {' and '.join(wants)}"
    if each.fragment:
        return "it comes in fragments, of which no datagram was whole: some are lost on the way"
    return "`mcrelay show stats` says as what it was counted"
