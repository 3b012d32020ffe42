"""Set-up of the token bucket; the policing itself is in policer.pxd."""

cimport cython

cdef enum:
    LEAST_DATAGRAMS = 128           # a superframe passes at any rate
    LEAST_BITS = 2 * 65536 * 8
    MOST = 90000000000              # a second: twice a tenth of it, in tokens, stays below 2**64


@cython.final
cdef class PolicerState:
    def __cinit__(self, uint64_t rate, bint bits):
        """At most ``rate`` datagrams a second, or bits of payload. Raises ValueError beyond 1..9*10^10."""
        cdef uint64_t least
        if not 1 <= rate <= <uint64_t>MOST:
            raise ValueError(f"a rate of {rate}")
        self.policer.rate = rate
        self.policer.bits = bits
        least = <uint64_t>(LEAST_BITS if bits else LEAST_DATAGRAMS) * NANO
        self.policer.depth = max(rate * <uint64_t>LONGEST_NS, least)
        self.policer.tokens = self.policer.depth
        self.policer.last_ns = 0
