"""The flows seen on a link, with counts and a guess at their content. Memory is bounded, also under spoofed sources."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mcrelay.model.content import Content, guess, read_rtp, sessions
from mcrelay.model.transport import Services, is_transport

if TYPE_CHECKING:
    from mcrelay.model.content import RtpHeader, Session
    from mcrelay.model.frame import Datagram
    from mcrelay.model.stream import Address

FLOWS_MAX = 2048  # flows that have sent more than once
NEWCOMERS_MAX = 512  # flows that have sent once: a flood of spoofed sources evicts only itself
SESSIONS_MAX = 512
GUESSES = 64  # datagrams of a flow that are looked into
SERVICE_GUESSES = 20_000  # of a transport stream, until it has named its services


class FlowKey(NamedTuple):
    """What tells one flow from another. ``outgoing``: this host sends it."""

    source: Address
    source_port: int
    group: Address
    port: int
    vlan: int | None
    outgoing: bool


@dataclass(slots=True)
class Flow:
    """What was seen of a flow; times are Unix nanoseconds, sizes bytes of UDP payload."""

    key: FlowKey
    ttl: int
    first_ns: int
    last_ns: int = 0
    packets: int = 0
    payload_bytes: int = 0
    smallest: int = 65535
    largest: int = 0
    fragments: int = 0
    content: Content | None = None
    services: Services | None = None
    _rtp: RtpHeader | None = None
    _rtp_before: int = 0  # datagrams in a row that continue one RTP stream

    def add(self, datagram: Datagram, time_ns: int, segment_bytes: int) -> None:
        """Count what one frame brought."""
        size = len(datagram.payload)
        self.packets += datagram.count
        self.payload_bytes += size
        self.last_ns = max(self.last_ns, time_ns)
        self.ttl = datagram.ttl
        self.smallest = min(self.smallest, segment_bytes or size)
        self.largest = max(self.largest, segment_bytes or size)
        self.fragments += datagram.fragment
        if datagram.fragment:
            return
        first = datagram.payload[: segment_bytes or None]
        if self.services is not None and not self.services.names and self.packets < SERVICE_GUESSES:
            self._feed(datagram.payload, segment_bytes)
        elif self.packets < GUESSES or (self.content is None and self.packets < 4 * GUESSES):
            self._guess(first)

    def _feed(self, payload: bytes, segment_bytes: int) -> None:
        assert self.services is not None
        for at in range(0, len(payload), segment_bytes or len(payload) or 1):
            part = payload[at : at + (segment_bytes or len(payload))]
            if not is_transport(part) and (header := read_rtp(part)) is not None:
                part = header.payload
            if is_transport(part):
                self.services.feed(part)

    def _guess(self, payload: bytes) -> None:
        found = guess(payload, self.key.group, self.key.port)
        header = read_rtp(payload) if found is not None and not found.sure else None
        if header is not None:
            follows = self._rtp is not None and header.follows(self._rtp)
            self._rtp_before = self._rtp_before + 1 if follows else 0
            self._rtp = header
            if self._rtp_before < 2:
                return  # three in a row are no accident
        if found is not None:
            self.content = found
            if self.services is None and (found.kind == "MPEG-TS" or (header and is_transport(header.payload))):
                self.services = Services()
                self._feed(payload, 0)

    @property
    def told(self) -> str:
        """The guess in words; "" where there is none."""
        if self.content is None:
            return ""
        detail = self.content.detail
        if self.services is not None and str(self.services):
            detail = f"{detail}: {self.services}" if detail else str(self.services)
        return f"{self.content.kind} {detail}".strip() if detail else self.content.kind

    @property
    def rate(self) -> float:
        """Datagrams a second, over the time between the first and the last."""
        seconds = (self.last_ns - self.first_ns) / 1e9
        return (self.packets - 1) / seconds if self.packets > 1 and seconds > 0 else 0.0

    @property
    def bit_rate(self) -> float:
        """Payload bits a second, over the same time."""
        return self.rate * self.payload_bytes * 8 / self.packets if self.packets else 0.0


@dataclass(slots=True)
class FlowTable:
    """All flows. Those that have sent once are kept apart, and are evicted first."""

    flows: OrderedDict[FlowKey, Flow] = field(default_factory=OrderedDict)
    newcomers: OrderedDict[FlowKey, Flow] = field(default_factory=OrderedDict)
    announced: OrderedDict[tuple[Address, int], Session] = field(default_factory=OrderedDict)
    forgotten: int = 0  # flows for which there was no room

    def add(self, datagram: Datagram, time_ns: int, *, outgoing: bool = False, segment_bytes: int = 0) -> None:
        """Count one frame."""
        key = FlowKey(
            datagram.source, datagram.source_port, datagram.group, datagram.port, datagram.vlan, outgoing
        )  # fmt: skip
        if (flow := self.flows.get(key)) is not None:
            self.flows.move_to_end(key)
        elif (flow := self.newcomers.pop(key, None)) is not None:
            self.flows[key] = flow
            self._bound(self.flows, FLOWS_MAX)
        else:
            flow = self.newcomers[key] = Flow(key, datagram.ttl, time_ns)
            self._bound(self.newcomers, NEWCOMERS_MAX)
        flow.add(datagram, time_ns, segment_bytes)
        for session in sessions(datagram.payload, datagram.port):
            self.announced[session.group, session.port] = session
            if len(self.announced) > SESSIONS_MAX:
                self.announced.popitem(last=False)

    def _bound(self, held: OrderedDict[FlowKey, Flow], most: int) -> None:
        if len(held) > most:
            held.popitem(last=False)
            self.forgotten += 1

    def all(self) -> list[Flow]:
        """Every flow, by group, port and source."""
        return sorted(
            [*self.flows.values(), *self.newcomers.values()],
            key=lambda flow: _order(flow.key),
        )

    def told(self, flow: Flow) -> str:
        """The guess at a flow, with what was announced of it."""
        session = self.announced.get((flow.key.group, flow.key.port))
        if session is None:
            return flow.told
        said = f"announced as {session.name}" + (f", {session.media}" if session.media else "")
        return f"{flow.told}, {said}" if flow.told else said


def _order(key: FlowKey) -> tuple[int, ...]:
    """IPv4 before IPv6."""
    return (key.group.version, int(key.group), key.port, int(key.source), key.source_port, key.outgoing)
