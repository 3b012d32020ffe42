"""IGMP as it passes on a link, in and out: who is the querier, and which version does it speak (RFC 2236, 3376).

A small AF_PACKET socket per input link, beside the ring and owned by Python: IGMP is rare, and no firewall or
reverse-path filter hides it from here.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from . import bpf

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

QUERY = 0x11
ETH_P_ALL = 3
PACKET_OUTGOING = 4
SO_ATTACH_FILTER = 26
BATCH = 64  # frames read a turn: a flood of IGMP must not starve the control socket


@dataclass(frozen=True, slots=True)
class Query:
    """A membership query; ``group`` None is a general one."""

    querier: IPv4Address
    version: int
    group: IPv4Address | None


@dataclass(frozen=True, slots=True)
class Querier:
    """Who asked last on a link, and when (Unix seconds)."""

    address: IPv4Address
    version: int
    last_seen_time: float


def parse_query(frame: bytes) -> Query | None:
    """The query in an Ethernet frame, or None for anything else, also when it is cut short or corrupt.

    The version follows from length and code (RFC 3376, 7.1): 8 bytes with code 0 are version 1, 8 version 2, 12 or
    more version 3.
    """
    ip = frame[14:]
    if len(ip) < 20 or frame[12:14] != b"\x08\x00" or ip[0] >> 4 != 4 or ip[9] != 2:
        return None
    header = (ip[0] & 15) * 4
    total = int.from_bytes(ip[2:4], "big")
    message = ip[header:total]
    if header < 20 or total > len(ip) or len(message) < 8 or message[0] != QUERY or _sum(message) != 0xFFFF:
        return None
    version = 3 if len(message) >= 12 else 2 if message[1] else 1
    group = IPv4Address(message[4:8])
    return Query(IPv4Address(ip[12:16]), version, None if group.is_unspecified else group)


def _sum(data: bytes) -> int:
    """Ones' complement sum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class IgmpTap:
    """Hears the IGMP of one link and remembers the querier. Main thread; needs CAP_NET_RAW."""

    def __init__(self, ifindex: int, loop: asyncio.AbstractEventLoop, heard: Callable[[Query], None]) -> None:
        self.querier: Querier | None = None
        self._heard = heard
        self._loop = loop
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        program = ctypes.create_string_buffer(bpf.igmp_filter())
        filter_ = struct.pack("@HP", len(program.raw) // 8, ctypes.addressof(program))  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
        self._socket.bind((socket.if_indextoname(ifindex), ETH_P_ALL))
        loop.add_reader(self._socket, self._read)

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # BlockingIOError when empty, ENETDOWN once when the link goes down
            for _ in range(BATCH):
                frame, address = self._socket.recvfrom(2048)
                query = parse_query(frame)
                if query is not None and address[2] != PACKET_OUTGOING:
                    self.querier = Querier(query.querier, query.version, time.time())
                    self._heard(query)


def host_versions(path: Path = Path("/proc/net/igmp")) -> dict[str, int]:
    """The IGMP version the kernel speaks on each link now, by name; empty where /proc is not mounted.

    It falls back to what the querier speaks (RFC 3376, 7.2.1).
    """
    versions = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            if not line[:1].isspace() and len(fields) >= 5 and fields[-1].startswith("V"):
                versions[fields[1].rstrip(":")] = int(fields[-1][1:])
    return versions
