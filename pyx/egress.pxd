"""Queue datagrams of a block by input, then flush them output by output: UDP_SEGMENT runs, one sendmmsg for all.

Every send is MSG_DONTWAIT. A full socket buffer is back-pressure: the other outputs go first, then the blocked
ones are waited for, a little (flush in worker.pyx). Each datagram of a chain ends, for each output, either accepted by
the kernel or under one error: that is what makes the sums of rules and outputs hold.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from .counters cimport (
    OutputCounters, SEND_BLOCKED, SEND_MTU, SEND_NETDOWN, SEND_NOADDR, SEND_NOBUFS, SEND_NOROUTE, SEND_OTHER,
    SEND_UNREACHABLE, SendError,
)
from .kernel cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, CMSG_SPACE, EACCES, EADDRNOTAVAIL, EAGAIN, ECONNREFUSED, EHOSTDOWN,
    EHOSTUNREACH, EINTR, EINVAL, EIO, EMSGSIZE, ENETDOWN, ENETUNREACH, ENOBUFS, ENODEV, ENOMEM, ENONET, ENOPROTOOPT,
    ENXIO, EOPNOTSUPP, EPERM, EPROTO, IP_MTU, IP_RECVERR, IPPROTO_IP, MSG_DONTWAIT, MSG_ERRQUEUE, SO_EE_ORIGIN_ICMP,
    SO_ERROR, SOL_SOCKET, add, cmsghdr, errno, getsockopt, iovec, load_relaxed_u32, mmsghdr, msghdr, pollfd, recvmsg,
    sendmmsg, sock_extended_err, store_relaxed_u32,
)
from .wire cimport PAYLOAD_MAX

cdef enum:
    NONE = 0xffffffff           # end of a chain
    ENTRIES = 4096              # datagrams queued at most between two flushes
    MESSAGES = 128              # of one sendmmsg
    RUN_MAX = 64                # datagrams of one run: UDP_MAX_SEGMENTS of older kernels
    VECTORS = 1024
    DRAINS = 8                  # asynchronous errors taken in before one flush gives an output up

cdef struct Egress:
    # One output's socket, connected to its destination, as one worker sees it. It outlives plans; only that worker
    # touches it. The socket is the same for all: a group has one worker, and whoever sends learns what went wrong.
    int fd
    uint32_t segment_max        # payload that fits the MTU: larger ones never form runs
    uint32_t owed               # asynchronous errors not yet charged to a datagram
    bint stalled                # accepted nothing during a whole wait: not waited for again until it accepts
    uint32_t *runs              # shared by the outputs of one link: 0 after EIO, the device cannot do runs

cdef struct Output:
    # What a plan says of one output: immutable.
    Egress *egress              # NULL: parked
    OutputCounters *counters
    uint32_t burst
    bint keep_dscp              # else the socket's IP_TOS stands

cdef struct Entry:
    const uint8_t *payload      # into the ring: dies when the block is released
    uint32_t next
    uint16_t size
    uint8_t tos                 # DSCP bits only: ECN is between neighbours and never copied

cdef struct Chain:
    # Datagrams of one input, in order of arrival.
    uint32_t head, tail, count
    uint32_t bytes

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
    uint32_t sends              # what is queued, once for each output that it goes to
    Chain *chains               # by input
    uint32_t *touched           # inputs whose chain is not empty
    uint32_t touched_count
    Blocked *blocked
    uint32_t blocked_count
    pollfd *waiting             # beside blocked, in the same order
    mmsghdr *headers
    Message *messages
    iovec *vectors
    uint8_t *controls           # CONTROL_BYTES each: UDP_SEGMENT, then IP_TOS, headers already written


cdef inline void push(Queue *queue, uint32_t input, const uint8_t *payload, uint16_t size, uint8_t tos) noexcept nogil:
    """Append to the input's chain. The caller has seen to it that an entry is free."""
    cdef uint32_t at = queue.used
    cdef Entry *entry = &queue.entries[at]
    cdef Chain *chain = &queue.chains[input]
    queue.used += 1
    entry.payload = payload
    entry.size = size
    entry.tos = tos & 0xfc
    entry.next = NONE
    if chain.count == 0:
        chain.head = at
        queue.touched[queue.touched_count] = input
        queue.touched_count += 1
    else:
        queue.entries[chain.tail].next = at
    chain.tail = at
    chain.count += 1
    chain.bytes += size


cdef inline uint32_t assemble(Queue *queue, const Output *output, uint32_t cursor, uint32_t *taken) noexcept nogil:
    """Fill messages from the chain at ``cursor``: as many as fit. Returns how many; ``taken`` is where to go on.

    A run has equal sizes (the last may be shorter, none is empty), one DSCP, at most ``burst`` datagrams, at most
    PAYLOAD_MAX bytes, each within the MTU: what UDP_SEGMENT takes (linux/net/ipv4/udp.c, udp_send_skb).
    """
    cdef uint32_t longest = output.burst if load_relaxed_u32(output.egress.runs) else 1
    cdef uint32_t count = 0
    cdef uint32_t vector = 0
    cdef Entry *entry
    cdef Message *message
    cdef const uint8_t *end
    cdef uint16_t size
    cdef uint8_t tos
    while cursor != NONE and count < MESSAGES and vector + RUN_MAX <= VECTORS:
        entry = &queue.entries[cursor]
        message = &queue.messages[count]
        message.first = cursor
        message.count = 1
        message.bytes = size = entry.size
        tos = entry.tos if output.keep_dscp else 0
        queue.headers[count].msg_hdr.msg_iov = &queue.vectors[vector]
        queue.vectors[vector].iov_base = <void *>entry.payload
        queue.vectors[vector].iov_len = size
        end = entry.payload + size
        cursor = entry.next
        if 0 < size <= output.egress.segment_max:
            while message.count < longest and cursor != NONE:
                entry = &queue.entries[cursor]
                if entry.size == 0 or entry.size > size or message.bytes + entry.size > PAYLOAD_MAX:
                    break
                if output.keep_dscp and entry.tos != tos:
                    break
                if entry.payload == end:        # cut from the same superframe
                    queue.vectors[vector].iov_len += entry.size
                else:
                    vector += 1
                    queue.vectors[vector].iov_base = <void *>entry.payload
                    queue.vectors[vector].iov_len = entry.size
                end = entry.payload + entry.size
                message.count += 1
                message.bytes += entry.size
                cursor = entry.next
                if entry.size < size:
                    break
        vector += 1
        queue.headers[count].msg_hdr.msg_iovlen = &queue.vectors[vector] - queue.headers[count].msg_hdr.msg_iov
        set_control(&queue.headers[count].msg_hdr, queue.controls + count * control_bytes(), message.count, size, tos)
        count += 1
    taken[0] = cursor
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


cdef inline SendError reason_of(int code) noexcept nogil:
    """The counter an errno of sendmsg(2) belongs to."""
    if code == ENOBUFS or code == EAGAIN or code == ENOMEM:
        return SEND_NOBUFS
    if code == ENETDOWN or code == ENODEV or code == ENXIO:
        return SEND_NETDOWN
    if code == EMSGSIZE:
        return SEND_MTU
    if code == EADDRNOTAVAIL:
        return SEND_NOADDR
    if code == ENETUNREACH:
        return SEND_NOROUTE
    if code == EHOSTUNREACH or code == ECONNREFUSED or code == EHOSTDOWN:
        return SEND_UNREACHABLE
    if code == EPERM or code == EACCES:
        return SEND_BLOCKED
    return SEND_OTHER


cdef inline void accept(const Output *output, const Entry *entries, const Message *message) noexcept nogil:
    """The kernel took a message. What an asynchronous error said of earlier datagrams is charged here.

    An ICMP or ARP failure reports a datagram that was counted as sent long ago. Counters never go back, so the next
    datagrams of the same output stand for it: they leave, and count as unreachable.
    """
    cdef Egress *egress = output.egress
    cdef uint32_t count = message.count
    cdef uint32_t bytes = message.bytes
    cdef uint32_t entry = message.first
    egress.stalled = False
    while egress.owed and count:
        egress.owed -= 1
        count -= 1
        bytes -= entries[entry].size
        entry = entries[entry].next
        add(&output.counters.errors[<uint32_t>SEND_UNREACHABLE], 1)
    add(&output.counters.tx_packets, count)
    add(&output.counters.tx_bytes, bytes)


cdef inline uint32_t drain(Egress *egress) noexcept nogil:
    """Empty the error queue (ip(7), IP_RECVERR). Returns how many errors the network sent, not our own send."""
    cdef uint8_t control[512]
    cdef msghdr message
    cdef cmsghdr *header
    cdef uint32_t found = 0
    cdef int pending
    cdef unsigned int size = sizeof(pending)
    message.msg_name = NULL
    message.msg_namelen = 0
    message.msg_iov = NULL
    message.msg_iovlen = 0
    message.msg_flags = 0
    while True:
        message.msg_control = control
        message.msg_controllen = sizeof(control)
        if recvmsg(egress.fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0:
            break
        header = CMSG_FIRSTHDR(&message)
        while header != NULL:
            if header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_RECVERR:
                if (<sock_extended_err *>CMSG_DATA(header)).ee_origin == SO_EE_ORIGIN_ICMP:
                    found += 1
            header = CMSG_NXTHDR(&message, header)
    getsockopt(egress.fd, SOL_SOCKET, SO_ERROR, &pending, &size)    # void: clears what the queue left behind
    egress.owed += found
    return found


cdef inline void measure(Egress *egress) noexcept nogil:
    """Learn the MTU of the route again: an ICMP told the kernel, or the link changed."""
    cdef int mtu = 0
    cdef unsigned int size = sizeof(mtu)
    if getsockopt(egress.fd, IPPROTO_IP, IP_MTU, &mtu, &size) == 0 and mtu > 28:
        egress.segment_max = <uint32_t>(mtu - 28)


cdef inline bint can_be_asynchronous(int code) noexcept nogil:
    """Errors that ICMP or a failed ARP puts on a socket (icmp_err_convert in linux/net/ipv4/icmp.c)."""
    return (
        code == ECONNREFUSED or code == EHOSTUNREACH or code == ENETUNREACH or code == EMSGSIZE or code == EPROTO
        or code == EACCES or code == EHOSTDOWN or code == ENONET or code == EOPNOTSUPP or code == ENOPROTOOPT
    )


cdef inline uint32_t transmit(Queue *queue, const Output *output, uint32_t count) noexcept nogil:
    """Send the assembled messages in order; returns how many are done with, fewer than ``count`` on back-pressure."""
    cdef Egress *egress = output.egress
    cdef uint32_t done = 0
    cdef uint32_t drains = 0
    cdef int sent, code, i
    cdef Message *message
    while done < count:
        sent = sendmmsg(egress.fd, &queue.headers[done], count - done, MSG_DONTWAIT)
        if sent > 0:
            for i in range(sent):
                accept(output, queue.entries, &queue.messages[done + <uint32_t>i])
            done += <uint32_t>sent
            continue
        code = errno
        if code == EINTR:
            continue
        if code == EAGAIN:
            return done
        if can_be_asynchronous(code) and drains < DRAINS:
            drains += 1
            if drain(egress):
                continue                        # it was about an earlier datagram: this one has not been tried
        message = &queue.messages[done]
        if message.count > 1 and (code == EIO or code == EINVAL or code == EMSGSIZE):
            if code == EIO:
                store_relaxed_u32(egress.runs, 0)
            else:
                measure(egress)
            if not singly(queue, output, done):
                return done
        else:
            add(&output.counters.errors[<uint32_t>reason_of(code)], message.count)
        done += 1
    return done


cdef inline bint singly(Queue *queue, const Output *output, uint32_t index) noexcept nogil:
    """Send a refused run datagram by datagram. False on back-pressure; the message then holds what is left."""
    cdef Message *message = &queue.messages[index]
    cdef Message one
    cdef mmsghdr single
    cdef iovec vector
    cdef uint32_t drains = 0
    cdef int code
    single.msg_hdr = queue.headers[index].msg_hdr
    single.msg_hdr.msg_iov = &vector
    single.msg_hdr.msg_iovlen = 1
    set_control(&single.msg_hdr, <uint8_t *>queue.controls + index * control_bytes(), 1, 0,
                queue.entries[message.first].tos if output.keep_dscp else 0)
    while message.count:
        one.first = message.first
        one.count = 1
        one.bytes = queue.entries[one.first].size
        vector.iov_base = <void *>queue.entries[one.first].payload
        vector.iov_len = one.bytes
        if sendmmsg(output.egress.fd, &single, 1, MSG_DONTWAIT) == 1:
            accept(output, queue.entries, &one)
        else:
            code = errno
            if code == EINTR:
                continue
            if code == EAGAIN:
                return False
            if can_be_asynchronous(code) and drains < DRAINS:
                drains += 1
                if drain(output.egress):
                    continue
            add(&output.counters.errors[<uint32_t>reason_of(code)], 1)
        message.first = queue.entries[message.first].next
        message.count -= 1
        message.bytes -= one.bytes
    return True


cdef inline uint32_t send_chain(Queue *queue, const Output *output, uint32_t cursor) noexcept nogil:
    """Send from ``cursor`` to the end of its chain. Returns NONE, or the first datagram the socket had no room for."""
    cdef uint32_t count, done, after
    while cursor != NONE:
        count = assemble(queue, output, cursor, &after)
        done = transmit(queue, output, count)
        if done < count:
            return queue.messages[done].first
        cursor = after
    return NONE


cdef inline uint32_t chain_rest(const Queue *queue, uint32_t cursor) noexcept nogil:
    """Datagrams from ``cursor`` to the end of its chain."""
    cdef uint32_t count = 0
    while cursor != NONE:
        count += 1
        cursor = queue.entries[cursor].next
    return count


cdef int queue_build(Queue *queue, Scratch scratch, uint32_t inputs, uint32_t outputs) except -1
cdef void queue_free(Queue *queue) noexcept nogil


cdef class Scratch:
    """The part of a queue whose size is always the same: made once for a worker, borrowed by each of its plans."""

    cdef Queue parts


cdef class RunSwitch:
    """One word that the outputs of a link share: whether their device takes runs."""

    cdef uint32_t runs


cdef class EgressSocket:
    """Owner of one output's socket. Made and closed by the main thread; workers send."""

    cdef int fd
    cdef uint8_t *states        # one Egress a worker, each on a cache line of its own
    cdef readonly uint32_t workers
    cdef RunSwitch switch
    cdef readonly int sndbuf
    cdef readonly int source_port

    cdef Egress *of(self, uint32_t worker) except NULL
    cdef void _shut(self) noexcept
