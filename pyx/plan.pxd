"""What the loop reads: rings, tables, inputs and outputs of one generation. A published plan never changes."""

from libc.stdint cimport uint32_t, uint64_t

from .counters cimport InputCounters, OutputCounters
from .demux cimport Key, Table
from .echo cimport OwnSet, Sent
from .egress cimport Output
from .kernel cimport pollfd
from .policer cimport Policer
from .queue cimport Queue, Scratch
from .ring cimport Ring

cdef struct Prefix:
    uint32_t network, mask      # host byte order

cdef struct Flow:
    # What goes to the same outputs, in order of arrival, from however many inputs: a rule's. Its chain is in the queue.
    uint32_t first_output, output_count

cdef struct Input:
    InputCounters *counters
    uint32_t flow
    uint32_t first_prefix, prefix_count     # of the sources let in; no prefix: all of them
    Policer *policer            # NULL: no limit
    bint bypassed               # the kernel engine takes what it can: the loop sees the rest

cdef struct Capture:
    Ring *ring
    Table table
    bint loopback               # its frames are all ours: none of them is an echo

cdef struct Beginning:
    # An output that is new with this plan, and one input of its rule, which may have counted before: since_packets.
    OutputCounters *output
    const InputCounters *input

cdef struct Plan:
    uint64_t generation
    Capture *captures
    uint32_t capture_count
    Input *inputs
    uint32_t input_count
    Flow *flows
    uint32_t flow_count
    Output *outputs
    uint32_t output_count
    Prefix *prefixes
    uint32_t prefix_count
    Beginning *beginnings
    uint32_t beginning_count
    OwnSet own                  # what our outputs send with
    pollfd *polls               # one a capture, then the worker's wake-up; revents are the worker's
    bint spins                  # some ring is for low latency: look again before sleeping
    Queue *queue                # the worker's own scratch, sized for this plan


cdef struct Keyed:
    # What the tables are made of when the plan is sealed: one an input.
    Key key
    uint32_t capture


cdef class PlanOwner:
    """Keeps a plan and everything it points to alive until the engine lets go of it."""

    cdef Plan plan
    cdef Queue queue
    cdef Keyed *keyed
    cdef Sent *sent             # what becomes plan.own
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
