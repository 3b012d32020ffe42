"""What test datagrams carry, so that loss, duplicates, order, corruption and delay are told apart.

Big-endian; a payload shorter than the header carries as much of it as fits:

     0  u32 sequence         of the stream, over its datagrams of 4 bytes and more; the receiver extends it to u64
     4  u32 seal             sequence XOR SEAL: ours, and the sequence is intact
     8  u32 run              one start of a sender
    12  u16 stream           its index in that run
    14  u16 size             of the whole payload
    16  u64 due              when it was to be sent, ns of CLOCK_MONOTONIC (one clock for all namespaces of a host)
    24  u64 sent             when it was handed to the kernel
    32  u64 check            of all that stands before it
    40  pattern              a part of the one pattern, from an offset that the check gives

1 to 3 bytes carry the first bytes of SEAL, 0 carry nothing: such datagrams are unnumbered.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .kernel cimport memcmp, ones_u32, read_be16, read_be32, read_be64, write_be16, write_be32, write_be64

cdef enum:
    SEAL = 0x6d637231           # "mcr1"
    CHECK_AT = 32
    HEADER_BYTES = 40
    SIZE_MAX = 65507            # of a UDP payload in IPv4
    OFFSETS = 1 << 16
    PATTERN_BYTES = 2 << 16     # OFFSETS and the longest pattern
    NEAR_BITS = 6               # so many wrong bits are damage; unrelated words differ in 16 of 32
    JUMP_MAX = 1 << 20          # a sequence without a seal that is further off is damage

# What a payload turned out to be.
cdef enum Kind:
    NUMBERED
    UNNUMBERED
    CORRUPTED
    FOREIGN

cdef struct Header:
    # Host byte order; fields beyond the payload's size are left alone.
    uint64_t due, sent          # ns
    uint32_t sequence, run
    uint16_t stream, size


cdef inline uint64_t mix(uint64_t v) noexcept nogil:
    """splitmix64's finaliser: every bit of the result depends on every bit of ``v``."""
    v = (v ^ (v >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    v = (v ^ (v >> 27)) * <uint64_t>0x94d049bb133111eb
    return v ^ (v >> 31)


cdef inline uint64_t check_of(const uint8_t *header) noexcept nogil:
    cdef uint64_t v = mix(read_be64(header) + 1)
    v = mix(v ^ read_be64(header + 8))
    v = mix(v ^ read_be64(header + 16))
    return mix(v ^ read_be64(header + 24))


cdef inline void fill_pattern(uint8_t *pattern) noexcept nogil:
    """PATTERN_BYTES that never change: both ends make their own."""
    cdef uint32_t i
    for i in range(PATTERN_BYTES // 8):
        write_be64(&pattern[8 * i], mix(i + 1))


cdef inline uint32_t write_header(uint8_t *to, const Header *header) noexcept nogil:
    """HEADER_BYTES, whatever the size: the sender cuts. Returns the offset of what follows in the pattern."""
    cdef uint64_t check
    if header.size < 4:
        write_be32(to, SEAL)
        return 0
    write_be32(to, header.sequence)
    write_be32(to + 4, header.sequence ^ <uint32_t>SEAL)
    write_be32(to + 8, header.run)
    write_be16(to + 12, header.stream)
    write_be16(to + 14, header.size)
    write_be64(to + 16, header.due)
    write_be64(to + 24, header.sent)
    check = check_of(to)
    write_be64(to + CHECK_AT, check)
    return <uint32_t>(check & (OFFSETS - 1))


cdef inline Kind read_payload(
    const uint8_t *pattern, const uint8_t *payload, uint32_t size, Header *out,
) noexcept nogil:
    """Check all that does not need to know the stream, and fill in what fits in ``size``."""
    cdef uint8_t words[8]
    cdef uint64_t check
    cdef uint32_t wrong
    if size < 4:
        write_be32(words, SEAL)
        return UNNUMBERED if memcmp(payload, words, size) == 0 else CORRUPTED
    out.sequence = read_be32(payload)
    if size < 8:
        write_be32(words, out.sequence ^ <uint32_t>SEAL)
        return NUMBERED if memcmp(payload + 4, words, size - 4) == 0 else CORRUPTED
    wrong = ones_u32(out.sequence ^ read_be32(payload + 4) ^ <uint32_t>SEAL)
    if wrong:
        return CORRUPTED if wrong <= NEAR_BITS else FOREIGN
    if size >= 12:
        out.run = read_be32(payload + 8)
    if size >= 14:
        out.stream = read_be16(payload + 12)
    if size >= 16 and read_be16(payload + 14) != size:
        return CORRUPTED
    if size < CHECK_AT:
        return NUMBERED
    out.due = read_be64(payload + 16)
    out.sent = read_be64(payload + 24)
    check = check_of(payload)
    write_be64(words, check)
    if memcmp(payload + CHECK_AT, words, min(size, <uint32_t>HEADER_BYTES) - CHECK_AT):
        return CORRUPTED
    if size > HEADER_BYTES:
        if memcmp(payload + HEADER_BYTES, &pattern[check & (OFFSETS - 1)], size - HEADER_BYTES):
            return CORRUPTED
    return NUMBERED
