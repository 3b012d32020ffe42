"""What a worker has in hand between two flushes: datagrams queued by flow, and the room to send them from."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address, equal, is_any, is_group, is_mapped, put_six
from .egress cimport Output
from .fragments cimport Fragments
from .kernel cimport (
    CMSG_DATA, CMSG_LEN, CMSG_SPACE, IP_PKTINFO, IP_TOS, IP_TTL, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IPV6_HOPLIMIT,
    IPV6_PKTINFO, IPV6_TCLASS, UDP_SEGMENT, cmsghdr, htonl, in6_pktinfo, in_pktinfo, iovec, mmsghdr, msghdr, pollfd,
    sockaddr_in6,
)
from .repeats cimport Repeats

cdef enum:
    NONE = 0xffffffff           # end of a chain
    ENTRIES = 4096              # datagrams queued at most between two flushes
    MESSAGES = 128              # of one sendmmsg
    VECTORS = 1024
    HEAD_BYTES = 72             # headers of our own making: UDP's, or of a whole frame, 66 of IPv6

cdef struct Entry:
    const uint8_t *payload      # into the ring, or what was put together: dies when the block is released, or let go
    uint32_t next
    uint16_t size
    uint8_t tos                 # DSCP bits only: ECN is between neighbours and never copied
    uint8_t ttl                 # as it arrived

cdef struct Ends:
    # Of a datagram whose flow has an output that keeps one of them.
    Address source
    uint16_t port

cdef struct Chain:
    # Datagrams of one flow, in order of arrival; a flow of many streams has several, and each stream is in one of them.
    uint32_t head, tail, count
    uint32_t bytes
    uint32_t flow               # as long as the plan
    uint8_t least_ttl
    bint blocked                # an output of the flow waits for room
    uint64_t since_ns           # when the first of them came, Unix ns

cdef struct Place:
    # Which stream of a flow of many a datagram is of: what its destination is found by.
    uint32_t group              # counted from the first of the range
    uint32_t port               # as it arrived

cdef struct Watch:
    # What was last seen of an input, or of one group of its range.
    uint64_t source             # of the newest datagram: its digest
    uint32_t left               # so many more are looked at for having come back (repeats.pxd)

cdef struct Message:
    # What one mmsghdr holds, for the accounting.
    uint32_t first              # entry
    uint32_t count
    uint32_t bytes

cdef struct Blocked:
    uint32_t output             # index in the plan
    uint32_t cursor             # first entry not yet accepted
    bint moved                  # accepted something since the wait began

cdef struct Queue:
    # A worker reads one plan at a time, so all its plans may borrow the same Scratch.
    Entry *entries
    Ends *ends                  # beside entries, filled in where a flow keeps them
    Place *places               # beside entries; written for addressed flows alone
    uint32_t used
    uint32_t sends              # what the turn has queued so far, once for each output that it goes to
    Watch *watches              # by input, and by the groups of its range
    Chain *chains               # by flow, and by its lanes
    uint32_t *touched           # chains that are not empty
    uint32_t touched_count
    Blocked *blocked
    uint32_t blocked_count
    pollfd *waiting             # beside blocked, in the same order
    mmsghdr *headers
    sockaddr_in6 *names         # beside headers: where to, if the socket is not connected to it
    Message *messages
    iovec *vectors
    Repeats *repeats            # what was relayed lately
    Fragments *fragments        # what waits for the rest of it
    uint8_t *controls           # control_bytes each
    uint8_t *heads              # HEAD_BYTES each, for what leaves by a raw socket or a packet socket
    uint64_t now_ns             # monotonic, of this chain; where an end is kept


cdef inline void push(
    Queue *queue, uint32_t at_chain, const uint8_t *payload, uint16_t size, uint8_t tos, uint8_t ttl, uint64_t stamp
) noexcept nogil:
    """Append to a chain what came at ``stamp``, Unix ns. The caller has seen to it that an entry is free."""
    cdef uint32_t at = queue.used
    cdef Entry *entry = &queue.entries[at]
    cdef Chain *chain = &queue.chains[at_chain]
    queue.used += 1
    entry.payload = payload
    entry.size = size
    entry.tos = tos & 0xfc
    entry.ttl = ttl
    entry.next = NONE
    if chain.count == 0:
        chain.head = at
        chain.least_ttl = ttl
        chain.since_ns = stamp
        queue.touched[queue.touched_count] = at_chain
        queue.touched_count += 1
    else:
        queue.entries[chain.tail].next = at
    chain.tail = at
    chain.count += 1
    chain.bytes += size
    chain.least_ttl = min(chain.least_ttl, ttl)


cdef inline void note_ends(Queue *queue, const Address *source, uint16_t port) noexcept nogil:
    """Of the datagram that was pushed last."""
    queue.ends[queue.used - 1].source = source[0]
    queue.ends[queue.used - 1].port = port


cdef inline bint ends_differ(const Queue *queue, const Output *output, uint32_t a, uint32_t b) noexcept nogil:
    """Whether the output sends two datagrams from different sources, because it keeps these."""
    return (
        output.keep_address and not equal(&queue.ends[a].source, &queue.ends[b].source)
        or output.keep_port and queue.ends[a].port != queue.ends[b].port
    )


cdef inline void append(Queue *queue, Chain *to, Chain *chain) noexcept nogil:
    """Empty a chain into another, behind what is there."""
    if to.count == 0:
        to.head = chain.head
        to.least_ttl = chain.least_ttl
        to.since_ns = chain.since_ns
    else:
        queue.entries[to.tail].next = chain.head
        to.least_ttl = min(to.least_ttl, chain.least_ttl)
        to.since_ns = min(to.since_ns, chain.since_ns)
    to.tail = chain.tail
    to.count += chain.count
    to.bytes += chain.bytes
    chain.count = 0
    chain.bytes = 0


cdef inline bint is_over(const Output *output, uint8_t ttl) noexcept nogil:
    """Whether a datagram that arrived with this TTL has none left for that output."""
    return output.keep_ttl and ttl <= output.hops


cdef inline uint32_t chain_rest(const Queue *queue, const Output *output, uint32_t cursor) noexcept nogil:
    """Datagrams from ``cursor`` to the end of its chain that the output is to send."""
    cdef uint32_t count = 0
    while cursor != NONE:
        count += not is_over(output, queue.entries[cursor].ttl)
        cursor = queue.entries[cursor].next
    return count


cdef inline size_t control_bytes() noexcept nogil:
    return CMSG_SPACE(sizeof(uint16_t)) + 2 * CMSG_SPACE(sizeof(int32_t)) + CMSG_SPACE(sizeof(in6_pktinfo))


cdef inline uint8_t *add_control(msghdr *header, uint8_t *control, int level, int kind, size_t size) noexcept nogil:
    """One more control message in the room at ``control``; returns where its value goes."""
    cdef cmsghdr *made = <cmsghdr *>(control + header.msg_controllen)
    made.cmsg_len = CMSG_LEN(size)
    made.cmsg_level = level
    made.cmsg_type = kind
    header.msg_control = control
    header.msg_controllen += CMSG_SPACE(size)
    return CMSG_DATA(made)


cdef inline void set_control(
    msghdr *header, uint8_t *control, const Output *output, const Entry *first, uint32_t count
) noexcept nogil:
    """The control messages of a run or a single datagram: segment size, TOS byte and TTL, each where it applies."""
    cdef int level = IPPROTO_IPV6 if output.six else IPPROTO_IP
    cdef int kind
    header.msg_control = NULL
    header.msg_controllen = 0
    if count > 1:
        (<uint16_t *>add_control(header, control, IPPROTO_UDP, UDP_SEGMENT, sizeof(uint16_t)))[0] = first.size
    if output.keep_dscp and first.tos:
        kind = IPV6_TCLASS if output.six else IP_TOS
        (<int32_t *>add_control(header, control, level, kind, sizeof(int32_t)))[0] = first.tos
    if output.keep_ttl:
        kind = IPV6_HOPLIMIT if output.six else IP_TTL
        (<int32_t *>add_control(header, control, level, kind, sizeof(int32_t)))[0] = first.ttl - output.hops


cdef inline void set_source(msghdr *header, uint8_t *control, const Address *source) noexcept nogil:
    """One control message more: the address to send from (ip(7), ipv6(7)).

    0.0.0.0 would let the kernel choose one of ours; 255.255.255.255 is refused, as groups are. IPv6 has none that the
    kernel refuses, so a message of the wrong length stands for such a source.
    """
    cdef in_pktinfo *info
    cdef in6_pktinfo *info_six
    if is_mapped(source):
        info = <in_pktinfo *>add_control(header, control, IPPROTO_IP, IP_PKTINFO, sizeof(in_pktinfo))
        info.ipi_ifindex = 0                    # the socket has its link
        info.ipi_spec_dst.s_addr = htonl(<uint32_t>source.low if <uint32_t>source.low else <uint32_t>0xffffffff)
    elif is_any(source) or is_group(source):
        add_control(header, control, IPPROTO_IPV6, IPV6_PKTINFO, 0)
    else:
        info_six = <in6_pktinfo *>add_control(header, control, IPPROTO_IPV6, IPV6_PKTINFO, sizeof(in6_pktinfo))
        info_six.ipi6_ifindex = 0
        put_six(info_six.ipi6_addr.s6_addr, source)


cdef int queue_build(Queue *queue, Scratch scratch, uint32_t watches, uint32_t chains, uint32_t outputs) except -1
cdef void queue_free(Queue *queue) noexcept nogil


cdef class Scratch:
    """The part of a queue whose size is always the same: made once for a worker, borrowed by each of its plans."""

    cdef Queue parts
