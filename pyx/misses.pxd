"""Near misses: the last few kinds of frames of a rule's groups that no rule took. One writer, the worker; any reader.

Room is bounded whatever arrives: a set of a few entries for each quarter of the groups, of which the oldest is given
up. What differs in the source alone shares an entry, which names the last one, so that a flood of spoofed addresses
drives nothing out.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .counters cimport FRAGMENT, NOT_UDP, Verdict
from .kernel cimport load_relaxed_u64, read_be16, read_be32, store_relaxed_u64, store_release_u64
from .wire cimport ETHERNET_BYTES, IPV4_BYTES, UDP_BYTES

cdef enum:
    MISS_SETS = 4               # two bits of a hash of the group
    MISS_WAYS = 4
    MISSES = MISS_SETS * MISS_WAYS

cdef struct Miss:
    uint64_t writes             # odd while the worker writes the entry: a reader then tries again
    uint64_t flow               # group, source: 32 bits each
    uint64_t what               # port << 32 | vlan << 16 | verdict << 8 | 1; 0: no entry
    uint64_t packets
    uint64_t last_ns            # Unix time of the last, from its ring slot


cdef inline void note_miss(
    Miss *misses, Verdict verdict, const uint8_t *mac, uint32_t size, uint16_t vlan, uint64_t stamp
) noexcept nogil:
    """Remember a frame. The ring's filter has read the destination too, so it is there, or cut off."""
    cdef const uint8_t *ip = mac + ETHERNET_BYTES
    cdef uint32_t header
    cdef uint16_t port = 0
    if size < ETHERNET_BYTES + IPV4_BYTES:
        return
    header = (ip[0] & 15) * 4
    if verdict != FRAGMENT and verdict != NOT_UDP and size >= ETHERNET_BYTES + header + UDP_BYTES:
        port = read_be16(ip + header + 2)
    count_miss(misses, verdict, read_be32(ip + 16), read_be32(ip + 12), port, vlan, 1, stamp)


cdef inline void count_miss(
    Miss *misses, Verdict verdict, uint32_t group, uint32_t source, uint16_t port, uint16_t vlan, uint32_t frames,
    uint64_t stamp,
) noexcept nogil:
    """Remember so many frames of a kind; ``port`` 0 is none."""
    cdef uint64_t what = <uint64_t>port << 32 | <uint64_t>vlan << 16 | <uint64_t>(<uint32_t>verdict) << 8 | 1
    cdef Miss *entry
    cdef Miss *oldest
    cdef uint32_t i
    misses += ((group * <uint32_t>2654435761) >> 30) * MISS_WAYS
    oldest = misses
    for i in range(<uint32_t>MISS_WAYS):
        entry = &misses[i]
        if load_relaxed_u64(&entry.what) == what and <uint32_t>(load_relaxed_u64(&entry.flow) >> 32) == group:
            write_miss(entry, <uint64_t>group << 32 | source, what, entry.packets + frames, stamp)
            return
        if entry.last_ns < oldest.last_ns:
            oldest = entry
    write_miss(oldest, <uint64_t>group << 32 | source, what, frames, stamp)


cdef inline void write_miss(Miss *entry, uint64_t flow, uint64_t what, uint64_t packets, uint64_t stamp) noexcept nogil:
    """Each store is a release, so none is seen before the odd number that announces them."""
    store_relaxed_u64(&entry.writes, entry.writes + 1)
    store_release_u64(&entry.flow, flow)
    store_release_u64(&entry.what, what)
    store_release_u64(&entry.packets, packets)
    store_release_u64(&entry.last_ns, stamp)
    store_release_u64(&entry.writes, entry.writes + 1)
