"""Packets of links that have no Ethernet header (tun, WireGuard, PPP, GRE): one is put before them, in the ring.

From here on they are frames like any others. The ring leaves room for it: 16 bytes at least are kept for a link's
header, whether it has one or not (tpacket_rcv in linux/net/packet/af_packet.c).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .kernel cimport (
    VIRTIO_NET_HDR_F_NEEDS_CSUM, memcpy, memset, tpacket2_hdr, tpacket3_hdr, virtio_net_hdr, write_be16,
)
from .ring cimport Frame
from .wire cimport ETHERNET_BYTES, ETHERTYPE_IPV4


cdef inline uint32_t outer_bytes(bint slots, const uint8_t *header) noexcept nogil:
    """What stands before the packet all the same: some tunnels show their outer header (linux/net/ipv4/ip_gre.c)."""
    cdef const tpacket2_hdr *slot = <const tpacket2_hdr *>header
    cdef const tpacket3_hdr *packed = <const tpacket3_hdr *>header
    return slot.tp_net - slot.tp_mac if slots else packed.tp_net - packed.tp_mac


cdef inline void dress(Frame *frame, uint32_t outer) noexcept nogil:
    """Put an Ethernet header in the place of the ``outer`` bytes before the packet, and what is left for a device
    before that. Once for each frame: the place is ours alone until it is released."""
    cdef virtio_net_hdr left
    cdef uint8_t *mac
    cdef bint ipv4
    if outer > frame.size:
        outer = frame.size                      # cut off, and then too short for anything
    mac = <uint8_t *>frame.mac + outer - ETHERNET_BYTES
    memcpy(&left, frame.mac - sizeof(left), sizeof(left))
    if left.flags & <uint8_t>VIRTIO_NET_HDR_F_NEEDS_CSUM:
        left.csum_start = <uint16_t>(left.csum_start - outer + ETHERNET_BYTES)
    ipv4 = frame.size > outer and mac[ETHERNET_BYTES] >> 4 == 4
    memset(mac, 0, ETHERNET_BYTES)
    write_be16(mac + 12, ETHERTYPE_IPV4 if ipv4 else 0)
    memcpy(mac - sizeof(left), &left, sizeof(left))
    frame.mac = mac
    frame.size = frame.size - outer + ETHERNET_BYTES
    frame.wire_size = frame.wire_size - outer + ETHERNET_BYTES
