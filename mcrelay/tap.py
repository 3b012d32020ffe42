"""The IGMP tap: a packet socket that hears the IGMP of one link, both ways, and sends reports of our own making."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from typing import TYPE_CHECKING

from . import bpf, igmp

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from .igmp import Query, Report

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SO_ATTACH_FILTER = 26
BATCH = 64  # frames read a turn: a flood of IGMP must not starve the control socket


class IgmpTap:
    """Calls ``heard(message, outgoing)`` for each IGMP message of a link. Main thread; needs CAP_NET_RAW.

    What the tap itself sends it does not hear: a packet socket is not shown its own frames (linux/net/core/dev.c), so
    every report heard to leave is the kernel's or another program's.
    """

    def __init__(
        self, ifindex: int, loop: asyncio.AbstractEventLoop, heard: Callable[[Query | Report, bool], None]
    ) -> None:
        self._heard = heard
        self._loop = loop
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        program = ctypes.create_string_buffer(bpf.igmp_filter())
        filter_ = struct.pack("@HP", len(program.raw) // 8, ctypes.addressof(program))  # struct sock_fprog
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
            self._socket.bind((socket.if_indextoname(ifindex), ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise
        loop.add_reader(self._socket, self._read)

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def send(self, frames: Sequence[bytes]) -> int:
        """How many of these the kernel took before it had no room. Raises OSError, as when the link is down."""
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for frame in frames:
                self._socket.send(frame)
                sent += 1
        return sent

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # BlockingIOError when empty, ENETDOWN once when the link goes down
            for _ in range(BATCH):
                frame, address = self._socket.recvfrom(65535)
                message = igmp.parse(frame)
                if message is not None:
                    self._heard(message, address[2] == PACKET_OUTGOING)
