"""Our own datagrams coming back: told by all four ends that an output of ours sends with, never by one of them alone.

An address or a MAC is not unique: an appliance on an isolated segment may have one of ours.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from .address cimport Address, digest, equal, is_any

cdef struct Sent:
    # What an output sends. All zero is a free place.
    Address source, group
    uint16_t source_port, port

cdef struct OwnSet:
    # Open addressing, at most half full; immutable once built.
    Sent *members
    uint32_t mask
    bint any_ports              # some member has port 0: it sends to every port


cdef inline bint alike(const Sent *a, const Sent *b) noexcept nogil:
    return (
        equal(&a.source, &b.source) and equal(&a.group, &b.group)
        and a.source_port == b.source_port and a.port == b.port
    )


cdef inline uint32_t place(const OwnSet *own, const Sent *member) noexcept nogil:
    """Where the member is, or the free place where it would be."""
    cdef uint64_t ends = digest(&member.source) << 32 ^ digest(&member.source) >> 32 ^ digest(&member.group)
    cdef uint64_t ports = <uint64_t>member.source_port << 16 | member.port
    cdef uint32_t at = <uint32_t>((ends ^ ports * 0xc2b2ae3d27d4eb4fULL) * 0x9e3779b97f4a7c15ULL >> 40) & own.mask
    while not is_any(&own.members[at].group) and not alike(&own.members[at], member):
        at = (at + 1) & own.mask
    return at


cdef inline bint is_own(
    const OwnSet *own, const Address *source, const Address *group, uint16_t source_port, uint16_t port
) noexcept nogil:
    """Whether an output of ours sends from that address and port to that address and port."""
    cdef Sent wanted = Sent(source[0], group[0], source_port, port)
    if not is_any(&own.members[place(own, &wanted)].group):
        return True
    if not own.any_ports:
        return False
    wanted.port = 0
    return not is_any(&own.members[place(own, &wanted)].group)
