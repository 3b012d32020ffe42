"""Set-up of a receive ring; the walk over it is in ring.pxd (packet(7), packet_mmap.rst)."""

cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from . import counters
from .address cimport Address, address_value, is_any
from .counters cimport VERDICT_COUNT, CounterBlock, FragmentCounters, FrameCounters
from .kernel cimport (
    AF_PACKET, BLOCK_STATUS_AT, ETH_P_ALL, MAP_FAILED, MAP_SHARED, PACKET_COPY_THRESH, PACKET_FANOUT,
    PACKET_FANOUT_CBPF, PACKET_FANOUT_DATA, PACKET_FANOUT_FLAG_UNIQUEID, PACKET_IGNORE_OUTGOING, PACKET_RX_RING,
    PACKET_STATISTICS, PACKET_VERSION, PACKET_VNET_HDR, PROT_READ, PROT_WRITE, SOCK_CLOEXEC, SOCK_RAW, SOL_PACKET,
    SOL_SOCKET, SO_ATTACH_FILTER, SO_RCVBUF, SO_RCVBUFFORCE, TPACKET_V2, TPACKET_V3, bind, calloc, close, free,
    getsockname, getsockopt, htons, load_acquire_u64, load_relaxed_u64, mmap, munmap, setsockopt, sock_filter,
    sock_fprog, sockaddr, sockaddr_ll, socket, tpacket_req3, tpacket_stats_v3,
)
from .misses cimport MISSES, Lost, Miss
from .system cimport check, set_option

cdef enum:
    # Throughput: blocks of the least power of two that holds a superframe, or larger ones in a very large ring. A
    # larger block costs fewer wake-ups; but one that is not full is handed over after RETIRE_MS, the added latency, so
    # at low rates a ring holds as many milliseconds as it has blocks. Who enlarges a ring wants it to hold longer while
    # the worker waits for a CPU: hence a second of blocks before they grow.
    LEAST_BLOCK_BYTES = 128 << 10
    MIN_BLOCKS = 4
    MANY_BLOCKS = 1024
    RETIRE_MS = 1
    # Latency: slots that hold a frame of the link's MTU; a larger one, a superframe, comes by `fetch`. The kernel
    # does not let a slot cross the end of a block, so large blocks waste little.
    SLOT_HEAD_BYTES = 96        # the ring's own headers (TPACKET2_HDRLEN, struct virtio_net_hdr), Ethernet's, a tag
    SLOT_ALIGN = 16             # TPACKET_ALIGNMENT
    SLOTS_BLOCK_BYTES = 1 << 20
    MIN_SLOT_BLOCKS = 2
    LARGE_QUEUE_BYTES = 8 << 20     # for frames that `fetch` has not read yet; the kernel may grant less

DROP_ALL = b"\x06\x00\x00\x00\x00\x00\x00\x00"      # BPF: ret 0


cdef uint32_t block_bytes(size_t ring_bytes) noexcept:
    """A power of two, as the kernel allocates no other size without waste."""
    cdef uint32_t size = LEAST_BLOCK_BYTES
    while <size_t>size * 2 * MANY_BLOCKS <= ring_bytes:
        size *= 2
    return size


cdef uint32_t slot_bytes(uint32_t frame_bytes) noexcept:
    return min(<uint32_t>LARGE_BYTES, (frame_bytes + SLOT_HEAD_BYTES + SLOT_ALIGN - 1) // SLOT_ALIGN * SLOT_ALIGN)


cdef int expect_large(RingSocket owner) except -1:
    """Have the kernel queue what is larger than a slot, and make room to read it into."""
    cdef int room = LARGE_QUEUE_BYTES
    owner.ring.large = <uint8_t *>calloc(LARGE_FRAMES, LARGE_BYTES)
    if owner.ring.large == NULL:
        raise MemoryError("a ring")
    set_option(owner.ring.fd, SOL_PACKET, PACKET_COPY_THRESH, 1, "PACKET_COPY_THRESH")
    if setsockopt(owner.ring.fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0:     # needs CAP_NET_ADMIN
        set_option(owner.ring.fd, SOL_SOCKET, SO_RCVBUF, room, "SO_RCVBUF")
    return 0


cdef int map_places(RingSocket owner, size_t ring_bytes, uint32_t frame_bytes) except -1:
    """Have the kernel make the ring, map it, and note where each place begins."""
    cdef Ring *ring = &owner.ring
    cdef tpacket_req3 request
    cdef uint32_t per_block, i
    cdef void *memory
    request.tp_block_size = SLOTS_BLOCK_BYTES if ring.slots else block_bytes(ring_bytes)
    # V3 packs frames into a block; there the frame size only has to divide it.
    request.tp_frame_size = slot_bytes(frame_bytes) if ring.slots else request.tp_block_size
    per_block = request.tp_block_size // request.tp_frame_size
    request.tp_block_nr = <uint32_t>max(
        ring_bytes // request.tp_block_size, <size_t>(MIN_SLOT_BLOCKS if ring.slots else MIN_BLOCKS)
    )
    request.tp_frame_nr = request.tp_block_nr * per_block
    request.tp_retire_blk_tov = 0 if ring.slots else RETIRE_MS
    request.tp_sizeof_priv = 0
    request.tp_feature_req_word = 0
    # A V2 ring takes the shorter struct tpacket_req, which begins in the same way.
    check(setsockopt(ring.fd, SOL_PACKET, PACKET_RX_RING, &request, 16 if ring.slots else sizeof(request)),
          "PACKET_RX_RING")
    owner.memory_bytes = <size_t>request.tp_block_nr * request.tp_block_size
    memory = mmap(NULL, owner.memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, 0)
    if memory == MAP_FAILED:
        check(-1, "mmap of the ring")
    owner.memory = <uint8_t *>memory
    ring.place_count = request.tp_frame_nr
    ring.status_at = 0 if ring.slots else BLOCK_STATUS_AT
    ring.places = <uint8_t **>calloc(ring.place_count, sizeof(uint8_t *))
    if ring.places == NULL:
        raise MemoryError("a ring")
    for i in range(ring.place_count):
        ring.places[i] = (
            owner.memory + <size_t>(i // per_block) * request.tp_block_size + (i % per_block) * request.tp_frame_size
        )
    return 0


cdef void unmap(RingSocket owner) noexcept:
    if owner.memory != NULL:
        munmap(owner.memory, owner.memory_bytes)
        owner.memory = NULL
    free(owner.ring.places)
    owner.ring.places = NULL
    free(owner.ring.large)
    owner.ring.large = NULL
    if owner.ring.fd >= 0:
        close(owner.ring.fd)
        owner.ring.fd = -1


cdef int set_program(int fd, int level, int option, const unsigned char[::1] program, str what) except -1:
    """Hand the kernel a classic BPF program of 8-byte struct sock_filter."""
    cdef sock_fprog filter
    filter.len = <uint16_t>(program.shape[0] // sizeof(sock_filter))
    filter.filter = <sock_filter *>&program[0]
    return check(setsockopt(fd, level, option, &filter, sizeof(filter)), what)


cdef void load(Address *out, const Address *held) noexcept:
    out.high = load_acquire_u64(&held.high)
    out.low = load_acquire_u64(&held.low)


cdef bint read_miss(const Miss *entry, Miss *out) noexcept:
    """Read an entry as it was at one moment; whether that worked."""
    for _ in range(100):
        out.writes = load_acquire_u64(&entry.writes)
        load(&out.group, &entry.group)
        load(&out.source, &entry.source)
        out.what = load_acquire_u64(&entry.what)
        out.packets = load_acquire_u64(&entry.packets)
        out.last_ns = load_acquire_u64(&entry.last_ns)
        if not out.writes & 1 and load_relaxed_u64(&entry.writes) == out.writes:
            return True
    return False


cdef object lost_group(const Lost *lost):
    """The group, as `address_value` gives it; 0 where there is none, or the worker writes it all the time."""
    cdef Address group
    cdef uint64_t writes
    for _ in range(100):
        writes = load_acquire_u64(&lost.writes)
        load(&group, &lost.group)
        if not writes & 1 and load_relaxed_u64(&lost.writes) == writes:
            return 0 if is_any(&group) else address_value(&group)
    return 0


@cython.final
cdef class RingSocket:
    def __cinit__(
        self, int ifindex, size_t ring_bytes, bint latency=False, uint32_t frame_bytes=1500, *, bint bare=False,
        bint own=False,
    ):
        """Open a ring on link ``ifindex``. Its filter drops everything until ``attach``.

        ``latency`` makes it a ring of slots, each handed over with its frame; else one of blocks. A slot holds
        ``frame_bytes`` above Ethernet: the link's MTU, or 65535 where superframes are the rule. ``bare``: the link has
        no Ethernet header. ``own``: the filter may let in what this host sends. The order matters: no protocol until
        the filter stands and the ring is mapped, else frames of every link and of no rule get in.
        Raises OSError (EPERM without CAP_NET_RAW, ENOMEM, ENODEV).
        """
        cdef sockaddr_ll address
        self.ring.fd = -1
        self.ifindex = ifindex
        self.frames = CounterBlock(counters.FRAME_FIELDS)
        self.fragments = CounterBlock(counters.FRAGMENT_FIELDS)
        self.ring.counters = <FrameCounters *>self.frames.memory
        self.ring.fragments = <FragmentCounters *>self.fragments.memory
        self.ring.slots = latency
        self.ring.bare = bare
        self.ring.fd = check(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), "AF_PACKET socket (needs CAP_NET_RAW)")
        set_option(self.ring.fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2 if latency else TPACKET_V3, "PACKET_VERSION")
        set_option(self.ring.fd, SOL_PACKET, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR")
        if latency:
            expect_large(self)
        map_places(self, ring_bytes, frame_bytes)
        if not own:
            set_option(self.ring.fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING")
        self.attach(DROP_ALL)
        address.sll_family = AF_PACKET
        address.sll_protocol = htons(ETH_P_ALL)
        address.sll_ifindex = ifindex
        check(bind(self.ring.fd, <sockaddr *>&address, sizeof(address)), f"bind to link {ifindex}")

    def __dealloc__(self):
        unmap(self)

    def close(self):
        """Close socket and memory. Only when no worker can reach a plan with this ring any more."""
        self.statistics()
        unmap(self)

    def fileno(self):
        return self.ring.fd

    @property
    def places(self):
        """Blocks, or slots, of the ring."""
        return self.ring.place_count

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
        set_program(self.ring.fd, SOL_SOCKET, SO_ATTACH_FILTER, program, "SO_ATTACH_FILTER")

    def share(self, list others not None, const unsigned char[::1] program not None):
        """Split the frames of the link among this ring and ``others``: the classic BPF ``program`` says whose a frame
        is, modulo their number, in this order (packet(7), PACKET_FANOUT_CBPF).

        To be called once all of them are bound and before any has its real filter: else frames come twice. The
        kernel picks the group's number, so no other process's group is joined. Raises OSError: EINVAL while the link is
        down on kernels before 6.13, or where the kernel knows no such number (before 4.12).
        """
        cdef RingSocket each
        cdef int group
        cdef unsigned int size = sizeof(group)
        set_option(self.ring.fd, SOL_PACKET, PACKET_FANOUT, (PACKET_FANOUT_CBPF | PACKET_FANOUT_FLAG_UNIQUEID) << 16,
                   "PACKET_FANOUT")
        set_program(self.ring.fd, SOL_PACKET, PACKET_FANOUT_DATA, program, "PACKET_FANOUT_DATA")
        check(getsockopt(self.ring.fd, SOL_PACKET, PACKET_FANOUT, &group, &size), "PACKET_FANOUT")
        for each in others:
            set_option(each.ring.fd, SOL_PACKET, PACKET_FANOUT, group & 0xffff | PACKET_FANOUT_CBPF << 16,
                       "PACKET_FANOUT")

    def lost_groups(self):
        """By verdict, in the order of VERDICTS: the group of the last frame that was lost so, 0 for none."""
        cdef uint32_t i
        return tuple([lost_group(&self.ring.lost[i]) for i in range(VERDICT_COUNT)])

    def misses(self):
        """Near misses: (group, source, port, VLAN, number of the verdict, frames, Unix time of the last in ns) each.

        Port and VLAN are 0 where there is none. An entry that the worker is writing all the time is left out.
        """
        cdef Miss held
        found = []
        for i in range(MISSES):
            if read_miss(&self.ring.misses[i], &held) and held.what:
                found.append((
                    address_value(&held.group), address_value(&held.source), held.what >> 32,
                    held.what >> 16 & 0xffff, held.what >> 8 & 0xff, held.packets, held.last_ns,
                ))
        return found

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
