"""Set-up of egress sockets (ip(7), udp(7)); what is sent by them is in runs.pxd."""

from ipaddress import ip_address

cimport cython
from libc.stdint cimport uint16_t, uint64_t

from .address cimport Address, address_of, address_value, equal, is_group, is_mapped, mapped
from .kernel cimport (
    CLOCK_MONOTONIC, SO_SNDBUF, aligned_alloc, calloc, close, connect, free, load_relaxed_u32, memcpy, memset, now_ns,
    sockaddr, sockaddr_in6, store_relaxed_u32,
)
from .manner cimport LINK_BYTES, choose_link, open_link, open_socket
from .port_sockets cimport PORT_SOCKETS, PortSockets
from .sockaddr cimport local_end
from .system cimport check

cdef enum:
    STATE_BYTES = 64            # an Egress and what fills its cache line
    PORT_TRIES = 16
    LEAST_PAYLOAD = 40          # of a link with the smallest MTU that IPv4 has, 68: RFC 791


assert sizeof(Egress) <= STATE_BYTES


cdef int granted(int fd) except -1:
    """Bytes of the send buffer."""
    cdef int size = 0
    cdef unsigned int length = sizeof(size)
    check(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length), "SO_SNDBUF")
    return size // 2    # socket(7): the kernel doubles it for its own bookkeeping


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
        self, object address, uint16_t port, GsoState gso not None, *, int ifindex=0, str link="",
        object source_address=None, uint16_t source_port=0, bint exact_port=False, int ttl=16, int dscp=-1,
        uint32_t payload_max=0, uint32_t workers=1, bint df=False, bint bind_source=False, bint keep_address=False,
        bint keep_port=False, uint32_t port_sockets=PORT_SOCKETS, bint addressed=False, uint16_t vlan=0,
        uint64_t mac=0,
    ):
        """A socket that sends to ``address``:``port`` and never receives anything. Addresses: see address.pyx.

        ``ifindex`` and ``link`` say by which link; 0 and "" leave it to the routing table. ``source_address`` None lets
        the kernel choose; another is used with ``bind_source``, and of IPv4 for a group that goes out by a link.
        When ``source_port`` is taken by a stranger the next free one of 16 is used, unless ``exact_port``.
        ``keep_address``: each datagram may say its own source address, which need not be ours; it needs CAP_NET_RAW.
        ``keep_port``: each may say its own source port; that needs a raw socket (CAP_NET_RAW as well), and each worker
        may open ``port_sockets`` sockets more, at most 8, for ports that send runs.
        ``df``: don't-fragment is set on all that is sent, and what is larger than the path fails; else it is never set.
        ``payload_max`` 0 asks the route for its MTU. ``workers`` of them may send. ``addressed``: every message says
        where to, and the address and port here are one of these places; of a host, name its ``source_address``.
        ``vlan``: whole frames are sent, from ``mac`` and with this tag, by a packet socket (CAP_NET_RAW), which may say
        any source; then ``address`` is a group or 255.255.255.255, and ``payload_max``, 40 or more, is needed, and
        of IPv6 ``df``.
        Raises OSError: ENETUNREACH without a route, EADDRNOTAVAIL when the source address is not ours, EADDRINUSE,
        EMFILE, EPERM.
        """
        cdef bytes name = link.encode()
        cdef Address local, to, everybody
        cdef uint16_t own_port
        cdef uint32_t i
        self.fd = -1
        self.gso = gso
        self.workers = workers
        self.states = <uint8_t *>aligned_alloc(STATE_BYTES, <size_t>max(1, workers) * STATE_BYTES)
        if self.states == NULL:
            raise MemoryError("an output")
        if len(name) >= LINK_BYTES or port_sockets > <uint32_t>PORT_SOCKETS:
            raise ValueError(f"link {link}, {port_sockets} port sockets")
        memcpy(self.manner.link, <const char *>name, len(name))     # the rest of it is 0, as all of an object is
        self.manner.address = to = address_of(address)
        everybody = mapped(0xffffffff)
        if vlan and not (
            payload_max >= LEAST_PAYLOAD and (is_group(&to) or equal(&to, &everybody)) and (df or is_mapped(&to))
        ):
            raise ValueError(f"frames to {ip_address(address)}, payload {payload_max}")
        self.manner.port = port
        if source_address is not None:
            self.manner.source = address_of(source_address)
        self.manner.bind_source = bind_source
        self.manner.ifindex = ifindex
        self.manner.ttl = ttl
        self.manner.dscp = dscp
        self.manner.df = df
        self.manner.transparent = keep_address
        self.manner.vlan = vlan
        self.manner.mac = mac
        self.keeps_port = keep_port
        self._open(keep_port, source_port, 1 if exact_port else PORT_TRIES)
        self.sndbuf = granted(self.fd)
        if vlan:
            self.source_port = source_port
        elif not keep_port:
            check(local_end(self.fd, &local, &own_port), "getsockname")
            self.source_port = own_port
        if keep_port and not vlan:
            self.ports = <PortSockets *>calloc(max(1, workers), sizeof(PortSockets))
            if self.ports == NULL:
                raise MemoryError("an output")
        for i in range(workers):
            memset(self.of(i), 0, STATE_BYTES)
            self.of(i).fd = self.fd
            self.of(i).six = not is_mapped(&self.manner.address)
            self.of(i).segment_max = payload_max
            self.of(i).runs = &gso.runs
            self.of(i).identification = <uint16_t>(now_ns(CLOCK_MONOTONIC) // 1000 + i * (65536 // workers))
            if self.ports != NULL:
                self.of(i).ports = &self.ports[i]
                self.ports[i].most = port_sockets
                self.ports[i].raw = self.fd
                self.ports[i].manner = &self.manner
            if not payload_max:
                measure(self.of(i))
        if addressed and not is_group(&self.manner.address) and not vlan:
            self._disconnect()

    cdef int _disconnect(self) except -1:
        """Hear of errors from every port of the host: a connected socket hears of one (linux/net/ipv4/udp.c)."""
        cdef sockaddr_in6 nobody
        memset(&nobody, 0, sizeof(nobody))      # AF_UNSPEC: connect(2)
        check(connect(self.fd, <sockaddr *>&nobody, sizeof(nobody)), "disconnect")
        if self.manner.ifindex:                 # it has forgotten its link
            check(choose_link(self.fd, &self.manner), "bind to link")
        return 0

    cdef int _open(self, bint raw, uint16_t port, uint32_t tries) except -1:
        cdef const char *failed = NULL
        if self.manner.vlan:
            self.fd = open_link(&self.manner, &failed)
        else:
            self.fd = open_socket(&self.manner, raw, port, tries, &failed)
        if self.fd >= 0:
            return 0
        what = failed.decode()
        if what == "bind to link":
            what += " " + self.manner.link.decode()
        elif what == "bind to source port":
            what += f" {port}"
        return check(-1, what)

    def __dealloc__(self):
        self._shut()
        free(self.ports)
        free(self.states)

    def close(self):
        """Only when no worker can reach a plan with this socket any more."""
        self._shut()

    cdef void _shut(self) noexcept:
        cdef uint32_t i, j
        if self.fd < 0:
            return
        close(self.fd)
        self.fd = -1
        if self.ports != NULL:
            for i in range(self.workers):
                for j in range(self.ports[i].count):
                    if self.ports[i].sockets[j].fd >= 0:
                        close(self.ports[i].sockets[j].fd)
                self.ports[i].count = 0

    cdef Egress *of(self, uint32_t worker) except NULL:
        """What that worker knows of the socket; it lives as long as this object."""
        if worker >= self.workers:
            raise ValueError(f"worker {worker} of {self.workers}")
        return <Egress *>(self.states + worker * <size_t>STATE_BYTES)

    cdef int lend(self, Output *output, uint32_t worker) except -1:
        """Have an output of a plan send by this socket."""
        output.egress = self.of(worker)
        output.six = self.of(worker).six
        output.ifindex = self.manner.ifindex
        output.keep_address = self.manner.transparent
        output.keep_port = self.keeps_port
        if output.keep_address or output.keep_port or self.manner.vlan:
            output.source = self.local()
            output.source_port = self.source_port
            output.address = self.manner.address
            output.port = self.manner.port
        output.mac = self.manner.mac
        output.vlan = self.manner.vlan
        output.ttl = <uint8_t>self.manner.ttl
        output.tos = <uint8_t>(max(self.manner.dscp, 0) << 2)
        output.df = self.manner.df
        return 0

    def ask_again(self):
        """Let every worker ask for the MTU again before it sends next."""
        cdef uint32_t i
        for i in range(self.workers):
            store_relaxed_u32(&self.of(i).stale, 1)

    def fileno(self):
        return self.fd

    @property
    def local_address(self):
        """The address that datagrams leave with, if they keep none."""
        cdef Address address = self.local()
        return ip_address(address_value(&address))

    cdef Address local(self) except *:
        cdef Address address = self.manner.source
        cdef uint16_t port
        if not self.manner.vlan:
            check(local_end(self.fd, &address, &port), "getsockname")
        return address
