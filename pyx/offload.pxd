"""What a frame's sender left for its device to do: cut a superframe, fill in a checksum (struct virtio_net_hdr).

PACKET_VNET_HDR puts that struct right before the MAC header (packet(7)), from which its offsets count. A tunnel's end
(VXLAN, Geneve, ...) leaves work that is about a packet *inside* our datagram: told by ``csum_start``.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .kernel cimport (
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_UDP_L4, virtio_net_hdr, write_be16,
)
from .wire cimport UDP_BYTES, Datagram, ones_sum

cdef enum:
    UDP_SUM_AT = 6              # where UDP and TCP have their checksum; SCTP has another kind of sum in another place
    TCP_SUM_AT = 16


cdef inline uint32_t segment_bytes(const uint8_t *mac) noexcept nogil:
    """Payload bytes of each datagram of a UDP superframe, 0 when the frame holds one datagram."""
    cdef const virtio_net_hdr *left = <const virtio_net_hdr *>(mac - sizeof(virtio_net_hdr))
    return left.gso_size if left.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 else 0


cdef inline bint is_inner(const uint8_t *mac, const Datagram *datagram) noexcept nogil:
    """Whether what is left to do is about a packet inside the datagram. A superframe without NEEDS_CSUM is a list that
    GRO made of whole datagrams (linux/net/ipv4/udp_offload.c), never one of a tunnel."""
    cdef const virtio_net_hdr *left = <const virtio_net_hdr *>(mac - sizeof(virtio_net_hdr))
    if left.flags & <uint8_t>VIRTIO_NET_HDR_F_NEEDS_CSUM:
        return mac + left.csum_start != datagram.payload - UDP_BYTES
    return left.gso_type != VIRTIO_NET_HDR_GSO_NONE and left.gso_type != VIRTIO_NET_HDR_GSO_UDP_L4


cdef inline bint finish_inner(const uint8_t *mac, const Datagram *datagram) noexcept nogil:
    """Fill in the checksum of the inner packet, as a device would have; False where that is not all there is to do.

    The field holds the sum of the pseudo header. It is written where it is, in the ring, whose places are ours alone
    until they are released; a frame is looked at once, so it is not done twice.
    """
    cdef const virtio_net_hdr *left = <const virtio_net_hdr *>(mac - sizeof(virtio_net_hdr))
    cdef const uint8_t *inner = mac + left.csum_start
    cdef const uint8_t *end = datagram.payload + datagram.size
    cdef uint32_t total
    if left.gso_type != VIRTIO_NET_HDR_GSO_NONE:
        return False
    if left.csum_offset != UDP_SUM_AT and left.csum_offset != TCP_SUM_AT:
        return False
    if inner < datagram.payload or inner + left.csum_offset + 2 > end:
        return False
    total = 0xffff - ones_sum(inner, <uint32_t>(end - inner))
    write_be16(<uint8_t *>inner + left.csum_offset, <uint16_t>(total if total else 0xffff))
    return True
