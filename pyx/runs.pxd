"""Send a chain by a socket of UDP: UDP_SEGMENT runs where they form, one sendmmsg for all, a refused run singly."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address
from .counters cimport SEND_MTU, SEND_PARKED, SEND_TTL, SEND_UNREACHABLE, OutputCounters, SendError
from .egress cimport Egress, Output, can_be_asynchronous, drain, goal_of, measure, reason_for
from .kept cimport mark_of, note_sent
from .kernel cimport (
    EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, MSG_DONTWAIT, add, errno, iovec, load_relaxed_u32, mmsghdr, msghdr, sendmmsg,
    store_relaxed_u32, write_be16,
)
from .port_sockets cimport way_of
from .queue cimport (
    HEAD_BYTES, MESSAGES, NONE, VECTORS, Entry, Message, Place, Queue, control_bytes, ends_differ, is_over,
    set_control, set_source,
)
from .sockaddr cimport put_end
from .wire cimport PAYLOAD_MAX, UDP, UDP_BYTES, ends_sum, fold, ones_sum

cdef enum:
    RUN_MAX = 64                # datagrams of one run: UDP_MAX_SEGMENTS of older kernels
    DRAINS = 8                  # asynchronous errors taken in before one flush gives an output up


cdef inline OutputCounters *counters_of(const Queue *queue, const Output *output, uint32_t entry) noexcept nogil:
    """Where a datagram is counted: an output of a range has counters for each group."""
    return &output.counters[queue.places[entry].group] if output.addressed else output.counters


cdef inline void charge(const Queue *queue, const Output *output, uint32_t cursor, SendError reason) noexcept nogil:
    """Count what an addressed output does not send, from ``cursor`` to the end of the chain, each in its group.

    For SEND_PARKED that is all, for SEND_TTL what has none left, for others what has.
    """
    while cursor != NONE:
        if reason == SEND_PARKED or is_over(output, queue.entries[cursor].ttl) == (reason == SEND_TTL):
            add(&counters_of(queue, output, cursor).errors[<uint32_t>reason], 1)
        cursor = queue.entries[cursor].next


cdef inline bint same_place(const Queue *queue, uint32_t a, uint32_t b) noexcept nogil:
    """Whether two datagrams of a flow are of one stream."""
    return queue.places[a].group == queue.places[b].group and queue.places[a].port == queue.places[b].port


cdef inline void address(Queue *queue, const Output *output, uint32_t index) noexcept nogil:
    """Say where a message goes, unless the socket is connected to that."""
    cdef msghdr *header = &queue.headers[index].msg_hdr
    cdef const Place *place
    cdef Address group
    header.msg_name = NULL
    header.msg_namelen = 0
    if output.addressed:
        place = &queue.places[queue.messages[index].first]
        group = output.group
        group.low += place.group
        header.msg_name = &queue.names[index]
        header.msg_namelen = put_end(
            &queue.names[index], &group, goal_of(output, <uint16_t>place.port), output.ifindex
        )


cdef inline uint32_t assemble(Queue *queue, const Output *output, uint32_t cursor, uint32_t *taken) noexcept nogil:
    """Fill messages from the chain at ``cursor``: as many as fit. Returns how many; ``taken`` is where to go on.

    A run has one destination, equal sizes (the last may be shorter, none is empty), one DSCP, one TTL and one source
    where these are kept, at most ``burst`` datagrams and PAYLOAD_MAX bytes, each within the MTU: what UDP_SEGMENT
    takes (udp_send_skb in linux/net/ipv4/udp.c). Where ports are kept, they end before the first datagram that another
    socket has to send.
    """
    cdef uint32_t longest = output.burst if load_relaxed_u32(output.egress.runs) else 1
    cdef uint32_t count = 0
    cdef uint32_t vector = 0
    cdef Entry *entry
    cdef Message *message
    cdef const uint8_t *end
    cdef uint16_t size
    cdef uint8_t tos, ttl
    cdef bint raw = False
    cdef int fd
    while cursor != NONE and count < MESSAGES and vector + RUN_MAX <= VECTORS:
        entry = &queue.entries[cursor]
        if is_over(output, entry.ttl):
            cursor = entry.next
            continue
        if output.keep_port:
            fd = way_of(output.egress.ports, queue.ends[cursor].port, begins_run(queue, output, cursor), queue.now_ns)
            if count and fd != output.egress.fd:
                break
            output.egress.fd = fd
            raw = fd == output.egress.ports.raw
        message = &queue.messages[count]
        message.first = cursor
        message.count = 1
        message.bytes = size = entry.size
        tos = entry.tos
        ttl = entry.ttl
        address(queue, output, count)
        queue.headers[count].msg_hdr.msg_iov = &queue.vectors[vector]
        if raw:
            write_head(queue, output, cursor, queue.heads + count * HEAD_BYTES)
            queue.vectors[vector].iov_base = queue.heads + count * HEAD_BYTES
            queue.vectors[vector].iov_len = UDP_BYTES
            vector += 1
        queue.vectors[vector].iov_base = <void *>entry.payload
        queue.vectors[vector].iov_len = size
        end = entry.payload + size
        cursor = entry.next
        if 0 < size <= output.egress.segment_max and not raw:
            while message.count < longest and cursor != NONE:
                entry = &queue.entries[cursor]
                if entry.size == 0 or entry.size > size or message.bytes + entry.size > PAYLOAD_MAX:
                    break
                if output.keep_dscp and entry.tos != tos:
                    break
                if output.keep_ttl and entry.ttl != ttl:
                    break
                if output.kept != NULL and ends_differ(queue, output, message.first, cursor):
                    break
                if output.addressed and not same_place(queue, message.first, cursor):
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
        set_control(
            &queue.headers[count].msg_hdr, queue.controls + count * control_bytes(), output,
            &queue.entries[message.first], message.count,
        )
        if output.kept != NULL:
            keep_ends(queue, output, count)
        count += 1
    taken[0] = cursor
    return count


cdef inline bint begins_run(const Queue *queue, const Output *output, uint32_t cursor) noexcept nogil:
    """Whether the next datagram may join this one in a run."""
    cdef const Entry *entry = &queue.entries[cursor]
    cdef uint32_t after = entry.next
    return (
        after != NONE and output.burst > 1 and load_relaxed_u32(output.egress.runs)
        and 0 < queue.entries[after].size <= entry.size <= output.egress.segment_max
        and not ends_differ(queue, output, cursor, after)
    )


cdef inline const Address *source_of(const Queue *queue, const Output *output, uint32_t entry) noexcept nogil:
    if output.keep_address:
        return &queue.ends[entry].source
    return &output.source


cdef inline uint16_t port_from(const Queue *queue, const Output *output, uint32_t entry) noexcept nogil:
    return queue.ends[entry].port if output.keep_port else output.source_port


cdef inline void remember(
    const Queue *queue, const Output *output, const Address *source, uint16_t port
) noexcept nogil:
    """Note what is sent with an end that is kept."""
    note_sent(output.kept, mark_of(output.mac, source, &output.address, port, output.port), queue.now_ns)


cdef inline void put_udp(
    uint8_t *udp, const Address *source, const Address *group, uint16_t source_port, uint16_t port,
    const uint8_t *payload, uint16_t size,
) noexcept nogil:
    """A UDP header with the checksum of its datagram (RFC 768): a sum of 0 is written as all ones."""
    cdef uint32_t length = <uint32_t>size + UDP_BYTES
    cdef uint16_t total
    write_be16(udp, source_port)
    write_be16(udp + 2, port)
    write_be16(udp + 4, <uint16_t>length)
    total = <uint16_t>~fold(
        <uint64_t>ones_sum(payload, size) + ends_sum(source, group) + UDP + 2 * length + source_port + port
    )
    write_be16(udp + 6, total if total else 0xffff)


cdef inline void write_head(Queue *queue, const Output *output, uint32_t entry, uint8_t *head) noexcept nogil:
    """The UDP header that a raw socket has to be given (raw(7))."""
    put_udp(
        head, source_of(queue, output, entry), &output.address, queue.ends[entry].port, output.port,
        queue.entries[entry].payload, queue.entries[entry].size,
    )


cdef inline void keep_ends(Queue *queue, const Output *output, uint32_t index) noexcept nogil:
    """Have a message sent from where its datagrams came from, and remember that it was."""
    cdef uint32_t first = queue.messages[index].first
    cdef const Address *source = source_of(queue, output, first)
    if output.keep_address:
        set_source(&queue.headers[index].msg_hdr, queue.controls + index * control_bytes(), source)
    remember(queue, output, source, port_from(queue, output, first))


cdef inline void accept(const Queue *queue, const Output *output, const Message *message) noexcept nogil:
    """The kernel took a message. What an asynchronous error said of earlier datagrams is charged here.

    An ICMP or ARP failure reports a datagram that was counted as sent long ago. Counters never go back, so the next
    datagrams of the same output stand for it: they leave, and count as unreachable, or as too large for the path.
    """
    cdef Egress *egress = output.egress
    cdef OutputCounters *counters = counters_of(queue, output, message.first)
    cdef uint32_t count = message.count
    cdef uint32_t bytes = message.bytes
    cdef uint32_t entry = message.first
    egress.stalled = False
    while (egress.owed or egress.owed_mtu) and count:
        if egress.owed_mtu:
            egress.owed_mtu -= 1
            add(&counters.errors[<uint32_t>SEND_MTU], 1)
        else:
            egress.owed -= 1
            add(&counters.errors[<uint32_t>SEND_UNREACHABLE], 1)
        count -= 1
        bytes -= queue.entries[entry].size
        entry = queue.entries[entry].next
    add(&counters.tx_packets, count)
    add(&counters.tx_bytes, bytes)
    # A run of several is no larger than as many datagrams that fit; with df the kernel takes nothing that is cut.
    if bytes > egress.segment_max and count == 1 and not output.df:
        add(&counters.tx_fragmented, 1)


cdef inline int hand_over(Queue *queue, const Output *output, uint32_t *done, uint32_t count) noexcept nogil:
    """Send the messages from ``done`` on; 0 if all have left, else why the next one has not (errno)."""
    cdef int sent, i
    while done[0] < count:
        sent = sendmmsg(output.egress.fd, &queue.headers[done[0]], count - done[0], MSG_DONTWAIT)
        if sent > 0:
            for i in range(sent):
                accept(queue, output, &queue.messages[done[0] + <uint32_t>i])
            done[0] += <uint32_t>sent
        elif errno != EINTR:
            return errno
    return 0


cdef inline uint32_t transmit(Queue *queue, const Output *output, uint32_t count) noexcept nogil:
    """Send the assembled messages in order; returns how many are done with, fewer than ``count`` on back-pressure."""
    cdef Egress *egress = output.egress
    cdef uint32_t done = 0
    cdef uint32_t drains = 0
    cdef int code
    cdef Message *message
    while True:
        code = hand_over(queue, output, &done, count)
        if code == 0 or code == EAGAIN:
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
            add(&counters_of(queue, output, message.first).errors[<uint32_t>reason_for(output, code)], message.count)
        done += 1


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
    set_control(
        &single.msg_hdr, queue.controls + index * control_bytes(), output, &queue.entries[message.first], 1,
    )
    if output.keep_address:
        set_source(&single.msg_hdr, queue.controls + index * control_bytes(), &queue.ends[message.first].source)
    while message.count:
        one.first = message.first
        one.count = 1
        one.bytes = queue.entries[one.first].size
        vector.iov_base = <void *>queue.entries[one.first].payload
        vector.iov_len = one.bytes
        if sendmmsg(output.egress.fd, &single, 1, MSG_DONTWAIT) == 1:
            accept(queue, output, &one)
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
            add(&counters_of(queue, output, message.first).errors[<uint32_t>reason_for(output, code)], 1)
        message.first = queue.entries[message.first].next
        message.count -= 1
        message.bytes -= one.bytes
    return True
