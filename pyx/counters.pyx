"""Counters of one worker: each struct has one writer, the worker, and any number of readers."""

cimport cython

from .kernel cimport aligned_alloc, free, load_relaxed_u64, memset

cdef enum: CACHE_LINE = 64


cdef tuple names_of(dict names, int count):
    """The names in the order of their numbers; a number without a name, or a name twice, is an error at import."""
    if sorted(names) != list(range(count)) or len(set(names.values())) != count:
        raise AssertionError(f"{count} counters are called {names}")
    return tuple([names[number] for number in range(count)])


cdef tuple fields_of(dict counters, tuple reasons, size_t size):
    """The names of a struct's fields as they lie in memory, its array of counters by reason among them."""
    fields = []
    for name, value in counters.items():
        fields += reasons if isinstance(value, list) else (name,)
    if len(set(fields)) * sizeof(uint64_t) != size:
        raise AssertionError(f"{size} bytes of counters are called {fields}")
    return tuple(fields)


VERDICTS = names_of({
    <int>RELAYED: "relayed",
    <int>DROPPED: "dropped",
    <int>NO_MATCH: "no_match",
    <int>NOT_UDP: "not_udp",
    <int>VLAN: "vlan",
    <int>FRAGMENT: "fragment",
    <int>TRUNCATED: "truncated",
    <int>MALFORMED: "malformed",
    <int>TUNNEL: "tunnel",
}, VERDICT_COUNT)

REFUSALS = names_of({
    <int>INCOMPLETE: "incomplete",
    <int>OVERLAP: "overlap",
    <int>REPEATED: "repeated",
    <int>BROKEN: "broken",
    <int>MANY: "many",
    <int>ROOM: "room",
}, REFUSAL_COUNT)

DROPS = names_of({
    <int>DROP_SOURCE: "source",
    <int>DROP_POLICER: "policer",
    <int>DROP_ECHO: "echo",
}, DROP_COUNT)

SEND_ERRORS = names_of({
    <int>SEND_NOBUFS: "nobufs",
    <int>SEND_NETDOWN: "netdown",
    <int>SEND_MTU: "mtu",
    <int>SEND_NOADDR: "noaddr",
    <int>SEND_NOROUTE: "noroute",
    <int>SEND_UNREACHABLE: "unreachable",
    <int>SEND_BLOCKED: "blocked",
    <int>SEND_TTL: "ttl",
    <int>SEND_PARKED: "parked",
    <int>SEND_OTHER: "other",
}, SEND_ERROR_COUNT)

# How long datagrams were in the relay: the largest time of each bucket but the last, which has none (times.pxd).
TIME_BOUNDS_NS = (20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 20_000_000)

# Cython makes a dict of a struct, in the order of its fields: so these are never told twice.
cdef FrameCounters no_frames
cdef FragmentCounters no_fragments
cdef InputCounters no_input
cdef OutputCounters no_output
cdef TimeCounters no_time
cdef StreamCounters no_stream
cdef RtpCounters no_rtp
cdef TransportCounters no_transport
FRAME_FIELDS = fields_of(no_frames, VERDICTS, sizeof(FrameCounters))
FRAGMENT_FIELDS = fields_of(no_fragments, REFUSALS, sizeof(FragmentCounters))
INPUT_FIELDS = fields_of(no_input, DROPS, sizeof(InputCounters))
OUTPUT_FIELDS = fields_of(no_output, SEND_ERRORS, sizeof(OutputCounters))
TIME_FIELDS = fields_of(no_time, (*(f"within_{bound}_ns" for bound in TIME_BOUNDS_NS), "beyond"), sizeof(TimeCounters))
STREAM_FIELDS = fields_of(no_stream, (), sizeof(StreamCounters))
RTP_FIELDS = fields_of(no_rtp, (), sizeof(RtpCounters))
TRANSPORT_FIELDS = fields_of(no_transport, (), sizeof(TransportCounters))


@cython.final
cdef class CounterBlock:
    def __cinit__(self, tuple fields not None, uint32_t groups=1):
        """``fields`` are one of the tuples of this module whose names end in FIELDS, once for each of the groups of a
        range."""
        cdef size_t size = sizeof(uint64_t) * len(fields) * groups
        size = (size + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1)
        self.fields = fields
        self.groups = groups
        self.newest = fields.index("last_packet_ns") if "last_packet_ns" in fields else -1
        self.memory = aligned_alloc(CACHE_LINE, size)
        if self.memory == NULL:
            raise MemoryError("counters")
        memset(self.memory, 0, size)

    def __dealloc__(self):
        free(self.memory)

    cdef uint64_t total(self, Py_ssize_t field) noexcept:
        """Of all groups: the sum, or of a time the newest."""
        cdef Py_ssize_t step = len(self.fields)
        cdef const uint64_t *at = <uint64_t *>self.memory + field
        cdef uint64_t found = 0
        cdef uint64_t one
        for _ in range(self.groups):
            one = load_relaxed_u64(at)
            found = max(found, one) if field == self.newest else found + one
            at += step
        return found

    def read(self):
        """The counters in the order of ``fields``, each one whole; together they may be a few datagrams apart. Of a
        range: of all groups together."""
        return tuple([self.total(i) for i in range(len(self.fields))])

    def read_groups(self):
        """The counters of each group that has counted anything, by its place in the range."""
        cdef Py_ssize_t step = len(self.fields)
        cdef const uint64_t *at = <uint64_t *>self.memory
        cdef Py_ssize_t i
        cdef uint32_t group
        found = {}
        for group in range(self.groups):
            for i in range(step):
                if load_relaxed_u64(at + i):
                    found[group] = tuple([load_relaxed_u64(at + j) for j in range(step)])
                    break
            at += step
        return found
