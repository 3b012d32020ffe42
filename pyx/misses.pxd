"""Near misses: the last few kinds of frames of a rule's groups that no rule took. One writer, the worker; any reader.

Memory is bounded for any traffic: a few entries for each quarter of the groups, of which the oldest is replaced. Frames
that differ only in their source share an entry, which names the last source, so a flood of spoofed addresses replaces
nothing.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from .address cimport Address, digest
from .counters cimport Verdict
from .kernel cimport load_relaxed_u64, store_relaxed_u64, store_release_u64

cdef enum:
    MISS_SETS = 4               # two bits of a hash of the group
    MISS_WAYS = 4
    MISSES = MISS_SETS * MISS_WAYS

cdef struct Miss:
    uint64_t writes             # odd while the worker writes the entry: a reader then tries again
    Address group, source
    uint64_t what               # port << 32 | vlan << 16 | verdict << 8 | 1; 0: no entry
    uint64_t packets
    uint64_t last_ns            # Unix time of the last, from its ring slot

cdef struct Lost:
    # Whose frame was lost last, with one verdict. Written as a Miss is.
    uint64_t writes
    Address group               # all zero: none yet


cdef inline void count_miss(
    Miss *misses, Verdict verdict, const Address *group, const Address *source, uint16_t port, uint16_t vlan,
    uint32_t frames, uint64_t stamp,
) noexcept nogil:
    """Remember so many frames of a kind; ``port`` 0 is none."""
    cdef uint64_t what = <uint64_t>port << 32 | <uint64_t>vlan << 16 | <uint64_t>(<uint32_t>verdict) << 8 | 1
    cdef Miss *entry
    cdef Miss *oldest
    cdef uint32_t i
    misses += (digest(group) * 0x9e3779b97f4a7c15ULL >> 62) * MISS_WAYS
    oldest = misses
    for i in range(<uint32_t>MISS_WAYS):
        entry = &misses[i]
        if load_relaxed_u64(&entry.what) == what and holds(&entry.group, group):
            write_miss(entry, group, source, what, entry.packets + frames, stamp)
            return
        if entry.last_ns < oldest.last_ns:
            oldest = entry
    write_miss(oldest, group, source, what, frames, stamp)


cdef inline bint holds(const Address *held, const Address *address) noexcept nogil:
    return load_relaxed_u64(&held.low) == address.low and load_relaxed_u64(&held.high) == address.high


cdef inline void store(Address *held, const Address *address) noexcept nogil:
    store_release_u64(&held.high, address.high)
    store_release_u64(&held.low, address.low)


cdef inline void write_miss(
    Miss *entry, const Address *group, const Address *source, uint64_t what, uint64_t packets, uint64_t stamp
) noexcept nogil:
    """Each store is a release, so none is seen before the odd number that announces them."""
    store_relaxed_u64(&entry.writes, entry.writes + 1)
    store(&entry.group, group)
    store(&entry.source, source)
    store_release_u64(&entry.what, what)
    store_release_u64(&entry.packets, packets)
    store_release_u64(&entry.last_ns, stamp)
    store_release_u64(&entry.writes, entry.writes + 1)


cdef inline void note_lost(Lost *lost, const Address *group) noexcept nogil:
    """As `write_miss`."""
    store_relaxed_u64(&lost.writes, lost.writes + 1)
    store(&lost.group, group)
    store_release_u64(&lost.writes, lost.writes + 1)
