"""Socket addresses of either family (ip(7), ipv6(7)) from and to an Address."""

from libc.stdint cimport uint16_t, uint32_t

from .address cimport Address, address_at, is_mapped, mapped, put_six
from .kernel cimport (
    AF_INET, AF_INET6, getsockname, htonl, htons, memset, ntohl, ntohs, sockaddr, sockaddr_in, sockaddr_in6,
)

# The room for either is that of an IPv6 one, which is larger.


cdef inline unsigned int put_end(
    sockaddr_in6 *to, const Address *address, uint16_t port, int ifindex
) noexcept nogil:
    """Write an end; returns how many bytes it has. ``ifindex`` says which link an address that is a link's alone means.

    An address that is all zero is none, as IPv6 writes it; for IPv4 it is ``mapped(0)``.
    """
    cdef sockaddr_in *four = <sockaddr_in *>to
    if is_mapped(address):
        memset(four, 0, sizeof(sockaddr_in))
        four.sin_family = AF_INET
        four.sin_port = htons(port)
        four.sin_addr.s_addr = htonl(<uint32_t>address.low)
        return sizeof(sockaddr_in)
    memset(to, 0, sizeof(sockaddr_in6))
    to.sin6_family = AF_INET6
    to.sin6_port = htons(port)
    put_six(to.sin6_addr.s6_addr, address)
    to.sin6_scope_id = <uint32_t>ifindex
    return sizeof(sockaddr_in6)


cdef inline void take_end(const sockaddr_in6 *end, Address *address, uint16_t *port) noexcept nogil:
    """Read an end."""
    cdef const sockaddr_in *four = <const sockaddr_in *>end
    if end.sin6_family == AF_INET6:
        address[0] = address_at(end.sin6_addr.s6_addr)
        port[0] = ntohs(end.sin6_port)
    else:
        address[0] = mapped(ntohl(four.sin_addr.s_addr))
        port[0] = ntohs(four.sin_port)


cdef inline int local_end(int fd, Address *address, uint16_t *port) noexcept nogil:
    """Where a socket sends from. Returns -1 with errno."""
    cdef sockaddr_in6 end
    cdef unsigned int size = sizeof(end)
    address[0] = mapped(0)
    port[0] = 0
    if getsockname(fd, <sockaddr *>&end, &size):
        return -1
    take_end(&end, address, port)
    return 0
