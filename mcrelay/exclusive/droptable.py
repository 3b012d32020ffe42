"""The datagrams that the kernel drops once they are captured, and the nftables table for it. Pure.

The ingress hook comes after the ring's tap and before everything else (experiments/013-capture-point). So the relay
still gets these datagrams, and neither the IP stack nor a firewall sees them. The table drops exactly what the rule
matches: untagged UDP to its group and port, from its source if it names one. ``allow`` and ``limit`` do not change
that: the rule counts what they refuse. Two kinds are relayed and not dropped: fragments, of which only the first has
the port, and frames with a priority tag (VID 0). To drop those few would cost every other frame a second look. So do
IPv6 datagrams with extension headers.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcrelay.model.ports import spans_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from mcrelay.model.plan import InputSpec, PlanSpec
    from mcrelay.model.stream import Address

PRIORITY = -500  # before the chains of other people, which then never see what is dropped

# Other characters may mean something to nft: it cannot write a quote, and * at the end matches other links.
_PLAIN = re.compile(r"[A-Za-z0-9_.:@+-]+")
_IDENTIFIER = re.compile(r"mcrelay(-[A-Za-z0-9_.-]+)?")

# By IP version: what nft calls it, and what whole datagrams are. An EtherType, so no tag; no fragment.
_WHOLE = {4: ("ip", "@ll,96,16 0x0800 ip frag-off & 0x3fff == 0"), 6: ("ip6", "@ll,96,16 0x86dd ip6 nexthdr 17")}


@dataclass(frozen=True, slots=True)
class DropMatch:
    """The datagrams of one input, by the fields that nft compares. ``source`` None is any."""

    ifindex: int
    link: str
    group: Address
    port: int
    source: Address | None = None
    incarnation: int = 0


def wanted(spec: PlanSpec, broken: Collection[int] | Mapping[int, str] = ()) -> dict[str, frozenset[DropMatch]]:
    """What each exclusive rule takes now, by the rule's name. A link in ``broken`` (ifindexes) has no ring.

    A range takes what no more exact input does. One that takes any port has nothing here: the configuration refuses it.
    """
    live = [each for rule in spec.rules for each in rule.inputs if each.live]
    return {
        rule.name: frozenset(
            DropMatch(each.ifindex, each.iif, group, port, each.source, each.incarnation)
            for each in rule.inputs
            if each.live and each.ifindex not in broken
            for group, port in _taken(each, live)
        )
        for rule in spec.rules
        if rule.exclusive
    }


def _taken(each: InputSpec, others: Iterable[InputSpec]) -> Iterable[tuple[Address, int]]:
    """Groups and ports of an input, less those that inputs with shorter ranges take of it."""
    if isinstance(each.port, int) and each.length is None:
        return [(each.group, each.port)]
    ports = [port for low, high in spans_of(each.port) for port in range(low, high + 1)] if each.port != "any" else []
    nearer = [
        other
        for other in others
        if (other.ifindex, other.source) == (each.ifindex, each.source) and other.group_count < each.group_count
    ]
    less = {
        (group, port)
        for other in nearer
        for group in other.groups
        if other.port != "any" and each.takes(group)
        for low, high in spans_of(other.port)
        for port in range(low, high + 1)
    }
    return [(group, port) for group in each.groups for port in ports if (group, port) not in less]


def table_name(control: str) -> str:
    """The table name of the relay with this control socket: no two relays of a host have the same."""
    path = Path(control)
    if path.name == "mcrelay.sock" and path.parent.parent == Path("/run") and _IDENTIFIER.fullmatch(path.parent.name):
        return path.parent.name
    return f"mcrelay-{zlib.crc32(os.fsencode(control)):08x}"


def can_be_named(link: str) -> bool:
    """Whether nft takes the link's name literally."""
    return _PLAIN.fullmatch(link) is not None


def transaction(table: str, drops: Iterable[DropMatch]) -> str:
    """One line for nft that makes the table hold exactly these, or changes nothing.

    ``flags owner``: the table ends with the process that made it, and nobody else can change it. A chain belongs to the
    link's name, so also to another link that takes the name (seen on Linux 6.18) and has no ring yet: hence ``iif``.
    """
    links: dict[tuple[int, str], list[DropMatch]] = {}
    for drop in sorted(drops, key=_order):
        links.setdefault((drop.ifindex, drop.link), []).append(drop)
    owned = f"table netdev {table} {{ flags owner; "
    chains = " ".join(_chain(ifindex, link, held) for (ifindex, link), held in links.items())
    return f"add {owned}}}; delete table netdev {table}; {owned}{chains} }}"


def _chain(ifindex: int, link: str, drops: list[DropMatch]) -> str:
    hook = f'type filter hook ingress device "{link}" priority {PRIORITY}; policy accept;'
    rules = ""
    for version, (family, whole) in _WHOLE.items():
        own = [each for each in drops if each.group.version == version]
        matches = f"iif {ifindex} {whole}"
        if of_any := [f"{each.group} . {each.port}" for each in own if each.source is None]:
            rules += f" {matches} {family} daddr . udp dport {{ {', '.join(of_any)} }} drop;"
        if of_one := [f"{each.source} . {each.group} . {each.port}" for each in own if each.source is not None]:
            rules += f" {matches} {family} saddr . {family} daddr . udp dport {{ {', '.join(of_one)} }} drop;"
    return f"chain link{ifindex} {{ {hook}{rules} }};"


def _order(drop: DropMatch) -> tuple[int, int, int, int]:
    return (drop.ifindex, int(drop.group), drop.port, int(drop.source or 0))
