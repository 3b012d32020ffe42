"""Ethernet frames as a packet socket gives them, and the UDP datagrams in them (RFC 791, 8200, 768; IEEE 802.1Q). Pure.

For commands that look at traffic. The forwarding loop has its own parser, in the core.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay.model.stream import Address

ETHERNET_BYTES = 14
TAG_BYTES = 4
UDP = 17
EXTENSIONS_MAX = 9  # headers of IPv6 that are looked at, the last one among them
_IPV4, _IPV6 = 0x0800, 0x86DD
_IPV6_BYTES = 40
_FRAGMENT = 44
_EXTENSIONS = {0, 43, _FRAGMENT, 60}  # hop-by-hop, routing, fragment, destination options
_TAGS = {0x8100, 0x88A8}
_UDP_HEADER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """A captured frame, its VLAN tag in place. ``time_ns`` is Unix time, ``length`` the size on the link in bytes.

    ``outgoing``: this host sent it. ``segment_bytes`` is the payload of each datagram of a superframe, 0 for others.
    """

    data: bytes
    time_ns: int = 0
    length: int = 0
    outgoing: bool = False
    segment_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Datagram:
    """The addresses of a UDP frame, and its payload as far as it was captured.

    ``vlan`` None is untagged (a tag with VLAN 0 is a priority alone). ``fragment``: a part of a datagram; parts after
    the first have no ports, and they are 0. ``count`` is more than one for a superframe; ``payload`` is all of theirs.
    """

    source: Address
    source_port: int
    group: Address
    port: int
    vlan: int | None
    ttl: int
    payload: bytes
    count: int = 1
    fragment: bool = False

    @property
    def kind(self) -> Datagram:
        """What all datagrams of its flow have in common: one without a payload."""
        return replace(self, payload=b"", count=1)

    @property
    def later_fragment(self) -> bool:
        """Whether it is a part without ports."""
        return self.fragment and not self.port


class _Packet(NamedTuple):
    """Where the parts of an IP packet in a frame are, as offsets: its header, what stands behind all headers, its end.

    ``part``: a fragment. ``later``: a fragment after the first, which has no ports.
    """

    at: int
    body: int
    end: int
    protocol: int
    vlan: int | None
    part: bool
    later: bool

    def ends(self, data: bytes) -> tuple[bytes, bytes]:
        """Source and destination."""
        at, size = (self.at + 8, 16) if data[self.at] >> 4 == 6 else (self.at + 12, 4)
        return data[at : at + size], data[at + size : at + 2 * size]


def _packet(data: bytes) -> _Packet | None:
    """The IP packet in a frame, and the outer VLAN id; None for anything else."""
    at, vlan = ETHERNET_BYTES, None
    kind = int.from_bytes(data[12:14], "big")
    for _ in range(2):
        if kind not in _TAGS or len(data) < at + TAG_BYTES:
            break
        if vlan is None:
            vlan = int.from_bytes(data[at : at + 2], "big") & 0x0FFF or None
        kind = int.from_bytes(data[at + 2 : at + 4], "big")
        at += TAG_BYTES
    if kind == _IPV4 and len(data) >= at + 20 and data[at] >> 4 == 4 and (data[at] & 15) >= 5:
        word = int.from_bytes(data[at + 6 : at + 8], "big")
        end = min(len(data), at + int.from_bytes(data[at + 2 : at + 4], "big"))
        body = at + (data[at] & 15) * 4
        return _Packet(at, body, end, data[at + 9], vlan, bool(word & 0x3FFF), bool(word & 0x1FFF))
    if kind == _IPV6 and len(data) >= at + _IPV6_BYTES and data[at] >> 4 == 6:
        return _packet6(data, at, vlan)
    return None


def _packet6(data: bytes, at: int, vlan: int | None) -> _Packet | None:
    """Behind its extension headers (RFC 8200, 4); None where they are cut short or too many."""
    end = min(len(data), at + _IPV6_BYTES + int.from_bytes(data[at + 4 : at + 6], "big"))
    protocol, body, part, later = data[at + 6], at + _IPV6_BYTES, False, False
    for _ in range(EXTENSIONS_MAX):
        if protocol not in _EXTENSIONS or later:
            return _Packet(at, body, end, protocol, vlan, part, later)
        if end < body + 8:
            return None
        size = 8 * (data[body + 1] + 1)
        if protocol == _FRAGMENT:
            word = int.from_bytes(data[body + 2 : body + 4], "big")
            size, part, later = 8, part or bool(word & 0xFFF9), bool(word & 0xFFF8)
        protocol, body = data[body], body + size
    return None


def read_datagram(frame: Frame) -> Datagram | None:
    """Read a frame. Returns None if it is not UDP over IP, or is cut before its ports."""
    data = frame.data
    found = _packet(data)
    if found is None or found.protocol != UDP:
        return None
    source, group = map(ip_address, found.ends(data))
    ttl = data[found.at + (7 if source.version == 6 else 8)]
    if found.later:
        return Datagram(source, 0, group, 0, found.vlan, ttl, data[found.body : found.end], fragment=True)
    if found.end < found.body + _UDP_HEADER_BYTES:
        return None
    source_port, port = struct.unpack_from("!HH", data, found.body)
    payload = data[found.body + _UDP_HEADER_BYTES : found.end]
    count = -(-len(payload) // frame.segment_bytes) if frame.segment_bytes else 1
    return Datagram(source, source_port, group, port, found.vlan, ttl, payload, max(count, 1), fragment=found.part)


def build(datagram: Datagram) -> bytes:
    """Make the frame in which a host would send that datagram, untagged: the kernel strips the tag (``vlan``)."""
    length = _UDP_HEADER_BYTES + len(datagram.payload)
    group = datagram.group
    ends = datagram.source.packed + group.packed
    udp = struct.pack("!HHHH", datagram.source_port, datagram.port, length, 0)
    udp = udp[:6] + _checksum(ends + struct.pack("!HH", UDP, length) + udp + datagram.payload)
    if group.version == 6:
        head = struct.pack("!IHBB", 6 << 28, length, UDP, datagram.ttl) + ends
        to = b"\x33\x33" + group.packed[12:]  # RFC 2464, 7
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, datagram.ttl, UDP, 0) + ends
        head = head[:10] + _checksum(head) + head[12:]
        to = b"\x01\x00\x5e" + (int(group) & 0x7FFFFF).to_bytes(3, "big")  # RFC 1112, 6.4
    if not group.is_multicast:
        to = b"\x02" + bytes(5)
    kind = _IPV6 if group.version == 6 else _IPV4
    return to + b"\x02" + bytes(4) + b"\x01" + kind.to_bytes(2, "big") + head + udp + datagram.payload


def cut(frame: Frame) -> Iterator[Frame]:
    """Split a superframe into one frame a datagram, as a device would have sent them. Other frames stay as they are."""
    data, size = frame.data, frame.segment_bytes
    found = _packet(data)
    body = found.body + _UDP_HEADER_BYTES if found else 0
    if not size or found is None or found.protocol != UDP or found.later or len(data) <= body:
        yield frame
        return
    at, ends = found.at, b"".join(found.ends(data))
    for number, begin in enumerate(range(body, found.end, size)):
        payload = data[begin : min(begin + size, found.end)]
        head = bytearray(data[:body])
        length = _UDP_HEADER_BYTES + len(payload)
        if data[at] >> 4 == 6:
            head[at + 4 : at + 6] = struct.pack("!H", body - at - _IPV6_BYTES + len(payload))
        else:
            identity = int.from_bytes(head[at + 4 : at + 6], "big") + number
            head[at + 2 : at + 6] = struct.pack("!HH", body - at + len(payload), identity & 0xFFFF)
            head[at + 10 : at + 12] = bytes(2)
            head[at + 10 : at + 12] = _checksum(bytes(head[at : body - _UDP_HEADER_BYTES]))
        head[body - 4 : body] = struct.pack("!HH", length, 0)
        pseudo = ends + struct.pack("!HH", UDP, length)
        head[body - 2 : body] = _checksum(pseudo + bytes(head[body - 8 : body]) + payload)
        whole = bytes(head) + payload
        yield replace(frame, data=whole, length=len(whole), segment_bytes=0)


def _checksum(data: bytes) -> bytes:
    """RFC 1071: the carry goes around in 16 bits, so the sum is the remainder modulo 65535."""
    total = int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF
    return (0xFFFF - total or 0xFFFF).to_bytes(2, "big")
