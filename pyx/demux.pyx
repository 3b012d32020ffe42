"""Set-up of the table; the look-up itself is in demux.pxd."""

from .kernel cimport aligned_alloc, calloc, free


cdef int table_build(Table *table, uint32_t keys, uint32_t inputs) except -1:
    """Make an empty table with room for ``keys`` keys at half load, of inputs numbered below ``inputs``."""
    cdef uint32_t size = 8
    cdef uint32_t i
    table.shift = 32 - 3
    while size < 2 * keys:
        size *= 2
        table.shift -= 1
    table.keys = <Key *>calloc(inputs + 1, sizeof(Key))
    table.slots = <Slot *>aligned_alloc(64, size * sizeof(Slot))
    if table.keys == NULL or table.slots == NULL:
        table_free(table)
        raise MemoryError(f"a table of {keys} keys")
    for i in range(size):
        table.slots[i].input = MISS
    table.mask = size - 1
    table.sources = False
    return 0


cdef int table_insert(Table *table, const Key *key, uint32_t input) except -1:
    """Add a key, before the table is published. Raises ValueError when it is there already."""
    cdef uint32_t at
    if probe(table, key) != MISS:
        raise ValueError("two inputs with one key")
    cdef uint32_t hashed = hash_of(key)
    at = hashed >> table.shift
    while table.slots[at].input != MISS:
        at = (at + 1) & table.mask
    table.keys[input] = key[0]
    table.slots[at].hash = hashed
    table.slots[at].input = input
    if key.source.low or key.source.high:
        table.sources = True
    return 0


cdef void table_free(Table *table) noexcept nogil:
    free(table.slots)
    free(table.keys)
    table.slots = NULL
    table.keys = NULL
