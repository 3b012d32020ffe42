"""The IGMP tap: hears the IGMP of one link, both ways, and what of it the host lets in; sends reports of its own."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from typing import TYPE_CHECKING, Any

from mcrelay.igmp import wire
from mcrelay.linux import bpf

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Sequence

    from mcrelay.igmp.wire import Query, Report

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SO_ATTACH_FILTER = 26
SO_BINDTOIFINDEX = 62
ETHERNET_BYTES = 14
NO_ETHERNET = bytes(12) + b"\x08\0"  # before a packet that comes without its Ethernet header
BATCH = 64  # frames read a turn: a flood of IGMP must not starve the control socket


class IgmpTap:
    """Calls ``heard(message, outgoing)`` for each IGMP message of a link. Main thread; needs CAP_NET_RAW.

    It calls ``delivered(query)`` for each query that reached the place where the kernel's IGMP has it: a raw socket
    (raw(7)) is behind the reverse-path filter and the input rules of the host, and the packet socket is before them.

    What the tap itself sends it does not hear: a packet socket is not shown its own frames (linux/net/core/dev.c), so
    every report heard to leave is the kernel's or another program's, or one that ``refuses`` has tried.
    """

    def __init__(
        self,
        ifindex: int,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[Query | Report, bool], None],
        delivered: Callable[[Query], None],
    ) -> None:
        self._heard = heard
        self._delivered = delivered
        self._loop = loop
        self._inside = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_IGMP)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        program = ctypes.create_string_buffer(bpf.igmp_filter())
        filter_ = struct.pack("@HP", len(program.raw) // 8, ctypes.addressof(program))  # struct sock_fprog
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
            self._inside.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, ifindex)
            self._inside.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
            for _ in _receive(self._inside):
                pass  # of other links, from before it was bound
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
        """How many of these the kernel took before it had no room. Raises OSError, as when the link is down."""
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for frame in frames:
                self._socket.send(frame)
                sent += 1
        return sent

    def refuses(self, frame: bytes) -> bool:
        """Try to send a report as the kernel sends its own, and say whether the host's output rules forbid it."""
        packet = frame[ETHERNET_BYTES:]
        try:
            self._inside.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
        except OSError as error:
            return error.errno == errno.EPERM  # what netfilter's verdict becomes (linux/include/linux/netfilter.h)
        return False

    def _read(self) -> None:
        for frame, address in _receive(self._socket):
            message = wire.parse(frame)
            if message is not None:
                self._heard(message, address[2] == PACKET_OUTGOING)

    def _read_inside(self) -> None:
        for packet, _ in _receive(self._inside):
            query = wire.parse_query(NO_ETHERNET + packet)
            if query is not None:
                self._delivered(query)


def _receive(sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
    """What is there, but for more than a batch."""
    with contextlib.suppress(OSError):  # BlockingIOError when empty, ENETDOWN once when the link goes down
        for _ in range(BATCH):
            yield sock.recvfrom(65535)
