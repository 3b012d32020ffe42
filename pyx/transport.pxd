"""MPEG transport streams (ISO/IEC 13818-1) as they arrive: continuity by PID, bit rate, gaps and jitter of the PCR."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from .counters cimport TransportCounters
from .kernel cimport add, load_relaxed_u64, read_be32, store_relaxed_u64, store_release_u64

cdef enum:
    PACKET_BYTES = 188
    SYNC = 0x47
    NULL_PID = 0x1fff           # padding, whose counter means nothing
    PIDS = 8192
    SEEN = 0x10                 # beside the last counter of a PID
    FAULTY = 32                 # PIDs with errors that are told apart; the further ones are in the sum alone
    CLOCKS = 16                 # PIDs with a PCR that are followed: a programme has one
    PCR_HZ = 27000000           # its ticks a second
    PCR_GAP = 2700000           # the longest time between two of them: 2.7.2

cdef struct Faults:
    uint64_t pid, errors

cdef struct Clock:
    # The programme clock of one PID.
    uint64_t pcr                # the last, in 27 MHz
    uint64_t stamp              # when it came, Unix ns
    double jitter_ns
    uint64_t since_pcr, since_packets   # where the bit rate is measured from
    uint16_t pid
    bint used

cdef struct Transport:
    TransportCounters *counters
    Faults faults[FAULTY]
    uint64_t fault_count        # how many of these are in use
    Clock clocks[CLOCKS]
    uint8_t last[PIDS]          # its continuity counter, with SEEN


cdef inline bint is_transport(const uint8_t *payload, uint32_t size) noexcept nogil:
    """Whether it begins with a packet of a transport stream."""
    return size >= PACKET_BYTES and payload[0] == SYNC


cdef inline void count_fault(Transport *transport, uint16_t pid) noexcept nogil:
    """One continuity error, of that PID."""
    cdef uint64_t i = 0
    add(&transport.counters.continuity_errors, 1)
    while i < transport.fault_count and transport.faults[i].pid != pid:
        i += 1
    if i == FAULTY:
        return
    add(&transport.faults[i].errors, 1)
    if i == transport.fault_count:
        transport.faults[i].pid = pid
        store_release_u64(&transport.fault_count, i + 1)


cdef inline Clock *clock_for(Transport *transport, uint16_t pid) noexcept nogil:
    """The clock of a PID; a new one takes an unused place, else that of the one that is silent longest."""
    cdef Clock *oldest = &transport.clocks[0]
    cdef uint32_t i
    for i in range(<uint32_t>CLOCKS):
        if not transport.clocks[i].used:
            oldest = &transport.clocks[i]
            break
        if transport.clocks[i].pid == pid:
            return &transport.clocks[i]
        if transport.clocks[i].stamp < oldest.stamp:
            oldest = &transport.clocks[i]
    oldest.used = False
    oldest.pid = pid
    return oldest


cdef inline uint64_t pcr_after(uint64_t later, uint64_t earlier) noexcept nogil:
    """From one PCR to another, in 27 MHz: a base of 33 bits, times 300."""
    return later - earlier if later >= earlier else later + (<uint64_t>300 << 33) - earlier


@cython.cdivision(True)         # PCR_HZ is not 0, nor is what divides the bit rate
cdef inline void note_pcr(
    Transport *transport, uint16_t pid, const uint8_t *field, uint64_t packets, bint jumps, uint64_t stamp
) noexcept nogil:
    """A PCR, the 6 bytes at ``field``; so many packets of all PIDs came before. ``jumps``: it is said to be new."""
    cdef uint64_t pcr = (<uint64_t>read_be32(field) << 1 | field[4] >> 7) * 300 + ((field[4] & 1) << 8 | field[5])
    cdef Clock *clock = clock_for(transport, pid)
    cdef uint64_t step = pcr_after(pcr, clock.pcr)
    cdef uint64_t span
    cdef double apart
    if not clock.used or jumps:
        clock.used = True
        clock.since_pcr = pcr
        clock.since_packets = packets
    elif step > PCR_GAP:
        add(&transport.counters.pcr_gaps, 1)
        clock.since_pcr = pcr
        clock.since_packets = packets
    else:
        apart = <double>(<int64_t>(stamp - clock.stamp)) - <double>step * (1e9 / PCR_HZ)
        clock.jitter_ns += ((apart if apart > 0 else -apart) - clock.jitter_ns) / 16
        store_relaxed_u64(&transport.counters.pcr_jitter_ns, <uint64_t>clock.jitter_ns)
        if <uint64_t>clock.jitter_ns > transport.counters.pcr_jitter_most_ns:
            store_relaxed_u64(&transport.counters.pcr_jitter_most_ns, <uint64_t>clock.jitter_ns)
        span = pcr_after(pcr, clock.since_pcr)
        if span >= PCR_HZ:
            store_relaxed_u64(
                &transport.counters.bit_rate,
                <uint64_t>(<double>(packets - clock.since_packets) * 8 * PACKET_BYTES * PCR_HZ / <double>span),
            )
            clock.since_pcr = pcr
            clock.since_packets = packets
    clock.pcr = pcr
    clock.stamp = stamp


cdef inline void look_at_packet(
    Transport *transport, const uint8_t *packet, uint64_t packets, uint64_t stamp
) noexcept nogil:
    """Its continuity counter, and its PCR if it has one. The counter moves on with each packet that has a payload:
    2.4.3.3. One that comes twice, which the standard allows once, is an error here as in ffmpeg: fifteen lost packets
    look the same."""
    cdef uint16_t pid = (packet[1] & 0x1f) << 8 | packet[2]
    cdef uint8_t counter = packet[3] & 15
    cdef uint8_t before = transport.last[pid]
    cdef bint adapts = packet[3] & 0x20 != 0 and packet[4] != 0
    cdef bint jumps = adapts and packet[5] & 0x80 != 0
    if packet[1] & 0x80:
        add(&transport.counters.transport_errors, 1)
        return
    if pid == NULL_PID:
        return
    if before and not jumps and counter != (before + (packet[3] >> 4 & 1) & 15):
        count_fault(transport, pid)
    transport.last[pid] = SEEN | counter
    if adapts and packet[5] & 0x10 and packet[4] >= 7:
        note_pcr(transport, pid, packet + 6, packets, jumps, stamp)


cdef inline void look_at_transport(
    Transport *transport, const uint8_t *payload, uint32_t size, uint64_t stamp
) noexcept nogil:
    """Every packet of a datagram. What has no sync byte, and what is left at the end, is a sync error."""
    cdef uint64_t packets = load_relaxed_u64(&transport.counters.packets)
    while size >= PACKET_BYTES:
        if payload[0] == SYNC:
            look_at_packet(transport, payload, packets, stamp)
        else:
            add(&transport.counters.sync_errors, 1)
        packets += 1
        payload += PACKET_BYTES
        size -= PACKET_BYTES
    if size:
        add(&transport.counters.sync_errors, 1)
    store_relaxed_u64(&transport.counters.packets, packets)
