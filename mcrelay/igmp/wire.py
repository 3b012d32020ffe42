"""IGMP: messages read from frames, and reports built as frames (RFC 1112, RFC 2236, RFC 3376); no sockets here."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from mcrelay.igmp.messages import IS_EXCLUDE, TO_INCLUDE, Query, Record, Report, ones_sum, packed_records, read_records

if TYPE_CHECKING:
    from mcrelay.igmp.messages import Joined
    from mcrelay.model.stream import Address

QUERY, REPORT_V1, REPORT_V2, LEAVE, REPORT_V3 = 0x11, 0x12, 0x16, 0x17, 0x22

NO_ADDRESS = IPv4Address(0)
ALL_V3_ROUTERS = IPv4Address("224.0.0.22")
ROUTER_ALERT = b"\x94\x04\0\0"  # RFC 2113
HEADER_BYTES = 20 + len(ROUTER_ALERT)
INTERNETWORK_CONTROL = 0xC0  # TOS, RFC 3376, 4


def parse(frame: bytes) -> Query | Report | None:
    """The IGMP message in an Ethernet frame, or None for anything else, also when it is cut short or corrupt."""
    ip = frame[14:]
    if len(ip) < 20 or frame[12:14] != b"\x08\x00" or ip[0] >> 4 != 4 or ip[9] != 2:
        return None
    header = (ip[0] & 15) * 4
    total = int.from_bytes(ip[2:4], "big")
    message = ip[header:total]
    if header < 20 or total > len(ip) or len(message) < 8 or ones_sum(message) != 0xFFFF:
        return None
    source = IPv4Address(ip[12:16])
    kind = message[0]
    if kind == QUERY:
        return _query(source, message)
    if kind == REPORT_V3:
        return _report_v3(source, message)
    group = IPv4Address(message[4:8])
    if kind in {REPORT_V1, REPORT_V2} and group.is_multicast:
        return Report(source, 1 if kind == REPORT_V1 else 2, (Record(IS_EXCLUDE, group),))
    if kind == LEAVE and group.is_multicast:
        return Report(source, 2, (Record(TO_INCLUDE, group),))
    return None


def _query(source: IPv4Address, message: bytes) -> Query:
    """The version follows from length and code (RFC 3376, 7.1): 8 bytes with code 0 are 1, 8 are 2, 12 or more 3."""
    version = 3 if len(message) >= 12 else 2 if message[1] else 1
    tenths = message[1]
    if version == 1:
        tenths = 100  # RFC 2236, 4: the time that a version 1 query implies
    elif version == 3 and tenths >= 0x80:  # a floating point number, RFC 3376, 4.1.1
        tenths = (tenths & 0x0F | 0x10) << ((tenths >> 4 & 7) + 3)
    group = IPv4Address(message[4:8])
    sources = int.from_bytes(message[10:12], "big") if version == 3 else 0
    return Query(source, version, None if group.is_unspecified else group, tenths / 10, sources)


def _report_v3(source: IPv4Address, message: bytes) -> Report | None:
    records = read_records(message, IPv4Address)
    return None if records is None else Report(source, 3, records)


def build_reports(version: int, source: Address, mac: bytes, joined: Joined, mtu: int) -> list[bytes]:
    """Ethernet frames that report ``joined``, as an answer to a general query of that version.

    Version 3 packs as many groups into a packet as the MTU allows. Versions 1 and 2 have no sources, and need one
    packet for each group. ``source`` is 0.0.0.0 where the link has no address (RFC 3376, 4.2.13).
    """
    if version >= 3:
        parts = packed_records(joined, 4, mtu - HEADER_BYTES - 8)
        return [_frame(mac, source, ALL_V3_ROUTERS, _v3_message(records)) for records in parts]
    kind = REPORT_V1 if version == 1 else REPORT_V2
    return [
        _frame(mac, source, group, _checked(struct.pack("!BBH4s", kind, 0, 0, group.packed)))
        for group in sorted(joined, key=int)
    ]


def _v3_message(records: list[bytes]) -> bytes:
    return _checked(struct.pack("!BBHHH", REPORT_V3, 0, 0, 0, len(records)) + b"".join(records))


def _frame(mac: bytes, source: Address, destination: Address, message: bytes) -> bytes:
    group_mac = b"\x01\x00\x5e" + (int(destination) & 0x7FFFFF).to_bytes(3, "big")  # RFC 1112, 6.4
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | HEADER_BYTES // 4, INTERNETWORK_CONTROL, HEADER_BYTES + len(message), 0, 0x4000, 1, 2, 0,
        source.packed, destination.packed,
    )  # fmt: skip
    header += ROUTER_ALERT
    header = header[:10] + (0xFFFF - ones_sum(header)).to_bytes(2, "big") + header[12:]
    return group_mac + mac + b"\x08\x00" + header + message


def _checked(message: bytes) -> bytes:
    return message[:2] + (0xFFFF - ones_sum(message)).to_bytes(2, "big") + message[4:]
