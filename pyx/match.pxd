"""What a frame is to a plan: the datagram in it, and the input that takes it. The loop and `explain` ask the same."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address, mapped
from .counters cimport MALFORMED, NO_MATCH, RELAYED, TRUNCATED, TUNNEL, VLAN, Verdict
from .demux cimport MISS, Key, Table, find
from .echo cimport is_own
from .kept cimport mac_at, mark_of, was_sent
from .kernel cimport (
    CLOCK_MONOTONIC, TP_STATUS_CSUMNOTREADY, TP_STATUS_CSUM_VALID, TP_STATUS_VLAN_VALID, now_ns, read_be16,
)
from .offload cimport finish_inner, is_inner, segment_bytes
from .plan cimport Capture, Input, Plan, Prefix
from .ring cimport Frame
from .wire cimport ETHERNET_BYTES, ETHERTYPE_IPV4, Datagram, parse_four, parse_other

cdef enum:
    VID_MASK = 0x0fff           # of the tag control information; VID 0 is a priority tag: IEEE 802.1Q


cdef inline uint16_t vlan_of(const Frame *frame) noexcept nogil:
    return frame.tci & VID_MASK if frame.status & <uint32_t>TP_STATUS_VLAN_VALID else 0


cdef inline Verdict look_up(
    const Capture *capture, uint16_t vlan, const Datagram *datagram, uint32_t *found
) noexcept nogil:
    """RELAYED says that the input ``found`` takes the datagram."""
    found[0] = input_of(&capture.table, vlan, datagram)
    if found[0] == MISS:
        return VLAN if vlan else NO_MATCH
    return RELAYED


cdef inline uint32_t input_of(const Table *table, uint16_t vlan, const Datagram *datagram) noexcept nogil:
    cdef Key key
    key.group = datagram.group
    key.source = datagram.source
    key.port = datagram.port
    key.vlan = vlan
    return find(table, &key)


cdef inline Verdict parse_and_find(
    const Table *table, uint16_t vlan, const uint8_t *frame, uint32_t size, uint32_t wire_size, bint verify,
    Datagram *out, uint32_t *found,
) noexcept nogil:
    """`parse`, and the input that takes what that finds, or MISS.

    Each family has a look-up of its own here, for the compiler, to which most of an IPv4 address is a constant.
    """
    cdef Verdict verdict
    if size < wire_size:
        return TRUNCATED
    if size < ETHERNET_BYTES:
        return MALFORMED
    if read_be16(frame + 12) == ETHERTYPE_IPV4:
        verdict = parse_four(frame + ETHERNET_BYTES, size - ETHERNET_BYTES, verify, out)
        if verdict == RELAYED:
            found[0] = input_of(table, vlan, out)
        return verdict
    verdict = parse_other(frame, size - ETHERNET_BYTES, verify, out)
    if verdict == RELAYED:
        found[0] = input_of(table, vlan, out)
    return verdict


cdef inline Verdict match(const Capture *capture, const Frame *frame, Datagram *out, uint32_t *found) noexcept nogil:
    """Parse and find. RELAYED says that the input ``found`` takes the datagram ``out``; else both are undefined."""
    cdef uint16_t vlan = vlan_of(frame)
    cdef Verdict verdict = parse_and_find(
        &capture.table, vlan, frame.mac, frame.size, frame.wire_size,
        not segment_bytes(frame.mac) and not frame.status & <uint32_t>(TP_STATUS_CSUM_VALID | TP_STATUS_CSUMNOTREADY),
        out, found,
    )
    if verdict != RELAYED:
        return verdict
    if found[0] == MISS:
        return VLAN if vlan else NO_MATCH
    if is_inner(frame.mac, out) and not finish_inner(frame.mac, out):
        return TUNNEL
    return RELAYED


cdef inline bint is_echo(
    const Plan *plan, const Capture *capture, const uint8_t *mac, const Datagram *datagram
) noexcept nogil:
    """Whether an output of ours sent it, and it came back as it was sent. ``mac``: the frame's Ethernet header."""
    if capture.loopback:
        return False
    if is_own(&plan.own, &datagram.source, &datagram.group, datagram.source_port, datagram.port):
        return True
    return plan.kept_count and is_kept_echo(plan, mac_at(mac + 6), datagram)


cdef inline bint is_kept_echo(const Plan *plan, uint64_t mac, const Datagram *datagram) noexcept nogil:
    """Whether a worker has sent these four ends from that MAC, an output having kept one of them."""
    cdef Address anybody = mapped(0)
    cdef uint64_t mark, now
    cdef uint32_t i
    if not is_own(&plan.own, &anybody, &datagram.group, 0, datagram.port):
        return False
    mark = mark_of(mac, &datagram.source, &datagram.group, datagram.source_port, datagram.port)
    now = now_ns(CLOCK_MONOTONIC)
    for i in range(plan.kept_count):
        if was_sent(plan.kept[i], mark, now):
            return True
    return False


cdef inline bint let_in(const Plan *plan, const Input *input, const Address *source) noexcept nogil:
    """Whether the input takes that source."""
    cdef const Prefix *prefix
    cdef uint32_t i
    if not input.prefix_count:
        return True
    for i in range(input.first_prefix, input.first_prefix + input.prefix_count):
        prefix = &plan.prefixes[i]
        if not (
            (source.high & prefix.mask.high ^ prefix.network.high) | (source.low & prefix.mask.low ^ prefix.network.low)
        ):
            return True
    return False
