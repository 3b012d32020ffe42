"""The table that finds a datagram's input: open addressing, immutable once built, at most half full.

Addresses are 16 bytes from the start: IPv4 stands in them as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef enum:
    MISS = 0xffffffff

cdef struct Address:
    uint64_t high, low          # host byte order

cdef struct Key:
    Address group
    Address source              # all zero: any source
    uint16_t port
    uint16_t vlan               # 0: untagged

cdef struct Slot:
    uint32_t hash
    uint32_t input              # MISS: the slot is free

cdef struct Table:
    Slot *slots                 # eight to a cache line: a miss is over with the first of them
    Key *keys                   # by input
    uint32_t mask               # slots - 1, a power of two less one
    uint32_t shift              # takes from a hash as many of its highest bits
    bint sources                # some key names a source


cdef inline Address mapped(uint32_t ipv4) noexcept nogil:
    cdef Address address
    address.high = 0
    address.low = <uint64_t>0xffff << 32 | ipv4
    return address


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
    cdef uint32_t wanted = hash_of(key)
    cdef uint32_t at = wanted >> table.shift
    while table.slots[at].input != MISS:
        if table.slots[at].hash == wanted and same(&table.keys[table.slots[at].input], key):
            return table.slots[at].input
        at = (at + 1) & table.mask
    return MISS


cdef inline uint32_t find(const Table *table, Key *key) noexcept nogil:
    """The input whose key fits best, a named source before none, or MISS. ``key.source`` is cleared on the way."""
    cdef uint32_t input
    if table.sources:
        input = probe(table, key)
        if input != MISS:
            return input
    key.source.high = 0
    key.source.low = 0
    return probe(table, key)


cdef int table_build(Table *table, uint32_t keys, uint32_t inputs) except -1
cdef int table_insert(Table *table, const Key *key, uint32_t input) except -1
cdef void table_free(Table *table) noexcept nogil
