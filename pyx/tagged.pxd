"""Send a chain as frames of our own making, with a VLAN tag (IEEE 802.1Q), by a packet socket (packet(7)).

The kernel tags what leaves by a VLAN link, and here there is none. So the headers of Ethernet, IP and UDP are written
before each payload, and as many frames as there are messages leave with one sendmmsg. What is larger than the MTU is
cut (RFC 791); where it may not be, or would make too many fragments, the kernel refuses it whole (EMSGSIZE). Of IPv6
nothing is cut: such an output has ``df``.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address, is_any, is_group, is_mapped, put_six
from .egress cimport Output, goal_of, reason_for
from .kernel cimport EAGAIN, add, iovec, msghdr, write_be16, write_be32
from .queue cimport HEAD_BYTES, MESSAGES, NONE, Entry, Message, Place, Queue, is_over
from .runs cimport counters_of, hand_over, port_from, put_udp, remember, source_of
from .wire cimport (
    ETHERTYPE_CTAG, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_BYTES, IPV6_BYTES, MORE_FRAGMENTS, TOTAL_MAX, UDP, UDP_BYTES,
    ones_sum,
)

cdef enum:
    LINK_HEADER = 18            # bytes of Ethernet and the tag
    DONT_FRAGMENT = 0x4000      # RFC 791, beside MORE_FRAGMENTS
    PART_UNIT = 8               # bytes: what a fragment's offset counts
    EVERYBODY = 0xffffffff      # 255.255.255.255: RFC 919

cdef struct Headers:
    # What those of a datagram say; both addresses are of the output's family.
    Address source, group
    uint16_t source_port, port
    uint16_t identification
    uint8_t tos, ttl


cdef inline Headers headers_of(const Queue *queue, const Output *output, uint32_t entry) noexcept nogil:
    cdef const Entry *datagram = &queue.entries[entry]
    cdef const Place *place
    cdef Headers headers
    headers.source = source_of(queue, output, entry)[0]
    headers.source_port = port_from(queue, output, entry)
    headers.group = output.address
    headers.port = output.port
    if output.addressed:
        place = &queue.places[entry]
        headers.group = output.group
        headers.group.low += place.group
        headers.port = goal_of(output, <uint16_t>place.port)
    headers.tos = datagram.tos if output.keep_dscp else output.tos
    headers.ttl = datagram.ttl - output.hops if output.keep_ttl else output.ttl
    headers.identification = output.egress.identification
    output.egress.identification += 1
    return headers


cdef inline bint is_nobody(const Address *source) noexcept nogil:
    """Whether no host has that address: the kernel sends from none of these (ip_route_output_key_hash_rcu).

    Of IPv6 they are those that `set_source` has it refuse.
    """
    cdef uint32_t four = <uint32_t>source.low
    if not is_mapped(source):
        return is_any(source) or is_group(source)
    return four >> 24 == 0 or four >> 28 == 14 or four == <uint32_t>EVERYBODY


cdef inline void put_link_header(uint8_t *head, const Output *output, const Address *group) noexcept nogil:
    """Ethernet and the tag. A group's MAC address has the lower bits of it: 23 (RFC 1112, 6.4), 32 (RFC 2464, 7)."""
    if output.six:
        write_be16(head, 0x3333)
        write_be32(head + 2, <uint32_t>group.low)
    elif is_group(group):
        write_be16(head, 0x0100)
        write_be32(head + 2, 0x5e000000 | <uint32_t>group.low & 0x7fffff)
    else:
        write_be16(head, 0xffff)
        write_be32(head + 2, 0xffffffff)
    write_be16(head + 6, <uint16_t>(output.mac >> 32))
    write_be32(head + 8, <uint32_t>output.mac)
    write_be16(head + 12, ETHERTYPE_CTAG)
    write_be16(head + 14, output.vlan)
    write_be16(head + 16, ETHERTYPE_IPV6 if output.six else ETHERTYPE_IPV4)


cdef inline void put_four_header(
    uint8_t *ip, const Headers *headers, uint32_t size, uint16_t fragment
) noexcept nogil:
    """``fragment`` is the word of flags and offset."""
    ip[0] = 4 << 4 | IPV4_BYTES // 4
    ip[1] = headers.tos
    write_be16(ip + 2, <uint16_t>(IPV4_BYTES + size))
    write_be16(ip + 4, headers.identification)
    write_be16(ip + 6, fragment)
    ip[8] = headers.ttl
    ip[9] = UDP
    write_be16(ip + 10, 0)
    write_be32(ip + 12, <uint32_t>headers.source.low)
    write_be32(ip + 16, <uint32_t>headers.group.low)
    write_be16(ip + 10, <uint16_t>~ones_sum(ip, IPV4_BYTES))


cdef inline void put_six_header(uint8_t *ip, const Headers *headers, uint32_t size) noexcept nogil:
    """RFC 8200, 3. The flow label is 0, as what the kernel sends for us has it (set_up_six in manner.pyx)."""
    write_be32(ip, <uint32_t>6 << 28 | <uint32_t>headers.tos << 20)
    write_be16(ip + 4, <uint16_t>size)
    ip[6] = UDP
    ip[7] = headers.ttl
    put_six(ip + 8, &headers.source)
    put_six(ip + 24, &headers.group)


cdef inline uint32_t put_headers(
    uint8_t *head, const Output *output, const Headers *headers, uint32_t size, uint16_t fragment
) noexcept nogil:
    """Write what stands before ``size`` bytes that IP carries; returns how much it is."""
    put_link_header(head, output, &headers.group)
    if output.six:
        put_six_header(head + LINK_HEADER, headers, size)
        return LINK_HEADER + IPV6_BYTES
    put_four_header(head + LINK_HEADER, headers, size, fragment)
    return LINK_HEADER + IPV4_BYTES


cdef inline void put_datagram(
    Queue *queue, const Output *output, uint32_t entry, uint32_t index, uint32_t parts, uint32_t step
) noexcept nogil:
    """Fill as many messages as a datagram has parts, of ``step`` bytes each; the last one has the account of it."""
    cdef Headers headers = headers_of(queue, output, entry)
    cdef const Entry *datagram = &queue.entries[entry]
    cdef uint32_t whole = <uint32_t>datagram.size + UDP_BYTES
    cdef uint32_t at = 0
    cdef uint32_t end, size, i
    cdef uint8_t *head
    cdef iovec *vectors
    cdef msghdr *header
    cdef Message *message
    cdef bint last
    for i in range(index, index + parts):
        end = min(at + step, whole)
        last = end == whole
        head = queue.heads + i * HEAD_BYTES
        vectors = &queue.vectors[2 * i]
        size = put_headers(
            head, output, &headers, end - at,
            <uint16_t>((DONT_FRAGMENT if output.df else 0) | (0 if last else MORE_FRAGMENTS) | at // PART_UNIT),
        )
        vectors[1].iov_base = <void *>(datagram.payload + (at - UDP_BYTES if at else 0))
        vectors[1].iov_len = end - at if at else end - UDP_BYTES
        if not at:
            put_udp(
                head + size, &headers.source, &headers.group, headers.source_port, headers.port, datagram.payload,
                datagram.size,
            )
            size += UDP_BYTES
        vectors[0].iov_base = head
        vectors[0].iov_len = size
        header = &queue.headers[i].msg_hdr
        header.msg_name = NULL
        header.msg_namelen = 0
        header.msg_control = NULL
        header.msg_controllen = 0
        header.msg_iov = vectors
        header.msg_iovlen = 0 if output.keep_address and is_nobody(&headers.source) else 2   # of 0: EINVAL
        message = &queue.messages[i]
        message.first = entry
        message.count = last
        message.bytes = datagram.size if last else 0
        at = end
    if output.kept != NULL:
        remember(queue, output, &headers.source, headers.source_port)


@cython.cdivision(True)         # a step is never 0; the check would want the GIL
cdef inline uint32_t assemble_frames(
    Queue *queue, const Output *output, uint32_t cursor, uint32_t *taken
) noexcept nogil:
    """As `assemble` does: fill messages from the chain at ``cursor``, all parts of a datagram or none of them.

    What came by IPv6 may be larger than any datagram of IPv4, however that is cut.
    """
    cdef uint32_t most = output.egress.segment_max + UDP_BYTES      # behind the IP header
    cdef uint32_t count = 0
    cdef uint32_t parts, step
    cdef const Entry *entry
    while cursor != NONE:
        entry = &queue.entries[cursor]
        if is_over(output, entry.ttl):
            cursor = entry.next
            continue
        step = <uint32_t>entry.size + UDP_BYTES
        parts = 1
        if step > most and not output.df and step <= TOTAL_MAX - IPV4_BYTES:
            parts = (step + (most & ~<uint32_t>7) - 1) // (most & ~<uint32_t>7)
            if parts > MESSAGES:
                parts = 1
            else:
                step = most & ~<uint32_t>7
        if count + parts > MESSAGES:
            break
        put_datagram(queue, output, cursor, count, parts, step)
        count += parts
        cursor = entry.next
    taken[0] = cursor
    return count


cdef inline uint32_t transmit_frames(Queue *queue, const Output *output, uint32_t count) noexcept nogil:
    """As `transmit` does. A datagram one of whose parts is refused is lost as a whole, and the rest of it not sent.

    Where room ends between two parts, the datagram is sent again from its first one, under another identification.
    """
    cdef uint32_t done = 0
    cdef uint32_t refused
    cdef int code
    while True:
        code = hand_over(queue, output, &done, count)
        if code == 0 or code == EAGAIN:
            return done
        refused = queue.messages[done].first
        add(&counters_of(queue, output, refused).errors[<uint32_t>reason_for(output, code)], 1)
        while done < count and queue.messages[done].first == refused:
            done += 1
