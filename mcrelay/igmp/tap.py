"""The tap: hears the IGMP or MLD of a link in both directions, and the part that the host lets in; sends reports."""

from __future__ import annotations

import abc
import contextlib
import errno
import socket
import struct
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

from mcrelay.igmp import mld
from mcrelay.igmp.messages import Query
from mcrelay.igmp.protocol import IGMP
from mcrelay.linux import bpf
from mcrelay.linux.packets import attach

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Sequence

    from mcrelay.igmp.messages import Report
    from mcrelay.igmp.protocol import Protocol

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SO_BINDTOIFINDEX = 62
IPV6_HDRINCL = 36  # linux/in6.h
ICMP6_FILTER = 1  # linux/icmpv6.h; struct icmp6_filter has a bit for each type that is kept out
ETHERNET_BYTES = 14
NO_ETHERNET = bytes(12) + b"\x08\0"  # stands in for the Ethernet header of a packet that comes without one
BATCH = 64  # frames read a turn: a flood of IGMP must not starve the control socket


class Tap:
    """Calls ``heard(message, outgoing)`` for each message of a link. Main thread; needs CAP_NET_RAW.

    It calls ``delivered(query)`` for each query that reached the kernel's IGMP or MLD: a raw socket (raw(7)) gets
    packets after the reverse-path filter and the host's input rules, a packet socket before them.

    The tap does not hear its own reports: a packet socket is not shown its own frames (linux/net/core/dev.c). So every
    report that it hears leaving comes from the kernel, from another program, or from ``refuses``.
    """

    def __init__(
        self,
        protocol: Protocol,
        ifindex: int,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[Query | Report, bool], None],
        delivered: Callable[[Query], None],
    ) -> None:
        self._parse = protocol.parse
        self._heard = heard
        self._delivered = delivered
        self._loop = loop
        self._inside = inside_of(protocol, ifindex)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            attach(self._socket, bpf.igmp_filter() if protocol is IGMP else bpf.mld_filter())
            self._socket.bind((socket.if_indextoname(ifindex), ETH_P_ALL))
        except OSError:
            self._socket.close()
            self._inside.close()
            raise
        loop.add_reader(self._socket, self._read)
        loop.add_reader(self._inside, self._read_inside)

    def close(self) -> None:
        """Stop listening."""
        for each in (self._socket, self._inside):
            self._loop.remove_reader(each)
            each.close()

    def send(self, frames: Sequence[bytes]) -> int:
        """Send frames. Returns how many the kernel took before it was full. Raises OSError, as if the link is down."""
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for frame in frames:
                self._socket.send(frame)
                sent += 1
        return sent

    def refuses(self, frame: bytes) -> bool:
        """Try to send a report as the kernel sends its own, and say whether the host's output rules forbid it."""
        try:
            self._inside.send(frame[ETHERNET_BYTES:])
        except OSError as error:
            return error.errno == errno.EPERM  # the error of netfilter's drop verdict (linux/include/linux/netfilter.h)
        return False

    def _read(self) -> None:
        for frame, address in _receive(self._socket):
            message = self._parse(frame)
            if message is not None:
                self._heard(message, address[2] == PACKET_OUTGOING)

    def _read_inside(self) -> None:
        for query in self._inside.queries():
            self._delivered(query)


class Inside(abc.ABC):
    """What reaches the kernel's IGMP or MLD from a link, and a way out that the host's rules govern."""

    socket: socket.socket

    def fileno(self) -> int:
        """For select(2)."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    @abc.abstractmethod
    def queries(self) -> Iterator[Query]:
        """The waiting queries."""

    @abc.abstractmethod
    def send(self, packet: bytes) -> None:
        """Send a packet, from its IP header on. Raises OSError."""


def inside_of(protocol: Protocol, ifindex: int) -> Inside:
    """Open it. Raises OSError."""
    return Inside4(ifindex) if protocol is IGMP else Inside6(ifindex)


class Inside4(Inside):
    """That of IGMP."""

    def __init__(self, ifindex: int) -> None:
        self.socket = _raw(socket.AF_INET, socket.IPPROTO_IGMP, ifindex)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)

    def queries(self) -> Iterator[Query]:
        for packet, _ in _receive(self.socket):
            if isinstance(query := IGMP.parse(NO_ETHERNET + packet), Query):
                yield query

    def send(self, packet: bytes) -> None:
        self.socket.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))


class Inside6(Inside):
    """That of MLD. A raw IPv6 socket gives no header, and the kernel has checked the sum (RFC 3542, 3)."""

    def __init__(self, ifindex: int) -> None:
        self.socket = _raw(socket.AF_INET6, socket.IPPROTO_ICMPV6, ifindex)
        kept_out = [0xFFFFFFFF] * 8
        kept_out[mld.QUERY // 32] ^= 1 << mld.QUERY % 32
        self.socket.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("@8I", *kept_out))
        self.socket.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
        self._ifindex = ifindex

    def queries(self) -> Iterator[Query]:
        for message, sender in _receive(self.socket):
            found = mld.parse_message(IPv6Address(sender[0].partition("%")[0]), message)
            if isinstance(found, Query):
                yield found

    def send(self, packet: bytes) -> None:
        self.socket.sendto(packet, (socket.inet_ntop(socket.AF_INET6, packet[24:40]), 0, 0, self._ifindex))


def _raw(family: int, protocol: int, ifindex: int) -> socket.socket:
    """A raw socket of one link."""
    made = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, ifindex)
    except OSError:
        made.close()
        raise
    for _ in _receive(made):
        pass  # of other links, from before it was bound
    return made


def _receive(sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
    """The waiting frames, at most a batch."""
    with contextlib.suppress(OSError):  # BlockingIOError when empty, ENETDOWN once when the link goes down
        for _ in range(BATCH):
            yield sock.recvfrom(65535)
