"""The monitors of all input links, each with the tap through which it hears and speaks. Main thread."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mcrelay.igmp import advice
from mcrelay.igmp.monitor import MembershipMonitor
from mcrelay.igmp.needs import Host, Limits
from mcrelay.igmp.protocol import IGMP, MLD, Protocol, protocol_of
from mcrelay.igmp.tap import Tap
from mcrelay.linux import procfs
from mcrelay.model.memo import Memo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping

    from mcrelay.igmp.needs import Spoken
    from mcrelay.model.link import Link, LinkId, Membership
    from mcrelay.model.stream import Address

    _Groups = dict[tuple[int, Protocol], dict[Address, list[Address]]]
    Wanted: TypeAlias = Collection[tuple[str, Protocol]]

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 0.9  # a little less than a tick
FRESH_SECONDS = (
    0.5  # seconds for which the kernel's IGMP versions are not read again: a flood of queries must cost nothing
)


@dataclass(slots=True)
class _Entry:
    """A monitor, and its tap while the link exists. ``trouble`` is the reason for a missing tap, logged once.

    ``dropped`` is the count of the reverse-path filter before the query that waits for its answer, if one does.
    """

    monitor: MembershipMonitor
    tap: Spoken | None = None
    link: LinkId | None = None
    trouble: str = ""
    dropped: int | None = None

    def close_tap(self) -> None:
        if self.tap is not None:
            self.tap.close()
            self.tap = None


class Monitors:
    """One monitor for each protocol of each link that rules listen on, by the link's name."""

    def __init__(self, limits: Limits, open_tap: Callable[..., Spoken] = Tap) -> None:
        self._limits = limits
        self._open_tap = open_tap
        self._entries: dict[tuple[str, Protocol], _Entry] = {}
        self._groups = Memo(_by_link)
        self._versions: dict[str, int] = {}
        self._versions_read = float("-inf")
        self._dropped: int | None = None  # by the reverse-path filter, at the last sample
        self._sampled = float("-inf")

    def __iter__(self) -> Iterator[MembershipMonitor]:
        return (entry.monitor for entry in self._entries.values())

    def reconcile(self, wanted: Wanted, links: Mapping[str, Link], joined: frozenset[Membership]) -> None:
        """Monitor these protocols of the links with these names; close the taps of deleted links."""
        for each in self._entries.keys() - set(wanted):
            entry = self._entries.pop(each)
            entry.monitor.close()
            entry.close_tap()
        groups = self._groups(joined)
        for name, protocol in sorted(wanted, key=str):
            link = links.get(name)
            entry = self._entries.get((name, protocol)) or self._add(name, protocol)
            if link is None or link.id != entry.link:
                entry.close_tap()
                if entry.link is not None:
                    entry.monitor.update(None, None, {})  # a link made again may look the same
                    entry.link = None
            if link is not None and entry.tap is None:
                self._open_tap_of(entry, link.id)
            entry.monitor.update(link, entry.tap, groups.get((link.ifindex, protocol), {}) if link else {})

    def tick(self) -> None:
        """Update the concerns of every link."""
        for monitor in self:
            monitor.tick()
        self._sample()

    async def explain(self, links: Mapping[str, Link], route_to: Callable[[Address], Awaitable[int | None]]) -> None:
        """Find out why queries go unanswered. ``route_to`` gives the ifindex of the way to an address, or None."""
        for entry in list(self._entries.values()):
            monitor = entry.monitor
            query, link = monitor.unexplained, links.get(monitor.name)
            if query is None or link is None:
                continue
            seen = _what_is_seen(entry)
            if monitor.protocol is MLD:
                monitor.explain(advice.unanswered_mld_query(link.name, query, seen=seen))
            else:
                route, mode = await route_to(query.querier), procfs.rp_filter(link.name)
                monitor.explain(advice.unanswered_query(link.name, link.ifindex, query, mode, route, seen=seen))

    def close(self) -> None:
        """Close every tap."""
        self.reconcile((), {}, frozenset())

    def _add(self, name: str, protocol: Protocol) -> _Entry:
        host = Host(
            version=(lambda: self._igmp_version(name)) if protocol is IGMP else (lambda: _mld_version(name)),
            forced=lambda: (procfs.forced_igmp_version if protocol is IGMP else procfs.forced_mld_version)(name),
            disabled=lambda: protocol is MLD and procfs.without_ipv6(name),
        )
        monitor = MembershipMonitor(name, protocol, asyncio.get_running_loop(), self._limits, host)
        entry = self._entries[name, protocol] = _Entry(monitor, dropped=procfs.reverse_path_drops())
        return entry

    def _sample(self) -> None:
        """Keep the count of the reverse-path filter from a sample ago: a query may be counted before it is read."""
        now = time.monotonic()
        if now - self._sampled < SAMPLE_SECONDS or not self._entries:
            return
        before, self._dropped, self._sampled = self._dropped, procfs.reverse_path_drops(), now
        for entry in self._entries.values():
            if not entry.monitor.asked and entry.monitor.unexplained is None and before is not None:
                entry.dropped = before

    def _open_tap_of(self, entry: _Entry, link: LinkId) -> None:
        entry.link = link
        trouble = ""
        try:
            monitor = entry.monitor
            loop = asyncio.get_running_loop()
            entry.tap = self._open_tap(monitor.protocol, link.ifindex, loop, monitor.on_message, monitor.deliver)
        except OSError as error:
            trouble = error.strerror or str(error)
        if trouble and trouble != entry.trouble:
            log.warning("cannot watch %s link=%s: %s", entry.monitor.protocol, entry.monitor.name, trouble)
        entry.trouble = trouble

    def _igmp_version(self, name: str) -> int | None:
        if time.monotonic() - self._versions_read > FRESH_SECONDS:
            self._versions = procfs.igmp_versions()
            self._versions_read = time.monotonic()
        return self._versions.get(name)


def _mld_version(name: str) -> int | None:
    """The kernel does not tell which version it speaks, only which one it is told to."""
    forced, _ = procfs.forced_mld_version(name)
    return forced or None


def _what_is_seen(entry: _Entry) -> advice.Seen:
    """The facts about the query to be explained. Asks the host's output rules only if its input rules let it pass."""
    now = procfs.reverse_path_drops()
    reached, reports = entry.monitor.reached, entry.monitor.reports()
    refused = reached and entry.tap is not None and bool(reports) and entry.tap.refuses(reports[0])
    return advice.Seen(reached, None if now is None or entry.dropped is None else now > entry.dropped, refused)


def _by_link(joined: frozenset[Membership]) -> _Groups:
    """The sources of every group (none: from anyone), by ifindex and protocol."""
    groups: _Groups = {}
    for each in joined:
        sources = groups.setdefault((each.ifindex, protocol_of(each.group)), {}).setdefault(each.group, [])
        if each.source is not None:
            sources.append(each.source)
    return groups
