"""Log lines for losses: one when a kind of loss begins, and one when it has ended; and which rules lose now.

A loss belongs to an output (its send errors) or to a link (frames for which its ring had no room, or that cannot be
relayed as they are). A frame of the latter kind names its group, and so the rule. Only counts that moved are logged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcrelay.model.link_faults import narrower

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mcrelay.model.link import Link
    from mcrelay.model.plan import PlanSpec
    from mcrelay.model.state import CounterKey, FrameLosses
    from mcrelay.model.stream import Address

log = logging.getLogger(__name__)

QUIET_SECONDS = 5.0  # seconds without another loss after which it is over
MOST_GROUPS = 64  # rules remembered for one loss

# By send error. ``parked`` is missing: it is a state of the output, and logged as such.
OUTPUT_SAYINGS = {
    "nobufs": "more is to be sent than its queue takes; raise net.core.wmem_max, or send less over this link",
    "netdown": "its link is down",
    "mtu": "datagrams do not fit the MTU of the way; raise that, or take away df from the output, with IPv6 its vlan",
    "noaddr": "there is no address to send from; give its link one",
    "noroute": "there is no route to it; add one",
    "unreachable": "the host does not answer, or nothing listens on the port; see who receives there",
    "blocked": "this host's nftables output rules or a prohibit route refuse it; see `nft list ruleset` and `ip route`",
    "ttl": "the TTL is used up; have the sender use a greater one, or give the output a ttl of its own",
    "other": "the kernel refused to send, as a blackhole route has it do; see `ip route get` and the address",
}

# By frame verdict; ``ring`` are frames for which the ring had no room.
LINK_SAYINGS = {
    "ring": "its ring was full before the worker came: too much comes, or the host is busy; raise links.{link}.ring",
    "fragment": "of a datagram some fragments are missing, or contradict others; `mcrelay show stats` has the reasons",
    "truncated": "more frames larger than a slot than can wait; set links.{link}.profile to throughput",
    "malformed": "a length or a checksum is wrong: damaged on the way, or by the sender",
    "tunnel": "a tunnel's inner datagrams are left to a device to cut; switch UDP segmentation off where they are sent",
}

Key = tuple[str, str, str]  # rule, output, error; or link, "", verdict
Source = tuple[str, str, str]  # the same, or link, number of its ring, verdict


@dataclass(slots=True)
class _Episode:
    lost: int
    moved: float
    groups: set[Address] = field(default_factory=set)


class LossLog:
    """Follows the losses of every output and of every input link."""

    def __init__(self) -> None:
        self._seen: dict[Source, int] = {}
        self._open: dict[Key, _Episode] = {}

    def look(
        self,
        errors: Mapping[CounterKey, Mapping[str, int]],
        frames: Mapping[str, Sequence[FrameLosses]],
        spec: PlanSpec,
        now: float,
    ) -> None:
        """Compare with the last look.

        ``errors`` are counts by output and error, ``frames`` counts by link, ring and verdict, each with the group of
        the last such frame; ``now`` is monotonic seconds.
        """
        for (rule, output), counts in errors.items():
            for kind, saying in OUTPUT_SAYINGS.items():
                key = (rule, output, kind)
                if self._add(key, self._more(key, counts[kind]), None, now):
                    log.warning("began rule=%s output=%s losing=%s: %s", rule, output, kind, saying)
        for link, rings in frames.items():
            for number, found in enumerate(rings):
                self._look_at_ring(link, str(number), found, spec, now)
        self._close(now)
        held = {*errors, *((link, str(number)) for link, rings in frames.items() for number in range(len(rings)))}
        self._seen = {source: count for source, count in self._seen.items() if source[:2] in held}

    def _look_at_ring(self, link: str, number: str, found: FrameLosses, spec: PlanSpec, now: float) -> None:
        for kind, saying in LINK_SAYINGS.items():
            count, group = found[kind]
            more = self._more((link, number, kind), count)
            whose = _whose(spec, link, group) if more and group else ""
            if group is not None and not whose:
                continue  # a coarse filter lets in groups that belong to no rule
            if self._add((link, "", kind), more, group, now):
                log.warning("began link=%s losing=%s%s: %s", link, kind, whose, saying.format(link=link))

    def losing(self, spec: PlanSpec) -> set[str]:
        """Names of the rules that lose something now. A loss without a group concerns every rule of its link."""
        rules = {key[0] for key in self._open if key[1]}
        for (link, output, _), episode in self._open.items():
            if not output:
                rules |= {
                    rule.name
                    for rule in spec.rules
                    for each in rule.inputs
                    if each.iif == link and (not episode.groups or any(map(each.takes, episode.groups)))
                }
        return rules

    def _more(self, source: Source, count: int) -> int:
        """Number lost since the last look; a ring that was made anew counts from 0."""
        before = self._seen.get(source, 0)
        self._seen[source] = count
        return count - before if count >= before else count

    def _add(self, key: Key, more: int, group: Address | None, now: float) -> bool:
        """Whether a loss has just begun."""
        if not more:
            return False
        began = key not in self._open
        episode = self._open.setdefault(key, _Episode(0, now))
        episode.lost += more
        episode.moved = now
        if group is not None and len(episode.groups) < MOST_GROUPS:
            episode.groups.add(group)
        return began

    def _close(self, now: float) -> None:
        """Log the losses that have ended."""
        for key, episode in list(self._open.items()):
            if now - episode.moved >= QUIET_SECONDS:
                what = f"rule={key[0]} output={key[1]}" if key[1] else f"link={key[0]}"
                log.info("ended %s losing=%s lost=%d", what, key[2], episode.lost)
                del self._open[key]


def _whose(spec: PlanSpec, link: str, group: Address) -> str:
    names = [rule.name for rule in spec.rules for each in rule.inputs if each.iif == link and each.takes(group)]
    return f" group={group}" + "".join(f" rule={name}" for name in dict.fromkeys(names)) if names else ""


def narrow_outputs(spec: PlanSpec, links: Mapping[str, Link]) -> Iterable[str]:
    """For every output whose link has a smaller MTU than an input's: say what happens to larger datagrams."""
    for rule in spec.rules:
        taken = [(links[each.iif], each.group) for each in rule.inputs if each.live and each.iif in links]
        for output in rule.outputs:
            link = links.get(output.oif or "")
            if link is None or output.state != "active":
                continue
            if said := narrower(link, output.address, taken, df=output.df):
                problem, remedy = said
                yield f"rule={rule.name} output={output.to}: {problem}; {remedy}"
