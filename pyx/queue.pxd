"""What a worker has in hand between two flushes: datagrams queued by flow, and the room to send them from."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from .egress cimport Output
from .fragments cimport Fragments
from .kernel cimport (
    CMSG_DATA, CMSG_LEN, CMSG_SPACE, IP_TOS, IP_TTL, IPPROTO_IP, IPPROTO_UDP, UDP_SEGMENT, cmsghdr, iovec, mmsghdr,
    msghdr, pollfd,
)
from .repeats cimport Repeats

cdef enum:
    NONE = 0xffffffff           # end of a chain
    ENTRIES = 4096              # datagrams queued at most between two flushes
    MESSAGES = 128              # of one sendmmsg
    VECTORS = 1024

cdef struct Entry:
    const uint8_t *payload      # into the ring, or what was put together: dies when the block is released, or let go
    uint32_t next
    uint16_t size
    uint8_t tos                 # DSCP bits only: ECN is between neighbours and never copied
    uint8_t ttl                 # as it arrived

cdef struct Chain:
    # Datagrams of one flow, in order of arrival.
    uint32_t head, tail, count
    uint32_t bytes
    uint8_t least_ttl

cdef struct Watch:
    # What was last seen of an input.
    uint32_t source             # of the newest datagram
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
    uint32_t used
    uint32_t sends              # what the turn has queued so far, once for each output that it goes to
    Watch *watches              # by input
    Chain *chains               # by flow
    uint32_t *touched           # flows whose chain is not empty
    uint32_t touched_count
    Blocked *blocked
    uint32_t blocked_count
    pollfd *waiting             # beside blocked, in the same order
    mmsghdr *headers
    Message *messages
    iovec *vectors
    Repeats *repeats            # what was relayed lately
    Fragments *fragments        # what waits for the rest of it
    uint8_t *controls           # control_bytes each


cdef inline void push(
    Queue *queue, uint32_t flow, const uint8_t *payload, uint16_t size, uint8_t tos, uint8_t ttl
) noexcept nogil:
    """Append to the flow's chain. The caller has seen to it that an entry is free."""
    cdef uint32_t at = queue.used
    cdef Entry *entry = &queue.entries[at]
    cdef Chain *chain = &queue.chains[flow]
    queue.used += 1
    entry.payload = payload
    entry.size = size
    entry.tos = tos & 0xfc
    entry.ttl = ttl
    entry.next = NONE
    if chain.count == 0:
        chain.head = at
        chain.least_ttl = ttl
        queue.touched[queue.touched_count] = flow
        queue.touched_count += 1
    else:
        queue.entries[chain.tail].next = at
    chain.tail = at
    chain.count += 1
    chain.bytes += size
    chain.least_ttl = min(chain.least_ttl, ttl)


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
    return CMSG_SPACE(sizeof(uint16_t)) + 2 * CMSG_SPACE(sizeof(int32_t))


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
    header.msg_control = NULL
    header.msg_controllen = 0
    if count > 1:
        (<uint16_t *>add_control(header, control, IPPROTO_UDP, UDP_SEGMENT, sizeof(uint16_t)))[0] = first.size
    if output.keep_dscp and first.tos:
        (<int32_t *>add_control(header, control, IPPROTO_IP, IP_TOS, sizeof(int32_t)))[0] = first.tos
    if output.keep_ttl:
        (<int32_t *>add_control(header, control, IPPROTO_IP, IP_TTL, sizeof(int32_t)))[0] = first.ttl - output.hops


cdef int queue_build(Queue *queue, Scratch scratch, uint32_t inputs, uint32_t flows, uint32_t outputs) except -1
cdef void queue_free(Queue *queue) noexcept nogil


cdef class Scratch:
    """The part of a queue whose size is always the same: made once for a worker, borrowed by each of its plans."""

    cdef Queue parts
