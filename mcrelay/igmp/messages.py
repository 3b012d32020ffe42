"""What hosts and queriers tell each other of groups, whichever family: IGMP's messages and MLD's are the same values.

RFC 3810, 1: MLD version 1 is IGMP version 2 for IPv6, and MLD version 2 is IGMP version 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from ipaddress import IPv6Address

    from mcrelay.model.stream import Address

IS_INCLUDE, IS_EXCLUDE, TO_INCLUDE, TO_EXCLUDE, ALLOW_SOURCES, BLOCK_SOURCES = range(1, 7)  # RFC 3376, 4.2.12

# Sources by group; none means any source.
Joined: TypeAlias = "Mapping[Address, Collection[Address]]"


@dataclass(frozen=True, slots=True)
class Query:
    """A membership query; ``group`` None is a general one. Queries compare equal without their response time."""

    querier: Address
    version: int
    group: Address | None
    max_response_seconds: float = field(default=10.0, compare=False)
    source_count: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Record:
    """A host's record of one group; ``kind`` is one of IS_INCLUDE … BLOCK_SOURCES."""

    kind: int
    group: Address
    sources: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A report or leave. Those without records are given as records too, as RFC 3376, 7.3.2 reads them."""

    host: Address
    version: int
    records: tuple[Record, ...]

    @property
    def answers(self) -> frozenset[Address]:
        """Groups whose present state it reports, as an answer to a query does."""
        return frozenset(each.group for each in self.records if each.kind in {IS_INCLUDE, IS_EXCLUDE})


@dataclass(frozen=True, slots=True)
class Querier:
    """The last querier heard on a link, and when (monotonic seconds)."""

    address: Address
    version: int
    heard: float


def packed_records(joined: Joined, width: int, room: int) -> Iterator[list[bytes]]:
    """Records of the newest version that report *joined*, as many together as fit into *room* bytes.

    Addresses have *width* bytes. A group with more sources than fit has several records (RFC 3376, 4.2.16).
    """
    records: list[bytes] = []
    for record in _records(joined, (room - 4 - width) // width):
        if records and sum(map(len, records)) + len(record) > room:
            yield records
            records = []
        records.append(record)
    if records:
        yield records


def _records(joined: Joined, most: int) -> Iterator[bytes]:
    for group in sorted(joined, key=int):
        sources = sorted(joined[group], key=int)
        kind = IS_INCLUDE if sources else IS_EXCLUDE
        for at in range(0, max(1, len(sources)), most):
            part = sources[at : at + most]
            packed = b"".join(each.packed for each in part)
            yield struct.pack("!BBH", kind, 0, len(part)) + group.packed + packed


def read_records(message: bytes, family: type[IPv4Address | IPv6Address]) -> tuple[Record, ...] | None:
    """The records of a report of the newest version. None if it is cut short."""
    records, width = [], 4 if family is IPv4Address else 16
    at = 8
    for _ in range(int.from_bytes(message[6:8], "big")):
        if len(message) < at + 4 + width:
            return None
        kind, auxiliary, count = struct.unpack_from("!BBH", message, at)
        end = at + 4 + width * (1 + count)
        if len(message) < end + 4 * auxiliary:
            return None
        group, *sources = (family(message[i : i + width]) for i in range(at + 4, end, width))
        records.append(Record(kind, group, tuple(sources)))
        at = end + 4 * auxiliary
    return tuple(records)


def ones_sum(data: bytes) -> int:
    """Ones' complement sum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
