"""Why the kernel refuses a ring, a join or an output, and the remedy, for every errno that a user can cause. Pure.

The errors begin with the call that failed (`system.pyx`).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcrelay.model.plan import OutputSpec
    from mcrelay.model.stream import Address


# Whatever a socket is for. EAFNOSUPPORT: systemd.exec(5), RestrictAddressFamilies.
_NO_MEMORY = "the kernel has no memory for another socket; see `free` and the memory limit of the service"
_ANY_SOCKET = {
    errno.ENFILE: "the host has too many open files; raise the sysctl fs.file-max",
    errno.ENOBUFS: _NO_MEMORY,
    errno.ENOMEM: _NO_MEMORY,
    errno.EAFNOSUPPORT: (
        "this kernel, or RestrictAddressFamilies of the service, has no such sockets; it needs AF_INET, AF_INET6,"
        " AF_PACKET, AF_NETLINK and AF_UNIX"
    ),
}


def no_descriptors(limit: int | None = None) -> str:
    """Say that the process has too many open files; *limit* is how many it may have."""
    known = f": the limit is {limit}" if limit is not None else ""
    return f"too many open files{known}; raise LimitNOFILE (ulimit -n) to 64 and one for each output"


def of_socket(error: OSError) -> str | None:
    """Say why no socket can be made, for any use; None if the reason depends on the use."""
    if error.errno == errno.EMFILE:
        return no_descriptors()
    if error.errno in {errno.EACCES, errno.EPERM} and (error.strerror or "").startswith("UDP socket"):
        return "a security policy of this host (seccomp, SELinux, AppArmor) refuses sockets; see its log"
    return _ANY_SOCKET.get(error.errno or 0)


def port_remedy(port: object) -> str:
    """Say how to let a relay open a reserved port (ip_unprivileged_port_start of ip(7))."""
    return (
        "started by root, the relay keeps it if such a port stands in its files by then; under systemd, add"
        " CAP_NET_BIND_SERVICE in a drop-in to AmbientCapabilities and CapabilityBoundingSet; or for everybody:"
        f" sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
    )


def of_port(address: Address, port: int, error: OSError) -> str:
    """Say why the port of a unicast input cannot be held open, and what senders are told then."""
    told = f"the kernel tells who sends to {address}:{port} that nobody listens (ICMP), and some stop"
    if error.errno == errno.EACCES:
        return f"{told}: port {port} is a reserved one and needs CAP_NET_BIND_SERVICE; {port_remedy(port)}"
    return f"{told}: {of_socket(error) or _raw(error)}"


def of_ring(ifname: str, error: OSError) -> str:
    """Say why nothing can be captured on a link (packet(7))."""
    if error.errno == errno.EPERM:
        return f"capturing on {ifname} needs CAP_NET_RAW: run as root or grant the capability"
    if error.errno == errno.ENOMEM:
        return f"no memory for the ring of {ifname}: lower links.{ifname}.ring, or links.default.ring for all links"
    if error.errno in {errno.ENODEV, errno.ENXIO, errno.ENETDOWN}:
        return f"link {ifname} went away or down meanwhile; it is tried again when it is back"
    return of_socket(error) or f"no ring on {ifname}: {_raw(error)}"


def of_filter(ifname: str, error: OSError) -> str:
    """Say why no filter can be put on the rings of a link (SO_ATTACH_FILTER of socket(7))."""
    if error.errno == errno.ENOMEM:
        return f"the kernel has no room for the filter of {ifname}: raise the sysctl net.core.optmem_max"
    return f"no filter on {ifname}: {_raw(error)}"


def of_output(output: OutputSpec, error: OSError) -> str:
    """Say why an output has no socket (ip(7), udp(7), ip-route(8))."""
    if text := of_socket(error):
        return text
    if error.errno == errno.EADDRINUSE:
        return f"source port {output.source_port} is in use by another program; set source_port to a free one"
    if error.errno in {errno.EACCES, errno.EPERM} and (error.strerror or "").startswith("bind to source port"):
        port = output.source_port
        return f"source port {port} is a reserved one and needs CAP_NET_BIND_SERVICE: {port_remedy(port)}"
    if error.errno == errno.EADDRNOTAVAIL and (error.strerror or "").startswith("IP_MULTICAST_IF"):
        return f"link {output.oif} went away meanwhile; it is tried again when it is back"
    way = output.address
    sayings = {
        errno.ENETUNREACH: f"no route to {way}: add one, or name the link with %LINK",
        errno.EHOSTUNREACH: f"a route or rule of type unreachable refuses {way}: {_see_route(output)}",
        errno.EACCES: f"a route or rule of type prohibit refuses {way}: {_see_route(output)}",
        errno.EINVAL: (
            f"a route or rule of type blackhole takes what goes to {way}, or the source address is none of this host"
            f" any more: {_see_route(output)}"
        ),
        errno.EPERM: f"a program on this host's cgroup (bpf) refuses to connect to {way}; see `bpftool cgroup tree`",
        errno.EADDRNOTAVAIL: f"{output.source_address} is not an address of this host any more; see `ip address`",
        errno.ENODEV: f"link {output.oif} went away meanwhile; it is tried again when it is back",
        errno.ENETDOWN: f"the link to {way} is down; it is tried again when it is up",
    }
    return sayings.get(error.errno or 0, f"no socket for {output.to}: {_raw(error)}")


def of_join(what: str, error: OSError) -> str:
    """Say why the kernel refuses a join (ip(7), linux/net/ipv4/igmp.c); *what* is "joining GROUP"."""
    sayings = {
        errno.ENODEV: "its link went away meanwhile, or has no IPv4; it is tried again when the link is back",
        errno.EADDRNOTAVAIL: "the kernel holds the group in another way already; restart the relay",
    }
    return f"{what}: {of_socket(error) or sayings.get(error.errno or 0, _raw(error))}"


def _see_route(output: OutputSpec) -> str:
    by = f" oif {output.oif}" if output.oif else ""
    return f"see `ip route get {output.address}{by}`, `ip route` and `ip rule`, and add a more specific route"


def _raw(error: OSError) -> str:
    return f"{error.strerror} (errno {errno.errorcode.get(error.errno or 0, error.errno)})"
