"""Make a socket that sends and never receives: connected (ip(7), ipv6(7), udp(7), raw(7)), or a link's (packet(7))."""

from libc.stdint cimport uint16_t, uint32_t

from .address cimport Address, is_any, is_group, is_mapped, mapped
from .kernel cimport (
    AF_INET, AF_INET6, AF_PACKET, EADDRINUSE, IP_MTU_DISCOVER, IP_MULTICAST_ALL, IP_MULTICAST_IF, IP_MULTICAST_TTL,
    IP_PMTUDISC_DO, IP_PMTUDISC_DONT, IP_RECVERR, IP_TOS, IP_TRANSPARENT, IP_TTL, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP,
    IPV6_AUTOFLOWLABEL, IPV6_MTU_DISCOVER, IPV6_MULTICAST_ALL, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_IF, IPV6_PMTUDISC_DO,
    IPV6_PMTUDISC_DONT, IPV6_RECVERR, IPV6_TCLASS, IPV6_TRANSPARENT, IPV6_UNICAST_HOPS, IPV6_V6ONLY, SO_ATTACH_FILTER,
    SO_BINDTODEVICE, SO_BROADCAST, SO_DONTROUTE, SO_REUSEADDR, SO_SNDBUF, SO_SNDBUFFORCE, SOCK_CLOEXEC, SOCK_DGRAM,
    SOCK_RAW, SOL_SOCKET, bind, close, connect, errno, htonl, ip_mreqn, memset, setsockopt, sock_filter, sock_fprog,
    sockaddr, sockaddr_in6, sockaddr_ll, socket, strnlen,
)
from .sockaddr cimport put_end

cdef enum:
    SNDBUF_BYTES = 4 << 20      # a block's worth of bursts; what the kernel grants is reported


cdef int number(int fd, int level, int option, int value) noexcept nogil:
    return setsockopt(fd, level, option, &value, sizeof(value))


cdef int refuse_everything(int fd) noexcept nogil:
    """A socket bound to a port would otherwise queue what is sent to that port, and nobody reads it."""
    cdef sock_filter drop
    cdef sock_fprog program
    drop.code = 6       # BPF_RET | BPF_K
    drop.jt = 0
    drop.jf = 0
    drop.k = 0
    program.len = 1
    program.filter = &drop
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program))


cdef int make_room(int fd) noexcept nogil:
    """Forced where CAP_NET_ADMIN allows, else what net.core.wmem_max grants."""
    return (
        number(fd, SOL_SOCKET, SO_SNDBUFFORCE, SNDBUF_BYTES) and number(fd, SOL_SOCKET, SO_SNDBUF, SNDBUF_BYTES)
    )


cdef int choose_link(int fd, const Manner *manner) noexcept nogil:
    cdef ip_mreqn choice
    if not is_group(&manner.address):
        return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, manner.link, <unsigned int>strnlen(manner.link, LINK_BYTES))
    if not is_mapped(&manner.address):
        return number(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, manner.ifindex)
    # The link is chosen already. A route for groups that names a gateway would put its MAC on the frame: route(8).
    if number(fd, SOL_SOCKET, SO_DONTROUTE, 1):
        return -1
    memset(&choice, 0, sizeof(choice))
    choice.imr_ifindex = manner.ifindex
    if not is_any(&manner.source):              # else another link's, where this one has none of global scope
        choice.imr_address.s_addr = htonl(<uint32_t>manner.source.low)
    return setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &choice, sizeof(choice))


cdef int take_port(int fd, const Manner *manner, uint16_t port, uint32_t tries) noexcept nogil:
    """Bind to the port, and not to an address unless one was asked for: the kernel then follows the link's own."""
    cdef sockaddr_in6 end
    cdef Address source = manner.source
    cdef unsigned int size
    cdef uint32_t i
    if not manner.bind_source or is_any(&source):
        source = manner.address                 # for its family
        source.low = mapped(0).low if is_mapped(&source) else 0
        source.high = 0
    for i in range(tries):
        size = put_end(&end, &source, <uint16_t>(port + i), manner.ifindex)
        if bind(fd, <sockaddr *>&end, size) == 0:
            return 0
        if errno != EADDRINUSE:
            break
    return -1


cdef int go_to(int fd, const Manner *manner) noexcept nogil:
    cdef sockaddr_in6 end
    cdef unsigned int size = put_end(&end, &manner.address, manner.port, manner.ifindex)
    return connect(fd, <sockaddr *>&end, size)


cdef const char *set_up_four(int fd, const Manner *manner) noexcept nogil:
    """What only IPv4 has. Returns what failed, or NULL."""
    if number(fd, SOL_SOCKET, SO_BROADCAST, 1):     # the address may be a subnet's for all
        return b"SO_BROADCAST"
    if number(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0):
        return b"IP_MULTICAST_ALL"
    if number(fd, IPPROTO_IP, IP_RECVERR, 1):       # else qdisc drops are silent: ip(7)
        return b"IP_RECVERR"
    if number(fd, IPPROTO_IP, IP_MULTICAST_TTL, manner.ttl):
        return b"IP_MULTICAST_TTL"
    if number(fd, IPPROTO_IP, IP_TTL, manner.ttl):
        return b"IP_TTL"
    # Neither is the default, by which singles carry DF and runs do not: ip(7), linux/net/ipv4/ip_output.c.
    if number(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO if manner.df else IP_PMTUDISC_DONT):
        return b"IP_MTU_DISCOVER"
    if manner.dscp >= 0 and number(fd, IPPROTO_IP, IP_TOS, manner.dscp << 2):
        return b"IP_TOS"
    if manner.transparent and number(fd, IPPROTO_IP, IP_TRANSPARENT, 1):
        return b"IP_TRANSPARENT"
    return NULL


cdef const char *set_up_six(int fd, const Manner *manner, bint raw) noexcept nogil:
    """The same of IPv6.

    The flow label is 0, as RFC 6437 (3) asks of what labels no flows: the kernel's own would be a hash of the ports.
    """
    # An output of IPv4 may send from the same port. A raw socket has no port, and is not asked (EINVAL).
    if not raw and number(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1):
        return b"IPV6_V6ONLY"
    if number(fd, IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0):
        return b"IPV6_MULTICAST_ALL"
    if number(fd, IPPROTO_IPV6, IPV6_RECVERR, 1):
        return b"IPV6_RECVERR"
    if number(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, manner.ttl):
        return b"IPV6_MULTICAST_HOPS"
    if number(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, manner.ttl):
        return b"IPV6_UNICAST_HOPS"
    # Routers never fragment: with DO what is larger than the path fails, else this host cuts it.
    if number(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO if manner.df else IPV6_PMTUDISC_DONT):
        return b"IPV6_MTU_DISCOVER"
    if number(fd, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0):
        return b"IPV6_AUTOFLOWLABEL"
    if manner.dscp >= 0 and number(fd, IPPROTO_IPV6, IPV6_TCLASS, manner.dscp << 2):
        return b"IPV6_TCLASS"
    if manner.transparent and number(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1):
        return b"IPV6_TRANSPARENT"
    return NULL


cdef const char *set_up(int fd, const Manner *manner, bint raw, uint16_t port, uint32_t tries) noexcept nogil:
    """Returns what failed, or NULL."""
    cdef const char *failed
    if refuse_everything(fd):
        return b"SO_ATTACH_FILTER"
    if number(fd, SOL_SOCKET, SO_REUSEADDR, 1):
        return b"SO_REUSEADDR"
    failed = set_up_four(fd, manner) if is_mapped(&manner.address) else set_up_six(fd, manner, raw)
    if failed != NULL:
        return failed
    if make_room(fd):
        return b"SO_SNDBUF"
    if manner.ifindex and choose_link(fd, manner):
        return b"bind to link"
    if take_port(fd, manner, port, tries):
        return b"bind to source port"
    if go_to(fd, manner):
        return b"connect"
    return NULL


cdef int open_socket(
    const Manner *manner, bint raw, uint16_t port, uint32_t tries, const char **failed
) noexcept nogil:
    """A socket bound to ``port``, or the next free one of so many tries; a raw one, for UDP of any port, has none.

    Returns -1 with errno, and what ``failed``. The loop calls it too: what it makes is bounded (port_sockets.pxd).
    """
    cdef int code
    cdef int fd = socket(
        AF_INET if is_mapped(&manner.address) else AF_INET6, (SOCK_RAW if raw else SOCK_DGRAM) | SOCK_CLOEXEC,
        IPPROTO_UDP if raw else 0,
    )
    failed[0] = b"raw socket" if raw else b"UDP socket"
    if fd < 0:
        return -1
    failed[0] = set_up(fd, manner, raw, port, tries)
    if failed[0] == NULL:
        return fd
    code = errno
    close(fd)
    (&errno)[0] = code
    return -1


cdef int open_link(const Manner *manner, const char **failed) noexcept nogil:
    """A packet socket that sends whole frames by the link, and as it is for no protocol gets none.

    Returns -1 with errno, and what ``failed``.
    """
    cdef sockaddr_ll link
    cdef int code
    cdef int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)
    failed[0] = b"packet socket"
    if fd < 0:
        return -1
    memset(&link, 0, sizeof(link))
    link.sll_family = AF_PACKET
    link.sll_ifindex = manner.ifindex
    if make_room(fd):
        failed[0] = b"SO_SNDBUF"
    elif bind(fd, <sockaddr *>&link, sizeof(link)):
        failed[0] = b"bind to link"
    else:
        return fd
    code = errno
    close(fd)
    (&errno)[0] = code
    return -1
