"""A chain is sent by an output: as runs of datagrams (runs.pxd), or as tagged frames (tagged.pxd).

Every send is MSG_DONTWAIT. A full socket buffer is back-pressure: the other outputs go first, then the blocked
ones are waited for, a little (flush in worker.pyx). Each datagram of a chain ends, for each output, either accepted by
the kernel or under one error: that is what makes the sums of rules and outputs hold.
"""

from libc.stdint cimport uint32_t

from .counters cimport SEND_TTL
from .egress cimport Output, refresh
from .kernel cimport CLOCK_MONOTONIC, add, now_ns
from .queue cimport NONE, Chain, Queue, chain_rest, is_over
from .runs cimport assemble, charge, transmit
from .tagged cimport assemble_frames, transmit_frames


cdef inline uint32_t send_chain(Queue *queue, const Output *output, uint32_t cursor) noexcept nogil:
    """Send from ``cursor`` to the end of its chain. Returns NONE, or the first datagram the socket had no room for."""
    cdef uint32_t count, done, after
    refresh(output.egress)
    if output.kept != NULL:
        queue.now_ns = now_ns(CLOCK_MONOTONIC)
    while cursor != NONE:
        if output.vlan:
            count = assemble_frames(queue, output, cursor, &after)
            done = transmit_frames(queue, output, count)
        else:
            count = assemble(queue, output, cursor, &after)
            done = transmit(queue, output, count)
        if done < count:
            return queue.messages[done].first
        cursor = after
    return NONE


cdef inline uint32_t begin_chain(Queue *queue, const Output *output, const Chain *chain) noexcept nogil:
    """Send all of a chain, as `send_chain` does. What has no TTL left for this output is counted here, once."""
    if is_over(output, chain.least_ttl):
        if output.addressed:
            charge(queue, output, chain.head, SEND_TTL)
        else:
            add(&output.counters.errors[<uint32_t>SEND_TTL], chain.count - chain_rest(queue, output, chain.head))
    return send_chain(queue, output, chain.head)
