"""The monitors of all input links, each with the tap through which it hears and speaks. Main thread."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mcrelay.igmp import advice, wire
from mcrelay.igmp.monitor import IgmpMonitor, Limits
from mcrelay.igmp.tap import IgmpTap
from mcrelay.linux import procfs
from mcrelay.model.memo import Memo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
    from ipaddress import IPv4Address

    from mcrelay.model.link import Link, LinkId, Membership

    _Groups = dict[int, dict[IPv4Address, list[IPv4Address]]]

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 0.9  # a little less than a tick
FRESH_SECONDS = 0.5  # how old what the kernel said of its IGMP versions may be: a flood of queries must not reread it


class Tap(Protocol):
    """The part of IgmpTap that is used here."""

    def close(self) -> None: ...
    def send(self, frames: Any, /) -> int: ...
    def refuses(self, frame: bytes, /) -> bool: ...


@dataclass(slots=True)
class _Entry:
    """A monitor, and its tap while the link exists. ``trouble`` is why there is none, said once.

    ``dropped`` is what the reverse-path filter had dropped before the query that waits for its answer, if one does.
    """

    monitor: IgmpMonitor
    tap: Tap | None = None
    link: LinkId | None = None
    trouble: str = ""
    dropped: int | None = None

    def close_tap(self) -> None:
        if self.tap is not None:
            self.tap.close()
            self.tap = None


class IgmpMonitors:
    """One monitor for each link that rules listen on, by name."""

    def __init__(self, limits: Limits, open_tap: Callable[..., Tap] = IgmpTap) -> None:
        self._limits = limits
        self._open_tap = open_tap
        self._entries: dict[str, _Entry] = {}
        self._groups = Memo(_by_link)
        self._versions: dict[str, int] = {}
        self._versions_read = float("-inf")
        self._dropped: int | None = None  # by the reverse-path filter, at the last sample
        self._sampled = float("-inf")

    def __iter__(self) -> Iterator[IgmpMonitor]:
        return (entry.monitor for entry in self._entries.values())

    def of(self, name: str) -> IgmpMonitor | None:
        """The monitor of a link, if rules listen on it."""
        entry = self._entries.get(name)
        return entry.monitor if entry else None

    def reconcile(self, names: Collection[str], links: Mapping[str, Link], joined: frozenset[Membership]) -> None:
        """Monitor the links called ``names``; the tap of a link that was deleted hears nothing any more."""
        for name in self._entries.keys() - set(names):
            entry = self._entries.pop(name)
            entry.monitor.close()
            entry.close_tap()
        groups = self._groups(joined)
        for name in sorted(names):
            link = links.get(name)
            entry = self._entries.get(name) or self._add(name)
            if link is None or link.id != entry.link:
                entry.close_tap()
                if entry.link is not None:
                    entry.monitor.update(None, None, {})  # a link made again may look the same
                    entry.link = None
            if link is not None and entry.tap is None:
                self._open_tap_of(entry, link.id)
            entry.monitor.update(link, entry.tap, groups.get(link.ifindex, {}) if link else {})

    def tick(self) -> None:
        """See what is wrong now."""
        for monitor in self:
            monitor.tick()
        self._sample()

    async def explain(
        self, links: Mapping[str, Link], route_to: Callable[[IPv4Address], Awaitable[int | None]]
    ) -> None:
        """Find out why queries go unanswered. ``route_to`` gives the ifindex of the way to an address, or None."""
        for entry in list(self._entries.values()):
            monitor = entry.monitor
            query, link = monitor.unexplained, links.get(monitor.name)
            if query is not None and link is not None:
                route = await route_to(query.querier)
                mode = procfs.rp_filter(link.name)
                monitor.explain(
                    advice.unanswered_query(link.name, link.ifindex, query, mode, route, seen=_what_is_seen(entry))
                )

    def close(self) -> None:
        """Let every link go."""
        self.reconcile((), {}, frozenset())

    def _add(self, name: str) -> _Entry:
        clock = asyncio.get_running_loop()
        monitor = IgmpMonitor(
            name,
            clock,
            self._limits,
            lambda: self._host_version(name),
            lambda: procfs.forced_igmp_version(name),
        )
        entry = self._entries[name] = _Entry(monitor, dropped=procfs.reverse_path_drops())
        return entry

    def _sample(self) -> None:
        """Keep what the reverse-path filter had dropped a sample ago: a query may be counted and not yet read."""
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
            entry.tap = self._open_tap(link.ifindex, asyncio.get_running_loop(), monitor.on_message, monitor.deliver)
        except OSError as error:
            trouble = error.strerror or str(error)
        if trouble and trouble != entry.trouble:
            log.warning("link=%s IGMP is not watched: %s", entry.monitor.name, trouble)
        entry.trouble = trouble

    def _host_version(self, name: str) -> int | None:
        if time.monotonic() - self._versions_read > FRESH_SECONDS:
            self._versions = wire.host_versions()
            self._versions_read = time.monotonic()
        return self._versions.get(name)


def _what_is_seen(entry: _Entry) -> advice.Seen:
    """Of the query that waits to be explained. Asks the host's output rules only where its input rules are not it."""
    now = procfs.reverse_path_drops()
    reached, reports = entry.monitor.reached, entry.monitor.reports()
    refused = reached and entry.tap is not None and bool(reports) and entry.tap.refuses(reports[0])
    return advice.Seen(reached, None if now is None or entry.dropped is None else now > entry.dropped, refused)


def _by_link(joined: frozenset[Membership]) -> _Groups:
    """The sources of every group (none: from anyone), by ifindex."""
    groups: _Groups = {}
    for each in joined:
        sources = groups.setdefault(each.ifindex, {}).setdefault(each.group, [])
        if each.source is not None:
            sources.append(each.source)
    return groups
