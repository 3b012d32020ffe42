"""Counters of one worker: each struct has one writer, the worker, and any number of readers."""

cimport cython

from .kernel cimport aligned_alloc, free, load_relaxed_u64, memset

VERDICTS = ("relayed", "dropped", "no_match", "not_udp", "vlan", "fragment", "truncated", "malformed", "tunnel")
DROPS = ("source", "policer", "echo")
SEND_ERRORS = ("nobufs", "netdown", "mtu", "noaddr", "noroute", "unreachable", "blocked", "ttl", "parked", "other")

cdef enum: CACHE_LINE = 64

FRAME_WORDS = len(VERDICTS)
INPUT_WORDS = 3 + len(DROPS)            # rx_packets, rx_bytes, last_packet_ns, then the drops
OUTPUT_WORDS = 3 + len(SEND_ERRORS)     # tx_packets, tx_bytes, since_packets, then the errors
assert len(VERDICTS) == VERDICT_COUNT and sizeof(FrameCounters) == 8 * VERDICT_COUNT
assert len(DROPS) == DROP_COUNT and sizeof(InputCounters) == 8 * (3 + DROP_COUNT)
assert len(SEND_ERRORS) == SEND_ERROR_COUNT and sizeof(OutputCounters) == 8 * (3 + SEND_ERROR_COUNT)


@cython.final
cdef class CounterBlock:
    def __cinit__(self, int words):
        """``words`` is FRAME_WORDS, INPUT_WORDS or OUTPUT_WORDS."""
        cdef size_t size = (8 * words + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1)
        self.words = words
        self.memory = aligned_alloc(CACHE_LINE, size)
        if self.memory == NULL:
            raise MemoryError("counters")
        memset(self.memory, 0, size)

    def __dealloc__(self):
        free(self.memory)

    def read(self):
        """The counters as a tuple of ints, each one whole; together they may be a few datagrams apart."""
        return tuple([load_relaxed_u64(<uint64_t *>self.memory + i) for i in range(self.words)])
