"""How long datagrams are in the relay, from their ring time stamp to their last send: a histogram of each flow."""

from libc.stdint cimport uint32_t, uint64_t

from .counters cimport TIME_BUCKETS, TimeCounters
from .kernel cimport add

cdef enum:
    TIMED_SENDS = 64            # sends after which the clock is read again: a reading is late by so many at most


cdef inline uint32_t bucket_of(uint64_t nanoseconds) noexcept nogil:
    """The first bucket whose bound is not below; the last has none. The bounds are TIME_BOUNDS_NS of counters.pyx."""
    cdef uint64_t[9] bounds = [20000, 50000, 100000, 200000, 500000, 1000000, 2000000, 5000000, 20000000]
    cdef uint32_t bucket = 0
    cdef uint32_t i
    for i in range(TIME_BUCKETS - 1):
        bucket += nanoseconds > bounds[i]
    return bucket


cdef inline void note_times(TimeCounters *times, uint64_t since_ns, uint64_t now_ns, uint32_t count) noexcept nogil:
    """So many datagrams have left, of which the first came at ``since_ns``: each counts with the time of that one.
    A clock that steps back makes no time at all. Unix ns."""
    cdef uint64_t spent = now_ns - since_ns if now_ns > since_ns else 0
    add(&times.datagrams[bucket_of(spent)], count)
    add(&times.sum_ns, spent * count)
