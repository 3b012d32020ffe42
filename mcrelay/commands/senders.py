"""Sockets that `mcrelay send` sends by, of either family (ip(7), ipv6(7), udp(7))."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from mcrelay.errors import LinkError, OperationError
from mcrelay.links.sources import sends_from
from mcrelay.model import refusals
from mcrelay.model.notation import format_stream
from mcrelay.model.rule import default_ttl

if TYPE_CHECKING:
    from mcrelay.model.stream import Address, Stream

SNDBUF_BYTES = 4 << 20
SO_SNDBUFFORCE = 32  # linux/socket.h; the socket module lacks these
IP_RECVERR = 11  # linux/in.h
IPV6_RECVERR = 25  # linux/in6.h


def link_index(name: str) -> int:
    """Return the number of a link of this namespace."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        there = ", ".join(known for _, known in socket.if_nameindex())
        raise LinkError(f"no link is called {name}; there are {there}") from error


def set_buffer(sock: socket.socket, forced: int, plain: int, size_bytes: int) -> None:
    """Ask for a socket buffer: by force with CAP_NET_ADMIN, else up to net.core.[rw]mem_max (socket(7))."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, size_bytes)


def family_of(address: Address) -> int:
    """The family of a socket for that address."""
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def end_of(address: Address, port: int, link: str | None) -> tuple[str, int] | tuple[str, int, int, int]:
    """An end for bind(2) or connect(2); an IPv6 address of a link alone means one only with the link."""
    if address.version == 4:
        return str(address), port
    return str(address), port, 0, link_index(link) if link is not None else 0


def source_of(stream: Stream) -> IPv4Address | None:
    """Choose the source address for a group, an address of its link; None leaves it to the kernel."""
    if stream.link is None or not isinstance(stream.address, IPv4Address) or not stream.address.is_multicast:
        return None
    number = link_index(stream.link)
    if _chosen(stream.address, number, 0) == _chosen(stream.address, number, 1):  # nearly always, and cheap to ask
        return None
    from mcrelay.links.watch import links_now  # noqa: PLC0415  a heavy import

    with contextlib.suppress(OSError):  # netlink is closed to us
        for link in links_now().values():
            if link.ifindex == number:
                source = sends_from(link, stream.address)
                return source if isinstance(source, IPv4Address) else None
    return None


def _chosen(group: IPv4Address, ifindex: int, dontroute: int) -> str:
    """The kernel's choice; without a route it takes an address of link scope first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, dontroute)
        _choose_link(probe, ifindex, None)
        with contextlib.suppress(OSError):
            probe.connect((str(group), 9))
        return str(probe.getsockname()[0])


def _set_header(sock: socket.socket, stream: Stream, ttl: int, tos: int) -> None:
    group = stream.address.is_multicast
    if stream.address.version == 6:
        hops = socket.IPV6_MULTICAST_HOPS if group else socket.IPV6_UNICAST_HOPS
        sock.setsockopt(socket.IPPROTO_IPV6, hops, ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        return
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL if group else socket.IP_TTL, ttl)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)  # 192.0.2.255 may be the destination


def _leave_by(sock: socket.socket, stream: Stream, ifindex: int, source: IPv4Address | None) -> None:
    """Send to a group by that link. Without RECVERR a full device queue drops without an error."""
    if stream.address.version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, ifindex)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        return
    # The stream names the link: a route for groups by a gateway would put the gateway's MAC on the frames.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    _choose_link(sock, ifindex, source)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def _choose_link(sock: socket.socket, ifindex: int, source: IPv4Address | None) -> None:
    choice = struct.pack("=4s4si", b"", source.packed if source else b"", ifindex)  # struct ip_mreqn
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, choice)


def open_sender(
    stream: Stream, ttl: int | None, dscp: int, source_port: int | None, source: IPv4Address | None = None
) -> socket.socket:
    """Open a UDP socket connected to *stream* (ip(7), udp(7)); a group's datagrams leave with *source*."""
    sock = socket.socket(family_of(stream.address), socket.SOCK_DGRAM)
    group = stream.address.is_multicast
    port = stream.port
    assert isinstance(port, int)
    try:
        set_buffer(sock, SO_SNDBUFFORCE, socket.SO_SNDBUF, SNDBUF_BYTES)
        _set_header(sock, stream, ttl or default_ttl(stream), dscp << 2)
        if stream.link is not None and not group:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, stream.link.encode())
        elif stream.link is not None:
            _leave_by(sock, stream, link_index(stream.link), source)
        if source_port is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one port for all streams
        anyone = IPv6Address(0) if stream.address.version == 6 else IPv4Address(0)  # an address of ours: the route's
        sock.bind(end_of(stream.source or anyone, source_port or 0, stream.link))
        sock.connect(end_of(stream.address, port, stream.link))
    except OSError as error:
        sock.close()
        remedies = {
            errno.EADDRNOTAVAIL: f"{stream.source} is not an address of this host; see `ip address`",
            errno.EADDRINUSE: f"port {source_port} is taken; choose another --source-port",
            errno.ENETUNREACH: "there is no route; see `ip route`",
            errno.EACCES: "a prohibit route refuses it, or the source port is reserved; see `ip route` and run as root",
            errno.EINVAL: "a blackhole route takes it; see `ip route`",
            errno.EHOSTUNREACH: "an unreachable route refuses it; see `ip route`",
        }
        remedy = refusals.of_socket(error) or remedies.get(error.errno or 0, error.strerror)
        raise OperationError(f"cannot send to {format_stream(stream)}: {remedy}") from error
    except BaseException:
        sock.close()
        raise
    return sock
