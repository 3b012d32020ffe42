"""Single operations of the core, many times in one call, so that what Python adds is divided by as many."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from mcrelay._core.address cimport address_of
from mcrelay._core.demux cimport ANY_VLAN, MISS, Key, Table, table_build, table_free, table_insert
from mcrelay._core.counters cimport RELAYED
from mcrelay._core.match cimport parse_and_find
from mcrelay._core.health cimport HealthState, look
from mcrelay._core.queue cimport ENTRIES, Queue, Scratch, push, queue_build, queue_free
from mcrelay._core.superframes cimport superframe_of
from mcrelay._core.wire cimport Datagram, parse

cdef enum:
    SLOT = 128      # bytes from one frame to the next, of which the headers are read


cdef class Frames:
    """Frames side by side in memory, as in a ring, and a table that knows the groups of all of them."""

    cdef uint8_t *memory
    cdef uint32_t count, size
    cdef Table table

    def __cinit__(self, list frames not None, list keys not None, uint32_t size):
        """``frames`` hold the headers of frames of ``size`` bytes; ``keys`` are (group, port, source) and, if any VLAN
        is taken, True; a port of 0 is any, and so is a source."""
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
        table_build(&self.table, len(keys))
        i = 0
        for group, port, source, *vlan in keys:
            key.group = address_of(group)
            key.port = port
            key.source.high = 0
            key.source.low = 0
            if source:
                key.source = address_of(source)
            key.vlan = <uint16_t>ANY_VLAN if vlan else 0
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
        cdef uint32_t found = 0
        cdef uint32_t i, _r, input
        cdef const uint8_t *frame
        for _r in range(rounds):
            for i in range(self.count):
                frame = self.memory + <size_t>i * SLOT
                if parse_and_find(&self.table, 0, frame, self.size, self.size, False, &datagram, &input) == RELAYED:
                    found += input != MISS
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
                push(&self.queue, 0, payload, 64, 0, 16, 0)
            pushed += self.queue.chains[0].count
        return pushed


cdef class Stream:
    """Datagrams side by side in memory, looked at one after the other as they would come, every 100 us."""

    cdef uint8_t *memory
    cdef uint32_t count, size
    cdef uint64_t stamp
    cdef HealthState health

    def __cinit__(self, list datagrams not None, HealthState health not None):
        cdef bytes datagram
        cdef uint32_t i = 0
        self.count = len(datagrams)
        self.size = len(datagrams[0])
        self.health = health
        self.stamp = 1
        self.memory = <uint8_t *>calloc(self.count, self.size)
        if self.memory == NULL:
            raise MemoryError()
        for datagram in datagrams:
            memcpy(self.memory + <size_t>i * self.size, <const uint8_t *>datagram, self.size)
            i += 1

    def __dealloc__(self):
        free(self.memory)

    def look(self, uint32_t rounds):
        """Look at all of them so many times; how many that were."""
        cdef const uint8_t *at
        cdef uint32_t i, _r
        for _r in range(rounds):
            for i in range(self.count):
                self.stamp += 100000
                at = self.memory + <size_t>i * self.size
                look(&self.health.health, superframe_of(at, self.size, 0), self.stamp)
        return rounds * self.count
