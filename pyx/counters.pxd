"""Counters of one worker: each struct has one writer, the worker, and any number of readers."""

from libc.stdint cimport uint64_t

# How a frame left the loop: exactly one for each. Its names are in counters.pyx.
cdef enum Verdict:
    RELAYED = 0      # handed to a rule's outputs; also what parse says of a frame that is fit to be
    DROPPED
    NO_MATCH
    NOT_UDP
    VLAN
    FRAGMENT
    TRUNCATED
    MALFORMED
    TUNNEL           # of a tunnel's end that left work on the packets inside to its device: linux/virtio_net.h
    VERDICT_COUNT
    WAITING = VERDICT_COUNT     # none yet: of a fragment, which is counted with its datagram

# Why a fragment is not relayed. Order is that of REFUSALS.
cdef enum Refusal:
    INCOMPLETE = 0   # the others did not come in time
    OVERLAP          # with others of its datagram, or it contradicts them: the datagram is refused
    REPEATED         # it was there already, the same
    BROKEN           # no datagram can have such a part
    MANY             # more parts than a datagram may have
    ROOM             # others began, and there was no more room
    REFUSAL_COUNT

# Why a rule did not pass on a datagram that was its own.
cdef enum Drop:
    DROP_SOURCE = 0
    DROP_POLICER
    DROP_ECHO
    DROP_COUNT

# Why a datagram did not leave by one output.
cdef enum SendError:
    SEND_NOBUFS = 0
    SEND_NETDOWN
    SEND_MTU
    SEND_NOADDR
    SEND_NOROUTE
    SEND_UNREACHABLE
    SEND_BLOCKED
    SEND_TTL
    SEND_PARKED
    SEND_OTHER
    SEND_ERROR_COUNT

cdef struct FrameCounters:
    uint64_t frames[VERDICT_COUNT]  # by Verdict

cdef struct FragmentCounters:
    uint64_t refused[REFUSAL_COUNT]     # frames of the verdict FRAGMENT, by Refusal

cdef struct InputCounters:
    uint64_t rx_packets         # datagrams
    uint64_t rx_bytes           # UDP payload
    uint64_t last_packet_ns     # Unix time of the newest frame, from its ring slot
    uint64_t drops[DROP_COUNT]      # by Drop

cdef struct OutputCounters:
    uint64_t tx_packets
    uint64_t tx_bytes
    uint64_t since_packets      # what its rule's inputs had let through when this output began
    uint64_t errors[SEND_ERROR_COUNT]   # by SendError


cdef class CounterBlock:
    """Owner of one counter struct, zeroed and alone on its cache lines; freed with the last plan that names it."""

    cdef void *memory
    cdef readonly tuple fields
