"""What left with its sender's address or port: a worker's memory of it, by which it is known when it comes back.

An output that keeps an end has no four ends of its own (echo.pxd), and where it keeps both and sends to the group
that it takes, they are the very sender's. So the MAC of the link that it leaves by belongs to what is remembered: a
frame is an echo if it comes from that MAC with four ends that were sent from there within KEPT_NS.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address, digest
from .kernel cimport load_acquire_u64, load_relaxed_u64, read_be16, read_be32, store_relaxed_u64, store_release_u64

cdef enum:
    SETS = 2048                 # of WAYS marks: the one that was not sent for longest gives way
    WAYS = 8
    KEPT_NS = 10000000000       # longer than anything is under way on a link

cdef struct Kept:
    # One worker writes, every worker reads: a group may come back to another than the one that sent it.
    uint64_t *marks             # 0: free
    uint64_t *sent_ns           # monotonic


cdef inline uint64_t mac_at(const uint8_t *address) noexcept nogil:
    return <uint64_t>read_be16(address) << 32 | read_be32(address + 2)


cdef inline uint64_t mark_of(
    uint64_t mac, const Address *source, const Address *group, uint16_t source_port, uint16_t port
) noexcept nogil:
    """A fingerprint of what a frame is sent from and its datagram's four ends; never 0."""
    cdef uint64_t mark = (digest(source) << 32 ^ digest(source) >> 32 ^ digest(group)) * 0x9e3779b97f4a7c15ULL
    mark = (mark ^ mark >> 29) + (mac << 16 | source_port)
    mark *= 0xc2b2ae3d27d4eb4fULL
    mark = ((mark ^ mark >> 32) + port) * 0x9e3779b97f4a7c15ULL
    return mark ^ mark >> 31 | 1


cdef inline uint32_t set_of(uint64_t mark) noexcept nogil:
    return <uint32_t>(mark >> 40 & (SETS - 1)) * WAYS


cdef inline void note_sent(Kept *kept, uint64_t mark, uint64_t now) noexcept nogil:
    """Before it is sent: another worker may have it back at once."""
    cdef uint32_t first = set_of(mark)
    cdef uint32_t oldest = first
    cdef uint32_t i
    for i in range(first, first + <uint32_t>WAYS):
        if load_relaxed_u64(&kept.marks[i]) == mark:
            store_relaxed_u64(&kept.sent_ns[i], now)
            return
        if load_relaxed_u64(&kept.sent_ns[i]) < load_relaxed_u64(&kept.sent_ns[oldest]):
            oldest = i
    store_relaxed_u64(&kept.sent_ns[oldest], now)
    store_release_u64(&kept.marks[oldest], mark)


cdef inline bint was_sent(const Kept *kept, uint64_t mark, uint64_t now) noexcept nogil:
    cdef uint32_t first = set_of(mark)
    cdef uint32_t i
    cdef uint64_t sent
    for i in range(first, first + <uint32_t>WAYS):
        if load_acquire_u64(&kept.marks[i]) == mark:
            sent = load_relaxed_u64(&kept.sent_ns[i])
            return sent + <uint64_t>KEPT_NS > now
    return False


cdef class KeptMemory:
    """Owner of one worker's memory: it outlives plans, because what was sent does."""

    cdef Kept kept
