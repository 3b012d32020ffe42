"""Set-up of egress sockets (ip(7), udp(7)); what is sent by them is in runs.pxd."""

import errno as errnos
from ipaddress import IPv4Address

cimport cython
from libc.stdint cimport uint16_t

from .kernel cimport (
    AF_INET, IP_MTU_DISCOVER, IP_MULTICAST_ALL, IP_MULTICAST_IF, IP_MULTICAST_TTL, IP_PMTUDISC_DO, IP_PMTUDISC_DONT,
    IP_TOS, IP_TTL, SO_ATTACH_FILTER, SO_BINDTODEVICE, SO_BROADCAST, SO_DONTROUTE, SO_REUSEADDR, SO_SNDBUF,
    SO_SNDBUFFORCE, SOCK_CLOEXEC, SOCK_DGRAM, aligned_alloc, bind, close, connect, errno, free, getsockname, htonl,
    htons, ip_mreqn, load_relaxed_u32, memset, ntohl, setsockopt, sock_filter, sock_fprog, sockaddr, sockaddr_in,
    socket, store_relaxed_u32,
)
from .system cimport check, set_option

cdef enum:
    STATE_BYTES = 64            # an Egress and what fills its cache line
    SNDBUF_BYTES = 4 << 20      # a block's worth of bursts; what the kernel grants is reported
    PORT_TRIES = 16


assert sizeof(Egress) <= STATE_BYTES


cdef int refuse_everything(int fd) except -1:
    """A socket bound to a port would otherwise queue what is sent to that port, and nobody reads it."""
    cdef sock_filter drop
    cdef sock_fprog program
    drop.code = 6       # BPF_RET | BPF_K
    drop.jt = 0
    drop.jf = 0
    drop.k = 0
    program.len = 1
    program.filter = &drop
    return check(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), "SO_ATTACH_FILTER")


cdef int grow(int fd) except -1:
    """A large send buffer: forced where CAP_NET_ADMIN allows, else what net.core.wmem_max grants. Returns its bytes."""
    cdef int size = SNDBUF_BYTES
    cdef unsigned int length = sizeof(size)
    if setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)):
        set_option(fd, SOL_SOCKET, SO_SNDBUF, size, "SO_SNDBUF")
    check(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length), "SO_SNDBUF")
    return size // 2    # socket(7): the kernel doubles it for its own bookkeeping


cdef int choose_link(int fd, uint32_t address, int ifindex, str link, uint32_t source) except -1:
    cdef ip_mreqn choice
    cdef bytes name = link.encode()
    if address >> 28 == 14:
        # The link is chosen already. A route for groups that names a gateway would put its MAC on the frame: route(8).
        set_option(fd, SOL_SOCKET, SO_DONTROUTE, 1, "SO_DONTROUTE")
        memset(&choice, 0, sizeof(choice))
        choice.imr_ifindex = ifindex
        choice.imr_address.s_addr = htonl(source)   # else another link's, where this one has none of global scope
        return check(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &choice, sizeof(choice)), "IP_MULTICAST_IF")
    return check(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, <char *>name, len(name)), f"bind to link {link}")


cdef int take_port(int fd, uint32_t address, uint16_t port, bint exact) except -1:
    """Bind to the port, and not to an address unless one was asked for: the kernel then follows the link's own."""
    cdef sockaddr_in source
    cdef int i
    memset(&source, 0, sizeof(source))
    source.sin_family = AF_INET
    source.sin_addr.s_addr = htonl(address)
    for i in range(1 if exact else PORT_TRIES):
        source.sin_port = htons(<uint16_t>(port + i))
        if bind(fd, <sockaddr *>&source, sizeof(source)) == 0:
            return port + i
        if errno != errnos.EADDRINUSE:
            break
    return check(-1, f"bind to source port {port}")


@cython.final
cdef class GsoState:
    def __cinit__(self, bint allowed=True):
        self.runs = allowed

    def ask_again(self):
        """Let runs be tried again: a refused one goes singly, and nothing is lost by asking."""
        store_relaxed_u32(&self.runs, 1)

    @property
    def allowed(self):
        """False once the link's device has refused a run with EIO; singles go on."""
        return load_relaxed_u32(&self.runs) != 0


@cython.final
cdef class EgressSocket:
    def __cinit__(
        self, uint32_t address, uint16_t port, GsoState gso not None, *, int ifindex=0, str link="",
        uint32_t source_address=0, uint16_t source_port=0, bint exact_port=False, int ttl=16, int dscp=-1,
        uint32_t payload_max=0, uint32_t workers=1, bint df=False, bint bind_source=False,
    ):
        """A socket that sends to ``address``:``port`` (host byte order) and never receives anything.

        ``ifindex`` and ``link`` say by which link; 0 and "" leave it to the routing table. ``source_address`` 0 lets
        the kernel choose; another is used for a group that goes out by a link, and with ``bind_source`` always.
        When ``source_port`` is taken by a stranger the next free one of 16 is used, unless ``exact_port``.
        ``df``: don't-fragment is set on all that is sent, and what is larger than the path fails; else it is never set.
        ``payload_max`` 0 asks the route for its MTU. ``workers`` of them may send. Raises OSError: ENETUNREACH without
        a route, EADDRNOTAVAIL when the source address is not ours, EADDRINUSE, EMFILE.
        """
        cdef sockaddr_in to
        cdef uint32_t i
        self.fd = -1
        self.gso = gso
        self.workers = workers
        self.states = <uint8_t *>aligned_alloc(STATE_BYTES, <size_t>max(1, workers) * STATE_BYTES)
        if self.states == NULL:
            raise MemoryError("an output")
        self.fd = check(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "UDP socket")
        refuse_everything(self.fd)
        set_option(self.fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR")
        set_option(self.fd, SOL_SOCKET, SO_BROADCAST, 1, "SO_BROADCAST")    # the address may be a subnet's for all
        set_option(self.fd, IPPROTO_IP, IP_MULTICAST_ALL, 0, "IP_MULTICAST_ALL")
        set_option(self.fd, IPPROTO_IP, IP_RECVERR, 1, "IP_RECVERR")    # else qdisc drops are silent: ip(7)
        set_option(self.fd, IPPROTO_IP, IP_MULTICAST_TTL, ttl, "IP_MULTICAST_TTL")
        set_option(self.fd, IPPROTO_IP, IP_TTL, ttl, "IP_TTL")
        # Neither is the default, by which singles carry DF and runs do not: ip(7), linux/net/ipv4/ip_output.c.
        set_option(self.fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO if df else IP_PMTUDISC_DONT, "IP_MTU_DISCOVER")
        if dscp >= 0:
            set_option(self.fd, IPPROTO_IP, IP_TOS, dscp << 2, "IP_TOS")
        self.sndbuf = grow(self.fd)
        if ifindex:
            choose_link(self.fd, address, ifindex, link, source_address)
        self.source_port = take_port(self.fd, source_address if bind_source else 0, source_port, exact_port)
        memset(&to, 0, sizeof(to))
        to.sin_family = AF_INET
        to.sin_port = htons(port)
        to.sin_addr.s_addr = htonl(address)
        check(connect(self.fd, <sockaddr *>&to, sizeof(to)), "connect")
        for i in range(workers):
            memset(self.of(i), 0, STATE_BYTES)
            self.of(i).fd = self.fd
            self.of(i).segment_max = payload_max
            self.of(i).runs = &gso.runs
            if not payload_max:
                measure(self.of(i))

    def __dealloc__(self):
        self._shut()
        free(self.states)

    def close(self):
        """Only when no worker can reach a plan with this socket any more."""
        self._shut()

    cdef void _shut(self) noexcept:
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    cdef Egress *of(self, uint32_t worker) except NULL:
        """What that worker knows of the socket; it lives as long as this object."""
        if worker >= self.workers:
            raise ValueError(f"worker {worker} of {self.workers}")
        return <Egress *>(self.states + worker * <size_t>STATE_BYTES)

    def ask_again(self):
        """Let every worker ask for the MTU again before it sends next."""
        cdef uint32_t i
        for i in range(self.workers):
            store_relaxed_u32(&self.of(i).stale, 1)

    def fileno(self):
        return self.fd

    @property
    def local_address(self):
        """The IPv4Address datagrams leave with."""
        cdef sockaddr_in source
        cdef unsigned int size = sizeof(source)
        check(getsockname(self.fd, <sockaddr *>&source, &size), "getsockname")
        return IPv4Address(ntohl(source.sin_addr.s_addr))
