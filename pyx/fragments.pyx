"""Set-up of the room for fragments, so that the loop allocates nothing."""

from .kernel cimport calloc, free, memset


cdef int fragments_build(Fragments *store) except -1:
    """``store`` is zeroed. The memory is what calloc has the kernel map: a page that is never used costs nothing."""
    cdef uint32_t i
    store.assemblies = <Assembly *>calloc(ASSEMBLIES, sizeof(Assembly))
    store.memory = <uint8_t *>calloc(ASSEMBLIES, ASSEMBLY_BYTES)
    if store.assemblies == NULL or store.memory == NULL:
        fragments_free(store)
        raise MemoryError("room for fragments")
    for i in range(<uint32_t>ASSEMBLIES):
        store.assemblies[i].bytes = store.memory + <size_t>i * ASSEMBLY_BYTES
        store.assemblies[i].next = store.free
        store.free = &store.assemblies[i]
    return 0


cdef void fragments_free(Fragments *store) noexcept nogil:
    free(store.assemblies)
    free(store.memory)
    memset(store, 0, sizeof(Fragments))
