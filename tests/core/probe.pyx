"""`def` wrappers around the core's inline functions, for tests alone: conftest.py compiles them; never shipped.

It holds its own copy of that code, so its sendmmsg is the one of probe.h, which tests can script.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from mcrelay._core.counters import REFUSALS, SEND_ERRORS, VERDICTS

from mcrelay._core.counters cimport (
    BROKEN, DROP_COUNT, FRAGMENT, REFUSAL_COUNT, RELAYED, SEND_ERROR_COUNT, VERDICT_COUNT, WAITING, CounterBlock,
    FragmentCounters, FrameCounters, InputCounters, OutputCounters, Verdict,
)
from mcrelay._core.address cimport Address, address_of, address_value, mapped
from mcrelay._core.chains cimport begin_chain, send_chain
from mcrelay._core.demux cimport MISS, Key, Table, find, hash_of, table_build, table_free, table_insert
from mcrelay._core.echo cimport OwnSet, Sent, is_own, place
from mcrelay._core.egress cimport (
    Egress, EgressSocket, Output, can_be_asynchronous, drain, measure, reason_of,
)
from mcrelay._core.fragments cimport (
    ASSEMBLIES, FLOW_MOST, GROUP_MOST, PARTS, PATIENCE_NS, Assembly, Fragments, expire, fragments_build,
    fragments_free, is_full, keep, let_go, parse_whole, refuse, settle,
    take_in,
)
from mcrelay._core.health cimport HealthState, look
from mcrelay._core.kept cimport KeptMemory, mark_of, was_sent
from mcrelay._core.kernel cimport (
    BLOCK_STATUS_AT, CLOCK_MONOTONIC, CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, TP_STATUS_KERNEL, TP_STATUS_USER,
    VIRTIO_NET_HDR_GSO_UDP_L4, cmsghdr, load_relaxed_u32, msghdr, now_ns, store_relaxed_u32, tpacket2_hdr, tpacket3_hdr,
    tpacket_block_desc, virtio_net_hdr,
)
from mcrelay._core.offload cimport finish_inner, is_inner, segment_bytes
from mcrelay._core.policer cimport PolicerState, conforms
from mcrelay._core.queue cimport (
    ENTRIES, MESSAGES, NONE, Queue, Scratch, chain_rest, note_ends, push, queue_build, queue_free,
)
from mcrelay._core.ring cimport (
    Frame, Ring, acquire, first_frame, frame_count, half_free, view_frame, release, status_of,
)
from mcrelay._core.runs cimport RUN_MAX, assemble
from mcrelay._core.superframes cimport superframe_of
from mcrelay._core.times cimport bucket_of
from mcrelay._core.wire cimport Datagram, Fragment, ones_sum, parse, parse_fragment

cdef extern from "probe.h" nogil:
    void script_push(int step)
    void script_clear()
    unsigned int script_left()
    void calls_clear()
    unsigned int calls_count()
    int call_result(unsigned int index)
    unsigned int call_datagrams(unsigned int index)
    enum: SCRIPT_MOST, REAL, RUNS_ALL

PROBE_MISS = MISS
QUEUE_ENTRIES = ENTRIES
BATCH_MESSAGES = MESSAGES
LONGEST_RUN = RUN_MAX


cdef uint8_t *exact_copy(bytes data) except NULL:
    """A heap block of exactly that size: AddressSanitizer then sees any read beyond it. The caller frees it."""
    cdef uint8_t *memory = <uint8_t *>malloc(len(data))
    if memory == NULL:
        raise MemoryError()
    memcpy(memory, <const uint8_t *>data, len(data))
    return memory


def parse_frame(bytes frame not None, wire_size=None, bint verify=True):
    """(verdict name, None or a dict of the datagram) for a frame captured whole, or cut from ``wire_size`` bytes."""
    cdef Datagram datagram
    cdef Verdict verdict
    cdef uint32_t size = len(frame)
    cdef uint32_t on_wire = size if wire_size is None else wire_size
    cdef uint8_t *memory = exact_copy(frame)
    cdef ssize_t at
    try:
        verdict = parse(memory, size, on_wire, verify, &datagram)
        name = VERDICTS[<int>verdict]
        if verdict != RELAYED:
            return name, None
        at = datagram.payload - memory
        if at < 0 or at + datagram.size > <ssize_t>size:
            raise AssertionError(f"payload [{at}, {at + datagram.size}) of a frame of {size}")
        return name, {
            "source": address_value(&datagram.source), "group": address_value(&datagram.group),
            "source_port": datagram.source_port,
            "port": datagram.port, "tos": datagram.tos, "ttl": datagram.ttl, "at": at,
            "payload": (<const uint8_t *>datagram.payload)[:datagram.size],
        }
    finally:
        free(memory)


def count_up(
    CounterBlock frames not None, CounterBlock fragments not None, CounterBlock inputs not None,
    CounterBlock outputs not None,
):
    """Write each field of the structs: 1, 2 and 3, and 100 upwards by the numbers of an array."""
    cdef FrameCounters *ring = <FrameCounters *>frames.memory
    cdef InputCounters *input = <InputCounters *>inputs.memory
    cdef OutputCounters *output = <OutputCounters *>outputs.memory
    input.rx_packets, input.rx_bytes, input.last_packet_ns = 1, 2, 3
    output.tx_packets, output.tx_bytes, output.since_packets, output.tx_fragmented = 1, 2, 3, 4
    for i in range(VERDICT_COUNT):
        ring.frames[i] = 100 + i
    for i in range(REFUSAL_COUNT):
        (<FragmentCounters *>fragments.memory).refused[i] = 100 + i
    for i in range(DROP_COUNT):
        input.drops[i] = 100 + i
    for i in range(SEND_ERROR_COUNT):
        output.errors[i] = 100 + i


def sum_of(bytes data not None):
    cdef uint8_t *memory = exact_copy(data)
    try:
        return ones_sum(memory, len(data))
    finally:
        free(memory)


def reason(int code):
    """The name of the counter an errno goes to."""
    return SEND_ERRORS[<int>reason_of(code)]


def asynchronous(int code):
    return bool(can_be_asynchronous(code))


cdef Key key_of(tuple parts) except *:
    """(group, port, source, vlan); a source of 0 is any, addresses are IPv4 ints."""
    cdef Key key
    cdef uint32_t group = parts[0]
    cdef uint32_t source = parts[2]
    key.group = mapped(group)
    key.port = parts[1]
    key.source.high = 0
    key.source.low = 0
    if source:
        key.source = mapped(source)
    key.vlan = parts[3]
    return key


def key_hash(tuple parts not None):
    cdef Key key = key_of(parts)
    return hash_of(&key)


cdef class Demux:
    """A table of the core's; keys are tuples as in key_of, values their order."""

    cdef Table table

    def __cinit__(self, list keys not None, room=None):
        cdef Key key
        cdef uint32_t i = 0
        table_build(&self.table, len(keys) if room is None else room)
        for parts in keys:
            key = key_of(parts)
            table_insert(&self.table, &key, i)
            i += 1

    def __dealloc__(self):
        table_free(&self.table)

    def find(self, tuple parts not None):
        """The input, or None. As the loop calls it: the source is the datagram's, never 0."""
        cdef Key key = key_of(parts)
        cdef uint32_t found = find(&self.table, &key)
        return None if found == MISS else found

    @property
    def slots(self):
        return self.table.mask + 1

    def six_find(self, tuple group, tuple source, uint16_t port):
        """Look up with 16-byte addresses given as (high, low)."""
        cdef Key key
        key.group = Address(group[0], group[1])
        key.source = Address(source[0], source[1])
        key.port = port
        key.vlan = 0
        cdef uint32_t found = find(&self.table, &key)
        return None if found == MISS else found


def script(results):
    """What each of the next sendmmsg calls does: REAL_CALL, an errno to fail with, or -n to take n messages at most."""
    script_clear()
    calls_clear()
    for result in results:
        if script_left() == <unsigned int>SCRIPT_MOST:
            raise ValueError(f"a script has at most {SCRIPT_MOST} steps")
        script_push(result)


def runs_fail(int code):
    """From now on every message of more than one datagram fails with this errno; 0 ends that."""
    script_clear()
    calls_clear()
    if code:
        script_push(<int>RUNS_ALL + code)


def calls():
    """(result, datagrams in the first message) of every sendmmsg since ``script``."""
    return [(call_result(i), call_datagrams(i)) for i in range(calls_count())]


REAL_CALL = REAL


cdef class Chains:
    """One input's chain and one output, with the queue, counters and socket they need."""

    cdef Queue queue
    cdef Output output
    cdef Egress bare
    cdef OutputCounters counters
    cdef uint32_t runs
    cdef Scratch scratch
    cdef list held
    cdef EgressSocket socket
    cdef KeptMemory memory

    def __cinit__(self, EgressSocket socket=None, *, uint32_t segment_max=0, uint32_t burst=16, bint keep_dscp=True,
                  bint keep_ttl=False, uint8_t hops=0, bint runs=True):
        """Without a socket only ``messages`` works, for a link that takes ``segment_max`` bytes of payload."""
        self.memory = KeptMemory()
        self.scratch = Scratch()
        queue_build(&self.queue, self.scratch, 1, 1, 1)
        self.held = []
        self.runs = runs
        self.socket = socket
        self.bare.fd = -1
        self.bare.segment_max = segment_max
        self.bare.runs = &self.runs
        if socket is None:
            self.output.egress = &self.bare
        else:
            socket.lend(&self.output, 0)
        self.output.counters = &self.counters
        self.output.burst = burst
        self.output.keep_dscp = keep_dscp
        self.output.keep_ttl = keep_ttl
        self.output.hops = hops
        if self.output.keep_address or self.output.keep_port:
            self.output.kept = &self.memory.kept

    def __dealloc__(self):
        self._clear()
        queue_free(&self.queue)

    cdef void _clear(self) noexcept:
        cdef uint32_t i
        for i in range(self.queue.used):
            free(<void *>self.queue.entries[i].payload)
        self.queue.used = 0
        self.queue.touched_count = 0
        self.queue.chains[0].count = 0
        self.queue.chains[0].bytes = 0

    def queue_up(self, datagrams):
        """Make the chain: (payload, tos) each, and a TTL that is not 16; the one before it is forgotten."""
        self._clear()
        for payload, tos, *ttl in datagrams:
            if self.queue.used == ENTRIES:
                raise ValueError(f"a queue has {ENTRIES} entries")
            push(&self.queue, 0, exact_copy(payload), len(payload), tos, ttl[0] if ttl else 16, 0)

    def queue_up_from(self, datagrams):
        """Make the chain: (payload, source address, source port) each."""
        cdef Address ends
        self._clear()
        for payload, source, port in datagrams:
            push(&self.queue, 0, exact_copy(payload), len(payload), 0, 16, 0)
            ends = address_of(source)
            note_ends(&self.queue, &ends, port)

    def remembers(self, object source, uint16_t port, *, uint64_t later_ns=0):
        """Whether the output sent from these, by a MAC of 0, so long ago."""
        cdef Address sender = address_of(source)
        cdef uint64_t mark = mark_of(0, &sender, &self.output.address, port, self.output.port)
        return was_sent(&self.memory.kept, mark, now_ns(CLOCK_MONOTONIC) + later_ns)

    @property
    def chain(self):
        """(count, bytes, touched) as push left them."""
        return self.queue.chains[0].count, self.queue.chains[0].bytes, self.queue.touched_count

    def messages(self):
        """Batches of messages as `assemble` fills them: ([payload of each vector], {cmsg type: value}) each."""
        cdef uint32_t cursor = self.queue.chains[0].head if self.queue.chains[0].count else <uint32_t>NONE
        cdef uint32_t count, i, j
        cdef msghdr *header
        batches = []
        while cursor != NONE:
            count = assemble(&self.queue, &self.output, cursor, &cursor)
            batch = []
            for i in range(count):
                header = &self.queue.headers[i].msg_hdr
                parts = []
                for j in range(header.msg_iovlen):
                    parts.append((<uint8_t *>header.msg_iov[j].iov_base)[:header.msg_iov[j].iov_len])
                if self.queue.messages[i].count != len(parts) or self.queue.messages[i].bytes != sum(map(len, parts)):
                    raise AssertionError("the account of a message is not what it holds")
                batch.append((parts, controls_of(header)))
            batches.append(batch)
        return batches

    @property
    def rest(self):
        """Datagrams of the whole chain that the output is to send."""
        return chain_rest(&self.queue, &self.output, self.queue.chains[0].head)

    def send(self, int start=-1):
        """Send the chain, or go on from datagram ``start``; returns the first one there was no room for, or None."""
        cdef uint32_t cursor = self.queue.chains[0].head if self.queue.chains[0].count else <uint32_t>NONE
        cdef uint32_t left = 0
        for _ in range(start):
            cursor = self.queue.entries[cursor].next
        with nogil:
            if start >= 0:
                cursor = send_chain(&self.queue, &self.output, cursor)
            elif cursor != NONE:
                cursor = begin_chain(&self.queue, &self.output, &self.queue.chains[0])
        if cursor == NONE:
            return None
        while cursor != NONE:
            left += 1
            cursor = self.queue.entries[cursor].next
        return self.queue.chains[0].count - left

    def drained(self):
        """Take the socket's error queue in; how many errors the network sent."""
        return drain(self.output.egress)

    def measured(self):
        """Ask the route for its MTU again; the longest payload of a run."""
        measure(self.output.egress)
        return self.output.egress.segment_max

    @property
    def owed(self):
        return self.output.egress.owed

    @property
    def counted(self):
        """(tx_packets, tx_bytes, {error: n} where n is not 0)."""
        errors = zip(SEND_ERRORS, self.counters.errors, strict=True)
        return self.counters.tx_packets, self.counters.tx_bytes, {name: count for name, count in errors if count}


cdef dict controls_of(msghdr *header):
    cdef cmsghdr *control = CMSG_FIRSTHDR(header)
    cdef uint8_t *data
    found = {}
    while control != NULL:
        data = CMSG_DATA(control)
        size = control.cmsg_len - (data - <uint8_t *>control)
        found[control.cmsg_level, control.cmsg_type] = int.from_bytes(data[:size], "little")
        control = CMSG_NXTHDR(header, control)
    return found


cdef class FakeRing:
    """A ring in ordinary memory: this class plays the kernel. Places are blocks, or with ``slots`` slots."""

    cdef Ring ring
    cdef uint8_t *memory
    cdef uint32_t place_bytes

    def __cinit__(self, uint32_t places, uint32_t place_bytes=256, *, bint slots=False):
        cdef uint32_t i
        self.place_bytes = place_bytes
        self.ring.place_count = places
        self.ring.slots = slots
        self.ring.status_at = 0 if slots else BLOCK_STATUS_AT
        self.memory = <uint8_t *>calloc(places, place_bytes)
        self.ring.places = <uint8_t **>calloc(places, sizeof(uint8_t *))
        if self.memory == NULL or self.ring.places == NULL:
            raise MemoryError()
        for i in range(places):
            self.ring.places[i] = self.memory + <size_t>i * place_bytes

    def __dealloc__(self):
        free(self.memory)
        free(self.ring.places)

    def hand_over(self, uint32_t index):
        """The kernel closes a block, or fills a slot."""
        store_relaxed_u32(status_of(&self.ring, index), TP_STATUS_USER)

    def acquire(self):
        """The index of the place taken, or None when the kernel has handed none over."""
        cdef uint8_t *taken = acquire(&self.ring)
        return None if taken == NULL else (taken - self.memory) // self.place_bytes

    def release(self):
        """Give back all that is ours."""
        release(&self.ring)

    def is_ours(self, uint32_t index):
        return load_relaxed_u32(status_of(&self.ring, index)) != <uint32_t>TP_STATUS_KERNEL

    @property
    def half_free(self):
        return bool(half_free(&self.ring))

    def walk(self, list sizes not None):
        """Chain frames of these sizes in block 0 and walk them: offsets from the block, as the loop sees them."""
        cdef tpacket_block_desc *block = <tpacket_block_desc *>self.memory
        cdef tpacket3_hdr *packed
        cdef const uint8_t *at
        cdef Frame frame
        cdef uint32_t offset = 64
        block.hdr.bh1.offset_to_first_pkt = offset
        block.hdr.bh1.num_pkts = len(sizes)
        for size in sizes:
            packed = <tpacket3_hdr *>(self.memory + offset)
            packed.tp_next_offset = size
            packed.tp_mac = 16
            offset += <uint32_t>size
        at = first_frame(&self.ring, self.memory)
        offsets = []
        for _ in range(frame_count(&self.ring, self.memory)):
            at = view_frame(&self.ring, at, &frame)
            offsets.append(frame.mac - self.memory - 16)
        return offsets


def frame_as_read(bint slots):
    """Write a header of the ring's kind with a number of its own in each field, and read it: every field by name."""
    cdef uint8_t memory[128]
    cdef tpacket2_hdr *slot = <tpacket2_hdr *>memory
    cdef tpacket3_hdr *packed = <tpacket3_hdr *>memory
    cdef Ring ring
    cdef Frame frame
    ring.slots = slots
    if slots:
        slot.tp_mac, slot.tp_snaplen, slot.tp_len, slot.tp_status = 1, 2, 3, 4
        slot.tp_sec, slot.tp_nsec, slot.tp_vlan_tci = 5, 6, 7
    else:
        packed.tp_mac, packed.tp_snaplen, packed.tp_len, packed.tp_status = 1, 2, 3, 4
        packed.tp_sec, packed.tp_nsec, packed.hv1.tp_vlan_tci = 5, 6, 7
    view_frame(&ring, memory, &frame)
    return {
        "mac": frame.mac - memory, "size": frame.size, "wire_size": frame.wire_size, "status": frame.status,
        "seconds": frame.seconds, "nanoseconds": frame.nanoseconds, "tci": frame.tci,
    }


def segment_of(uint8_t gso_type, uint16_t gso_size):
    """What `segment_bytes` says of a frame with such a virtio_net_hdr before its MAC header."""
    cdef uint8_t memory[64]
    cdef virtio_net_hdr *header = <virtio_net_hdr *>memory
    header.gso_type = gso_type
    header.gso_size = gso_size
    return segment_bytes(memory + sizeof(virtio_net_hdr))


def work_left(uint8_t flags, uint8_t gso_type, uint16_t csum_start, uint16_t csum_offset):
    """Whether the work left in a frame of 600 bytes, UDP at 34, is inside the payload, and then whether it was done."""
    cdef uint8_t memory[700]
    cdef virtio_net_hdr *header = <virtio_net_hdr *>memory
    cdef const uint8_t *mac = memory + sizeof(virtio_net_hdr)
    cdef Datagram datagram
    header.flags, header.gso_type, header.gso_size = flags, gso_type, 100
    header.csum_start, header.csum_offset = csum_start, csum_offset
    datagram.payload = mac + 42
    datagram.size = 558
    return is_inner(mac, &datagram) and ("done" if finish_inner(mac, &datagram) else "tunnel") or "ours"


GSO_UDP_L4 = VIRTIO_NET_HDR_GSO_UDP_L4


def conform(PolicerState state not None, uint64_t now, uint64_t datagrams, uint64_t payload):
    return bool(conforms(state.policers, now, datagrams, payload))


def bucket(PolicerState state not None):
    """(tokens, depth), in 1/NANO of a datagram or bit."""
    return state.policers.tokens, state.policers.depth


cdef class Own:
    """What our outputs send with; ``slots`` a power of two, one at least free."""

    cdef OwnSet own

    def __cinit__(self, members, uint32_t slots):
        cdef Sent member
        self.own.mask = slots - 1
        self.own.members = <Sent *>calloc(slots, sizeof(Sent))
        if self.own.members == NULL:
            raise MemoryError
        for source, source_port, group, port in members:
            member = Sent(address_of(source), address_of(group), source_port, port)
            self.own.members[place(&self.own, &member)] = member

    def __dealloc__(self):
        free(self.own.members)

    def holds(self, source, source_port, group, port):
        cdef Address sender = address_of(source)
        cdef Address destination = address_of(group)
        return bool(is_own(&self.own, &sender, &destination, source_port, port))


MOST_ASSEMBLIES = ASSEMBLIES
MOST_PARTS = PARTS
MOST_OF_A_FLOW = FLOW_MOST
MOST_OF_A_GROUP = GROUP_MOST
PATIENCE = PATIENCE_NS


cdef class Reassembler:
    """The core's Fragments, and rings that count; what the loop does with frames of which parse says "fragment"."""

    cdef Fragments store
    cdef Ring rings[2]
    cdef FrameCounters frames[2]
    cdef FragmentCounters refused[2]
    cdef Py_ssize_t whole

    def __cinit__(self):
        for i in range(2):
            self.rings[i].counters = &self.frames[i]
            self.rings[i].fragments = &self.refused[i]
        fragments_build(&self.store)

    def __dealloc__(self):
        fragments_free(&self.store)

    def take(self, bytes frame not None, uint64_t now=0, uint32_t ring=0, uint16_t vlan=0):
        """("waiting" or "fragment", None), or the verdict of a whole datagram and, if it is fit, what it is."""
        cdef uint8_t *memory = exact_copy(frame)
        cdef Datagram datagram
        cdef Fragment fragment
        cdef Assembly *assembly = NULL
        cdef Verdict verdict
        try:
            verdict = parse(memory, len(frame), len(frame), True, &datagram)
            if verdict != FRAGMENT:
                raise ValueError(f"no fragment, but {VERDICTS[<int>verdict]}")
            if parse_fragment(memory, &fragment):
                if is_full(&self.store):
                    self.let_go()
                verdict = take_in(&self.store, &self.rings[ring], vlan, &fragment, now, now + 1, &assembly)
            else:
                refuse(&self.rings[ring], BROKEN, vlan, &fragment, now + 1)
            if verdict == WAITING:
                return "waiting", None
            if verdict != RELAYED:
                return VERDICTS[<int>verdict], None
            verdict = parse_whole(assembly, &datagram)
            keep(&self.store, assembly)
            self.whole += 1
            settle(
                &self.rings[ring], verdict, assembly.parts_count, &assembly.group, &assembly.source, 0, vlan, now + 1,
            )
            if verdict != RELAYED:
                return VERDICTS[<int>verdict], None
            return "relayed", {
                "source": address_value(&datagram.source), "group": address_value(&datagram.group),
                "source_port": datagram.source_port,
                "port": datagram.port, "tos": datagram.tos, "ttl": datagram.ttl,
                "payload": (<const uint8_t *>datagram.payload)[:datagram.size],
            }
        finally:
            free(memory)

    def expire(self, uint64_t now):
        expire(&self.store, now)

    def let_go(self):
        let_go(&self.store)
        self.whole = 0

    def counted(self, uint32_t ring=0):
        """(frames by verdict, refusals by reason), where not 0."""
        frames = zip(VERDICTS, self.frames[ring].frames, strict=True)
        refused = zip(REFUSALS, self.refused[ring].refused, strict=True)
        return {name: count for name, count in frames if count}, {name: count for name, count in refused if count}

    def lost_group(self, uint32_t ring=0):
        return address_value(&self.rings[ring].lost[<int>FRAGMENT].group)

    @property
    def waiting(self):
        """(datagrams, frames) that wait, as the list of ages has them."""
        cdef Assembly *each = self.store.oldest
        cdef uint32_t datagrams = 0
        cdef uint32_t frames = 0
        while each != NULL:
            datagrams += 1
            frames += each.parts_count
            each = each.newer
        return datagrams, frames

    def sound(self):
        """Whether every assembly is in one place, every list holds what it should, and shares add up."""
        cdef Assembly *each = self.store.free
        cdef uint32_t unused = 0
        cdef uint32_t whole = 0
        cdef uint32_t chained = 0
        while each != NULL:
            unused += 1
            each = each.next
        each = self.store.whole
        while each != NULL:
            whole += 1
            each = each.next
        for chain in self.store.chains:
            each = chain
            while each != NULL:
                chained += 1
                each = each.next
        waiting = self.waiting[0]
        return (
            chained == waiting == sum(self.store.of_flow) == sum(self.store.of_group)
            and whole == self.whole and unused + whole + waiting == ASSEMBLIES
        )


def look_at(HealthState health not None, bytes payload not None, uint64_t stamp, uint32_t segment=0):
    """Have a stream's health look at what one frame brought, at ``stamp`` (Unix ns)."""
    cdef uint8_t *memory = exact_copy(payload)
    try:
        look(&health.health, superframe_of(memory, len(payload), segment), stamp)
    finally:
        free(memory)


def time_bucket(uint64_t nanoseconds):
    return bucket_of(nanoseconds)
