"""Set-up of what looks at a stream, and its counters for whoever reads them; the looking itself is in health.pxd."""

cimport cython

from . import counters as names
from .counters cimport RtpCounters, TransportCounters
from .kernel cimport calloc, free, load_acquire_u64


@cython.final
cdef class HealthState:
    def __cinit__(self, *, bint rtp, bint transport):
        """Look for RTP, for MPEG transport streams (plain or in RTP), or for both. Raises MemoryError.

        ``stream``, ``rtp`` and ``transport`` are the counters; those of what is not looked for are None.
        """
        self.stream = CounterBlock(names.STREAM_FIELDS)
        self.health.counters = <StreamCounters *>self.stream.memory
        if rtp:
            self.rtp = CounterBlock(names.RTP_FIELDS)
            self.health.rtp = <Rtp *>calloc(1, sizeof(Rtp))
            if self.health.rtp == NULL:
                raise MemoryError("the health of a stream")
            self.health.rtp.counters = <RtpCounters *>self.rtp.memory
        if transport:
            self.transport = CounterBlock(names.TRANSPORT_FIELDS)
            self.health.transport = <Transport *>calloc(1, sizeof(Transport))
            if self.health.transport == NULL:
                raise MemoryError("the health of a stream")
            self.health.transport.counters = <TransportCounters *>self.transport.memory

    def __dealloc__(self):
        free(self.health.rtp)
        free(self.health.transport)

    def continuity_errors(self):
        """Continuity errors by PID: of the first 32 PIDs that had any. Any thread may ask."""
        cdef Transport *transport = self.health.transport
        cdef uint64_t i
        if transport == NULL:
            return {}
        return {
            transport.faults[i].pid: load_relaxed_u64(&transport.faults[i].errors)
            for i in range(load_acquire_u64(&transport.fault_count))
        }
