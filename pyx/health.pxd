"""The health of an input's stream: every datagram is looked at as RTP, as a transport stream, or as both."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .counters cimport CounterBlock, StreamCounters
from .kernel cimport add, load_relaxed_u64, store_relaxed_u64
from .rtp cimport Rtp, RtpHeader, look_at_rtp, read_rtp, settle
from .superframes cimport Superframe, take
from .transport cimport Transport, is_transport, look_at_transport

cdef enum:
    SILENT_NS = 1000000000      # without a datagram: the stream was silent, and what is missing is lost

cdef struct Health:
    # One worker's view of one input; it outlives plans.
    StreamCounters *counters
    Rtp *rtp                    # NULL: not looked for
    Transport *transport        # likewise


cdef inline bint recognise(Health *health, const uint8_t *payload, uint32_t size, uint64_t stamp) noexcept nogil:
    """Count what one datagram is; False if it is nothing that is looked for."""
    cdef RtpHeader header
    if health.transport != NULL and is_transport(payload, size):
        look_at_transport(health.transport, payload, size, stamp)
        return True
    if not read_rtp(payload, size, &header):
        return False
    if health.transport != NULL and is_transport(payload + header.bytes, size - header.bytes):
        look_at_transport(health.transport, payload + header.bytes, size - header.bytes, stamp)
    elif health.rtp == NULL:
        return False
    if health.rtp != NULL:
        look_at_rtp(health.rtp, &header, stamp)
    return True


cdef inline void look(Health *health, Superframe frame, uint64_t stamp) noexcept nogil:
    """Every datagram of a frame that came at ``stamp`` (Unix ns)."""
    cdef uint64_t before = load_relaxed_u64(&health.counters.last_packet_ns)
    cdef const uint8_t *payload
    cdef uint32_t size
    if before and stamp > before + SILENT_NS:
        add(&health.counters.silences, 1)
        add(&health.counters.silence_ns, stamp - before)
        if health.rtp != NULL:
            settle(health.rtp)
    store_relaxed_u64(&health.counters.last_packet_ns, stamp)
    while True:
        size = take(&frame, &payload)
        if not recognise(health, payload, size, stamp):
            add(&health.counters.unrecognised, 1)
        if not frame.left:
            break


cdef class HealthState:
    """Owner of a Health: made by the engine, written by its worker."""

    cdef Health health
    cdef readonly CounterBlock stream
    cdef readonly CounterBlock rtp
    cdef readonly CounterBlock transport
