"""IGMP: messages read from frames, and reports built as frames (RFC 1112, RFC 2236, RFC 3376); no sockets here."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

QUERY, REPORT_V1, REPORT_V2, LEAVE, REPORT_V3 = 0x11, 0x12, 0x16, 0x17, 0x22
IS_INCLUDE, IS_EXCLUDE, TO_INCLUDE, TO_EXCLUDE, ALLOW_SOURCES, BLOCK_SOURCES = range(1, 7)  # RFC 3376, 4.2.12

NO_ADDRESS = IPv4Address(0)
ALL_V3_ROUTERS = IPv4Address("224.0.0.22")
ROUTER_ALERT = b"\x94\x04\0\0"  # RFC 2113
HEADER_BYTES = 20 + len(ROUTER_ALERT)
INTERNETWORK_CONTROL = 0xC0  # TOS, RFC 3376, 4

# Sources by group; none means any source.
Joined: TypeAlias = "Mapping[IPv4Address, Collection[IPv4Address]]"


@dataclass(frozen=True, slots=True)
class Query:
    """A membership query; ``group`` None is a general one. Equal ones ask the same, whatever time they give."""

    querier: IPv4Address
    version: int
    group: IPv4Address | None
    max_response_seconds: float = field(default=10.0, compare=False)
    source_count: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Record:
    """What a host says of one group; ``kind`` is one of IS_INCLUDE … BLOCK_SOURCES."""

    kind: int
    group: IPv4Address
    sources: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A report or leave. Those of versions 1 and 2 are told in records, as RFC 3376, 7.3.2 reads them."""

    host: IPv4Address
    version: int
    records: tuple[Record, ...]

    @property
    def answers(self) -> frozenset[IPv4Address]:
        """Groups whose present state it tells, as an answer to a query does."""
        return frozenset(each.group for each in self.records if each.kind in {IS_INCLUDE, IS_EXCLUDE})


@dataclass(frozen=True, slots=True)
class Querier:
    """Who asked last on a link, and when (monotonic seconds)."""

    address: IPv4Address
    version: int
    heard: float


def parse(frame: bytes) -> Query | Report | None:
    """The IGMP message in an Ethernet frame, or None for anything else, also when it is cut short or corrupt."""
    ip = frame[14:]
    if len(ip) < 20 or frame[12:14] != b"\x08\x00" or ip[0] >> 4 != 4 or ip[9] != 2:
        return None
    header = (ip[0] & 15) * 4
    total = int.from_bytes(ip[2:4], "big")
    message = ip[header:total]
    if header < 20 or total > len(ip) or len(message) < 8 or _sum(message) != 0xFFFF:
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


def parse_query(frame: bytes) -> Query | None:
    """The query in an Ethernet frame, or None for anything else."""
    found = parse(frame)
    return found if isinstance(found, Query) else None


def _query(source: IPv4Address, message: bytes) -> Query:
    """The version follows from length and code (RFC 3376, 7.1): 8 bytes with code 0 are 1, 8 are 2, 12 or more 3."""
    version = 3 if len(message) >= 12 else 2 if message[1] else 1
    tenths = message[1]
    if version == 1:
        tenths = 100  # RFC 2236, 4: what version 1 means by nothing
    elif version == 3 and tenths >= 0x80:  # a floating point number, RFC 3376, 4.1.1
        tenths = (tenths & 0x0F | 0x10) << ((tenths >> 4 & 7) + 3)
    group = IPv4Address(message[4:8])
    sources = int.from_bytes(message[10:12], "big") if version == 3 else 0
    return Query(source, version, None if group.is_unspecified else group, tenths / 10, sources)


def _report_v3(source: IPv4Address, message: bytes) -> Report | None:
    records = []
    at = 8
    for _ in range(int.from_bytes(message[6:8], "big")):
        if len(message) < at + 8:
            return None
        kind, auxiliary, count = struct.unpack_from("!BBH", message, at)
        end = at + 8 + 4 * count
        if len(message) < end + 4 * auxiliary:
            return None
        addresses = [IPv4Address(message[i : i + 4]) for i in range(at + 4, end, 4)]
        records.append(Record(kind, addresses[0], tuple(addresses[1:])))
        at = end + 4 * auxiliary
    return Report(source, 3, tuple(records))


def build_reports(version: int, source: IPv4Address, mac: bytes, joined: Joined, mtu: int) -> list[bytes]:
    """Ethernet frames that report ``joined``, as an answer to a general query of that version would.

    Version 3 packs as many groups into a packet as the MTU takes. Versions 1 and 2 know no sources, and take a packet
    a group. ``source`` is 0.0.0.0 where the link has no address (RFC 3376, 4.2.13).
    """
    if version >= 3:
        return [_frame(mac, source, ALL_V3_ROUTERS, message) for message in _v3_messages(joined, mtu - HEADER_BYTES)]
    kind = REPORT_V1 if version == 1 else REPORT_V2
    return [
        _frame(mac, source, group, _checked(struct.pack("!BBH4s", kind, 0, 0, group.packed)))
        for group in sorted(joined)
    ]


def _v3_messages(joined: Joined, room: int) -> Iterator[bytes]:
    records: list[bytes] = []
    for record in _records(joined, (room - 16) // 4):
        if records and 8 + sum(map(len, records)) + len(record) > room:
            yield _v3_message(records)
            records = []
        records.append(record)
    if records:
        yield _v3_message(records)


def _v3_message(records: list[bytes]) -> bytes:
    return _checked(struct.pack("!BBHHH", REPORT_V3, 0, 0, 0, len(records)) + b"".join(records))


def _records(joined: Joined, most: int) -> Iterator[bytes]:
    """A record a group, or several where ``most`` sources are not enough (RFC 3376, 4.2.16)."""
    for group in sorted(joined):
        sources = sorted(joined[group])
        kind = IS_INCLUDE if sources else IS_EXCLUDE
        for at in range(0, max(1, len(sources)), most):
            part = sources[at : at + most]
            packed = b"".join(each.packed for each in part)
            yield struct.pack("!BBH4s", kind, 0, len(part), group.packed) + packed


def _frame(mac: bytes, source: IPv4Address, destination: IPv4Address, message: bytes) -> bytes:
    group_mac = b"\x01\x00\x5e" + (int(destination) & 0x7FFFFF).to_bytes(3, "big")  # RFC 1112, 6.4
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | HEADER_BYTES // 4, INTERNETWORK_CONTROL, HEADER_BYTES + len(message), 0, 0x4000, 1, 2, 0,
        source.packed, destination.packed,
    )  # fmt: skip
    header += ROUTER_ALERT
    header = header[:10] + (0xFFFF - _sum(header)).to_bytes(2, "big") + header[12:]
    return group_mac + mac + b"\x08\x00" + header + message


def _checked(message: bytes) -> bytes:
    return message[:2] + (0xFFFF - _sum(message)).to_bytes(2, "big") + message[4:]


def _sum(data: bytes) -> int:
    """Ones' complement sum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def host_versions(path: Path = Path("/proc/net/igmp")) -> dict[str, int]:
    """The IGMP version the kernel speaks on each link now, by name; empty where /proc is not mounted.

    It falls back to what the querier speaks (RFC 3376, 7.2.1).
    """
    versions = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            if not line[:1].isspace() and len(fields) >= 5 and fields[-1].startswith("V"):
                versions[fields[1].rstrip(":")] = int(fields[-1][1:])
    return versions
