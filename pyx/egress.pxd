"""An output and its socket: what the loop knows of them, and what the socket says of errors, now and later."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address
from .counters cimport (
    OutputCounters, SEND_BLOCKED, SEND_MTU, SEND_NETDOWN, SEND_NOADDR, SEND_NOBUFS, SEND_NOROUTE, SEND_OTHER,
    SEND_UNREACHABLE, SendError,
)
from .kept cimport Kept
from .kernel cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, EACCES, EADDRNOTAVAIL, EAGAIN, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EINVAL,
    EMSGSIZE, ENETDOWN, ENETUNREACH, ENOBUFS, ENODEV, ENOMEM, ENONET, ENOPROTOOPT, ENXIO, EOPNOTSUPP, EPERM, EPROTO,
    IP_MTU, IP_RECVERR, IPPROTO_IP, IPPROTO_IPV6, IPV6_MTU, IPV6_RECVERR, MSG_DONTWAIT, MSG_ERRQUEUE, SO_EE_ORIGIN_ICMP,
    SO_EE_ORIGIN_ICMP6, SO_ERROR, SOL_SOCKET, cmsghdr, getsockopt, load_relaxed_u32, msghdr, recvmsg, sock_extended_err,
    store_relaxed_u32,
)
from .manner cimport Manner
from .port_sockets cimport PortSockets
from .wire cimport IPV4_BYTES, IPV6_BYTES, UDP_BYTES

cdef struct Egress:
    # One output's socket, connected to its destination, as one worker sees it. It outlives plans; only that worker
    # touches it. The socket is the same for all: a group has one worker, and whoever sends learns what went wrong.
    int fd                      # where ports are kept: the one in use, of several (port_sockets.pxd)
    uint32_t segment_max        # payload that fits the MTU: larger ones never form runs
    uint32_t owed, owed_mtu     # errors that came later and are not charged yet: nobody there, too large for the path
    bint stalled                # accepted nothing during a whole wait: not waited for again until it accepts
    uint32_t *runs              # shared by the outputs of one link: 0 after EIO, the device cannot do runs
    PortSockets *ports          # NULL: every datagram leaves from one port
    bint six                    # the socket is one of IPv6
    uint32_t stale              # the engine sets it: the MTU may be another by now, ask the kernel
    uint16_t identification     # of the next frame of our own making (RFC 791)

cdef struct PortSpan:
    # These ports become as many others.
    uint16_t low, high, to

cdef struct Output:
    # What a plan says of one output: immutable.
    Egress *egress              # NULL: parked
    OutputCounters *counters    # if it is addressed, one a group
    bint addressed              # each message says where to: the output of a range, or of several ports
    Address group               # where the first group goes
    uint16_t into_port          # where every port goes; 0: it is kept, or as the spans say
    uint32_t span_count
    const PortSpan *spans
    uint32_t burst
    bint keep_dscp              # else the socket's IP_TOS stands
    bint keep_ttl               # else the socket's IP_TTL stands
    uint8_t hops                # taken from a TTL that is kept
    bint keep_address           # else the socket's own
    bint keep_port              # else the socket's own
    bint six                    # it sends IPv6
    int ifindex                 # of its link, which an address may be alone on; 0: by route
    Address source, address     # of the socket, and where it sends to
    uint16_t source_port, port
    uint64_t mac                # what its frames are sent from, where that is asked: 0 if that is none of ours
    uint16_t vlan               # 0: none. Else it sends frames with this tag, and these say how:
    uint8_t ttl, tos            # where they are not kept
    bint df
    Kept *kept                  # the worker's memory of what leaves with an end kept; NULL: this output keeps none


cdef inline SendError reason_for(const Output *output, int code) noexcept nogil:
    """As `reason_of`; a source address that no host has is refused by the route (ip_route_output_key_hash_rcu)."""
    if code == EINVAL and output.keep_address:
        return SEND_NOADDR
    return reason_of(code)


cdef inline uint16_t goal_of(const Output *output, uint16_t port) noexcept nogil:
    """Where an addressed output sends what arrived for this port."""
    cdef uint32_t i
    if output.into_port:
        return output.into_port
    for i in range(output.span_count):
        if output.spans[i].low <= port <= output.spans[i].high:
            return <uint16_t>(output.spans[i].to + (port - output.spans[i].low))
    return port


cdef inline SendError reason_of(int code) noexcept nogil:
    """The counter an errno of sendmsg(2) belongs to."""
    if code == ENOBUFS or code == EAGAIN or code == ENOMEM:
        return SEND_NOBUFS
    if code == ENETDOWN or code == ENODEV or code == ENXIO:
        return SEND_NETDOWN
    if code == EMSGSIZE:
        return SEND_MTU
    if code == EADDRNOTAVAIL:
        return SEND_NOADDR
    if code == ENETUNREACH:
        return SEND_NOROUTE
    if code == EHOSTUNREACH or code == ECONNREFUSED or code == EHOSTDOWN:
        return SEND_UNREACHABLE
    if code == EPERM or code == EACCES:
        return SEND_BLOCKED
    return SEND_OTHER


cdef inline bint can_be_asynchronous(int code) noexcept nogil:
    """Errors that ICMP or a failed ARP puts on a socket (icmp_err_convert in linux/net/ipv4/icmp.c, tab_unreach in
    linux/net/ipv6/icmp.c)."""
    return (
        code == ECONNREFUSED or code == EHOSTUNREACH or code == ENETUNREACH or code == EMSGSIZE or code == EPROTO
        or code == EACCES or code == EHOSTDOWN or code == ENONET or code == EOPNOTSUPP or code == ENOPROTOOPT
    )


cdef inline uint32_t drain(Egress *egress) noexcept nogil:
    """Empty the error queue (ip(7), IP_RECVERR). Returns how many errors the network sent, not our own send."""
    cdef uint8_t control[512]
    cdef msghdr message
    cdef cmsghdr *header
    cdef sock_extended_err *error
    cdef uint32_t found = 0
    cdef int pending
    cdef unsigned int size = sizeof(pending)
    message.msg_name = NULL
    message.msg_namelen = 0
    message.msg_iov = NULL
    message.msg_iovlen = 0
    message.msg_flags = 0
    while True:
        message.msg_control = control
        message.msg_controllen = sizeof(control)
        if recvmsg(egress.fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0:
            break
        header = CMSG_FIRSTHDR(&message)
        while header != NULL:
            if (
                header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_RECVERR
                or header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_RECVERR
            ):
                error = <sock_extended_err *>CMSG_DATA(header)
                if error.ee_origin == SO_EE_ORIGIN_ICMP or error.ee_origin == SO_EE_ORIGIN_ICMP6:
                    found += 1
                    if error.ee_errno == <uint32_t>EMSGSIZE:
                        egress.owed_mtu += 1
                    else:
                        egress.owed += 1
            header = CMSG_NXTHDR(&message, header)
    getsockopt(egress.fd, SOL_SOCKET, SO_ERROR, &pending, &size)    # void: clears what the queue left behind
    return found


cdef inline void measure(Egress *egress) noexcept nogil:
    """Learn the MTU of the route again: an ICMP told the kernel, or the link changed."""
    cdef int mtu = 0
    cdef unsigned int size = sizeof(mtu)
    cdef int headers = IPV6_BYTES + UDP_BYTES if egress.six else IPV4_BYTES + UDP_BYTES
    cdef int failed
    if egress.six:
        failed = getsockopt(egress.fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &size)
    else:
        failed = getsockopt(egress.fd, IPPROTO_IP, IP_MTU, &mtu, &size)
    if not failed and mtu > headers:
        egress.segment_max = <uint32_t>(mtu - headers)


cdef inline void refresh(Egress *egress) noexcept nogil:
    """Ask again what an error once taught, where the engine says that it may be otherwise by now."""
    if load_relaxed_u32(&egress.stale):
        store_relaxed_u32(&egress.stale, 0)
        measure(egress)


cdef class GsoState:
    """One word that the outputs of a link share: whether their device takes runs."""

    cdef uint32_t runs


cdef class EgressSocket:
    """Owner of one output's socket. Made and closed by the main thread; workers send."""

    cdef int fd
    cdef Manner manner
    cdef uint8_t *states        # one Egress a worker, each on a cache line of its own
    cdef PortSockets *ports     # one a worker, where ports are kept
    cdef readonly uint32_t workers
    cdef GsoState gso
    cdef readonly int sndbuf
    cdef readonly int source_port
    cdef bint keeps_port

    cdef int _open(self, bint raw, uint16_t port, uint32_t tries) except -1
    cdef Address local(self) except *
    cdef int lend(self, Output *output, uint32_t worker) except -1
    cdef Egress *of(self, uint32_t worker) except NULL
    cdef int _disconnect(self) except -1
    cdef void _shut(self) noexcept
