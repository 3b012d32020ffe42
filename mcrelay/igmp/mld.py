"""MLD: messages read from frames, and reports built as frames (RFC 2710, RFC 3810); no sockets here."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from mcrelay.igmp.messages import IS_EXCLUDE, TO_INCLUDE, Query, Record, Report, ones_sum, packed_records, read_records

if TYPE_CHECKING:
    from mcrelay.igmp.messages import Joined
    from mcrelay.model.stream import Address

QUERY, REPORT_V1, DONE, REPORT_V2 = 130, 131, 132, 143
ALL_V2_ROUTERS = IPv6Address("ff02::16")
HOP_BY_HOP, ICMPV6 = 0, 58
ROUTER_ALERT = bytes([ICMPV6, 0]) + b"\x05\x02\0\0" + b"\x01\0"  # a hop-by-hop header: RFC 2711, and padding
IP_BYTES = 40
HEADER_BYTES = IP_BYTES + len(ROUTER_ALERT)
V1_BYTES = 24  # RFC 2710, 3


def parse(frame: bytes) -> Query | Report | None:
    """The MLD message in an Ethernet frame, or None for anything else, also when it is cut short or corrupt.

    Every MLD message has a hop limit of 1 and a hop-by-hop header with a router alert (RFC 3810, 5).
    """
    ip = frame[14:]
    if len(ip) < HEADER_BYTES or frame[12:14] != b"\x86\xdd" or ip[0] >> 4 != 6 or (ip[6], ip[7]) != (HOP_BY_HOP, 1):
        return None
    end = IP_BYTES + int.from_bytes(ip[4:6], "big")
    begin = IP_BYTES + 8 * (ip[IP_BYTES + 1] + 1)
    if ip[IP_BYTES] != ICMPV6 or not begin <= end <= len(ip):
        return None
    message = ip[begin:end]
    if ones_sum(_pseudo_header(ip[8:24], ip[24:40], len(message)) + message) != 0xFFFF:
        return None
    return parse_message(IPv6Address(ip[8:24]), message)


def parse_message(source: IPv6Address, message: bytes) -> Query | Report | None:
    """The MLD message in an ICMPv6 message whose checksum is right, or None for any other."""
    if len(message) < 8:
        return None
    kind = message[0]
    if kind == REPORT_V2:
        return _report_v2(source, message)
    if len(message) < V1_BYTES:
        return None
    group = IPv6Address(message[8:24])
    if kind == QUERY:
        return _query(source, group, message)
    if kind == REPORT_V1 and group.is_multicast:
        return Report(source, 1, (Record(IS_EXCLUDE, group),))
    if kind == DONE and group.is_multicast:
        return Report(source, 1, (Record(TO_INCLUDE, group),))
    return None


def _query(source: IPv6Address, group: IPv6Address, message: bytes) -> Query | None:
    """The version follows from the length: 24 bytes are 1, 28 or more 2, others nothing (RFC 3810, 8.1)."""
    version = 1 if len(message) == V1_BYTES else 2
    if V1_BYTES < len(message) < V1_BYTES + 4:
        return None
    milliseconds = int.from_bytes(message[4:6], "big")
    if version == 2 and milliseconds >= 0x8000:  # a floating point number, RFC 3810, 5.1.3
        milliseconds = (milliseconds & 0x0FFF | 0x1000) << ((milliseconds >> 12 & 7) + 3)
    sources = int.from_bytes(message[26:28], "big") if version == 2 else 0
    return Query(source, version, None if group.is_unspecified else group, milliseconds / 1000, sources)


def _report_v2(source: IPv6Address, message: bytes) -> Report | None:
    records = read_records(message, IPv6Address)
    return None if records is None else Report(source, 2, records)


def build_reports(version: int, source: Address, mac: bytes, joined: Joined, mtu: int) -> list[bytes]:
    """Ethernet frames that report *joined*, as an answer to a general query of that version.

    Version 2 packs as many groups into a packet as the MTU allows. Version 1 has no sources, and needs one packet for
    each group. ``source`` is link-local: routers ignore reports from other addresses (RFC 3810, 5.2.13).
    """
    if version == 1:
        return [
            _frame(mac, source, group, struct.pack("!BBHHH16s", REPORT_V1, 0, 0, 0, 0, group.packed))
            for group in sorted(joined, key=int)
        ]
    return [
        _frame(mac, source, ALL_V2_ROUTERS, struct.pack("!BBHHH", REPORT_V2, 0, 0, 0, len(records)) + b"".join(records))
        for records in packed_records(joined, 16, mtu - HEADER_BYTES - 8)
    ]


def _frame(mac: bytes, source: Address, destination: Address, message: bytes) -> bytes:
    group_mac = b"\x33\x33" + destination.packed[12:]  # RFC 2464, 7
    length = len(ROUTER_ALERT) + len(message)
    header = struct.pack("!IHBB", 6 << 28, length, HOP_BY_HOP, 1) + source.packed + destination.packed
    total = ones_sum(_pseudo_header(source.packed, destination.packed, len(message)) + message)
    checked = message[:2] + (0xFFFF - total).to_bytes(2, "big") + message[4:]
    return group_mac + mac + b"\x86\xdd" + header + ROUTER_ALERT + checked


def _pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    """RFC 8200, 8.1."""
    return source + destination + struct.pack("!II", length, ICMPV6)
