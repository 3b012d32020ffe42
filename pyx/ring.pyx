"""Set-up of a TPACKET_V3 receive ring; the walk over it is in ring.pxd (packet(7), packet_mmap.rst)."""

cimport cython
from libc.stdint cimport uint16_t

from .counters cimport VERDICT_COUNT, Block, FrameCounters
from .kernel cimport (
    AF_PACKET, ETH_P_ALL, MAP_FAILED, MAP_SHARED, PACKET_IGNORE_OUTGOING, PACKET_RX_RING, PACKET_STATISTICS,
    PACKET_VERSION, PACKET_VNET_HDR, PROT_READ, PROT_WRITE, SO_ATTACH_FILTER, SOCK_CLOEXEC, SOCK_RAW, SOL_PACKET,
    SOL_SOCKET, TPACKET_V3, bind, close, getsockname, getsockopt, htons, mmap, munmap, setsockopt, sock_filter,
    sock_fprog, sockaddr, sockaddr_ll, socket, tpacket_req3, tpacket_stats_v3,
)
from .system cimport check, set_option

cdef enum:
    BLOCK_BYTES = 128 << 10     # the least power of two that holds a superframe; see RETIRE_MS
    MIN_BLOCKS = 4
    # A block that is not full is handed over after this long: the added latency. At low rates a ring so holds as many
    # milliseconds as it has blocks: hence many small ones.
    RETIRE_MS = 1

DROP_ALL = b"\x06\x00\x00\x00\x00\x00\x00\x00"      # BPF: ret 0


cdef int map_blocks(Ring *ring, uint32_t blocks) except -1:
    cdef tpacket_req3 request
    cdef void *memory
    request.tp_block_size = BLOCK_BYTES
    request.tp_block_nr = blocks
    request.tp_frame_size = BLOCK_BYTES     # V3 packs frames; this only has to divide the block
    request.tp_frame_nr = blocks
    request.tp_retire_blk_tov = RETIRE_MS
    request.tp_sizeof_priv = 0
    request.tp_feature_req_word = 0
    check(setsockopt(ring.fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)), "PACKET_RX_RING")
    memory = mmap(NULL, <size_t>blocks * BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, 0)
    if memory == MAP_FAILED:
        check(-1, "mmap of the ring")
    ring.memory = <uint8_t *>memory
    ring.block_size = BLOCK_BYTES
    ring.block_count = blocks
    ring.next = 0
    return 0


cdef void unmap(Ring *ring) noexcept:
    if ring.memory != NULL:
        munmap(ring.memory, <size_t>ring.block_count * ring.block_size)
        ring.memory = NULL
    if ring.fd >= 0:
        close(ring.fd)
        ring.fd = -1


@cython.final
cdef class RingSocket:
    def __cinit__(self, int ifindex, size_t ring_bytes):
        """Capture nothing yet on link ``ifindex``: the filter drops all until ``attach``.

        The order matters: no protocol until the filter stands and the ring is mapped, else frames of every link
        and of no rule get in. Raises OSError (EPERM without CAP_NET_RAW, ENOMEM, ENODEV).
        """
        cdef sockaddr_ll address
        cdef uint32_t blocks = <uint32_t>max(<size_t>MIN_BLOCKS, ring_bytes // <size_t>BLOCK_BYTES)
        self.ring.fd = -1
        self.ifindex = ifindex
        self.frames = Block(VERDICT_COUNT)
        self.ring.counters = <FrameCounters *>self.frames.memory
        self.ring.fd = check(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), "AF_PACKET socket (needs CAP_NET_RAW)")
        set_option(self.ring.fd, SOL_PACKET, PACKET_VERSION, TPACKET_V3, "PACKET_VERSION")
        set_option(self.ring.fd, SOL_PACKET, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR")
        map_blocks(&self.ring, blocks)
        set_option(self.ring.fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING")
        self.attach(DROP_ALL)
        address.sll_family = AF_PACKET
        address.sll_protocol = htons(ETH_P_ALL)
        address.sll_ifindex = ifindex
        check(bind(self.ring.fd, <sockaddr *>&address, sizeof(address)), f"bind to link {ifindex}")

    def __dealloc__(self):
        unmap(&self.ring)

    def close(self):
        """Give up socket and memory. Only when no worker can reach a plan with this ring any more."""
        self.statistics()
        unmap(&self.ring)

    def fileno(self):
        return self.ring.fd

    @property
    def bound(self):
        """False once the link is gone: the kernel then says ifindex -1, and never again anything else."""
        cdef sockaddr_ll address
        cdef unsigned int size = sizeof(address)
        check(getsockname(self.ring.fd, <sockaddr *>&address, &size), "getsockname")
        return address.sll_ifindex == self.ifindex

    def attach(self, const unsigned char[::1] program not None):
        """Replace the filter by a classic BPF program of 8-byte struct sock_filter; no frame slips between.

        Raises OSError: ENOMEM where the program does not fit in net.core.optmem_max, EINVAL where it is no program.
        """
        cdef sock_fprog filter
        filter.len = <uint16_t>(program.shape[0] // sizeof(sock_filter))
        filter.filter = <sock_filter *>&program[0]
        check(setsockopt(self.ring.fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)), "SO_ATTACH_FILTER")

    def statistics(self):
        """(received, dropped) frames since the ring was made. PACKET_STATISTICS counts drops as received and
        starts again at each reading, so this is the one place that reads it."""
        cdef tpacket_stats_v3 stats
        cdef unsigned int size = sizeof(stats)
        if self.ring.fd >= 0:
            check(getsockopt(self.ring.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size), "PACKET_STATISTICS")
            self.received += stats.tp_packets - stats.tp_drops
            self.dropped += stats.tp_drops
        return self.received, self.dropped
