"""Our own datagrams coming back: told by all four ends that an output of ours sends with, never by one of them alone.

An address or a MAC is not unique: an appliance on an isolated segment may have one of ours.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef struct Sent:
    # What an output sends: host byte order. All zero is a free place.
    uint32_t source, group
    uint16_t source_port, port

cdef struct OwnSet:
    # Open addressing, at most half full; immutable once built.
    Sent *members
    uint32_t mask


cdef inline bint alike(const Sent *a, const Sent *b) noexcept nogil:
    return not (
        (a.source ^ b.source) | (a.group ^ b.group)
        | <uint32_t>(a.source_port ^ b.source_port) | <uint32_t>(a.port ^ b.port)
    )


cdef inline uint32_t place(const OwnSet *own, const Sent *member) noexcept nogil:
    """Where the member is, or the free place where it would be."""
    cdef uint64_t ends = <uint64_t>member.source << 32 | member.group
    cdef uint64_t ports = <uint64_t>member.source_port << 16 | member.port
    cdef uint32_t at = <uint32_t>((ends ^ ports * 0xc2b2ae3d27d4eb4fULL) * 0x9e3779b97f4a7c15ULL >> 40) & own.mask
    while own.members[at].group and not alike(&own.members[at], member):
        at = (at + 1) & own.mask
    return at


cdef inline bint is_own(
    const OwnSet *own, uint32_t source, uint32_t group, uint16_t source_port, uint16_t port
) noexcept nogil:
    """Whether an output of ours sends from that address and port to that address and port."""
    cdef Sent wanted = Sent(source, group, source_port, port)
    return own.members[place(own, &wanted)].group != 0
