"""How the sockets of one output are made: the same way at the start and, where a port is kept, inside the loop."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from .address cimport Address

cdef enum:
    LINK_BYTES = 16             # a link's name and its NUL: IFNAMSIZ of linux/if.h

cdef struct Manner:
    Address address             # its family is the socket's
    Address source              # all zero lets the kernel choose
    uint16_t port
    bint bind_source            # to ``source``; of IPv4 also where a group goes out by a link, without this
    int ifindex                 # 0: by the routing table
    char link[LINK_BYTES]
    int ttl, dscp               # dscp -1: the control messages say it
    bint df
    bint transparent            # a datagram may say any source address
    uint16_t vlan               # 0: none; else whole frames are sent, with this tag (tagged.pxd)
    uint64_t mac                # of the link, where these come from


cdef int open_socket(
    const Manner *manner, bint raw, uint16_t port, uint32_t tries, const char **failed
) noexcept nogil
cdef int open_link(const Manner *manner, const char **failed) noexcept nogil
cdef int choose_link(int fd, const Manner *manner) noexcept nogil
