"""A TPACKET_V3 receive ring: one acquire, one release, one place that moves on (packet(7), packet_mmap.rst)."""

from libc.stdint cimport uint8_t, uint32_t

from .counters cimport Block, FrameCounters
from .kernel cimport (
    TP_STATUS_KERNEL, TP_STATUS_USER, VIRTIO_NET_HDR_GSO_UDP_L4, load_acquire_u32, store_release_u32,
    tpacket3_hdr, tpacket_block_desc, virtio_net_hdr,
)

cdef struct Ring:
    uint8_t *memory             # mapped: block_count blocks of block_size bytes
    uint32_t block_size, block_count
    uint32_t next               # the block the kernel closes next; only the worker moves it
    int fd
    FrameCounters *counters


cdef inline tpacket_block_desc *block_at(const Ring *ring, uint32_t index) noexcept nogil:
    return <tpacket_block_desc *>(ring.memory + <size_t>index * ring.block_size)


cdef inline tpacket_block_desc *acquire(const Ring *ring) noexcept nogil:
    """The next block if the kernel has closed it, else NULL. An open block must not be looked at: frames in it
    are counted before they are copied."""
    cdef tpacket_block_desc *block = block_at(ring, ring.next)
    if load_acquire_u32(&block.hdr.bh1.block_status) & <uint32_t>TP_STATUS_USER:
        return block
    return NULL


cdef inline void release(Ring *ring, tpacket_block_desc *block) noexcept nogil:
    """Give the block back. Every pointer into it is dead from here on."""
    store_release_u32(&block.hdr.bh1.block_status, TP_STATUS_KERNEL)
    ring.next = ring.next + 1 if ring.next + 1 < ring.block_count else 0


cdef inline bint half_free(const Ring *ring) noexcept nogil:
    """The kernel fills blocks in order, so the block half a ring ahead tells how far it has got."""
    cdef uint32_t ahead = ring.next + ring.block_count // 2
    if ahead >= ring.block_count:
        ahead -= ring.block_count
    return not load_acquire_u32(&block_at(ring, ahead).hdr.bh1.block_status) & <uint32_t>TP_STATUS_USER


cdef inline tpacket3_hdr *first_frame(tpacket_block_desc *block) noexcept nogil:
    return <tpacket3_hdr *>(<uint8_t *>block + block.hdr.bh1.offset_to_first_pkt)


cdef inline tpacket3_hdr *next_frame(tpacket3_hdr *frame) noexcept nogil:
    return <tpacket3_hdr *>(<uint8_t *>frame + frame.tp_next_offset)


cdef inline uint32_t segment_bytes(tpacket3_hdr *frame) noexcept nogil:
    """Payload bytes of each datagram of a UDP superframe, 0 when the frame holds one datagram.

    PACKET_VNET_HDR puts a struct virtio_net_hdr right before the MAC header.
    """
    cdef virtio_net_hdr *header = <virtio_net_hdr *>(<uint8_t *>frame + frame.tp_mac - sizeof(virtio_net_hdr))
    return header.gso_size if header.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 else 0


cdef class RingSocket:
    """Owner of the socket and its mapping. Set-up and ``close`` belong to the main thread, ``ring`` to one worker."""

    cdef Ring ring
    cdef readonly Block frames
    cdef readonly int ifindex
    cdef unsigned long long received, dropped
