"""A token bucket for one input: what a stream that explodes may not exceed (RFC 2697 has the idea)."""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    NANO = 1000000000
    LONGEST_NS = 100000000      # time credited at once: the bucket holds a tenth of a second

cdef struct Policer:
    # One worker's state of one input; it outlives plans.
    uint64_t rate               # a second: datagrams, or bits of payload
    uint64_t depth              # tokens are 1/NANO of a datagram or bit
    uint64_t tokens
    uint64_t last_ns
    bint bits


cdef inline bint conforms(Policer *policer, uint64_t now_ns, uint64_t datagrams, uint64_t payload) noexcept nogil:
    """Whether a frame fits the rate; it then pays for itself. A clock that steps back credits nothing."""
    cdef uint64_t elapsed = now_ns - policer.last_ns if now_ns > policer.last_ns else 0
    cdef uint64_t cost = (payload * 8 if policer.bits else datagrams) * <uint64_t>NANO
    policer.last_ns = now_ns
    policer.tokens += min(elapsed, <uint64_t>LONGEST_NS) * policer.rate
    if policer.tokens > policer.depth:
        policer.tokens = policer.depth
    if policer.tokens < cost:
        return False
    policer.tokens -= cost
    return True


cdef class PolicerState:
    """Owner of a Policer, or of one a group of a range: made by the engine, run by its worker."""

    cdef Policer *policers
    cdef readonly uint32_t groups
