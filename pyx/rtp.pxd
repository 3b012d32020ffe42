"""RTP (RFC 3550) as it arrives: what is lost, comes twice or late, and its jitter. No payload is kept."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from .counters cimport RtpCounters
from .kernel cimport add, load_relaxed_u64, ones_u32, read_be16, read_be32, store_relaxed_u64

cdef enum:
    RTP_BYTES = 12              # of a header without sources and extension: RFC 3550, 5.1
    WINDOW = 128                # numbers behind the highest that may still come; RFC 3550, A.1 has 100
    FORWARD = 0x8000            # a step below it, modulo 2**16, is one forward
    LEARN_NS = 2000000000       # of a stream, before its clock is told from its time stamps

cdef struct RtpHeader:
    uint32_t ssrc, timestamp
    uint16_t sequence
    uint8_t payload_type
    uint32_t bytes              # where the payload begins

cdef struct Rtp:
    # One stream: that of the SSRC which came twice in a row. Another that does so is followed in its place.
    RtpCounters *counters
    uint64_t newer, older       # of the last WINDOW numbers: which came; bit 0 of newer is the highest
    double jitter_ns            # RFC 3550, A.8
    double tick_ns              # of the clock of its time stamps; 0: not known yet
    uint64_t stamp, first_stamp         # Unix ns: of the newest, and since when the clock is measured
    uint32_t timestamp, first_timestamp
    uint32_t ssrc
    uint16_t highest
    bint known                  # there is a stream
    bint stray                  # the last datagram was of another SSRC: `other` is its header
    RtpHeader other
    uint64_t other_stamp
    uint16_t back               # the number after one that was too far back: if it comes, the sender began anew
    bint backwards              # there was such a one


cdef inline bint read_rtp(const uint8_t *payload, uint32_t size, RtpHeader *out) noexcept nogil:
    """Whether it is RTP: version 2, its header within the datagram, and not RTCP on the same port (RFC 5761, 4)."""
    cdef uint32_t begin
    if size < RTP_BYTES or payload[0] >> 6 != 2 or 200 <= payload[1] <= 207:
        return False
    begin = RTP_BYTES + 4 * (payload[0] & 15)
    if payload[0] & 0x10:
        if size < begin + 4:
            return False
        begin += 4 + 4 * read_be16(payload + begin + 2)
    if begin > size:
        return False
    out.payload_type = payload[1] & 0x7f
    out.sequence = read_be16(payload + 2)
    out.timestamp = read_be32(payload + 4)
    out.ssrc = read_be32(payload + 8)
    out.bytes = begin
    return True


cdef inline uint32_t clock_of(uint8_t payload_type) noexcept nogil:
    """Ticks a second of a static payload type (RFC 3551, 6); 0 of the others, where the clock has to be learnt."""
    if payload_type in (10, 11):
        return 44100
    if payload_type in (14, 25, 26, 28, 31, 32, 33, 34):
        return 90000
    if payload_type == 6:
        return 16000
    if payload_type == 16:
        return 11025
    if payload_type == 17:
        return 22050
    return 8000 if payload_type <= 18 else 0


cdef inline uint32_t near_clock(double ticks) noexcept nogil:
    """The usual clock that is within 3 % of so many ticks a second; 0 if none is."""
    cdef uint32_t[11] clocks = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 90000, 96000, 192000]
    cdef uint32_t i
    for i in range(11):
        if 0.97 * clocks[i] < ticks < 1.03 * clocks[i]:
            return clocks[i]
    return 0


cdef inline void settle(Rtp *rtp) noexcept nogil:
    """What is missing does not come any more: it is lost."""
    if rtp.counters.missing:
        add(&rtp.counters.lost, rtp.counters.missing)
        store_relaxed_u64(&rtp.counters.missing, 0)
    rtp.newer = rtp.older = ~<uint64_t>0


cdef inline void set_clock(Rtp *rtp, uint32_t ticks) noexcept nogil:
    store_relaxed_u64(&rtp.counters.clock_rate, ticks)
    rtp.tick_ns = 1e9 / ticks if ticks else 0


cdef inline void follow(Rtp *rtp, const RtpHeader *header, uint64_t stamp) noexcept nogil:
    """From here on this is the stream: its first datagram."""
    settle(rtp)
    rtp.known = True
    rtp.ssrc = header.ssrc
    rtp.highest = header.sequence
    rtp.timestamp = rtp.first_timestamp = header.timestamp
    rtp.stamp = rtp.first_stamp = stamp
    rtp.jitter_ns = 0
    rtp.backwards = False
    add(&rtp.counters.packets, 1)
    store_relaxed_u64(&rtp.counters.ssrc, header.ssrc)
    store_relaxed_u64(&rtp.counters.payload_type, header.payload_type)
    store_relaxed_u64(&rtp.counters.jitter_ns, 0)
    set_clock(rtp, clock_of(header.payload_type))


cdef inline void advance(Rtp *rtp, uint32_t step) noexcept nogil:
    """The highest number is ``step`` further on. What was passed over is missing; what leaves the window so is lost."""
    cdef uint64_t missing = load_relaxed_u64(&rtp.counters.missing) + step - 1
    cdef uint64_t lost = 0
    cdef uint64_t gone
    cdef uint32_t part
    if step >= WINDOW:
        lost = missing - (WINDOW - 1)
        rtp.newer = rtp.older = step = 0
    while step:
        part = min(step, <uint32_t>63)
        gone = ~rtp.older >> (64 - part)
        lost += ones_u32(<uint32_t>gone) + ones_u32(<uint32_t>(gone >> 32))
        rtp.older = rtp.older << part | rtp.newer >> (64 - part)
        rtp.newer <<= part
        step -= part
    rtp.newer |= 1
    store_relaxed_u64(&rtp.counters.missing, missing - lost)
    if lost:
        add(&rtp.counters.lost, lost)


cdef inline void place(Rtp *rtp, const RtpHeader *header) noexcept nogil:
    """Find its place among the numbers: the next, one after a gap, late, there already, or of a sender begun anew."""
    cdef uint16_t step = header.sequence - rtp.highest
    cdef uint16_t behind = rtp.highest - header.sequence
    cdef uint64_t *word
    cdef uint64_t bit
    if step == 1 and rtp.older >> 63:               # nearly always
        rtp.older = rtp.older << 1 | rtp.newer >> 63
        rtp.newer = rtp.newer << 1 | 1
        rtp.highest = header.sequence
    elif 0 < step < FORWARD:
        advance(rtp, step)
        rtp.highest = header.sequence
    elif behind < WINDOW:
        word = &rtp.newer if behind < 64 else &rtp.older
        bit = <uint64_t>1 << (behind & 63)
        if word[0] & bit:
            add(&rtp.counters.duplicated, 1)
        else:
            word[0] |= bit
            add(&rtp.counters.reordered, 1)
            store_relaxed_u64(&rtp.counters.missing, load_relaxed_u64(&rtp.counters.missing) - 1)
    elif rtp.backwards and header.sequence == rtp.back:
        add(&rtp.counters.restarts, 1)
        settle(rtp)
        rtp.highest = header.sequence
        rtp.backwards = False
    else:
        rtp.backwards = True
        rtp.back = header.sequence + 1


cdef inline void learn_clock(Rtp *rtp, uint32_t timestamp, uint64_t stamp) noexcept nogil:
    """A dynamic payload type has the clock that its session description says, and nobody has told us that."""
    cdef int32_t ticks = <int32_t>(timestamp - rtp.first_timestamp)
    cdef uint64_t elapsed = stamp - rtp.first_stamp
    if stamp >= rtp.first_stamp and elapsed < LEARN_NS:
        return
    set_clock(rtp, near_clock(ticks * 1e9 / <double>elapsed) if stamp > rtp.first_stamp else 0)
    rtp.first_timestamp = timestamp
    rtp.first_stamp = stamp


cdef inline void note_jitter(Rtp *rtp, uint32_t timestamp, uint64_t stamp) noexcept nogil:
    """The jitter of RFC 3550, A.8, in ns, from one arrival to the next."""
    cdef double apart
    if rtp.tick_ns == 0:
        learn_clock(rtp, timestamp, stamp)
    else:
        apart = <double>(<int64_t>(stamp - rtp.stamp)) - <double>(<int32_t>(timestamp - rtp.timestamp)) * rtp.tick_ns
        rtp.jitter_ns += ((apart if apart > 0 else -apart) - rtp.jitter_ns) / 16
        store_relaxed_u64(&rtp.counters.jitter_ns, <uint64_t>rtp.jitter_ns)
        if <uint64_t>rtp.jitter_ns > rtp.counters.jitter_most_ns:
            store_relaxed_u64(&rtp.counters.jitter_most_ns, <uint64_t>rtp.jitter_ns)
    rtp.timestamp = timestamp
    rtp.stamp = stamp


cdef inline void look_at_rtp(Rtp *rtp, const RtpHeader *header, uint64_t stamp) noexcept nogil:
    """Count one datagram of the stream. One of another SSRC is foreign, unless the next is of the same: then that is
    the stream. A single datagram makes none."""
    if not rtp.known or header.ssrc != rtp.ssrc:
        if not rtp.stray or rtp.other.ssrc != header.ssrc:
            if rtp.stray:
                add(&rtp.counters.foreign, 1)
            rtp.stray = True
            rtp.other = header[0]
            rtp.other_stamp = stamp
            return
        if rtp.known:
            add(&rtp.counters.ssrc_changes, 1)
        rtp.stray = False
        follow(rtp, &rtp.other, rtp.other_stamp)
    elif rtp.stray:
        rtp.stray = False
        add(&rtp.counters.foreign, 1)
    add(&rtp.counters.packets, 1)
    place(rtp, header)
    note_jitter(rtp, header.timestamp, stamp)
