"""What the loop reads: rings, tables, inputs and outputs of one generation. A published plan never changes."""

from libc.stdint cimport uint32_t, uint64_t

from .address cimport Address
from .counters cimport InputCounters, OutputCounters, TimeCounters
from .demux cimport Key, Table
from .echo cimport OwnSet, Sent
from .egress cimport Output, PortSpan
from .health cimport Health
from .kept cimport Kept
from .kernel cimport pollfd
from .policer cimport Policer
from .queue cimport Queue, Scratch
from .ring cimport Ring

cdef struct Prefix:
    Address network, mask

cdef struct Flow:
    # What goes to the same outputs, in order of arrival, from however many inputs: a rule's. Its chain is in the queue.
    uint32_t first_output, output_count
    uint32_t first_chain
    uint32_t lane_mask          # an addressed flow has several chains, so that runs of its streams form side by side
    bint addressed              # of many streams: each datagram is queued with its place among them
    TimeCounters *times         # how long its datagrams are here; NULL: nobody asks
    bint keeps_ends             # some output keeps the source address or port

cdef struct Input:
    InputCounters *counters     # one a group
    uint32_t flow
    uint64_t group              # the lower half of the first address of its range
    uint32_t first_watch        # one a group, in the queue
    uint32_t first_prefix, prefix_count     # of the sources let in; no prefix: all of them
    Policer *policer            # one a group; NULL: no limit
    Health *health              # NULL: its stream is not looked at
    bint bypassed               # the kernel engine takes what it can: the loop sees the rest

cdef struct Capture:
    Ring *ring
    Table table
    bint loopback               # its frames are all ours: none of them is an echo

cdef struct Beginning:
    # An output that is new with this plan, and one input of its rule, which may have counted before: since_packets.
    OutputCounters *output
    const InputCounters *input
    uint32_t groups             # of the input
    bint by_group               # the output has as many

cdef struct Plan:
    uint64_t generation
    Capture *captures
    uint32_t capture_count
    Input *inputs
    uint32_t input_count
    Flow *flows
    uint32_t flow_count
    uint32_t chain_count
    uint32_t watch_count
    bint lanes                  # some flow has more than one chain
    Output *outputs
    uint32_t output_count
    Prefix *prefixes
    uint32_t prefix_count
    PortSpan *spans
    uint32_t span_count
    Beginning *beginnings
    uint32_t beginning_count
    OwnSet own                  # what our outputs send with; where an end is kept, with no source and source port
    const Kept **kept           # what each worker has sent with an end kept; none where no output does that
    uint32_t kept_count
    pollfd *polls               # one a capture, then the worker's wake-up; revents are the worker's
    bint spins                  # some ring is for low latency: look again before sleeping
    Queue *queue                # the worker's own scratch, sized for this plan


cdef struct Keyed:
    # What the tables are made of when the plan is sealed: for each span of ports of an input. The key is its first.
    Key key
    uint32_t capture
    uint32_t groups, ports


cdef struct SentRange:
    # What an output sends with: the first of so many groups.
    Sent first
    uint32_t groups


cdef class PlanOwner:
    """Keeps a plan and everything it points to alive until the engine lets go of it."""

    cdef Plan plan
    cdef Queue queue
    cdef Keyed *keyed
    cdef uint32_t keyed_count
    cdef SentRange *sent        # what becomes plan.own
    cdef uint32_t sent_count
    cdef Scratch scratch
    cdef uint32_t worker
    cdef list owned
    cdef list labels            # of the inputs
    cdef bint closed            # nothing is added any more: it is sealed, or could not be
    cdef readonly bint sealed
    cdef object __weakref__

    cdef int _building(self) except -1
    cdef int _lay_out(self) except -1
    cdef int _lay_tables(self) except -1
    cdef int _lay_own(self) except -1
