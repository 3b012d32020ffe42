"""A receive ring: one acquire, one release, one place that moves on (packet(7), packet_mmap.rst).

A *place* is what changes hands: a block of many frames in a TPACKET_V3 ring (profile "throughput"), a slot of one frame
in a TPACKET_V2 ring (profile "latency").
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .counters cimport VERDICT_COUNT, CounterBlock, FragmentCounters, FrameCounters
from .kernel cimport (
    TP_STATUS_KERNEL, TP_STATUS_USER, load_acquire_u32, store_release_u32, tpacket2_hdr,
    tpacket3_hdr, tpacket_block_desc,
)
from .misses cimport MISSES, Lost, Miss

cdef enum:
    # The largest frame there is (65 535 bytes of IPv4, its headers, the ring's own), and how many of them a turn has
    # room for before it sends what it has.
    LARGE_BYTES = 66048
    LARGE_FRAMES = 16

cdef struct Ring:
    uint8_t **places            # into the mapping, in the order in which the kernel fills them
    uint32_t place_count
    uint32_t status_at          # bytes from the start of a place to its status word
    bint slots                  # places are slots
    bint bare                   # frames have no Ethernet header: the loop puts one before each (bare.pxd)
    uint32_t next               # the place that the kernel hands over next; only the worker moves these three
    uint32_t oldest             # the first that is ours
    uint32_t held               # how many are ours
    uint8_t *large              # LARGE_FRAMES of LARGE_BYTES, for frames that no slot holds; NULL where all places do
    uint32_t fetched            # how many of them are in use
    const uint8_t *at           # in the newest of these: the next frame, and how many are left to look at
    uint32_t left
    int fd
    FrameCounters *counters
    FragmentCounters *fragments
    Lost lost[VERDICT_COUNT]    # by Verdict
    Miss misses[MISSES]

cdef struct Frame:
    # What a ring says of one frame, the same for both kinds.
    const uint8_t *mac          # borrowed: dies when the place is released
    uint32_t size, wire_size    # bytes captured, bytes there were
    uint32_t status             # TP_STATUS_*
    uint32_t seconds, nanoseconds
    uint16_t tci                # VLAN tag control information, where the status says so


cdef inline uint32_t *status_of(const Ring *ring, uint32_t index) noexcept nogil:
    return <uint32_t *>(ring.places[index] + ring.status_at)


cdef inline bint handed_over(const Ring *ring) noexcept nogil:
    """Whether the next place is there. An open block must not be looked at: frames in it are counted before they are
    copied."""
    return (
        ring.held < ring.place_count
        and load_acquire_u32(status_of(ring, ring.next)) & <uint32_t>TP_STATUS_USER != 0
    )


cdef inline uint8_t *acquire(Ring *ring) noexcept nogil:
    """The next place if the kernel has handed it over, else NULL."""
    cdef uint8_t *place = ring.places[ring.next]
    if not handed_over(ring):
        return NULL
    ring.held += 1
    ring.next = ring.next + 1 if ring.next + 1 < ring.place_count else 0
    return place


cdef inline void release(Ring *ring) noexcept nogil:
    """Give back every place that is done with: all that are ours, but one with frames left. Every pointer into them is
    dead from here on."""
    cdef uint32_t kept = 1 if ring.left else 0
    ring.fetched = 0
    while ring.held > kept:
        store_release_u32(status_of(ring, ring.oldest), TP_STATUS_KERNEL)
        ring.oldest = ring.oldest + 1 if ring.oldest + 1 < ring.place_count else 0
        ring.held -= 1


cdef inline bint half_free(const Ring *ring) noexcept nogil:
    """The kernel fills places in order, so the one half a ring ahead tells how far it has got."""
    cdef uint32_t ahead = ring.oldest + ring.place_count // 2
    if ahead >= ring.place_count:
        ahead -= ring.place_count
    return not load_acquire_u32(status_of(ring, ahead)) & <uint32_t>TP_STATUS_USER


cdef inline uint32_t frame_count(const Ring *ring, const uint8_t *place) noexcept nogil:
    return 1 if ring.slots else (<tpacket_block_desc *>place).hdr.bh1.num_pkts


cdef inline const uint8_t *first_frame(const Ring *ring, const uint8_t *place) noexcept nogil:
    return place if ring.slots else place + (<tpacket_block_desc *>place).hdr.bh1.offset_to_first_pkt


cdef inline const uint8_t *view_frame(const Ring *ring, const uint8_t *at, Frame *out) noexcept nogil:
    """Fill ``out`` from the header at ``at``; returns where the next header of a block is."""
    cdef const tpacket2_hdr *slot = <const tpacket2_hdr *>at
    cdef const tpacket3_hdr *packed = <const tpacket3_hdr *>at
    if ring.slots:
        out.mac = at + slot.tp_mac
        out.size = slot.tp_snaplen
        out.wire_size = slot.tp_len
        out.status = slot.tp_status
        out.seconds = slot.tp_sec
        out.nanoseconds = slot.tp_nsec
        out.tci = slot.tp_vlan_tci
        return at
    out.mac = at + packed.tp_mac
    out.size = packed.tp_snaplen
    out.wire_size = packed.tp_len
    out.status = packed.tp_status
    out.seconds = packed.tp_sec
    out.nanoseconds = packed.tp_nsec
    out.tci = <uint16_t>packed.hv1.tp_vlan_tci
    return at + packed.tp_next_offset


cdef class RingSocket:
    """Owner of the socket and its mapping. Set-up and ``close`` belong to the main thread, ``ring`` to one worker."""

    cdef Ring ring
    cdef uint8_t *memory
    cdef size_t memory_bytes
    cdef readonly CounterBlock frames
    cdef readonly CounterBlock fragments
    cdef readonly int ifindex
    cdef unsigned long long received, dropped
