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

# Cython makes a dict of a struct, in the order of its fields: so these are never told twice.
cdef FrameCounters no_frames
cdef FragmentCounters no_fragments
cdef InputCounters no_input
cdef OutputCounters no_output
FRAME_FIELDS = fields_of(no_frames, VERDICTS, sizeof(FrameCounters))
FRAGMENT_FIELDS = fields_of(no_fragments, REFUSALS, sizeof(FragmentCounters))
INPUT_FIELDS = fields_of(no_input, DROPS, sizeof(InputCounters))
OUTPUT_FIELDS = fields_of(no_output, SEND_ERRORS, sizeof(OutputCounters))


@cython.final
cdef class CounterBlock:
    def __cinit__(self, tuple fields not None):
        """``fields`` are FRAME_FIELDS, FRAGMENT_FIELDS, INPUT_FIELDS or OUTPUT_FIELDS."""
        cdef size_t size = (sizeof(uint64_t) * len(fields) + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1)
        self.fields = fields
        self.memory = aligned_alloc(CACHE_LINE, size)
        if self.memory == NULL:
            raise MemoryError("counters")
        memset(self.memory, 0, size)

    def __dealloc__(self):
        free(self.memory)

    def read(self):
        """The counters in the order of ``fields``, each one whole; together they may be a few datagrams apart."""
        return tuple([load_relaxed_u64(<uint64_t *>self.memory + i) for i in range(len(self.fields))])
