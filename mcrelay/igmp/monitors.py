"""The guardians of all input links, each with the tap through which it hears and speaks. Main thread."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mcrelay.igmp import advice, wire
from mcrelay.igmp.monitor import Guardian, Limits
from mcrelay.igmp.tap import IgmpTap
from mcrelay.linux import procfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
    from ipaddress import IPv4Address

    from mcrelay.model.link import Link, Membership

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
class _Post:
    """A guardian, and its tap while the link exists. ``trouble`` is why there is none, said once.

    ``dropped`` is what the reverse-path filter had dropped before the query that waits for its answer, if one does.
    """

    guardian: Guardian
    tap: Tap | None = None
    ifindex: int = 0
    trouble: str = ""
    dropped: int | None = None

    def unplug(self) -> None:
        if self.tap is not None:
            self.tap.close()
            self.tap = None


class Guard:
    """One guardian for each link that rules listen on, by name."""

    def __init__(self, limits: Limits, open_tap: Callable[..., Tap] = IgmpTap) -> None:
        self._limits = limits
        self._open_tap = open_tap
        self._posts: dict[str, _Post] = {}
        self._sorted: tuple[frozenset[Membership], _Groups] = (frozenset(), {})  # what is joined, and by link
        self._versions: dict[str, int] = {}
        self._versions_read = float("-inf")
        self._dropped: int | None = None  # by the reverse-path filter, at the last sample
        self._sampled = float("-inf")

    def __iter__(self) -> Iterator[Guardian]:
        return (post.guardian for post in self._posts.values())

    def of(self, name: str) -> Guardian | None:
        """The guardian of a link, if rules listen on it."""
        post = self._posts.get(name)
        return post.guardian if post else None

    def reconcile(
        self, names: Collection[str], links: Mapping[str, Link], joined: frozenset[Membership], dead: Collection[int]
    ) -> None:
        """Guard the links called ``names``; the taps of ``dead`` ifindexes hear nothing any more."""
        for name in self._posts.keys() - set(names):
            post = self._posts.pop(name)
            post.guardian.close()
            post.unplug()
        if joined is not self._sorted[0]:
            self._sorted = (joined, _by_link(joined))
        groups = self._sorted[1]
        for name in sorted(names):
            link = links.get(name)
            post = self._posts.get(name) or self._hire(name)
            if link is None or link.ifindex != post.ifindex or post.ifindex in dead:
                post.unplug()
                if post.ifindex:
                    post.guardian.attend(None, None, {})  # a link made again may look the same
                    post.ifindex = 0
            if link is not None and post.tap is None:
                self._plug(post, link.ifindex)
            post.guardian.attend(link, post.tap, groups.get(link.ifindex, {}) if link else {})

    def look(self) -> None:
        """See what is wrong now."""
        for guardian in self:
            guardian.look()
        self._sample()

    async def explain(
        self, links: Mapping[str, Link], route_to: Callable[[IPv4Address], Awaitable[int | None]]
    ) -> None:
        """Find out why queries go unanswered. ``route_to`` gives the ifindex of the way to an address, or None."""
        for post in list(self._posts.values()):
            guardian = post.guardian
            query, link = guardian.unexplained, links.get(guardian.name)
            if query is not None and link is not None:
                route = await route_to(query.querier)
                mode = procfs.rp_filter(link.name)
                guardian.explain(
                    advice.unanswered_query(link.name, link.ifindex, query, mode, route, seen=_what_is_seen(post))
                )

    def close(self) -> None:
        """Let every link go."""
        self.reconcile((), {}, frozenset(), ())

    def _hire(self, name: str) -> _Post:
        clock = asyncio.get_running_loop()
        guardian = Guardian(
            name,
            clock,
            self._limits,
            lambda: self._host_version(name),
            lambda: procfs.forced_igmp_version(name),
        )
        post = self._posts[name] = _Post(guardian, dropped=procfs.reverse_path_drops())
        return post

    def _sample(self) -> None:
        """Keep what the reverse-path filter had dropped a sample ago: a query may be counted and not yet read."""
        now = time.monotonic()
        if now - self._sampled < SAMPLE_SECONDS or not self._posts:
            return
        before, self._dropped, self._sampled = self._dropped, procfs.reverse_path_drops(), now
        for post in self._posts.values():
            if not post.guardian.asked and post.guardian.unexplained is None and before is not None:
                post.dropped = before

    def _plug(self, post: _Post, ifindex: int) -> None:
        post.ifindex = ifindex
        trouble = ""
        try:
            guardian = post.guardian
            post.tap = self._open_tap(ifindex, asyncio.get_running_loop(), guardian.hear, guardian.deliver)
        except OSError as error:
            trouble = error.strerror or str(error)
        if trouble and trouble != post.trouble:
            log.warning("link=%s IGMP is not watched: %s", post.guardian.name, trouble)
        post.trouble = trouble

    def _host_version(self, name: str) -> int | None:
        if time.monotonic() - self._versions_read > FRESH_SECONDS:
            self._versions = wire.host_versions()
            self._versions_read = time.monotonic()
        return self._versions.get(name)


def _what_is_seen(post: _Post) -> advice.Seen:
    """Of the query that waits to be explained. Asks the host's output rules only where its input rules are not it."""
    now = procfs.reverse_path_drops()
    reached, reports = post.guardian.reached, post.guardian.reports()
    refused = reached and post.tap is not None and bool(reports) and post.tap.refuses(reports[0])
    return advice.Seen(reached, None if now is None or post.dropped is None else now > post.dropped, refused)


def _by_link(joined: frozenset[Membership]) -> _Groups:
    """The sources of every group (none: from anyone), by ifindex."""
    groups: _Groups = {}
    for each in joined:
        sources = groups.setdefault(each.ifindex, {}).setdefault(each.group, [])
        if each.source is not None:
            sources.append(each.source)
    return groups
