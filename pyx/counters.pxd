"""Counters of one worker: each struct has one writer, the worker, and any number of readers."""

from libc.stdint cimport uint32_t, uint64_t

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
    uint64_t tx_fragmented      # of tx_packets, those that the MTU had cut
    uint64_t errors[SEND_ERROR_COUNT]   # by SendError

cdef enum: TIME_BUCKETS = 10

cdef struct TimeCounters:
    # Of a flow (times.pxd).
    uint64_t datagrams[TIME_BUCKETS]    # by bucket: TIME_BOUNDS_NS
    uint64_t sum_ns

cdef struct StreamCounters:
    # The health of an input's stream (health.pxd).
    uint64_t last_packet_ns     # Unix time of the newest datagram that was looked at; 0: none yet
    uint64_t silences           # times of more than a second without one, that are over
    uint64_t silence_ns         # in all
    uint64_t unrecognised       # datagrams that are nothing that is looked for

cdef struct RtpCounters:
    # Of rtp.pxd. Not all of them count: ssrc, payload_type, clock_rate (Hz) and jitter_ns are those of the stream now.
    uint64_t packets            # of the SSRCs that were followed, duplicates and late ones too
    uint64_t lost
    uint64_t missing            # not there yet, and not yet lost either
    uint64_t duplicated
    uint64_t reordered          # came after a later one
    uint64_t restarts           # the sender began with another sequence number
    uint64_t ssrc_changes
    uint64_t foreign            # of another SSRC, without a second one
    uint64_t ssrc
    uint64_t payload_type
    uint64_t clock_rate         # 0: not known, so there is no jitter
    uint64_t jitter_ns
    uint64_t jitter_most_ns

cdef struct TransportCounters:
    # Of transport.pxd. bit_rate and pcr_jitter_ns are those of the stream now.
    uint64_t packets
    uint64_t continuity_errors
    uint64_t sync_errors
    uint64_t transport_errors   # packets that the sender of the stream marked as damaged; not looked at further
    uint64_t pcr_gaps           # more than 100 ms from one PCR to the next, unannounced
    uint64_t bit_rate           # bits a second by its own clock; 0: not known
    uint64_t pcr_jitter_ns
    uint64_t pcr_jitter_most_ns


cdef class CounterBlock:
    """Owner of one counter struct, or of one a group of a range, zeroed and alone on its cache lines; freed with the
    last plan that names it."""

    cdef void *memory
    cdef readonly tuple fields
    cdef readonly uint32_t groups
    cdef Py_ssize_t newest      # the field of which the largest counts, and not the sum; -1: none
    cdef uint64_t total(self, Py_ssize_t field) noexcept
