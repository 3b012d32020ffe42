"""What a frame is to a plan: the datagram in it, and the input that takes it. The loop and `explain` ask the same."""

from libc.stdint cimport uint16_t, uint32_t

from .counters cimport NO_MATCH, RELAYED, TUNNEL, VLAN, Verdict
from .demux cimport MISS, Key, find, mapped
from .echo cimport is_own
from .kernel cimport TP_STATUS_CSUMNOTREADY, TP_STATUS_CSUM_VALID, TP_STATUS_VLAN_VALID
from .offload cimport finish_inner, is_inner, segment_bytes
from .plan cimport Capture, Input, Plan
from .ring cimport Frame
from .wire cimport Datagram, parse

cdef enum:
    VID_MASK = 0x0fff           # of the tag control information; VID 0 is a priority tag: IEEE 802.1Q


cdef inline uint16_t vlan_of(const Frame *frame) noexcept nogil:
    return frame.tci & VID_MASK if frame.status & <uint32_t>TP_STATUS_VLAN_VALID else 0


cdef inline Verdict look_up(
    const Capture *capture, uint16_t vlan, const Datagram *datagram, uint32_t *found
) noexcept nogil:
    """RELAYED says that the input ``found`` takes the datagram."""
    cdef Key key
    key.group = mapped(datagram.group)
    key.source = mapped(datagram.source)
    key.port = datagram.port
    key.vlan = vlan
    found[0] = find(&capture.table, &key)
    if found[0] == MISS:
        return VLAN if vlan else NO_MATCH
    return RELAYED


cdef inline Verdict match(const Capture *capture, const Frame *frame, Datagram *out, uint32_t *found) noexcept nogil:
    """Parse and find. RELAYED says that the input ``found`` takes the datagram ``out``; else both are undefined."""
    cdef Verdict verdict = parse(
        frame.mac, frame.size, frame.wire_size,
        not segment_bytes(frame.mac) and not frame.status & <uint32_t>(TP_STATUS_CSUM_VALID | TP_STATUS_CSUMNOTREADY),
        out,
    )
    if verdict != RELAYED:
        return verdict
    verdict = look_up(capture, vlan_of(frame), out, found)
    if verdict != RELAYED:
        return verdict
    if is_inner(frame.mac, out) and not finish_inner(frame.mac, out):
        return TUNNEL
    return RELAYED


cdef inline bint is_echo(const Plan *plan, const Capture *capture, const Datagram *datagram) noexcept nogil:
    """Whether an output of ours sent it, and it came back as it was sent."""
    return not capture.loopback and is_own(
        &plan.own, datagram.source, datagram.group, datagram.source_port, datagram.port
    )


cdef inline bint let_in(const Plan *plan, const Input *input, uint32_t source) noexcept nogil:
    """Whether the input takes that source."""
    cdef uint32_t i
    if not input.prefix_count:
        return True
    for i in range(input.first_prefix, input.first_prefix + input.prefix_count):
        if source & plan.prefixes[i].mask == plan.prefixes[i].network:
            return True
    return False
