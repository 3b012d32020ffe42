"""What libFuzzer calls (main.c): each target takes any bytes, and must neither read beyond them nor break an account.

A target aborts where something is not as it has to be. Memory given to the code under test has exactly the size that it
says, so that AddressSanitizer sees what is read beyond it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport abort, calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from mcrelay._core.address cimport Address, equal, mapped
from mcrelay._core.counters cimport (
    BROKEN, FRAGMENT, INCOMPLETE, RELAYED, VERDICT_COUNT, FragmentCounters, FrameCounters, OutputCounters, Verdict,
)
from mcrelay._core.egress cimport Egress, Output
from mcrelay._core.fragments cimport (
    Assembly, Fragments, discard, expire, fragments_build, is_full, keep, let_go, parse_whole, refuse, settle, take_in,
)
from mcrelay._core.kernel cimport virtio_net_hdr, write_be16
from mcrelay._core.offload cimport finish_inner, is_inner, segment_bytes
from mcrelay._core.queue cimport MESSAGES, NONE, Queue, Scratch, push, queue_build
from mcrelay._core.ring cimport Ring
from mcrelay._core.superframes cimport Superframe, datagrams, longest, superframe_of, take
from mcrelay._core.tagged cimport assemble_frames
from mcrelay._core.wire cimport (
    HOP_BY_HOP, UDP, UDP_BYTES, Datagram, Fragment, ends_sum, fold, glance, ones_sum, parse, parse_fragment, walk,
)

cdef enum:
    FRAME_MOST = 2048
    HEAD = 38                   # of a tagged frame, before what IPv4 carries
    HEAD_SIX = 58               # and IPv6
    LONGEST = 65515             # of what an IPv4 header carries, and of what follows an IPv6 fragment header
    LONGEST_SIX = 65527

cdef public uint32_t seen
cdef Fragments store
cdef Ring ring
cdef FrameCounters frames
cdef FragmentCounters refusals
cdef Queue queue
cdef Egress egress
cdef Output output
cdef OutputCounters counters
cdef uint32_t runs = 1
cdef Scratch scratch = Scratch()

fragments_build(&store)
queue_build(&queue, scratch, 1, 1, 1)
ring.counters = &frames
ring.fragments = &refusals
egress.runs = &runs
output.egress = &egress
output.counters = &counters
output.vlan = 100
output.ttl = 16
output.mac = 0x020000000001
output.source = mapped(0xc0000201)
output.address = mapped(0xe9fc0001)
output.source_port = 20000
output.port = 5004


cdef inline void demand(bint holds) noexcept nogil:
    if not holds:
        abort()


cdef void read_all(const uint8_t *data, uint32_t size) noexcept nogil:
    """What comes of it is public: else the compiler would not read at all."""
    global seen
    cdef uint32_t i
    for i in range(size):
        seen += data[i]


cdef void put_right(uint8_t *ip, uint32_t size) noexcept nogil:
    """Give an IPv4 header the checksum that it should have."""
    cdef uint32_t total
    if size >= 20:
        write_be16(ip + 10, 0)
        total = ones_sum(ip, size)
        write_be16(ip + 10, <uint16_t>~total)


cdef bint put_udp_right(Assembly *whole) noexcept nogil:
    """Give a whole datagram the UDP length and checksum that it should have, if its headers lead to UDP."""
    cdef uint32_t at = 0
    cdef uint32_t length, total
    cdef uint8_t kind = whole.kind
    cdef uint8_t *udp
    if walk(whole.bytes, whole.total, &at, &kind) != RELAYED or whole.total - at < UDP_BYTES:
        return False
    udp = whole.bytes + at
    length = whole.total - at
    write_be16(udp + 4, <uint16_t>length)
    write_be16(udp + 6, 0)
    total = fold(<uint64_t>ones_sum(udp, length) + ends_sum(&whole.source, &whole.group) + UDP + length)
    write_be16(udp + 6, <uint16_t>(0xffff if total == 0xffff else ~total))
    return True


cdef void demand_cut(const uint8_t *payload, uint32_t size, uint32_t segment) noexcept nogil:
    """The datagrams of a frame are its payload from end to end; each but the last has ``segment`` bytes."""
    cdef Superframe rest = superframe_of(payload, size, segment)
    cdef uint32_t count = datagrams(&rest)
    cdef uint32_t most = longest(&rest)
    cdef uint32_t at = 0
    cdef uint32_t taken = 0
    cdef uint32_t piece
    cdef const uint8_t *each
    while True:
        demand(datagrams(&rest) == count - taken)
        piece = take(&rest, &each)
        demand(each == payload + at and piece <= most and (piece or not size))
        read_all(each, piece)
        at += piece
        taken += 1
        demand(at <= size and rest.left == size - at)
        if not rest.left:
            break
        demand(piece == segment)
    demand(at == size and taken == count)


cdef public int fuzz_cutter(const uint8_t *data, size_t size) noexcept nogil:
    """Four bytes: how long a frame's payload is, and what its sender says that each datagram of it has."""
    cdef uint8_t *payload
    cdef uint32_t held
    if size < 4:
        return 0
    held = <uint32_t>data[0] << 8 | data[1]
    payload = <uint8_t *>malloc(held)
    memset(payload, data[0], held)
    demand_cut(payload, held, <uint32_t>data[2] << 8 | data[3])
    free(payload)
    return 0


cdef public int fuzz_parser(const uint8_t *data, size_t size) noexcept nogil:
    """A frame, behind the header that a ring has before it; the first byte says what the kernel vouches for.

    A checksum that chance would never hit is put right, unless the first byte says not to.
    """
    cdef Datagram datagram
    cdef Fragment fragment
    cdef Address source, group
    cdef uint16_t port
    cdef uint8_t *memory
    cdef uint8_t *frame
    cdef uint32_t held
    cdef Verdict verdict
    if size < 1 + sizeof(virtio_net_hdr) or size > FRAME_MOST:
        return 0
    memory = <uint8_t *>malloc(size - 1)
    memcpy(memory, data + 1, size - 1)
    frame = memory + sizeof(virtio_net_hdr)
    held = <uint32_t>(size - 1 - sizeof(virtio_net_hdr))
    if not data[0] & 2 and held >= 34 and frame[12] == 8 and (frame[14] & 15) * 4 + 14 <= held:
        put_right(frame + 14, (frame[14] & 15) * 4)
    verdict = parse(frame, held, held + (data[0] >> 7), data[0] & 1, &datagram)
    demand(verdict < VERDICT_COUNT)
    glance(frame, held, &source, &group, &port)
    if verdict == FRAGMENT and parse_fragment(frame, &fragment):
        demand(fragment.start < fragment.end and fragment.end <= 65535)
        demand(fragment.bytes >= frame and fragment.bytes + (fragment.end - fragment.start) <= frame + held)
        read_all(fragment.bytes, fragment.end - fragment.start)
    if verdict == RELAYED:
        demand(datagram.payload >= frame and datagram.payload + datagram.size <= frame + held)
        demand_cut(datagram.payload, datagram.size, segment_bytes(frame))
        if is_inner(frame, &datagram):
            finish_inner(frame, &datagram)
    free(memory)
    return 0


cdef public int fuzz_reassembler(const uint8_t *data, size_t size) noexcept nogil:
    """Fragments of few datagrams, of both families, eight bytes each: who, to whom, which, where, how long, what, what
    passes between.

    Every frame ends in exactly one verdict. What is whole can be read, and is relayed if its UDP header is right.
    """
    cdef uint8_t *bytes
    cdef Fragment fragment
    cdef Datagram datagram
    cdef Assembly *whole
    cdef uint64_t now = 1
    cdef uint64_t given = 0
    cdef uint64_t counted = 0
    cdef uint32_t at, i
    cdef bint six, right
    cdef Verdict verdict
    memset(&frames, 0, sizeof(frames))
    for at in range(0, <uint32_t>(size & ~<size_t>7), 8):
        six = data[at + 3] >> 5 & 1
        fragment.source = mapped(<uint32_t>0xc0000200U | data[at])
        fragment.group = mapped(<uint32_t>0xe9fc0000U | <uint32_t>(data[at + 1] & 3))
        fragment.identification = data[at + 1] >> 2
        if six:
            fragment.source.high = 0x20010db800000000ULL
            fragment.group.high = 0xff1e000000000000ULL
            fragment.identification *= 0x01010101
        fragment.start = 8 * <uint32_t>data[at + 2] * (1 + (data[at + 3] & 31))
        fragment.end = fragment.start + 1 + data[at + 4] * (1 + <uint32_t>(data[at + 5] & 15))
        fragment.more = data[at + 3] >> 7
        fragment.kind = data[at + 6] if six and not data[at + 3] & 64 else <uint8_t>UDP
        fragment.tos = fragment.ttl = data[at + 6]
        if fragment.more:
            fragment.end = fragment.start + ((fragment.end - fragment.start + 7) & ~<uint32_t>7)
        given += 1
        bytes = <uint8_t *>calloc(1, fragment.end - fragment.start)
        bytes[0] = data[at + 7]
        if fragment.end - fragment.start > 8:
            bytes[8] = UDP      # behind one extension header, or two
        fragment.bytes = bytes
        if fragment.end > <uint32_t>(LONGEST_SIX if six else LONGEST):
            refuse(&ring, BROKEN, 0, &fragment, now)
        else:
            if is_full(&store):
                let_go(&store)
            if take_in(&store, &ring, data[at + 5] >> 7, &fragment, now, now, &whole) == RELAYED:
                demand(whole.filled == whole.total and whole.parts_count)
                demand(whole.parts[0].start == 0 and whole.parts[whole.parts_count - 1].end == whole.total)
                for i in range(1, whole.parts_count):
                    demand(whole.parts[i].start == whole.parts[i - 1].end)
                demand(equal(&whole.source, &fragment.source) and equal(&whole.group, &fragment.group))
                datagram.port = 0
                right = data[at + 7] & 1 and put_udp_right(whole)
                verdict = parse_whole(whole, &datagram)
                demand(not right or (verdict == RELAYED) == (whole.kind != HOP_BY_HOP))
                if verdict == RELAYED:
                    demand(datagram.payload >= whole.bytes + UDP_BYTES)
                    demand(datagram.payload + datagram.size <= whole.bytes + whole.total)
                    demand(equal(&datagram.source, &whole.source) and equal(&datagram.group, &whole.group))
                    read_all(datagram.payload, datagram.size)
                settle(&ring, verdict, whole.parts_count, &whole.group, &whole.source, datagram.port, 0, now)
                keep(&store, whole)
        free(bytes)
        now += <uint64_t>(data[at + 5] >> 4 & 7) * 200000000
        expire(&store, now)
        if data[at + 6] == 0xff:
            let_go(&store)
    let_go(&store)
    while store.oldest != NULL:
        discard(&store, store.oldest, INCOMPLETE)
    for i in range(VERDICT_COUNT):
        counted += frames.frames[i]
    demand(counted == given)
    return 0


cdef public int fuzz_splitter(const uint8_t *data, size_t size) noexcept nogil:
    """Datagrams cut for an MTU: their parts, one after the other, are the datagrams again, and as few as may be.

    Of IPv6 none is cut.
    """
    cdef uint32_t cursor, count, i, part, unit
    cdef uint32_t at = 4
    cdef uint32_t taken = 0
    cdef const uint8_t *payload
    cdef uint8_t *rebuilt
    if size < 8:
        return 0
    egress.segment_max = 40 + (<uint32_t>data[0] << 4 | data[1] & 15)
    output.six = data[1] >> 5 & 1
    output.df = output.six or data[1] >> 7
    output.keep_ttl = data[1] >> 6 & 1
    output.hops = output.keep_ttl
    queue.used = queue.touched_count = queue.chains[0].count = queue.chains[0].bytes = 0
    while at + 3 <= size and queue.used < 512:
        part = min(<uint32_t>(size - at - 3), (<uint32_t>data[at] << 8 | data[at + 1]) % 4096)
        payload = data + at + 3
        push(&queue, 0, payload, <uint16_t>part, data[at + 2], data[at + 2], 1)
        at += 3 + part
    cursor = queue.chains[0].head if queue.chains[0].count else <uint32_t>NONE
    unit = (egress.segment_max + 8) & ~<uint32_t>7
    while cursor != NONE:
        count = assemble_frames(&queue, &output, cursor, &cursor)
        demand(count <= MESSAGES and (count or cursor == NONE))
        i = 0
        while i < count:
            part = queue.messages[i].first
            rebuilt = <uint8_t *>malloc(<size_t>queue.entries[part].size + 8)
            at = 0
            while True:
                demand(i < count and queue.messages[i].first == part)
                demand(queue.headers[i].msg_hdr.msg_iovlen == 2)
                at += gather(rebuilt, at, queue.entries[part].size + 8, i)
                i += 1
                if queue.messages[i - 1].count:
                    break
                demand(at % unit == 0 and at < <uint32_t>queue.entries[part].size + 8)
            demand(at == <uint32_t>queue.entries[part].size + 8)
            demand(memcmp(rebuilt + 8, queue.entries[part].payload, queue.entries[part].size) == 0)
            free(rebuilt)
            taken += 1
    demand(taken <= queue.used)
    return 0


cdef uint32_t gather(uint8_t *to, uint32_t at, uint32_t most, uint32_t index) noexcept nogil:
    """Copy what one frame carries behind its IP header; how much that is."""
    cdef uint32_t before = HEAD_SIX if output.six else HEAD
    cdef uint32_t head = <uint32_t>queue.headers[index].msg_hdr.msg_iov[0].iov_len - before
    cdef uint32_t rest = <uint32_t>queue.headers[index].msg_hdr.msg_iov[1].iov_len
    demand(head == (8 if at == 0 else 0) and at + head + rest <= most)
    memcpy(to + at, <uint8_t *>queue.headers[index].msg_hdr.msg_iov[0].iov_base + before, head)
    memcpy(to + at + head, queue.headers[index].msg_hdr.msg_iov[1].iov_base, rest)
    return head + rest
