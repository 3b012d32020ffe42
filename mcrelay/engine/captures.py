"""What is captured: the rings of all workers on a link, which groups they let in, and what they have counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from mcrelay._core.counters import REFUSALS, VERDICTS
from mcrelay.engine.counters import ring_sum, total
from mcrelay.model.state import FrameLosses, NearMiss, RingCount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay._core.ring import RingSocket
    from mcrelay.model.plan import InputSpec, PlanSpec, RingSpec
    from mcrelay.model.stream import Address


@dataclass(slots=True)
class Capture:
    """The rings on one link, one for each worker. ``split``: only their filters divide the groups among the workers.

    Where the spec says ``own`` they capture what this host sends there; what arrives has a Capture of its own.
    """

    spec: RingSpec
    sockets: list[RingSocket]
    split: bool = False
    groups: frozenset[Address] = frozenset()
    coarse: bool = False
    by_program: bool = False  # the kernel engine sets the filter

    @property
    def key(self) -> int:
        """What it is found by, see `captured`."""
        ifindex = self.sockets[0].ifindex
        return -ifindex if self.spec.own else ifindex


def captured(spec: PlanSpec) -> Iterator[tuple[int, RingSpec]]:
    """What is captured, by key: a link's ifindex, and the negative of that for what this host itself sends there.

    A ring for that comes and goes beside the other, which loses nothing by it.
    """
    for ifindex, wanted in spec.rings.items():
        yield ifindex, replace(wanted, own=False)
        if wanted.own:
            yield -ifindex, wanted


def keys_of(each: InputSpec) -> tuple[int, ...]:
    """The captures that an input takes from."""
    return (each.ifindex, -each.ifindex) if each.own else (each.ifindex,)


CoreAddress = int | bytes  # IPv4, IPv6


def in_core(address: Address) -> CoreAddress:
    """An address as the core takes it (address.pyx), and the kernel engine's program (program.pyx)."""
    return int(address) if address.version == 4 else address.packed


class RuleKey(NamedTuple):
    """What the kernel engine finds a rule's datagrams by; source 0 is any."""

    ifindex: int
    group: CoreAddress
    source: CoreAddress
    port: int


def rule_key(each: InputSpec) -> RuleKey:
    """What an input's datagrams are found by. No datagram has port 0, which several ports have here."""
    source = in_core(each.source) if each.source else 0
    return RuleKey(each.ifindex, in_core(each.group), source, each.port if isinstance(each.port, int) else 0)


def groups_of(spec: PlanSpec) -> dict[int, frozenset[Address]]:
    """The groups that each ring has to let through."""
    groups: dict[int, set[Address]] = {key: set() for key, _ in captured(spec)}
    for each in (each for rule in spec.rules for each in rule.inputs if each.live):
        for key in keys_of(each):
            groups.setdefault(key, set()).update(each.groups)
    return {key: frozenset(held) for key, held in groups.items()}


def both(count: RingCount, other: RingCount) -> RingCount:
    """What two captures on a link have counted."""
    misses = tuple(sorted(count.misses + other.misses, key=lambda each: -each.last_time))
    return replace(ring_sum(other, count), coarse=count.coarse or other.coarse, misses=misses)


def ring_count(capture: Capture) -> RingCount:
    """The counts of the open rings of a link. The verdicts are read first, so they never exceed the frames."""
    refused = dict(zip(REFUSALS, total(ring.fragments.read() for ring in capture.sockets), strict=True))
    frames = dict(zip(VERDICTS, total(ring.frames.read() for ring in capture.sockets), strict=True))
    received, dropped = total(ring.statistics() for ring in capture.sockets)
    return RingCount(received, dropped, frames, capture.coarse, misses=_near_misses(capture), refused_fragments=refused)


def _near_misses(capture: Capture) -> tuple[NearMiss, ...]:
    """Near misses of all workers' rings on a link, the newest first. A coarse filter lets in groups of no rule."""
    found = [
        NearMiss(ip_address(group), ip_address(source), port or None, vlan, VERDICTS[verdict], packets, stamp / 1e9)
        for ring in capture.sockets
        for group, source, port, vlan, verdict, packets, stamp in ring.misses()
    ]
    return tuple(sorted((each for each in found if each.group in capture.groups), key=lambda each: -each.last_time))


def frame_losses(ring: RingSocket) -> FrameLosses:
    """By verdict, and under ``ring`` the frames without room: how many, and the group of the last."""
    words = zip(VERDICTS, ring.frames.read(), ring.lost_groups(), strict=True)
    lost = {verdict: (count, ip_address(group) if group else None) for verdict, count, group in words}
    return {**lost, "ring": (ring.statistics()[1], None)}
