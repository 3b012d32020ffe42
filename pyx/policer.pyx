"""Set-up of the token bucket; the policing itself is in policer.pxd."""

cimport cython

from .kernel cimport calloc, free

cdef enum:
    LEAST_DATAGRAMS = 128           # a superframe passes at any rate
    LEAST_BITS = 2 * 65536 * 8
    MOST = 90000000000              # a second: twice a tenth of it, in tokens, stays below 2**64


@cython.final
cdef class PolicerState:
    def __cinit__(self, uint64_t rate, bint bits, uint32_t groups=1):
        """At most ``rate`` datagrams a second, or bits of payload, for each of the ``groups`` of a range.

        Raises ValueError beyond 1..9*10^10.
        """
        cdef uint64_t least
        cdef uint32_t i
        if not 1 <= rate <= <uint64_t>MOST:
            raise ValueError(f"a rate of {rate}")
        self.groups = groups
        self.policers = <Policer *>calloc(groups, sizeof(Policer))
        if self.policers == NULL:
            raise MemoryError("a limit")
        least = <uint64_t>(LEAST_BITS if bits else LEAST_DATAGRAMS) * NANO
        for i in range(groups):
            self.policers[i].rate = rate
            self.policers[i].bits = bits
            self.policers[i].depth = max(rate * <uint64_t>LONGEST_NS, least)
            self.policers[i].tokens = self.policers[i].depth

    def __dealloc__(self):
        free(self.policers)
