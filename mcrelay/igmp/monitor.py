"""The monitor of a link's memberships: reports them again where the kernel does not, says when nobody asks or answers.

It holds no socket: messages are handed to it, reports leave through a Port, and time comes from a Clock, so that a test
can play a year in a moment. Everything belongs to the main thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mcrelay.igmp import advice, wire
from mcrelay.igmp.wire import Querier, Query
from mcrelay.model.link_faults import port_of, reports_from_nobody

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from ipaddress import IPv4Address

    from mcrelay.igmp.wire import Report
    from mcrelay.model.link import Link

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.05  # the link's queue is full of our own reports
OF_SOURCES = {"older-querier", "forced-version"}  # kinds of concern that harm joins of certain sources alone
KNOWN_QUERIERS = 32  # two that ask in turn are logged twice, not for ever


class Cancellable(Protocol):
    """What call_at returns."""

    def cancel(self) -> object: ...


class Clock(Protocol):
    """The part of an asyncio event loop that tells time."""

    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], object], /) -> Cancellable: ...


class Port(Protocol):
    """Where reports leave: says how many of the frames it took, and raises OSError when the link takes none."""

    def send(self, frames: Sequence[bytes], /) -> int: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the monitor waits, in seconds.

    A switch port under spanning tree forwards nothing for 30 s, hence the repeats. A switch remembers a group, and a
    host an older querier, for 260 s (RFC 3376, 8.4 and 8.12 with the usual 125 s between queries).
    """

    repeats: tuple[float, ...] = (0, 1, 3, 10, 35, 65)
    silence: float = 260
    older_querier: float = 260
    margin: float = 1  # an answer may be this much later than the query allows


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that will stop streams, and its remedy.

    ``kind``: port, older-querier, forced-version, silent-querier or unanswered-query.
    """

    kind: str
    text: str


@dataclass(slots=True)
class _Asked:
    """A query that this host has to answer; ``groups`` are those that nobody has reported since."""

    query: Query
    heard: float
    until: float
    groups: set[IPv4Address]


class IgmpMonitor:
    """Of one input link, by name: it survives the link's deletion and goes on with the next one of that name."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        limits: Limits = Limits(),
        host_version: Callable[[], int | None] = lambda: None,
        forced_version: Callable[[], tuple[int, str]] = lambda: (0, ""),
    ) -> None:
        """``host_version`` tells the IGMP version that the kernel speaks on the link, None where that is unknown.

        ``forced_version`` tells the one that a setting of this host demands, 0 for none, and the name of the setting.
        """
        self.name = name
        self.querier: Querier | None = None
        self._clock = clock
        self._limits = limits
        self._host_version = host_version
        self._forced_version = forced_version
        self._timer: Cancellable | None = None
        self._link: Link | None = None
        self._port: Port | None = None
        self._joined: Mapping[IPv4Address, Collection[IPv4Address]] = {}
        self._met = False  # updated before
        self._due: list[float] = []  # when to report again
        self._unsent: list[bytes] = []
        self._heard = 0.0  # the last query, or when hearing one became possible
        self._older: tuple[Query, float] | None = None
        self._was_older = False  # the kernel spoke an older version before a query was heard here
        self._delivered: tuple[Query, float] | None = None
        self._reached = False  # the unanswered query was delivered
        self._asked: _Asked | None = None
        self._unanswered: Query | None = None
        self._unexplained = False
        self._answered_v3 = float("-inf")
        self._explanation = ""
        self._warnings: dict[str, str] = {}
        self._known: set[tuple[IPv4Address, int]] = set()

    @property
    def warnings(self) -> list[Concern]:
        """What is wrong now."""
        return [Concern(kind, text) for kind, text in self._warnings.items()]

    @property
    def unexplained(self) -> Query | None:
        """A query that went unanswered and whose cause somebody has to find and ``explain``."""
        return self._unanswered if self._unexplained and not self._is_port else None

    @property
    def reached(self) -> bool:
        """Whether that query got as far as this host's IGMP."""
        return self._reached

    @property
    def asked(self) -> bool:
        """Whether a query waits for its answer now."""
        return self._asked is not None

    def reports(self) -> list[bytes]:
        """Frames that report what is joined, as the kernel would answer; none while the link does not run."""
        return self._reports()

    def explain(self, text: str) -> None:
        """Say why queries go unanswered."""
        self._explanation = text
        self._unexplained = False
        self.tick()

    def update(
        self, link: Link | None, port: Port | None, joined: Mapping[IPv4Address, Collection[IPv4Address]]
    ) -> None:
        """Take note of the link as it is, of the way out to it, and of what is joined there: sources by group."""
        now = self._clock.time()
        before, self._link = self._link, link
        self._port, self._joined = port, joined
        if not self._running or not joined:
            self._due.clear()
            self._unsent.clear()
            self._asked = self._unanswered = None
        elif not self._met:
            self._return(now, self._limits.repeats[1:])  # the join has just been reported, perhaps to a blocked port
        elif before is None or _returned(before, link):
            self._return(now, self._limits.repeats)
        elif link is not None and link.addresses and not before.addresses:
            self._due.append(now)  # until now they came from 0.0.0.0, which some switches ignore
        self._met = True
        self.tick()

    def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_message(self, message: Query | Report, outgoing: bool) -> None:
        """Take note of an IGMP message on the link, sent by this host if ``outgoing``."""
        now = self._clock.time()
        if isinstance(message, Query):
            self._hear_query(message, now, outgoing=outgoing)
        elif outgoing:
            self._hear_answer(message, now)
        elif self._asked is None:
            return
        elif message.version < 3:
            # A host of version 1 or 2 keeps quiet about a group that another has reported (RFC 2236, 3).
            self._asked.groups -= message.answers
            if not self._asked.groups:
                self._asked = None
        self.tick()

    def deliver(self, query: Query) -> None:
        """Take note that a query has reached this host's IGMP."""
        self._delivered = (query, self._clock.time())

    def tick(self) -> None:
        """Do what is due, and see what is wrong. May be called at any time, and calls itself when something is due."""
        now = self._clock.time()
        if any(when <= now for when in self._due):
            self._due = [when for when in self._due if when > now]
            self._unsent = self._reports()
            self._send()
        elif self._unsent:
            self._send()
        if self._asked is not None and now >= self._asked.until:
            self._conclude(self._asked, now)
        self._judge(now)
        self._arm(now)

    @property
    def _running(self) -> bool:
        return self._link is not None and self._link.up and self._link.carrier and self._port is not None

    @property
    def _is_port(self) -> bool:
        return self._link is not None and bool(self._link.master)

    def _return(self, now: float, repeats: Sequence[float]) -> None:
        self._heard = now
        self._was_older = (self._host_version() or 3) < 3
        self._due = [now + delay for delay in repeats]
        self._asked = None

    def _reports(self) -> list[bytes]:
        link = self._link
        if link is None or not self._running or not link.mac:
            return []
        version = self.querier.version if self.querier else self._host_version() or 3
        source = link.addresses[0].ip if link.addresses else wire.NO_ADDRESS
        log.debug("link=%s reports again groups=%d version=%d source=%s", self.name, len(self._joined), version, source)
        # A switch passes 224.0.0.0/24 to every port, reported or not (RFC 4541, 2.1.2).
        return wire.build_reports(version, source, bytes.fromhex(link.mac.replace(":", "")), self._routed, link.mtu)

    @property
    def _routed(self) -> dict[IPv4Address, Collection[IPv4Address]]:
        return {group: sources for group, sources in self._joined.items() if int(group) >> 8 != 0xE00000}

    def _send(self) -> None:
        assert self._port is not None or not self._unsent
        if self._port is not None:
            try:
                del self._unsent[: self._port.send(self._unsent)]
            except OSError as error:
                log.debug("link=%s cannot report: %s", self.name, error.strerror)
                self._unsent.clear()

    def _hear_query(self, query: Query, now: float, *, outgoing: bool) -> None:
        self.querier = Querier(query.querier, query.version, now)
        if (query.querier, query.version) not in self._known:
            if len(self._known) >= KNOWN_QUERIERS:
                self._known.clear()
            self._known.add((query.querier, query.version))
            log.info("link=%s querier=%s version=%d", self.name, query.querier, query.version)
        self._heard = now
        if query.version < 3:
            self._older = (self._older[0] if self._older_now(now) and self._older else query, now)
        if outgoing or self._asked is not None:
            return  # our own query, or an answer is already pending
        groups = set(self._routed)
        if query.group is not None:
            groups &= {query.group} if not query.source_count else set()
        if groups and self._running:
            self._asked = _Asked(query, now, now + query.max_response_seconds + self._limits.margin, groups)

    def _hear_answer(self, report: Report, now: float) -> None:
        if not report.answers & self._joined.keys():
            return
        if report.version == 3:  # in version 2 a join looks like an answer
            self._answered_v3 = now
            self._unanswered = None
        if self._asked is not None:
            self._due.clear()  # whoever asked has been told
            self._asked = self._unanswered = None

    def _conclude(self, asked: _Asked, now: float) -> None:
        """Nothing of ours left in time. Where version 3 is answered, older queries are kept out on purpose."""
        self._asked = None
        query = asked.query
        if query.version == 3 or now - self._answered_v3 > self._limits.older_querier:
            self._unanswered = query
            self._unexplained = True
            delivered = self._delivered  # the two sockets may be read in either order
            self._reached = (
                delivered is not None and delivered[0] == query and delivered[1] >= asked.heard - self._limits.margin
            )

    def _judge(self, now: float) -> None:
        warnings: dict[str, str] = {}
        if self._running and self._joined:
            sourced = [group for group, sources in self._joined.items() if sources]
            if self._link is not None and self._is_port:
                warnings["port"] = port_of(self._link)
            elif self._link is not None and not self._link.addresses:
                warnings["no-address"] = reports_from_nobody(self.name)
            if sourced:
                warnings |= self._judge_version(now, sourced)
            if self.querier is not None and now - self._heard >= self._limits.silence:
                warnings["silent-querier"] = advice.silent_querier(self.name, self.querier, self._limits.silence)
            if self._unanswered is not None and self._explanation and not self._is_port:
                warnings["unanswered-query"] = self._explanation
        if self._unanswered is None:
            self._explanation, self._unexplained = "", False
        for kind, text in warnings.items():
            if self._warnings.get(kind) != text:
                log.warning("link=%s warning=%s %s", self.name, kind, text)
        for kind in self._warnings.keys() - warnings.keys():
            log.info("link=%s warning=%s is over", self.name, kind)
        self._warnings = warnings

    def _judge_version(self, now: float, sourced: Sequence[IPv4Address]) -> dict[str, str]:
        """While the kernel speaks version 3 it has not heard an older query, or not yet, or none for a while."""
        heard = self._older[0] if self._older is not None and self._older_now(now) else None
        if heard is None and not self._was_older:
            return {}
        version = self._host_version()
        self._was_older = self._was_older and version is not None and version < 3
        if version == 3 or (version is None and heard is None):
            return {}
        forced, key = self._forced_version()
        if forced:
            return {"forced-version": advice.forced_version(self.name, forced, key, sourced)}
        return {"older-querier": advice.older_querier(self.name, heard, sourced, version or 2)}

    def _older_now(self, now: float) -> bool:
        return self._older is not None and now - self._older[1] < self._limits.older_querier

    def _arm(self, now: float) -> None:
        moments = list(self._due)
        if self._unsent:
            moments.append(now + RETRY_SECONDS)
        if self._asked is not None:
            moments.append(self._asked.until)
        if self.querier is not None:
            moments.append(self._heard + self._limits.silence)
        if self._older is not None:
            moments.append(self._older[1] + self._limits.older_querier)
        self.close()
        if later := [when for when in moments if when > now]:
            self._timer = self._clock.call_at(min(later), self.tick)


def _returned(before: Link, now: Link | None) -> bool:
    """Whether a link that runs did not, for however short a moment: the counter tells what a dump has missed."""
    if now is None:
        return False
    if (before.ifindex, before.carrier_losses) != (now.ifindex, now.carrier_losses):
        return True
    return not (before.up and before.carrier)
