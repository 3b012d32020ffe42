"""Set-up of the table; the look-up itself is in demux.pxd."""

from .kernel cimport aligned_alloc, calloc, free


cdef int table_build(Table *table, uint32_t keys) except -1:
    """Make an empty table with room for ``keys`` keys at half load."""
    cdef uint32_t size = 8
    cdef uint32_t i
    table.shift = 32 - 3
    while size < 2 * keys:
        size *= 2
        table.shift -= 1
    table.keys = <Key *>calloc(keys + 1, sizeof(Key))
    table.slots = <Slot *>aligned_alloc(64, size * sizeof(Slot))
    table.shapes = <uint8_t *>calloc(size, 1)
    if table.keys == NULL or table.slots == NULL or table.shapes == NULL:
        table_free(table)
        raise MemoryError(f"a table of {keys} keys")
    for i in range(size):
        table.slots[i].key = MISS
    table.key_count = 0
    table.mask = size - 1
    table.shape = 0
    return 0


cdef uint32_t shape_of(const Key *key) noexcept:
    cdef uint32_t shape = 0
    if key.source.low or key.source.high:
        shape |= NAMES_SOURCE
    if key.port != ANY_PORT:
        shape |= NAMES_PORT
    if key.vlan != ANY_VLAN:
        shape |= NAMES_VLAN
    return shape


cdef bint table_fill(Table *table, const Key *key, uint32_t input) noexcept:
    """Add a key, before the table is published; False if it is there already, as a more exact input's."""
    cdef uint32_t hashed = hash_of(key)
    cdef uint32_t at = hashed >> table.shift
    cdef uint8_t shape
    if probe(table, key) != MISS:
        return False
    while table.slots[at].key != MISS:
        at = (at + 1) & table.mask
    table.keys[table.key_count] = key[0]
    table.keys[table.key_count].input = input
    table.slots[at].hash = hashed
    table.slots[at].key = table.key_count
    table.key_count += 1
    shape = <uint8_t>(1 << shape_of(key))
    table.shapes[shapes_at(table, &key.group)] |= shape
    table.shape |= shape
    return True


cdef int table_insert(Table *table, const Key *key, uint32_t input) except -1:
    """Add a key, before the table is published. Raises ValueError when it is there already."""
    if not table_fill(table, key, input):
        raise ValueError("two inputs with one key")
    return 0


cdef void table_free(Table *table) noexcept nogil:
    free(table.slots)
    free(table.keys)
    free(table.shapes)
    table.shapes = NULL
    table.slots = NULL
    table.keys = NULL
