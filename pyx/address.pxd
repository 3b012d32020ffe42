"""An address of either family in 16 bytes: IPv4 stands in them as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .kernel cimport in_register, read_be64, write_be64

cdef enum:
    MAPPED = 0xffff             # above the 32 bits of an IPv4 address

cdef struct Address:
    uint64_t high, low          # host byte order


cdef inline Address mapped(uint32_t ipv4) noexcept nogil:
    cdef Address address
    address.high = 0
    address.low = <uint64_t>MAPPED << 32 | ipv4
    return address


cdef inline Address address_at(const uint8_t *at) noexcept nogil:
    """The 16 bytes of an IPv6 address, as they are on the wire."""
    cdef Address address
    address.high = in_register(read_be64(at))
    address.low = in_register(read_be64(at + 8))
    return address


cdef inline void put_six(uint8_t *at, const Address *address) noexcept nogil:
    """The other way round."""
    write_be64(at, address.high)
    write_be64(at + 8, address.low)


cdef inline bint is_mapped(const Address *address) noexcept nogil:
    """Whether it is an IPv4 one."""
    return address.high == 0 and address.low >> 32 == <uint64_t>MAPPED


cdef inline bint is_group(const Address *address) noexcept nogil:
    """Whether it is one of multicast."""
    return <uint32_t>address.low >> 28 == 14 if is_mapped(address) else address.high >> 56 == 0xff


cdef inline bint is_any(const Address *address) noexcept nogil:
    """All zero: none that a datagram has."""
    return not (address.high | address.low)


cdef inline bint equal(const Address *a, const Address *b) noexcept nogil:
    return not ((a.high ^ b.high) | (a.low ^ b.low))


cdef inline uint64_t digest(const Address *address) noexcept nogil:
    """One word of both: the golden ratio's multiple keeps addresses apart that differ in the same bits of each."""
    return address.high * 0x9e3779b97f4a7c15ULL ^ address.low


cdef Address address_of(object value) except *
cdef object address_value(const Address *address)
