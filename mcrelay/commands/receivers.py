"""Sockets that `mcrelay recv` receives by, of either family (ip(7), ipv6(7), packet(7))."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from mcrelay.commands.senders import end_of, family_of, link_index, set_buffer
from mcrelay.errors import MembershipError, OperationError
from mcrelay.igmp.membership import set_member
from mcrelay.linux import bpf
from mcrelay.linux.packets import attach
from mcrelay.model import refusals
from mcrelay.model.link import Membership
from mcrelay.model.notation import format_stream

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence

    from mcrelay.model.stream import Stream

TAPS = 16  # each frame meets the filter of every one
BUFFERS_BYTES = 128 << 20  # of all sockets together; a bound, not an allocation

# linux/socket.h, linux/in.h and linux/in6.h: the socket module lacks these.
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/if_packet.h
ETH_P_IP = 0x0800
IP_RECVTTL = 12
IP_RECVTOS = 13
IP_MULTICAST_ALL = 49
IPV6_MULTICAST_ALL = 29
# What a receiver of either family asks for: TTL and TOS of each datagram, and no group that another socket has joined.
IPV4 = (socket.IPPROTO_IP, ((IP_RECVTTL, 1), (IP_RECVTOS, 1), (IP_MULTICAST_ALL, 0)))
IPV6 = (
    socket.IPPROTO_IPV6,
    ((socket.IPV6_RECVHOPLIMIT, 1), (socket.IPV6_RECVTCLASS, 1), (socket.IPV6_V6ONLY, 1), (IPV6_MULTICAST_ALL, 0)),
)


def open_taps(targets: Sequence[Stream], stack: contextlib.ExitStack) -> list[socket.socket]:
    """Open a packet socket for each stream: the kernel may refuse datagrams to UDP sockets. None without the right."""
    if not can_be_tapped(targets):
        return []
    taps = []
    for each in targets:
        assert isinstance(each.address, IPv4Address)
        assert isinstance(each.port, int)
        assert each.source is None or isinstance(each.source, IPv4Address)
        try:
            tap = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        except PermissionError:
            return []
        attach(tap, bpf.stream_filter(each.address, each.port, each.source))
        tap.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        set_buffer(tap, SO_RCVBUFFORCE, socket.SO_RCVBUF, max(BUFFERS_BYTES // len(targets), 1 << 20))
        tap.bind((each.link or "", ETH_P_IP))
        taps.append(tap)
    return taps


def can_be_tapped(targets: Sequence[Stream]) -> bool:
    """Whether the kernel's reverse-path filter could keep these from a UDP socket: IPv6 has none (nft rules may)."""
    return len(targets) <= TAPS and all(_is_group_of_ipv4(each) for each in targets)


def _is_group_of_ipv4(stream: Stream) -> bool:
    return isinstance(stream.address, IPv4Address) and stream.address.is_multicast


def open_receiver(stream: Stream, share: int) -> socket.socket:
    """Open a socket that receives only *stream*, with one of *share* parts of the buffers. Closing it leaves the group.

    It is bound to the group, so that it gets no other group's datagrams (ip(7), IP_MULTICAST_ALL). One group for each
    socket stays below net.ipv4.igmp_max_memberships.
    """
    sock = socket.socket(family_of(stream.address), socket.SOCK_DGRAM)
    port = stream.port
    assert isinstance(port, int)
    try:
        size = min(max(BUFFERS_BYTES // share, 1 << 20), 64 << 20)
        set_buffer(sock, SO_RCVBUFFORCE, socket.SO_RCVBUF, size)
        level, options = IPV6 if stream.address.version == 6 else IPV4
        for option, value in options:
            sock.setsockopt(level, option, value)
        if stream.address.is_multicast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # several may listen to one group
        elif stream.link is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, stream.link.encode())
        sock.bind(end_of(stream.address, port, stream.link))
        if stream.address.is_multicast:
            _join(sock, stream)
    except OSError as error:
        sock.close()
        remedies = {
            errno.EADDRNOTAVAIL: f"{stream.address} is not an address of this host; see `ip address`",
            errno.EADDRINUSE: f"port {port} is taken; see `ss -lun`",
            errno.EACCES: "ports below 1024 need root",
        }
        remedy = refusals.of_socket(error) or remedies.get(error.errno or 0, error.strerror)
        raise OperationError(f"cannot receive {format_stream(stream)}: {remedy}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _join(sock: socket.socket, stream: Stream) -> None:
    wanted = Membership(link_index(stream.link or ""), stream.address, stream.source)
    try:
        set_member(sock, wanted, join=True)
    except OSError as error:
        known = {errno.ENOBUFS: "net.ipv4.igmp_max_memberships or net.core.optmem_max is too small for even one group"}
        reason = known.get(error.errno or 0, error.strerror)
        raise MembershipError(f"cannot join {format_stream(stream)}: {reason}") from error
