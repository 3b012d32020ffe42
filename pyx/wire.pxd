"""Ethernet, IP and UDP (RFC 894, 791, 8200, 768): check length, then read; nothing is copied, nothing is trusted."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address, mapped, address_at
from .counters cimport FRAGMENT, MALFORMED, NOT_UDP, RELAYED, TRUNCATED, VLAN, Verdict
from .kernel cimport htons, ntohs, read_be16, read_be32, read_raw16, read_raw32

cdef enum:
    ETHERNET_BYTES = 14
    IPV4_BYTES = 20
    IPV6_BYTES = 40
    UDP_BYTES = 8
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_IPV6 = 0x86dd
    ETHERTYPE_CTAG = 0x8100     # IEEE 802.1Q; the kernel has taken the outer tag off, so this one is a second
    ETHERTYPE_STAG = 0x88a8
    TAG_BYTES = 4
    UDP = 17                    # the protocol
    HOP_BY_HOP = 0              # and those of IPv6's extension headers: RFC 8200, 4
    ROUTING = 43
    FRAGMENT_HEADER = 44
    DESTINATION_OPTIONS = 60
    HEADERS_MAX = 8             # of these before UDP; no sender has a reason for more
    MORE_FRAGMENTS = 0x2000
    FRAGMENT_OFFSET = 0x1fff    # in units of 8 bytes
    MORE_FRAGMENTS_SIX = 1      # IPv6: the offset, in bytes, stands above
    FRAGMENT_OFFSET_SIX = 0xfff8
    TOTAL_MAX = 65535           # bytes of an IPv4 datagram, header included; of an IPv6 one, without
    PAYLOAD_MAX = 65507         # 65535 less the IPv4 and UDP headers

cdef struct Datagram:
    Address source, group
    uint16_t source_port, port  # UDP
    uint16_t size               # payload bytes; of all datagrams together in a superframe
    uint8_t tos, ttl
    const uint8_t *payload      # borrowed: dies when the block is released

cdef struct Fragment:
    # A part of a datagram: of protocol UDP, or of an IPv6 one whose further headers are in its first part.
    Address source, group
    uint32_t start, end         # of what follows the datagram's IPv4 header, or the IPv6 fragment header, in bytes
    uint32_t identification
    bint more                   # it is not the last
    uint8_t kind                # what the datagram goes on with there: UDP, or an IPv6 extension header
    uint8_t tos, ttl
    const uint8_t *bytes        # borrowed: dies when the block is released


cdef inline uint32_t fold(uint64_t total) noexcept nogil:
    """A sum of 16-bit words as ones' complement has it: carries come back in below (RFC 1071, 2.C)."""
    total = <uint32_t>total + (total >> 32)
    total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    return <uint32_t>((total & 0xffff) + (total >> 16))


cdef inline uint32_t ones_sum(const uint8_t *data, uint32_t size) noexcept nogil:
    """Sum of big-endian 16-bit words (RFC 1071), folded to 16 bits; an odd last byte counts as its high half.

    Added up in the order of this machine and turned at the end, which comes to the same (2.B).
    """
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(size >> 2):
        total += read_raw32(data + 4 * i)
    data += size & ~<uint32_t>3
    if size & 2:
        total += read_raw16(data)
        data += 2
    if size & 1:
        total += htons(<uint16_t>(data[0] << 8))
    return ntohs(<uint16_t>fold(total))


cdef inline bint header_holds(const uint8_t *ip, uint32_t size) noexcept nogil:
    """Whether the sum of an IPv4 header is all ones, which it is in any byte order."""
    cdef uint64_t total = (
        <uint64_t>read_raw32(ip) + read_raw32(ip + 4) + read_raw32(ip + 8) + read_raw32(ip + 12) + read_raw32(ip + 16)
    )
    if size > IPV4_BYTES:
        total += ntohs(<uint16_t>ones_sum(ip + IPV4_BYTES, size - IPV4_BYTES))     # options
    return fold(total) == 0xffff


cdef inline Verdict parse(
    const uint8_t *frame, uint32_t size, uint32_t wire_size, bint verify, Datagram *out
) noexcept nogil:
    """Read one captured frame of ``size`` bytes (``wire_size`` on the wire) into ``out``.

    RELAYED says that ``out`` is a whole datagram inside the frame; any other verdict says why it is not, and
    ``out`` is then undefined. ``verify`` asks for the UDP checksum: set it unless the kernel vouches for it or has
    not filled it in yet. Sending a payload again gives it a new and valid checksum, so a corrupted one must stop here.
    """
    if size < wire_size:
        return TRUNCATED
    if size < ETHERNET_BYTES:
        return MALFORMED
    if read_be16(frame + 12) != ETHERTYPE_IPV4:
        return parse_other(frame, size - ETHERNET_BYTES, verify, out)
    return parse_four(frame + ETHERNET_BYTES, size - ETHERNET_BYTES, verify, out)


cdef inline Verdict parse_four(const uint8_t *ip, uint32_t size, bint verify, Datagram *out) noexcept nogil:
    """Read an IPv4 packet, and what padding follows it: ``size`` bytes."""
    cdef uint32_t header, total
    if size < IPV4_BYTES or ip[0] >> 4 != 4:
        return MALFORMED
    header = (ip[0] & 15) * 4
    total = read_be16(ip + 2)                   # what follows is Ethernet padding
    if header < IPV4_BYTES or total < header or total > size:
        return MALFORMED
    if not header_holds(ip, header):
        return MALFORMED
    if ip[9] != UDP:
        return NOT_UDP
    if read_be16(ip + 6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET):
        return FRAGMENT
    out.source = mapped(read_be32(ip + 12))
    out.group = mapped(read_be32(ip + 16))
    out.tos = ip[1]
    out.ttl = ip[8]
    return parse_udp(ip + header, total - header, verify, out)


cdef inline Verdict parse_other(const uint8_t *frame, uint32_t size, bint verify, Datagram *out) noexcept nogil:
    """Read a frame that is not IPv4, ``size`` bytes of it behind the Ethernet header.

    A jumbogram (RFC 2675) says a length of 0; no Ethernet frame holds one, so it is malformed. So is a UDP checksum
    of 0, which only tunnels may send over IPv6 (RFC 6935): for their packets no rule is made.
    """
    cdef const uint8_t *ip = frame + ETHERNET_BYTES
    cdef uint32_t total
    cdef uint32_t at = IPV6_BYTES
    cdef uint8_t kind
    cdef Verdict verdict
    if read_be16(frame + 12) != ETHERTYPE_IPV6:
        return VLAN if read_be16(frame + 12) in (ETHERTYPE_CTAG, ETHERTYPE_STAG) else NOT_UDP
    if size < IPV6_BYTES or ip[0] >> 4 != 6:
        return MALFORMED
    total = IPV6_BYTES + read_be16(ip + 4)      # what follows is Ethernet padding
    if total > size:
        return MALFORMED
    kind = ip[6]
    verdict = walk(ip, total, &at, &kind)
    if verdict != RELAYED:
        return verdict
    out.source = address_at(ip + 8)
    out.group = address_at(ip + 24)
    out.tos = <uint8_t>(read_be16(ip) >> 4)
    out.ttl = ip[7]
    if verify and total - at >= UDP_BYTES and not read_be16(ip + at + 6):
        return MALFORMED
    return parse_udp(ip + at, total - at, verify, out)


cdef inline Verdict walk(const uint8_t *bytes, uint32_t total, uint32_t *at, uint8_t *kind) noexcept nogil:
    """Go over IPv6 extension headers, from the one of this ``kind`` at ``at`` to UDP, which RELAYED says is there.

    FRAGMENT says that a fragment header is there, of a datagram in several. One in which all of it is passes for
    itself, whatever else waits under its identification (RFC 6946). Options are not looked at: what they ask of a
    receiver, they ask of the hosts that joined. A routing header with segments left names another destination than
    the group.
    """
    cdef uint32_t headers = 0
    while kind[0] != UDP:
        if kind[0] not in (HOP_BY_HOP, ROUTING, FRAGMENT_HEADER, DESTINATION_OPTIONS):
            return NOT_UDP
        if headers == HEADERS_MAX or at[0] + 8 > total:
            return MALFORMED
        if kind[0] == FRAGMENT_HEADER:
            if read_be16(bytes + at[0] + 2) & (MORE_FRAGMENTS_SIX | FRAGMENT_OFFSET_SIX):
                return FRAGMENT
            kind[0] = bytes[at[0]]
            at[0] += 8
        else:
            if kind[0] == HOP_BY_HOP and headers or kind[0] == ROUTING and bytes[at[0] + 3]:
                return MALFORMED                # only the first may be for every hop: RFC 8200, 4.1
            kind[0] = bytes[at[0]]
            at[0] += 8 + bytes[at[0] + 1] * 8
        headers += 1
        if at[0] > total:
            return MALFORMED
    return RELAYED


cdef inline Verdict parse_udp(const uint8_t *udp, uint32_t total, bint verify, Datagram *out) noexcept nogil:
    """Read what follows the IP headers, ``total`` bytes; ``out`` has their part already."""
    cdef uint32_t length
    if total < UDP_BYTES:
        return MALFORMED
    length = read_be16(udp + 4)
    if length < UDP_BYTES or length > total:
        return MALFORMED
    if verify and read_be16(udp + 6) and not udp_sum_holds(udp, length, &out.source, &out.group):
        return MALFORMED
    out.source_port = read_be16(udp)
    out.port = read_be16(udp + 2)
    out.size = <uint16_t>(length - UDP_BYTES)
    out.payload = udp + UDP_BYTES
    return RELAYED


cdef inline bint udp_sum_holds(
    const uint8_t *udp, uint32_t length, const Address *source, const Address *group
) noexcept nogil:
    """RFC 768 and 8200, 8.1: pseudo header, UDP header and payload sum to all ones.

    What stands above a mapped IPv4 address, a word of ones, adds nothing in ones' complement.
    """
    return fold(<uint64_t>ones_sum(udp, length) + ends_sum(source, group) + UDP + length) == 0xffff


cdef inline uint64_t ends_sum(const Address *source, const Address *group) noexcept nogil:
    """The addresses of a pseudo header, for `fold`."""
    return (
        (source.high >> 32) + <uint32_t>source.high + (source.low >> 32) + <uint32_t>source.low
        + (group.high >> 32) + <uint32_t>group.high + (group.low >> 32) + <uint32_t>group.low
    )


cdef inline bint parse_fragment(const uint8_t *frame, Fragment *out) noexcept nogil:
    """Read a frame of which ``parse`` said FRAGMENT; False where no datagram has such a part.

    A part that is not the last ends at a multiple of 8 bytes, none is empty, a datagram has 65535 bytes: RFC 791, and
    RFC 8200, 4.5.
    """
    cdef const uint8_t *ip = frame + ETHERNET_BYTES
    cdef uint32_t header = (ip[0] & 15) * 4
    cdef uint32_t size = read_be16(ip + 2) - header
    cdef uint32_t place = read_be16(ip + 6)
    if read_be16(frame + 12) == ETHERTYPE_IPV6:
        return parse_fragment_six(ip, out)
    out.source = mapped(read_be32(ip + 12))
    out.group = mapped(read_be32(ip + 16))
    out.identification = read_be16(ip + 4)
    out.more = place & MORE_FRAGMENTS != 0
    out.start = (place & FRAGMENT_OFFSET) * 8
    out.end = out.start + size
    out.kind = UDP
    out.tos = ip[1]
    out.ttl = ip[8]
    out.bytes = ip + header
    return size != 0 and not (out.more and size & 7) and header + out.end <= TOTAL_MAX


cdef inline bint parse_fragment_six(const uint8_t *ip, Fragment *out) noexcept nogil:
    """The same of IPv6; ``ip`` is its header."""
    cdef uint32_t total = IPV6_BYTES + read_be16(ip + 4)
    cdef uint32_t at = IPV6_BYTES
    cdef uint32_t place
    cdef uint32_t size
    cdef uint8_t kind = ip[6]
    walk(ip, total, &at, &kind)                 # to the fragment header, as `parse` has found it
    place = read_be16(ip + at + 2)
    size = total - at - 8
    out.source = address_at(ip + 8)
    out.group = address_at(ip + 24)
    out.identification = read_be32(ip + at + 4)
    out.more = place & MORE_FRAGMENTS_SIX != 0
    out.start = place & FRAGMENT_OFFSET_SIX
    out.end = out.start + size
    out.kind = ip[at]
    out.tos = <uint8_t>(read_be16(ip) >> 4)
    out.ttl = ip[7]
    out.bytes = ip + at + 8
    return size != 0 and not (out.more and size & 7) and at - IPV6_BYTES + out.end <= TOTAL_MAX


cdef inline bint glance(
    const uint8_t *frame, uint32_t size, Address *source, Address *group, uint16_t *port
) noexcept nogil:
    """The ends of a frame of whatever verdict, as far as they can be read: False where it has no addresses.

    ``port`` is where a whole UDP datagram goes, 0 for what is none. A second VLAN tag is passed over.
    """
    cdef const uint8_t *ip = frame + ETHERNET_BYTES
    cdef uint32_t at
    cdef uint8_t kind
    port[0] = 0
    if size >= ETHERNET_BYTES + TAG_BYTES and read_be16(ip - 2) in (ETHERTYPE_CTAG, ETHERTYPE_STAG):
        ip += TAG_BYTES
        size -= TAG_BYTES
    if size < ETHERNET_BYTES + IPV4_BYTES:
        return False
    size -= ETHERNET_BYTES
    if read_be16(ip - 2) == ETHERTYPE_IPV6:
        if size < IPV6_BYTES:
            return False
        source[0] = address_at(ip + 8)
        group[0] = address_at(ip + 24)
        at = IPV6_BYTES
        kind = ip[6]
        if walk(ip, size, &at, &kind) != RELAYED:
            return True
    else:
        source[0] = mapped(read_be32(ip + 12))
        group[0] = mapped(read_be32(ip + 16))
        at = (ip[0] & 15) * 4
        if ip[9] != UDP or read_be16(ip + 6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET):
            return True
    if size >= at + UDP_BYTES:
        port[0] = read_be16(ip + at + 2)
    return True
