"""Sockets of an output that keeps the source port: a UDP socket sends from one port, so there are several.

A raw socket sends from every port, datagram by datagram. A port that sends runs gets a UDP socket of its own,
because a run costs less than half (experiment 017). A worker has PORT_SOCKETS of them for each such output.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from .kernel cimport close
from .manner cimport Manner, open_socket

cdef enum:
    PORT_SOCKETS = 8
    IDLE_NS = 10000000000       # unused for so long, one may be another port's

cdef struct PortSocket:
    int fd                      # -1: none can be had for this port, which goes by the raw socket until it is idle
    uint16_t port
    uint64_t used_ns            # monotonic

cdef struct PortSockets:
    PortSocket sockets[PORT_SOCKETS]
    uint32_t count
    uint32_t most               # as many descriptors as the engine has set aside
    int raw
    const Manner *manner


cdef inline PortSocket *port_socket_of(PortSockets *ports, uint16_t port) noexcept nogil:
    """The port's own, or NULL."""
    cdef uint32_t i
    for i in range(ports.count):
        if ports.sockets[i].port == port:
            return &ports.sockets[i]
    return NULL


cdef inline PortSocket *begin_port_socket(PortSockets *ports, uint16_t port, uint64_t now) noexcept nogil:
    """One for a port that has none; NULL while all are in use. A dozen system calls, PORT_SOCKETS times in IDLE_NS."""
    cdef const char *failed
    cdef PortSocket *own = NULL
    cdef uint32_t i
    if ports.count < ports.most:
        own = &ports.sockets[ports.count]
        ports.count += 1
    else:
        for i in range(ports.count):
            if now - ports.sockets[i].used_ns > <uint64_t>IDLE_NS:
                own = &ports.sockets[i]
                if own.fd >= 0:
                    close(own.fd)
                break
        if own == NULL:
            return NULL
    own.port = port
    own.used_ns = now
    own.fd = open_socket(ports.manner, False, port, 1, &failed)
    return own


cdef inline int way_of(PortSockets *ports, uint16_t port, bint run, uint64_t now) noexcept nogil:
    """The socket for a datagram from that port; ``run`` says that it begins one.

    A port that has its own goes by it also singly, so that its datagrams stay in order.
    """
    cdef PortSocket *own = port_socket_of(ports, port)
    if own == NULL and run:
        own = begin_port_socket(ports, port, now)
    if own == NULL or own.fd < 0:
        return ports.raw
    own.used_ns = now
    return own.fd
