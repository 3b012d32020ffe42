"""MLD on the wire: queries by hand, reports read, and joins of IPv6 groups."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from wire import RECORDS, Message, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import Namespace
    from wire import Tap

ETH_P_IPV6 = b"\x86\xdd"
HOP_BY_HOP, ICMPV6 = 0, 58
ROUTER_ALERT = b"\x3a\0\x05\x02\0\0\x01\0"  # next header ICMPv6, 8 bytes; alert for MLD; padding (RFC 2711)
QUERIER = "fe80::ff"
MEMBER = {"IS_EX", "TO_EX", "v1 report"}
SOURCED = {"IS_IN", "ALLOW", "v1 report"}
MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP = 42, 46


def query(*, version: int = 2, response_s: float = 0.3) -> bytes:
    """A general query from another host of the link."""
    any_group = bytes(16)
    body = struct.pack("!BBHHH16s", 130, 0, 0, int(response_s * 1000), 0, any_group)
    if version == 2:
        body += struct.pack("!BBH", 2, 125, 0)  # robustness 2, no sources
    source, target = (socket.inet_pton(socket.AF_INET6, each) for each in (QUERIER, "ff02::1"))
    pseudo = source + target + struct.pack("!IHBB", len(body), 0, 0, ICMPV6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(ROUTER_ALERT) + len(body), HOP_BY_HOP, 1) + source + target
    return b"\x33\x33\0\0\0\x01\x02\0\0\0\0\x01" + ETH_P_IPV6 + header + ROUTER_ALERT + body


def messages(frame: bytes) -> Iterator[Message]:
    """What a frame says about groups; the kernel's own reports all begin with a hop-by-hop header."""
    if frame[12:14] != ETH_P_IPV6 or frame[20] != HOP_BY_HOP or frame[54] != ICMPV6:
        return
    source = socket.inet_ntop(socket.AF_INET6, frame[22:38])
    body = frame[54 + 8 * (frame[55] + 1) :]
    if body[0] in {131, 132}:
        kind = "v1 report" if body[0] == 131 else "v1 done"
        yield Message(source, kind, socket.inet_ntop(socket.AF_INET6, body[8:24]))
    elif body[0] == 143:
        at = 8
        for _ in range(struct.unpack("!H", body[6:8])[0]):
            kind, extra, sources = struct.unpack("!BBH", body[at : at + 4])
            yield Message(source, RECORDS[kind], socket.inet_ntop(socket.AF_INET6, body[at + 4 : at + 20]))
            at += 20 + 16 * sources + 4 * extra


def listen(tap: Tap, seconds: float) -> list[Message]:
    """The MLD messages of the next seconds."""
    return [message for frame in tap.frames(seconds) for message in messages(frame)]


def helper(ns: Namespace, *joins: tuple[str, str | None], ifname: str = "eth0") -> socket.socket:
    """A socket that has joined each (group, source), by the link's index, and that is never read."""
    sock = ns.socket(socket.AF_INET6)
    for group, source in joins:
        join(sock, ns, group, source, ifname=ifname)
    return sock


def join(sock: socket.socket, ns: Namespace, group: str, source: str | None = None, *, ifname: str = "eth0") -> None:
    request = struct.pack("@I4x", ns.index(ifname)) + _sockaddr(group)
    option = MCAST_JOIN_GROUP
    if source:
        option = MCAST_JOIN_SOURCE_GROUP
        request += _sockaddr(source)
    sock.setsockopt(socket.IPPROTO_IPV6, option, request)


def joined(ns: Namespace, ifname: str = "eth0") -> set[str]:
    """/proc/net/igmp6: the groups of one interface."""
    fields = (line.split() for line in ns.proc("igmp6").splitlines())
    return {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(group)) for _, name, group, *_ in fields if name == ifname}


def _sockaddr(address: str) -> bytes:
    """A struct sockaddr_storage of IPv6."""
    return struct.pack("@HHI16s104x", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, address))
