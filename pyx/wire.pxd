"""Ethernet, IPv4 and UDP (RFC 894, 791, 768): check length, then read; nothing is copied, nothing is trusted."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .counters cimport FRAGMENT, MALFORMED, NOT_UDP, RELAYED, TRUNCATED, VLAN, Verdict
from .kernel cimport htons, ntohs, read_be16, read_be32, read_raw16, read_raw32

cdef enum:
    ETHERNET_BYTES = 14
    IPV4_BYTES = 20
    UDP_BYTES = 8
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_CTAG = 0x8100     # IEEE 802.1Q; the kernel has taken the outer tag off, so this one is a second
    ETHERTYPE_STAG = 0x88a8
    MORE_FRAGMENTS = 0x2000
    FRAGMENT_OFFSET = 0x1fff    # in units of 8 bytes
    TOTAL_MAX = 65535           # bytes of an IPv4 datagram, header included
    PAYLOAD_MAX = 65507         # 65535 less the IPv4 and UDP headers

cdef struct Datagram:
    uint32_t source, group      # host byte order
    uint16_t source_port, port  # UDP
    uint16_t size               # payload bytes; of all datagrams together in a superframe
    uint8_t tos, ttl
    const uint8_t *payload      # borrowed: dies when the block is released

cdef struct Fragment:
    # A part of an IPv4 datagram, of protocol UDP.
    uint32_t source, group      # host byte order
    uint32_t start, end         # of what follows the datagram's IPv4 header, in bytes
    uint16_t identification
    bint more                   # it is not the last
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
    cdef const uint8_t *ip = frame + ETHERNET_BYTES
    cdef uint32_t header, total
    if size < wire_size:
        return TRUNCATED
    if size < ETHERNET_BYTES:
        return MALFORMED
    if read_be16(frame + 12) != ETHERTYPE_IPV4:
        return VLAN if read_be16(frame + 12) in (ETHERTYPE_CTAG, ETHERTYPE_STAG) else NOT_UDP
    size -= ETHERNET_BYTES
    if size < IPV4_BYTES or ip[0] >> 4 != 4:
        return MALFORMED
    header = (ip[0] & 15) * 4
    total = read_be16(ip + 2)                   # what follows is Ethernet padding
    if header < IPV4_BYTES or total < header or total > size:
        return MALFORMED
    if not header_holds(ip, header):
        return MALFORMED
    if ip[9] != 17:
        return NOT_UDP
    if read_be16(ip + 6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET):
        return FRAGMENT
    out.source = read_be32(ip + 12)
    out.group = read_be32(ip + 16)
    out.tos = ip[1]
    out.ttl = ip[8]
    return parse_udp(ip + header, total - header, verify, out)


cdef inline Verdict parse_udp(const uint8_t *udp, uint32_t total, bint verify, Datagram *out) noexcept nogil:
    """Read what follows an IPv4 header, ``total`` bytes; ``out`` has the header's part already."""
    cdef uint32_t length
    if total < UDP_BYTES:
        return MALFORMED
    length = read_be16(udp + 4)
    if length < UDP_BYTES or length > total:
        return MALFORMED
    if verify and read_be16(udp + 6) and not udp_sum_holds(udp, length, out.source, out.group):
        return MALFORMED
    out.source_port = read_be16(udp)
    out.port = read_be16(udp + 2)
    out.size = <uint16_t>(length - UDP_BYTES)
    out.payload = udp + UDP_BYTES
    return RELAYED


cdef inline bint udp_sum_holds(
    const uint8_t *udp, uint32_t length, uint32_t source, uint32_t group
) noexcept nogil:
    """RFC 768: pseudo header, UDP header and payload sum to all ones."""
    return fold(
        <uint64_t>ones_sum(udp, length) + (source >> 16) + (source & 0xffff) + (group >> 16) + (group & 0xffff)
        + 17 + length
    ) == 0xffff


cdef inline bint parse_fragment(const uint8_t *frame, Fragment *out) noexcept nogil:
    """Read a frame of which ``parse`` said FRAGMENT; False where no datagram has such a part.

    A part that is not the last ends at a multiple of 8 bytes, none is empty, a datagram has 65535 bytes: RFC 791.
    """
    cdef const uint8_t *ip = frame + ETHERNET_BYTES
    cdef uint32_t header = (ip[0] & 15) * 4
    cdef uint32_t size = read_be16(ip + 2) - header
    cdef uint32_t place = read_be16(ip + 6)
    out.source = read_be32(ip + 12)
    out.group = read_be32(ip + 16)
    out.identification = read_be16(ip + 4)
    out.more = place & MORE_FRAGMENTS != 0
    out.start = (place & FRAGMENT_OFFSET) * 8
    out.end = out.start + size
    out.tos = ip[1]
    out.ttl = ip[8]
    out.bytes = ip + header
    return size != 0 and not (out.more and size & 7) and header + out.end <= TOTAL_MAX
