"""Set-up of what a worker remembers having sent with an end kept."""

cimport cython

from .kernel cimport calloc, free


@cython.final
cdef class KeptMemory:
    def __cinit__(self):
        """256 KiB, most of it untouched until many senders are relayed. Raises MemoryError."""
        self.kept.marks = <uint64_t *>calloc(SETS * WAYS, sizeof(uint64_t))
        self.kept.sent_ns = <uint64_t *>calloc(SETS * WAYS, sizeof(uint64_t))
        if self.kept.marks == NULL or self.kept.sent_ns == NULL:
            raise MemoryError("what is sent with an address or port that is kept")

    def __dealloc__(self):
        free(self.kept.marks)
        free(self.kept.sent_ns)
