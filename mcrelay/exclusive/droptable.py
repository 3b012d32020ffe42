"""Which datagrams the kernel is to drop once they are captured, and the nftables table that does it: pure.

The ingress hook stands behind the ring's tap and before all else (experiments/013-capture-point), so the relay still
gets them, and neither the IP stack nor a firewall sees them. The table drops exactly what the rule matches: UDP to its
group and port, from its source if it names one, untagged. ``allow`` and ``limit`` change nothing about that: what they
refuse is the rule's too, and it counts it. Not dropped, though relayed, are fragments, of which only the first has the
port, and frames with a priority tag (VID 0): to drop those few as well would cost every other frame a second look.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from ipaddress import IPv4Address

    from mcrelay.model.plan import PlanSpec

PRIORITY = -500  # before every chain that people hang there; what is dropped costs them nothing

# Beyond these a name may mean something to nft: it has no way to write a quote, and * at the end matches other links.
_PLAIN = re.compile(r"[A-Za-z0-9_.:@+-]+")
_IDENTIFIER = re.compile(r"mcrelay(-[A-Za-z0-9_.-]+)?")


@dataclass(frozen=True, slots=True)
class DropMatch:
    """Datagrams of one input, by what the kernel can tell them by. ``source`` None is any."""

    ifindex: int
    link: str
    group: IPv4Address
    port: int
    source: IPv4Address | None = None
    incarnation: int = 0


def wanted(spec: PlanSpec, broken: Collection[int] | Mapping[int, str] = ()) -> dict[str, frozenset[DropMatch]]:
    """What each exclusive rule takes now, by the rule's name. A link in ``broken`` (ifindexes) has no ring."""
    return {
        rule.name: frozenset(
            DropMatch(each.ifindex, each.iif, each.group, each.port, each.source, each.incarnation)
            for each in rule.inputs
            if each.live and each.ifindex not in broken
        )
        for rule in spec.rules
        if rule.exclusive
    }


def table_name(control: str) -> str:
    """The table of the relay that listens on this control socket: no two relays of a host have the same."""
    path = Path(control)
    if path.name == "mcrelay.sock" and path.parent.parent == Path("/run") and _IDENTIFIER.fullmatch(path.parent.name):
        return path.parent.name
    return f"mcrelay-{zlib.crc32(os.fsencode(control)):08x}"


def can_be_named(link: str) -> bool:
    """Whether nft takes the link's name for what it is."""
    return _PLAIN.fullmatch(link) is not None


def transaction(table: str, drops: Iterable[DropMatch]) -> str:
    """One line for nft that makes the table hold these and nothing else, or changes nothing.

    ``flags owner``: it goes with the process that made it, and nobody else can change it. A chain hangs on the link of
    that name, also on another that takes its place (seen on Linux 6.18) and may not have a ring yet: hence ``iif``.
    """
    links: dict[tuple[int, str], list[DropMatch]] = {}
    for drop in sorted(drops, key=_order):
        links.setdefault((drop.ifindex, drop.link), []).append(drop)
    owned = f"table netdev {table} {{ flags owner; "
    chains = " ".join(_chain(ifindex, link, held) for (ifindex, link), held in links.items())
    return f"add {owned}}}; delete table netdev {table}; {owned}{chains} }}"


def _chain(ifindex: int, link: str, drops: list[DropMatch]) -> str:
    whole = f"iif {ifindex} @ll,96,16 0x0800 ip frag-off & 0x3fff == 0"  # an EtherType, so no tag; no fragment
    hook = f'type filter hook ingress device "{link}" priority {PRIORITY}; policy accept;'
    rules = ""
    if of_any := [f"{each.group} . {each.port}" for each in drops if each.source is None]:
        rules += f" {whole} ip daddr . udp dport {{ {', '.join(of_any)} }} drop;"
    if of_one := [f"{each.source} . {each.group} . {each.port}" for each in drops if each.source is not None]:
        rules += f" {whole} ip saddr . ip daddr . udp dport {{ {', '.join(of_one)} }} drop;"
    return f"chain link{ifindex} {{ {hook}{rules} }};"


def _order(drop: DropMatch) -> tuple[int, int, int, int]:
    return (drop.ifindex, int(drop.group), drop.port, int(drop.source or 0))
