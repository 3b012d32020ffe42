"""Send a chain by an output: UDP_SEGMENT runs where they form, one sendmmsg for all, a refused run singly.

Every send is MSG_DONTWAIT. A full socket buffer is back-pressure: the other outputs go first, then the blocked
ones are waited for, a little (flush in worker.pyx). Each datagram of a chain ends, for each output, either accepted by
the kernel or under one error: that is what makes the sums of rules and outputs hold.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .counters cimport SEND_MTU, SEND_TTL, SEND_UNREACHABLE
from .egress cimport Egress, Output, can_be_asynchronous, drain, measure, reason_of, refresh
from .kernel cimport (
    EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, MSG_DONTWAIT, add, errno, iovec, load_relaxed_u32, mmsghdr, sendmmsg,
    store_relaxed_u32,
)
from .queue cimport (
    MESSAGES, NONE, VECTORS, Chain, Entry, Message, Queue, chain_rest, control_bytes, is_over, set_control,
)
from .wire cimport PAYLOAD_MAX

cdef enum:
    RUN_MAX = 64                # datagrams of one run: UDP_MAX_SEGMENTS of older kernels
    DRAINS = 8                  # asynchronous errors taken in before one flush gives an output up


cdef inline uint32_t assemble(Queue *queue, const Output *output, uint32_t cursor, uint32_t *taken) noexcept nogil:
    """Fill messages from the chain at ``cursor``: as many as fit. Returns how many; ``taken`` is where to go on.

    A run has equal sizes (the last may be shorter, none is empty), one DSCP and one TTL where these are kept, at most
    ``burst`` datagrams and PAYLOAD_MAX bytes, each within the MTU: what UDP_SEGMENT takes (udp_send_skb in
    linux/net/ipv4/udp.c).
    """
    cdef uint32_t longest = output.burst if load_relaxed_u32(output.egress.runs) else 1
    cdef uint32_t count = 0
    cdef uint32_t vector = 0
    cdef Entry *entry
    cdef Message *message
    cdef const uint8_t *end
    cdef uint16_t size
    cdef uint8_t tos, ttl
    while cursor != NONE and count < MESSAGES and vector + RUN_MAX <= VECTORS:
        entry = &queue.entries[cursor]
        if is_over(output, entry.ttl):
            cursor = entry.next
            continue
        message = &queue.messages[count]
        message.first = cursor
        message.count = 1
        message.bytes = size = entry.size
        tos = entry.tos
        ttl = entry.ttl
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
                if output.keep_ttl and entry.ttl != ttl:
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
        count += 1
    taken[0] = cursor
    return count


cdef inline void accept(const Output *output, const Entry *entries, const Message *message) noexcept nogil:
    """The kernel took a message. What an asynchronous error said of earlier datagrams is charged here.

    An ICMP or ARP failure reports a datagram that was counted as sent long ago. Counters never go back, so the next
    datagrams of the same output stand for it: they leave, and count as unreachable, or as too large for the path.
    """
    cdef Egress *egress = output.egress
    cdef uint32_t count = message.count
    cdef uint32_t bytes = message.bytes
    cdef uint32_t entry = message.first
    egress.stalled = False
    while (egress.owed or egress.owed_mtu) and count:
        if egress.owed_mtu:
            egress.owed_mtu -= 1
            add(&output.counters.errors[<uint32_t>SEND_MTU], 1)
        else:
            egress.owed -= 1
            add(&output.counters.errors[<uint32_t>SEND_UNREACHABLE], 1)
        count -= 1
        bytes -= entries[entry].size
        entry = entries[entry].next
    add(&output.counters.tx_packets, count)
    add(&output.counters.tx_bytes, bytes)


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
    set_control(
        &single.msg_hdr, queue.controls + index * control_bytes(), output, &queue.entries[message.first], 1,
    )
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
    refresh(output.egress)
    while cursor != NONE:
        count = assemble(queue, output, cursor, &after)
        done = transmit(queue, output, count)
        if done < count:
            return queue.messages[done].first
        cursor = after
    return NONE


cdef inline uint32_t begin_chain(Queue *queue, const Output *output, const Chain *chain) noexcept nogil:
    """Send all of a chain, as `send_chain` does. What has no TTL left for this output is counted here, once."""
    if is_over(output, chain.least_ttl):
        add(&output.counters.errors[<uint32_t>SEND_TTL], chain.count - chain_rest(queue, output, chain.head))
    return send_chain(queue, output, chain.head)
