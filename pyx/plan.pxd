"""What the loop reads: rings, tables, inputs and outputs of one generation. A published plan never changes."""

from libc.stdint cimport uint32_t, uint64_t

from .counters cimport InputCounters, OutputCounters
from .demux cimport Table
from .echo cimport OwnSet
from .egress cimport Output
from .kernel cimport pollfd
from .policer cimport Policer
from .queue cimport Queue
from .ring cimport Ring

cdef struct Prefix:
    uint32_t network, mask      # host byte order

cdef struct Input:
    InputCounters *counters
    uint32_t first_output, output_count
    uint32_t first_prefix, prefix_count     # of the sources let in; no prefix: all of them
    Policer *policer            # NULL: no limit

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
    Output *outputs
    uint32_t output_count
    Prefix *prefixes
    Beginning *beginnings
    uint32_t beginning_count
    OwnSet own                  # what our outputs send with
    pollfd *polls               # one a capture, then the worker's wake-up; revents are the worker's
    bint spins                  # some ring is for low latency: look again before sleeping
    Queue *queue                # the worker's own scratch, sized for this plan


cdef class PlanOwner:
    """Keeps a plan and everything it points to alive until the engine lets go of it."""

    cdef Plan plan
    cdef Queue queue
    cdef uint32_t worker
    cdef tuple owned
