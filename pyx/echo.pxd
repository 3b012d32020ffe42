"""Our own frames coming back, told by the MAC address or the IPv4 source they left with."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .kernel cimport read_be16, read_be32

cdef enum:
    MAC_TAG = 1
    IPV4_TAG = 2

cdef struct OwnSet:
    # Open addressing, at most half full, 0 is free; immutable once built.
    uint64_t *members
    uint32_t mask


cdef inline uint64_t mac_member(uint64_t mac) noexcept nogil:
    return <uint64_t>MAC_TAG << 48 | mac


cdef inline uint64_t ipv4_member(uint32_t address) noexcept nogil:
    return <uint64_t>IPV4_TAG << 48 | address


cdef inline uint32_t place(const OwnSet *own, uint64_t member) noexcept nogil:
    """Where the member is, or the free place where it would be."""
    cdef uint32_t at = <uint32_t>(member * 0x9e3779b97f4a7c15ULL >> 40) & own.mask
    while own.members[at] and own.members[at] != member:
        at = (at + 1) & own.mask
    return at


cdef inline bint is_own(const OwnSet *own, const uint8_t *frame, uint32_t source) noexcept nogil:
    """Whether a whole Ethernet frame with this IPv4 source is one that an output of ours sent."""
    cdef uint64_t member = mac_member(<uint64_t>read_be16(frame + 6) << 32 | read_be32(frame + 8))
    if own.members[place(own, member)]:
        return True
    return own.members[place(own, ipv4_member(source))] != 0
