"""Searches whose answers go by unicast to who asked (SSDP, WS-Discovery): each asker has a socket of its own.

What arrives on a link for the group is sent on the rule's other links, each time from a socket that stands for this
asker alone. What comes to that socket is an answer, and goes back to the asker. These are a few datagrams a second, so
the main thread does it and not the loop; all of it is bounded and counted like what the loop does.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcrelay.errors import OperationError
from mcrelay.linux import bpf
from mcrelay.linux.packets import PacketSocket
from mcrelay.model.frame import cut, read_datagram
from mcrelay.model.link_faults import addresses_of
from mcrelay.model.state import AnswerCount, InputCount, OutputCount

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from mcrelay.model.frame import Datagram
    from mcrelay.model.link import Link
    from mcrelay.model.plan import InputSpec, OutputSpec, PlanSpec, RuleSpec
    from mcrelay.model.state import CounterKey, CounterNames
    from mcrelay.model.stream import Address

MOST_SECONDS = 10.0  # for answers: MX of UPnP Device Architecture 2.0, 1.3.3, is 5 s at most and was 120 before
UNDER_WAY_SECONDS = 1.0  # an answer that leaves at the last moment
_QUESTION = re.compile(rb"M-SEARCH [^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*?MX[ \t]*:[ \t]*([0-9]+)[ \t]*\r?\n", re.IGNORECASE)
MOST_ASKERS = 64  # of one output at a time
BATCH = 64  # answers read in a row
# A second relay between the same links sends back what we sent, from an address of its own: the same bytes, at once.
BACK_SECONDS = 1.0
MOST_REMEMBERED = 1024
ERRORS = {
    errno.ENETDOWN: "netdown", errno.ENODEV: "netdown", errno.ENXIO: "netdown", errno.EMSGSIZE: "mtu",
    errno.EADDRNOTAVAIL: "noaddr", errno.ENETUNREACH: "noroute", errno.EHOSTUNREACH: "unreachable",
    errno.ECONNREFUSED: "unreachable", errno.EPERM: "blocked", errno.EACCES: "blocked", errno.EAGAIN: "nobufs",
    errno.ENOBUFS: "nobufs", errno.ENOMEM: "nobufs", errno.EMFILE: "nobufs", errno.ENFILE: "nobufs",
}  # fmt: skip


@dataclass(slots=True)
class _Counts:
    """Of a rule and its outputs, since the relay began."""

    packets: int = 0
    bytes: int = 0
    last: float | None = None
    drops: Counter[str] = field(default_factory=Counter)
    sent: dict[str, _Sent] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Sent:
    since: int
    packets: int = 0
    bytes: int = 0
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Errand:
    """The socket of one asker on one output."""

    socket: socket.socket
    asker: tuple[str, int] | tuple[str, int, int, int]
    until: float


def patience(question: bytes) -> float:
    """For how many seconds answers to a question may come: each device answers at a moment of its own within MX.

    What says no MX, as WS-Discovery and announcements, has the longest time.
    """
    said = _QUESTION.match(question[:2000])
    return min(max(int(said[1][:9]), 1) + UNDER_WAY_SECONDS, MOST_SECONDS) if said else MOST_SECONDS


class Searches:
    """What rules of such presets do. Main thread, with a running loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, _Search] = {}
        self._counts: dict[CounterKey, _Counts] = {}
        self.failed: dict[CounterKey, str] = {}  # why a rule cannot search, by each of its outputs
        self._memory: dict[tuple[int, bytes], float] = {}

    def reconcile(self, spec: PlanSpec, links: Mapping[str, Link]) -> None:
        """Do this for the rules of the plan; what is unchanged goes on. What cannot be opened is tried at each look."""
        wanted = {rule.name: rule for rule in spec.rules if rule.searches}
        for name, search in list(self._running.items()):
            if wanted.get(name) != search.rule:
                self._running.pop(name).close()
        for name, rule in wanted.items():
            (taken,) = rule.inputs
            counts = self._counts.setdefault((name, taken.text), _Counts())
            for each in rule.outputs:
                counts.sent.setdefault(each.to, _Sent(counts.packets - counts.drops.total()))
            if taken.state == "active" and name not in self._running:
                self._open(rule, counts)
        self.failed = {key: reason for key, reason in self.failed.items() if key[0] in wanted}
        for search in self._running.values():
            search.own = own_addresses(links, search.iif)
        kept = {(name, rule.inputs[0].text) for name, rule in wanted.items()}
        self._counts = {key: held for key, held in self._counts.items() if key in kept}

    def tick(self) -> None:
        """Close the sockets of askers whose time is over."""
        now = self._clock()
        for search in self._running.values():
            search.expire(now)
        self._memory = {key: until for key, until in self._memory.items() if until > now}

    def inputs(self, names: CounterNames) -> dict[CounterKey, InputCount]:
        """What the rules have received."""
        return {
            key: InputCount(held.packets, held.bytes, held.last, dict.fromkeys(names.drops, 0) | held.drops)
            for key, held in self._counts.items()
        }

    def outputs(self, names: CounterNames) -> dict[CounterKey, OutputCount]:
        """What their outputs have sent."""
        return {
            (rule, to): OutputCount(
                sent.packets, sent.bytes, sent.since, dict.fromkeys(names.send_errors, 0) | sent.errors
            )
            for (rule, _), held in self._counts.items()
            for to, sent in held.sent.items()
        }

    def answers(self) -> dict[str, AnswerCount]:
        """What has come back, by rule."""
        return {
            rule: AnswerCount(
                held.answers["passed"],
                held.answers["failed"],
                held.answers["late"],
                len(self._running[rule].errands) if rule in self._running else 0,
            )
            for (rule, _), held in self._counts.items()
        }

    def last_packet_times(self) -> dict[str, float | None]:
        """When the newest datagram of each rule came: Unix seconds."""
        return {rule: held.last for (rule, _), held in self._counts.items() if held.last is not None}

    def close(self) -> None:
        """Do nothing any more."""
        for search in self._running.values():
            search.close()
        self._running.clear()

    def _open(self, rule: RuleSpec, counts: _Counts) -> None:
        try:
            self._running[rule.name] = _Search(rule, counts, self._memory_of, self._clock)
            self.failed = {key: reason for key, reason in self.failed.items() if key[0] != rule.name}
        except (OperationError, OSError) as error:
            self.failed = self.failed | {(rule.name, each.to): f"cannot listen: {error}" for each in rule.outputs}

    def _memory_of(self) -> dict[tuple[int, bytes], float]:
        return self._memory


class _Search:
    """One rule: what it listens with, and the sockets of those who ask."""

    def __init__(
        self,
        rule: RuleSpec,
        counts: _Counts,
        memory: Callable[[], dict[tuple[int, bytes], float]],
        clock: Callable[[], float],
    ) -> None:
        """Raises OperationError or OSError."""
        self.rule = rule
        self.own: Collection[Address] = frozenset()
        self.errands: dict[tuple[str, int, str], _Errand] = {}
        self._input: InputSpec = rule.inputs[0]
        self._counts = counts
        self._memory = memory
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._tokens, self._filled = float(self._input.limit.number if self._input.limit else 0), clock()
        self._back = _by_link(self._input.iif, self._input.group.version)
        try:
            self._tap = PacketSocket(self._input.iif, bpf.fitting_filter([self._input.group])[0], sent=False)
        except BaseException:
            self._back.close()
            raise
        self._loop.add_reader(self._tap, self._listen)

    @property
    def iif(self) -> str:
        """The link that it listens on."""
        return self._input.iif

    def close(self) -> None:
        """Give everything back."""
        self._loop.remove_reader(self._tap)
        self._tap.close()
        self._back.close()
        self.expire(float("inf"))

    def expire(self, now: float) -> None:
        """Close what nobody waits for any more."""
        for key, errand in list(self.errands.items()):
            if errand.until <= now:
                self._loop.remove_reader(errand.socket)
                self.errands.pop(key).socket.close()

    def _listen(self) -> None:
        for frame in self._tap.read():
            for each in cut(frame):
                datagram = read_datagram(each)
                if datagram is not None and self._fits(datagram):
                    self._take(datagram)

    def _fits(self, datagram: Datagram) -> bool:
        """Whether it is whole, untagged and of the protocol's port: other protocols have the same group."""
        whole = not datagram.fragment and not datagram.vlan
        return whole and (datagram.group, datagram.port) == (self._input.group, self._input.port)

    def _take(self, datagram: Datagram) -> None:
        counts, now = self._counts, self._clock()
        counts.packets += 1
        counts.bytes += len(datagram.payload)
        counts.last = time.time()
        if reason := self._refusal(datagram, now):
            counts.drops[reason] += 1
            return
        for output in self.rule.outputs:
            sent = counts.sent[output.to]
            try:
                if output.state != "active":
                    sent.errors["parked"] += 1
                    continue
                errand = self._errand(datagram, output, now)
                if errand is None:
                    sent.errors["nobufs"] += 1
                    continue
                errand.socket.sendto(datagram.payload, _end(output.address, output.port, output.ifindex))
            except OSError as error:
                sent.errors[ERRORS.get(error.errno or 0, "other")] += 1
                continue
            sent.packets += 1
            sent.bytes += len(datagram.payload)
            if len(self._memory()) < MOST_REMEMBERED:
                self._memory()[output.ifindex, datagram.payload] = now + BACK_SECONDS

    def _refusal(self, datagram: Datagram, now: float) -> str:
        """Why a datagram goes no further: the name of the drop."""
        came_back = self._memory().get((self._input.ifindex, datagram.payload), 0.0) > now
        if datagram.source in self.own or came_back:
            return "echo"
        if self._input.allow is not None and not any(datagram.source in each for each in self._input.allow):
            return "source"
        if self._input.limit is not None:
            most = float(self._input.limit.number)
            cost = 8.0 * len(datagram.payload) if self._input.limit.unit == "bit" else 1.0
            self._tokens = min(most, self._tokens + (now - self._filled) * most)
            self._filled = now
            if self._tokens < cost:
                return "policer"
            self._tokens -= cost
        return ""

    def _errand(self, datagram: Datagram, output: OutputSpec, now: float) -> _Errand | None:
        """The socket of this asker; None where there are too many of them."""
        key = (str(datagram.source), datagram.source_port, output.to)
        errand = self.errands.get(key)
        if errand is None:
            if sum(each[2] == output.to for each in self.errands) >= MOST_ASKERS:
                return None
            asker = _end(datagram.source, datagram.source_port, self._input.ifindex)
            errand = self.errands[key] = _Errand(_asking(output), asker, now)
            self._loop.add_reader(errand.socket, self._bring_back, errand)
        errand.until = max(errand.until, now + patience(datagram.payload))
        return errand

    def _bring_back(self, errand: _Errand) -> None:
        """Give what is waiting to the asker: a datagram each, as it is."""
        for _ in range(BATCH):
            try:
                answer = errand.socket.recv(65535)
            except OSError:
                return
            if errand.until <= self._clock():
                self._counts.answers["late"] += 1
                continue
            try:
                self._back.sendto(answer, errand.asker)
                self._counts.answers["passed"] += 1
            except OSError:
                self._counts.answers["failed"] += 1


def own_addresses(links: Mapping[str, Link], iif: str) -> frozenset[Address]:
    """What this host sends from, as a link hears it: a link-local address of IPv6 may be another host's elsewhere."""
    return frozenset(
        each.ip
        for link in links.values()
        for each in addresses_of(link)
        if each.version == 4 or link.name == iif or not each.is_link_local
    )


def _end(address: Address, port: int, ifindex: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """An end as a socket has it; a link-local address of IPv6 means nothing without its link (RFC 4007)."""
    return (str(address), port) if address.version == 4 else (str(address), port, 0, ifindex)


def _by_link(ifname: str, version: int) -> socket.socket:
    """A UDP socket that sends and receives by one link."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode())
    except BaseException:
        opened.close()
        raise
    return opened


def _asking(output: OutputSpec) -> socket.socket:
    """A socket that sends to an output's group, and hears what is answered. Raises OSError."""
    version, source = output.address.version, output.source_address
    opened = _by_link(output.oif or "", version)
    try:
        ttl = output.ttl if isinstance(output.ttl, int) else 1
        if version == 4:
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
            choice = struct.pack("=4s4si", bytes(4), source.packed if source else bytes(4), output.ifindex)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, choice)  # struct ip_mreqn
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, output.ifindex)
        opened.bind(_end(source, 0, output.ifindex) if source else ("", 0))
    except BaseException:
        opened.close()
        raise
    return opened
