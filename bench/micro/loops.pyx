"""Single operations of the core, many times in one call, so that what Python adds is divided by as many."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from mcrelay._core.demux cimport MISS, Key, Table, find, mapped, table_build, table_free, table_insert
from mcrelay._core.counters cimport RELAYED
from mcrelay._core.queue cimport ENTRIES, Queue, Scratch, push, queue_build, queue_free
from mcrelay._core.wire cimport Datagram, parse

cdef enum:
    SLOT = 128      # bytes from one frame to the next, of which the headers are read


cdef class Frames:
    """Frames side by side in memory, as in a ring, and a table that knows the groups of all of them."""

    cdef uint8_t *memory
    cdef uint32_t count, size
    cdef Table table

    def __cinit__(self, list frames not None, list keys not None, uint32_t size):
        """``frames`` hold the headers of frames of ``size`` bytes; ``keys`` are (group, port)."""
        cdef Key key
        cdef uint32_t i = 0
        cdef bytes frame
        self.count = len(frames)
        self.size = size        # of a frame that would be there: what follows its headers is never read
        self.memory = <uint8_t *>calloc(self.count, SLOT)
        if self.memory == NULL:
            raise MemoryError()
        for frame in frames:
            if len(frame) > SLOT:
                raise ValueError(f"headers have at most {SLOT} bytes")
            memcpy(self.memory + <size_t>i * SLOT, <const uint8_t *>frame, len(frame))
            i += 1
        table_build(&self.table, len(keys), len(keys))
        i = 0
        for group, port in keys:
            key.group = mapped(<uint32_t>group)
            key.port = port
            key.source.high = 0
            key.source.low = 0
            key.vlan = 0
            table_insert(&self.table, &key, i)
            i += 1

    def __dealloc__(self):
        free(self.memory)
        table_free(&self.table)

    def parse(self, uint32_t rounds):
        """Parse every frame so many times; how many were good."""
        cdef Datagram datagram
        cdef uint32_t good = 0
        cdef uint32_t i, _r
        for _r in range(rounds):
            for i in range(self.count):
                good += parse(self.memory + <size_t>i * SLOT, self.size, self.size, False, &datagram) == RELAYED
        return good

    def parse_and_find(self, uint32_t rounds):
        """Parse every frame and look it up, as the loop does; how many were found."""
        cdef Datagram datagram
        cdef Key key
        cdef uint32_t found = 0
        cdef uint32_t i, _r
        for _r in range(rounds):
            for i in range(self.count):
                if parse(self.memory + <size_t>i * SLOT, self.size, self.size, False, &datagram) != RELAYED:
                    continue
                key.group = mapped(datagram.group)
                key.source = mapped(datagram.source)
                key.port = datagram.port
                key.vlan = 0
                found += find(&self.table, &key) != MISS
        return found


cdef class Chain:
    """The queue of one input."""

    cdef Queue queue
    cdef Scratch scratch

    def __cinit__(self):
        self.scratch = Scratch()
        queue_build(&self.queue, self.scratch, 1, 1, 1)

    def __dealloc__(self):
        queue_free(&self.queue)

    def push(self, uint32_t rounds):
        """Queue so many times as many datagrams as fit; how many that were."""
        cdef uint8_t payload[64]
        cdef uint64_t pushed = 0
        cdef uint32_t _i, _r
        for _r in range(rounds):
            self.queue.used = 0
            self.queue.touched_count = 0
            self.queue.chains[0].count = 0
            self.queue.chains[0].bytes = 0
            for _i in range(<uint32_t>ENTRIES):
                push(&self.queue, 0, payload, 64, 0, 16)
            pushed += self.queue.chains[0].count
        return pushed
