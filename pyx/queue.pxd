"""What a worker has in hand between two flushes: datagrams queued by flow, and the room to send them from."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from .fragments cimport Fragments
from .kernel cimport CMSG_DATA, CMSG_SPACE, cmsghdr, iovec, mmsghdr, msghdr, pollfd
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

cdef struct Chain:
    # Datagrams of one flow, in order of arrival.
    uint32_t head, tail, count
    uint32_t bytes

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
    uint8_t *controls           # control_bytes each: UDP_SEGMENT, then IP_TOS, headers already written


cdef inline void push(Queue *queue, uint32_t flow, const uint8_t *payload, uint16_t size, uint8_t tos) noexcept nogil:
    """Append to the flow's chain. The caller has seen to it that an entry is free."""
    cdef uint32_t at = queue.used
    cdef Entry *entry = &queue.entries[at]
    cdef Chain *chain = &queue.chains[flow]
    queue.used += 1
    entry.payload = payload
    entry.size = size
    entry.tos = tos & 0xfc
    entry.next = NONE
    if chain.count == 0:
        chain.head = at
        queue.touched[queue.touched_count] = flow
        queue.touched_count += 1
    else:
        queue.entries[chain.tail].next = at
    chain.tail = at
    chain.count += 1
    chain.bytes += size


cdef inline uint32_t chain_rest(const Queue *queue, uint32_t cursor) noexcept nogil:
    """Datagrams from ``cursor`` to the end of its chain."""
    cdef uint32_t count = 0
    while cursor != NONE:
        count += 1
        cursor = queue.entries[cursor].next
    return count


cdef inline size_t control_bytes() noexcept nogil:
    return CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(int32_t))


cdef inline void set_control(
    msghdr *header, uint8_t *control, uint32_t count, uint16_t size, uint8_t tos
) noexcept nogil:
    """Point at the control messages that apply, of the two prepared ones: the segment size, the TOS byte."""
    cdef size_t first = CMSG_SPACE(sizeof(uint16_t))
    header.msg_control = control
    header.msg_controllen = 0
    if tos:
        (<int32_t *>CMSG_DATA(<cmsghdr *>(control + first)))[0] = tos
        header.msg_control = control + first
        header.msg_controllen = CMSG_SPACE(sizeof(int32_t))
    if count > 1:
        (<uint16_t *>CMSG_DATA(<cmsghdr *>control))[0] = size
        header.msg_control = control
        header.msg_controllen += first


cdef int queue_build(Queue *queue, Scratch scratch, uint32_t inputs, uint32_t flows, uint32_t outputs) except -1
cdef void queue_free(Queue *queue) noexcept nogil


cdef class Scratch:
    """The part of a queue whose size is always the same: made once for a worker, borrowed by each of its plans."""

    cdef Queue parts
