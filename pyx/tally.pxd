"""A receiver's account of each stream: counts, a bit for each sequence number, and one histogram of delays for all."""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from .kernel cimport add, calloc, free, load_relaxed_u64, log2_u64, memset, ones_u32, realloc, store_relaxed_u64
from .payload cimport CORRUPTED, FOREIGN, HEADER_BYTES, JUMP_MAX, NEAR_BITS, NUMBERED, UNNUMBERED, Header, Kind

cdef enum:
    CHUNK_BITS = 16
    CHUNK_NUMBERS = 1 << 16     # sequence numbers in one chunk of a bitmap: 8 KiB
    LINEAR_BITS = 7             # buckets per power of two: 128, so 0.8 % wide at most
    BUCKETS = 58 << 7           # of all u64 values
    FULL = 1                    # a chunk whose numbers have all been seen needs no memory: this stands for it
    DELAY_MAX_S = 3600          # longer, or negative: the sender's clock is another host's

cdef struct Chunk:
    uint32_t seen               # bits set
    uint64_t words[1024]

cdef struct Tally:
    # One stream's account. received = unique + unnumbered + duplicated + corrupted + foreign.
    uint64_t received, bytes, unique, unnumbered, duplicated, reordered, corrupted, foreign
    uint64_t lowest, highest    # sequence numbers seen, once unique is not 0
    uint32_t run                # of the first sound datagram: others are foreign
    uint16_t stream
    bint run_known, stream_known
    Chunk **chunks              # by sequence >> CHUNK_BITS; NULL none seen, FULL all seen
    uint64_t chunk_count

cdef struct Delays:
    uint64_t count, longest     # ns
    uint64_t buckets[BUCKETS]


cdef inline uint32_t bucket_of(uint64_t value) noexcept nogil:
    cdef uint32_t power
    if value < (1 << LINEAR_BITS):
        return <uint32_t>value
    power = log2_u64(value) - LINEAR_BITS
    return ((power + 1) << LINEAR_BITS) + <uint32_t>((value >> power) & ((1 << LINEAR_BITS) - 1))


cdef inline uint64_t bucket_middle(uint32_t bucket) noexcept nogil:
    cdef uint32_t power
    if bucket < (1 << LINEAR_BITS):
        return bucket
    power = (bucket >> LINEAR_BITS) - 1
    return (((bucket & <uint64_t>127) + 128) << power) + ((<uint64_t>1 << power) >> 1)


cdef inline void note_delay(Delays *delays, uint64_t due, uint64_t now) noexcept nogil:
    cdef uint64_t delay = now - due     # wraps to more than any limit when due lies ahead
    if delay > <uint64_t>DELAY_MAX_S * 1000000000:
        return
    add(&delays.count, 1)
    add(&delays.buckets[bucket_of(delay)], 1)
    if delay > load_relaxed_u64(&delays.longest):
        store_relaxed_u64(&delays.longest, delay)


cdef inline int set_bit(Tally *tally, uint64_t sequence) noexcept nogil:
    """1 if the number is new, 0 if it was seen before, -1 without memory."""
    cdef uint64_t at = sequence >> CHUNK_BITS
    cdef uint64_t grown
    cdef Chunk *chunk
    cdef Chunk **chunks
    cdef uint64_t *word
    cdef uint64_t bit
    if at >= tally.chunk_count:
        grown = max(at + 1, 2 * tally.chunk_count)
        chunks = <Chunk **>realloc(tally.chunks, grown * sizeof(Chunk *))
        if chunks == NULL:
            return -1
        memset(&chunks[tally.chunk_count], 0, (grown - tally.chunk_count) * sizeof(Chunk *))
        tally.chunks = chunks
        tally.chunk_count = grown
    chunk = tally.chunks[at]
    if chunk == <Chunk *>FULL:
        return 0
    if chunk == NULL:
        chunk = <Chunk *>calloc(1, sizeof(Chunk))
        if chunk == NULL:
            return -1
        tally.chunks[at] = chunk
    word = &chunk.words[(sequence & (CHUNK_NUMBERS - 1)) >> 6]
    bit = <uint64_t>1 << (sequence & 63)
    if word[0] & bit:
        return 0
    word[0] |= bit
    chunk.seen += 1
    if chunk.seen == CHUNK_NUMBERS:
        free(chunk)
        tally.chunks[at] = <Chunk *>FULL
    return 1


cdef inline void forget(Tally *tally) noexcept nogil:
    """Free the bitmap."""
    cdef uint64_t i
    for i in range(tally.chunk_count):
        if tally.chunks[i] != <Chunk *>FULL:
            free(tally.chunks[i])
    free(tally.chunks)
    tally.chunks = NULL
    tally.chunk_count = 0


cdef inline Kind belongs(Tally *tally, uint32_t size, const Header *header) noexcept nogil:
    """NUMBERED if run and stream are those of the first sound datagram; a check has proved them, else nearness."""
    cdef uint32_t wrong
    if size >= 14:
        if not tally.stream_known:
            tally.stream = header.stream
            tally.stream_known = True
        elif header.stream != tally.stream:
            return FOREIGN
    if size >= 12:
        if not tally.run_known:
            tally.run = header.run
            tally.run_known = True
        wrong = ones_u32(header.run ^ tally.run)
        if wrong:
            return CORRUPTED if wrong <= NEAR_BITS and size < HEADER_BYTES else FOREIGN
    return NUMBERED


cdef inline int count(Tally *tally, uint32_t size, Kind kind, const Header *header) noexcept nogil:
    """Enter one datagram. 1 if it is new (unique or unnumbered), 0 if not, -1 without memory."""
    cdef uint64_t sequence, highest
    cdef int32_t ahead
    cdef int new
    add(&tally.received, 1)
    add(&tally.bytes, size)
    if kind == NUMBERED:
        kind = belongs(tally, size, header)
    highest = tally.highest
    sequence = header.sequence
    if kind == NUMBERED and tally.unique:
        ahead = <int32_t>(header.sequence - <uint32_t>highest)
        if size < 8 and (ahead > JUMP_MAX or ahead < -JUMP_MAX):
            kind = CORRUPTED
        elif ahead < 0 and <uint64_t>(-<int64_t>ahead) > highest:
            kind = CORRUPTED    # before the first of all
        else:
            sequence = highest + <uint64_t>ahead
    if kind == CORRUPTED:
        add(&tally.corrupted, 1)
        return 0
    if kind == FOREIGN:
        add(&tally.foreign, 1)
        return 0
    if kind == UNNUMBERED:
        add(&tally.unnumbered, 1)
        return 1
    new = set_bit(tally, sequence)
    if new == 0:
        add(&tally.duplicated, 1)
    if new != 1:
        return new
    if tally.unique == 0:
        store_relaxed_u64(&tally.lowest, sequence)
        store_relaxed_u64(&tally.highest, sequence)
    elif sequence > highest:
        store_relaxed_u64(&tally.highest, sequence)
    else:
        add(&tally.reordered, 1)
        if sequence < tally.lowest:
            store_relaxed_u64(&tally.lowest, sequence)
    add(&tally.unique, 1)
    return 1
