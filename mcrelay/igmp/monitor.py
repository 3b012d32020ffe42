"""The monitor of a link's memberships: reports again where the kernel does not, warns of missing queries and answers.

It holds no socket: the caller hands it messages, reports leave through a Port, and time comes from a Clock, so a test
can run through a year in a moment. Everything belongs to the main thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcrelay.igmp import advice
from mcrelay.igmp.messages import Querier, Query
from mcrelay.model.link_faults import port_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcrelay.igmp.messages import Joined, Report
    from mcrelay.igmp.needs import Cancellable, Clock, Host, Limits, Port
    from mcrelay.igmp.protocol import Protocol
    from mcrelay.model.link import Link
    from mcrelay.model.stream import Address

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.05  # the link's queue is full of our own reports
OF_SOURCES = {"older-querier", "forced-version"}  # kinds of concern that harm only joins of single sources
PASSING = {"tentative-address"}  # kinds that end by themselves in a moment
KNOWN_QUERIERS = 32  # two queriers that ask in turn are logged twice, not for ever


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that will stop streams, and its remedy.

    ``kind``: port, no-address, tentative-address, refused-address, ipv6-disabled, older-querier, forced-version,
    silent-querier or unanswered-query.
    """

    kind: str
    text: str


@dataclass(slots=True)
class _Asked:
    """A query that this host has to answer; ``groups`` are those that nobody has reported since."""

    query: Query
    heard: float
    until: float
    groups: set[Address]


class MembershipMonitor:
    """The monitor of one input link, by name, for IGMP or MLD.

    It outlives a deleted link and goes on with the next one of that name.
    """

    def __init__(self, name: str, protocol: Protocol, clock: Clock, limits: Limits, host: Host) -> None:
        self.name = name
        self.protocol = protocol
        self.querier: Querier | None = None
        self.spoken: int | None = None
        self._clock = clock
        self._limits = limits
        self._host = host
        self._timer: Cancellable | None = None
        self._link: Link | None = None
        self._port: Port | None = None
        self._joined: Joined = {}
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
        self._answered_newest = float("-inf")
        self._explanation = ""
        self._warnings: dict[str, str] = {}
        self._known: set[tuple[Address, int]] = set()

    @property
    def warnings(self) -> list[Concern]:
        """The present concerns."""
        return [Concern(kind, text) for kind, text in self._warnings.items()]

    @property
    def unexplained(self) -> Query | None:
        """An unanswered query whose cause the caller has to find and ``explain``."""
        excused = self._is_port or "ipv6-disabled" in self._warnings
        return self._unanswered if self._unexplained and not excused else None

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

    def update(self, link: Link | None, port: Port | None, joined: Joined) -> None:
        """Take the present link, the port to it, and the sources joined there by group."""
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
        elif link is not None and self.protocol.source(link) and not self.protocol.source(before):
            self._due.append(now)  # until now they came from no address, which some switches ignore
        self._met = True
        self.tick()

    def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_message(self, message: Query | Report, outgoing: bool) -> None:
        """Take a message on the link, sent by this host if ``outgoing``."""
        now = self._clock.time()
        if isinstance(message, Query):
            self._hear_query(message, now, outgoing=outgoing)
        elif outgoing:
            self._hear_answer(message, now)
        elif self._asked is None:
            return
        elif message.version < self.protocol.newest:
            # A host of an older version keeps quiet about a group that another has reported (RFC 2236, 3; RFC 2710, 4).
            self._asked.groups -= message.answers
            if not self._asked.groups:
                self._asked = None
        self.tick()

    def deliver(self, query: Query) -> None:
        """Note that a query has reached this host's IGMP or MLD."""
        self._delivered = (query, self._clock.time())

    def tick(self) -> None:
        """Do what is due, and update the concerns. It may be called at any time, and calls itself when work is due."""
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
        self._was_older = self._is_older(self._host.version())
        self._due = [now + delay for delay in repeats]
        self._asked = None

    def _reports(self) -> list[bytes]:
        link = self._link
        if link is None or not self._running or not link.mac:
            return []
        version = self.querier.version if self.querier else self._host.version() or self.protocol.newest
        source = self.protocol.source(link) or self.protocol.stand_in
        if source is None:
            return []
        log.debug("repeats link=%s groups=%d version=%d source=%s", self.name, len(self._joined), version, source)
        mac = bytes.fromhex(link.mac.replace(":", ""))
        return self.protocol.build_reports(version, source, mac, self._snooped, link.mtu)

    @property
    def _snooped(self) -> Joined:
        return {group: sources for group, sources in self._joined.items() if self.protocol.snooped(group)}

    def _is_older(self, version: int | None) -> bool:
        return version is not None and version < self.protocol.newest

    def _send(self) -> None:
        assert self._port is not None or not self._unsent
        if self._port is not None:
            try:
                del self._unsent[: self._port.send(self._unsent)]
            except OSError as error:
                log.debug("cannot report link=%s: %s", self.name, error.strerror)
                self._unsent.clear()

    def _hear_query(self, query: Query, now: float, *, outgoing: bool) -> None:
        self.querier = Querier(query.querier, query.version, now)
        if (query.querier, query.version) not in self._known:
            if len(self._known) >= KNOWN_QUERIERS:
                self._known.clear()
            self._known.add((query.querier, query.version))
            log.info("heard link=%s querier=%s version=%d", self.name, query.querier, query.version)
        self._heard = now
        if self._is_older(query.version):
            self._older = (self._older[0] if self._older_now(now) and self._older else query, now)
        if outgoing or self._asked is not None:
            return  # our own query, or an answer is already pending
        groups = set(self._snooped)
        if query.group is not None:
            groups &= {query.group} if not query.source_count else set()
        if groups and self._running:
            self._asked = _Asked(query, now, now + query.max_response_seconds + self._limits.margin, groups)

    def _hear_answer(self, report: Report, now: float) -> None:
        self.spoken = report.version
        if not report.answers & self._joined.keys():
            return
        if report.version == self.protocol.newest:  # in an older one a join looks like an answer
            self._answered_newest = now
            self._unanswered = None
        if self._asked is not None:
            self._due.clear()  # the querier has its answer
            self._asked = self._unanswered = None

    def _conclude(self, asked: _Asked, now: float) -> None:
        """No report of ours left in time. Where the newest is answered, older queries are kept out on purpose."""
        self._asked = None
        query = asked.query
        if query.version == self.protocol.newest or now - self._answered_newest > self._limits.older_querier:
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
            elif self._link is not None:
                warnings |= advice.of_addresses(self.protocol, self._link, disabled=self._host.disabled())
            if sourced:
                warnings |= self._judge_version(now, sourced)
            if self.querier is not None and now - self._heard >= self._limits.silence:
                warnings["silent-querier"] = advice.silent_querier(
                    self.protocol, self.name, self.querier, self._limits.silence
                )
            if (
                self._unanswered is not None
                and self._explanation
                and not self._is_port
                and "ipv6-disabled" not in warnings
            ):
                warnings["unanswered-query"] = self._explanation
        if self._unanswered is None:
            self._explanation, self._unexplained = "", False
        for kind, text in warnings.items():
            if self._warnings.get(kind) != text:
                level = logging.INFO if kind in PASSING else logging.WARNING
                log.log(level, "warns link=%s warning=%s: %s", self.name, kind, text)
        for kind in self._warnings.keys() - warnings.keys():
            log.info("ended link=%s warning=%s", self.name, kind)
        self._warnings = warnings

    def _judge_version(self, now: float, sourced: Sequence[Address]) -> dict[str, str]:
        """The kernel speaks the newest version if it has heard no older query yet, or none for a while."""
        heard = self._older[0] if self._older is not None and self._older_now(now) else None
        if heard is None and not self._was_older:
            return {}
        version = self._host.version()
        self._was_older = self._was_older and self._is_older(version)
        if version == self.protocol.newest or (version is None and heard is None):
            return {}
        forced, key = self._host.forced()
        if forced:
            return {"forced-version": advice.forced_version(self.protocol, self.name, forced, key, sourced)}
        text = advice.older_querier(self.protocol, self.name, heard, sourced, version or self.protocol.newest - 1)
        return {"older-querier": text}

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
    """Whether a running link was down for a moment: the counter shows what a dump has missed."""
    if now is None:
        return False
    if (before.ifindex, before.carrier_losses) != (now.ifindex, now.carrier_losses):
        return True
    return not (before.up and before.carrier)
