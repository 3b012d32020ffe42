"""The table that finds a datagram's input: open addressing, immutable once built, at most half full.

Both families are in one table: addresses have 16 bytes.

An input has a key for each group and port that it names; one that names port any has port 0 in them, and is looked for
after all that name the port. Of two inputs that would have the same key, one by its range, the more exact one has it:
that is settled when the table is built.

A key has a shape: whether it names a source, a port, a VLAN. A look-up probes for the shapes alone that keys of its
group have, best first; so it is nearly always over with the first one, however many shapes the table has.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address
from .kernel cimport log2_u64

cdef enum:
    MISS = 0xffffffff
    ANY_VLAN = 0x1000           # of a key: tagged or not; no VLAN id is as large
    ANY_PORT = 0
    NAMES_SOURCE = 4            # a shape: of two, the larger number goes first
    NAMES_PORT = 2
    NAMES_VLAN = 1

cdef struct Key:
    Address group
    Address source              # all zero: any source
    uint16_t port               # ANY_PORT: any
    uint16_t vlan               # 0: untagged; ANY_VLAN
    uint32_t input              # whose it is; no part of what is compared

cdef struct Slot:
    uint32_t hash
    uint32_t key                # MISS: the slot is free

cdef struct Table:
    Slot *slots                 # eight to a cache line: a miss is over with the first of them
    Key *keys
    uint32_t key_count
    uint32_t mask               # slots - 1, a power of two less one
    uint32_t shift              # takes from a hash as many of its highest bits
    uint8_t *shapes             # a bit for each shape that keys of a group have, and of those that share its place
    uint8_t shape               # the same of all keys


cdef inline bint same(const Key *a, const Key *b) noexcept nogil:
    """Without a branch between: nearly always they are."""
    return not (
        (a.group.low ^ b.group.low) | (a.group.high ^ b.group.high)
        | (a.source.low ^ b.source.low) | (a.source.high ^ b.source.high)
        | <uint64_t>(a.port ^ b.port) | <uint64_t>(a.vlan ^ b.vlan)
    )


cdef inline uint32_t hash_of(const Key *key) noexcept nogil:
    """Multiplications side by side (the golden ratio's and xxHash64's second prime). The highest bits are the best."""
    cdef uint64_t what = key.group.low ^ key.group.high ^ <uint64_t>key.port << 32 ^ <uint64_t>key.vlan << 48
    return <uint32_t>((what * 0x9e3779b97f4a7c15ULL ^ (key.source.low ^ key.source.high) * 0xc2b2ae3d27d4eb4fULL) >> 32)


cdef inline uint32_t probe(const Table *table, const Key *key) noexcept nogil:
    """The input that has exactly this key, or MISS."""
    cdef uint32_t wanted = hash_of(key)
    cdef uint32_t at = wanted >> table.shift
    cdef const Key *there
    while table.slots[at].key != MISS:
        there = &table.keys[table.slots[at].key]
        if table.slots[at].hash == wanted and same(there, key):
            return there.input
        at = (at + 1) & table.mask
    return MISS


cdef inline uint32_t shapes_at(const Table *table, const Address *group) noexcept nogil:
    """Where the shapes of a group's keys are: the first one's hash is of no use, it is another for each shape."""
    return <uint32_t>((group.low ^ group.high) * 0x9e3779b97f4a7c15ULL >> 32) >> table.shift


cdef inline uint32_t find(const Table *table, Key *key) noexcept nogil:
    """The input whose key fits best, or MISS: a named source before none, then a port before any, then a VLAN before
    any. ``key`` is spoilt on the way.
    """
    cdef Key whole
    cdef uint32_t shapes, input, shape
    cdef uint64_t source
    if table.shape == 1 << (NAMES_PORT | NAMES_VLAN):       # what most tables are: a third less to do
        key.source.high = 0
        key.source.low = 0
        return probe(table, key)
    whole = key[0]
    shapes = table.shapes[shapes_at(table, &key.group)]
    while shapes:
        shape = log2_u64(shapes)
        shapes ^= <uint32_t>1 << shape
        # Without a branch: which shape it is, the next datagram's group says anew.
        source = ~<uint64_t>0 if shape & NAMES_SOURCE else 0
        key.source.low = whole.source.low & source
        key.source.high = whole.source.high & source
        key.port = whole.port if shape & NAMES_PORT else <uint16_t>ANY_PORT
        key.vlan = whole.vlan if shape & NAMES_VLAN else <uint16_t>ANY_VLAN
        input = probe(table, key)
        if input != MISS:
            return input
    return MISS


cdef int table_build(Table *table, uint32_t keys) except -1
cdef int table_insert(Table *table, const Key *key, uint32_t input) except -1
cdef bint table_fill(Table *table, const Key *key, uint32_t input) noexcept
cdef void table_free(Table *table) noexcept nogil
