"""Ethernet frames as a packet socket gives them, and the UDP datagrams in them (RFC 791, 768; IEEE 802.1Q). Pure.

For commands that look at traffic. What relays has a parser of its own, in the core.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ETHERNET_BYTES = 14
TAG_BYTES = 4
UDP, IGMP = 17, 2
_IPV4 = 0x0800
_TAGS = {0x8100, 0x88A8}
_UDP_HEADER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was seen, its VLAN tag in its place. ``time_ns`` is Unix time, ``length`` what it had on the link.

    ``outgoing``: this host sent it. ``segment_bytes`` is the payload of each datagram of a superframe, 0 for others.
    """

    data: bytes
    time_ns: int = 0
    length: int = 0
    outgoing: bool = False
    segment_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Datagram:
    """The addresses of an IPv4 UDP frame, and its payload as far as it was captured.

    ``vlan`` None is untagged (a tag with VLAN 0 is a priority alone). ``fragment``: a part of a datagram; parts after
    the first have no ports, and they are 0. ``count`` is more than one for a superframe; ``payload`` is all of theirs.
    """

    source: IPv4Address
    source_port: int
    group: IPv4Address
    port: int
    vlan: int | None
    ttl: int
    payload: bytes
    count: int = 1
    fragment: bool = False


def network(data: bytes) -> tuple[int, int | None]:
    """Where the IPv4 header begins and the VLAN id; (0, None) for anything else. Two tags count as the outer one."""
    at, vlan = ETHERNET_BYTES, None
    kind = int.from_bytes(data[12:14], "big")
    for _ in range(2):
        if kind not in _TAGS or len(data) < at + TAG_BYTES:
            break
        if vlan is None:
            vlan = int.from_bytes(data[at : at + 2], "big") & 0x0FFF or None
        kind = int.from_bytes(data[at + 2 : at + 4], "big")
        at += TAG_BYTES
    if kind != _IPV4 or len(data) < at + 20 or data[at] >> 4 != 4 or (data[at] & 15) < 5:
        return 0, None
    return at, vlan


def read_datagram(frame: Frame) -> Datagram | None:
    """Read a frame; None for what is no IPv4 UDP, or is cut short before its ports."""
    data = frame.data
    at, vlan = network(data)
    if not at or data[at + 9] != UDP:
        return None
    body = at + (data[at] & 15) * 4
    end = min(len(data), at + int.from_bytes(data[at + 2 : at + 4], "big"))
    word = int.from_bytes(data[at + 6 : at + 8], "big")
    source, group = IPv4Address(data[at + 12 : at + 16]), IPv4Address(data[at + 16 : at + 20])
    if word & 0x1FFF:
        return Datagram(source, 0, group, 0, vlan, data[at + 8], data[body:end], fragment=True)
    if end < body + _UDP_HEADER_BYTES:
        return None
    source_port, port = struct.unpack_from("!HH", data, body)
    payload = data[body + _UDP_HEADER_BYTES : end]
    count = -(-len(payload) // frame.segment_bytes) if frame.segment_bytes else 1
    return Datagram(
        source, source_port, group, port, vlan, data[at + 8], payload, max(count, 1), fragment=bool(word & 0x2000)
    )


def build(datagram: Datagram) -> bytes:
    """A frame with that datagram, as a host would send it, but without a tag: the kernel takes that off (``vlan``)."""
    length = _UDP_HEADER_BYTES + len(datagram.payload)
    ends = datagram.source.packed + datagram.group.packed
    udp = struct.pack("!HHHH", datagram.source_port, datagram.port, length, 0)
    udp = udp[:6] + _checksum(ends + struct.pack("!HH", UDP, length) + udp + datagram.payload)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, datagram.ttl, UDP, 0) + ends
    head = head[:10] + _checksum(head) + head[12:]
    if datagram.group.is_multicast:  # RFC 1112, 6.4
        to = b"\x01\x00\x5e" + (int(datagram.group) & 0x7FFFFF).to_bytes(3, "big")
    else:
        to = b"\x02" + bytes(5)
    return to + b"\x02" + bytes(4) + b"\x01" + _IPV4.to_bytes(2, "big") + head + udp + datagram.payload


def cut(frame: Frame) -> Iterator[Frame]:
    """The datagrams of a superframe as frames of their own, as a device would have sent them; others as they are."""
    data, size = frame.data, frame.segment_bytes
    at, _ = network(data)
    body = at + (data[at] & 15) * 4 + _UDP_HEADER_BYTES if at else 0
    if not size or not at or data[at + 9] != UDP or len(data) <= body:
        yield frame
        return
    end = min(len(data), at + int.from_bytes(data[at + 2 : at + 4], "big"))
    for number, begin in enumerate(range(body, end, size)):
        payload = data[begin : min(begin + size, end)]
        head = bytearray(data[:body])
        identity = int.from_bytes(head[at + 4 : at + 6], "big") + number
        head[at + 2 : at + 6] = struct.pack("!HH", body - at + len(payload), identity & 0xFFFF)
        head[at + 10 : at + 12] = bytes(2)
        head[at + 10 : at + 12] = _checksum(bytes(head[at : body - _UDP_HEADER_BYTES]))
        length = _UDP_HEADER_BYTES + len(payload)
        head[body - 4 : body] = struct.pack("!HH", length, 0)
        pseudo = bytes(head[at + 12 : at + 20]) + struct.pack("!HH", UDP, length)
        head[body - 2 : body] = _checksum(pseudo + bytes(head[body - 8 : body]) + payload)
        whole = bytes(head) + payload
        yield replace(frame, data=whole, length=len(whole), segment_bytes=0)


def _checksum(data: bytes) -> bytes:
    """RFC 1071: sixteen bits carry around, so the sum is the remainder by 65535."""
    total = int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF
    return (0xFFFF - total or 0xFFFF).to_bytes(2, "big")
