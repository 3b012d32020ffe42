"""What differs between IGMP, for IPv4, and MLD, for IPv6: the monitor of a link's memberships is the same for both."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from mcrelay.igmp import mld, wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.igmp.messages import Joined, Query, Report
    from mcrelay.model.link import Link
    from mcrelay.model.stream import Address

ALL_NODES = IPv6Address("ff02::1")
LINK_LOCAL_SCOPE = 2  # RFC 4291, 2.7


@dataclass(frozen=True, slots=True)
class Protocol:
    """One of the two.

    ``newest`` is the version whose reports name sources. ``parse`` reads a frame; ``build_reports`` takes version,
    source, MAC, the joined groups and the MTU. ``source`` is the address that reports of a link leave from, None if it
    has none; ``stand_in`` is what stands in its place then, None where nobody heeds such a report. ``snooped`` tells
    whether switches stop a group that nobody reports.
    """

    name: str
    address: type[IPv4Address | IPv6Address]
    newest: int
    parse: Callable[[bytes], Query | Report | None]
    build_reports: Callable[[int, Address, bytes, Joined, int], list[bytes]]
    source: Callable[[Link], Address | None]
    stand_in: Address | None
    snooped: Callable[[Address], bool]

    def __repr__(self) -> str:
        return self.name


def _first_address(link: Link) -> Address | None:
    return link.addresses[0].ip if link.addresses else None


def _is_snooped(group: Address) -> bool:
    """A switch passes 224.0.0.0/24 to every port, reported or not (RFC 4541, 2.1.2)."""
    return int(group) >> 8 != 0xE00000


def _is_snooped6(group: Address) -> bool:
    """Of IPv6 only the group of all nodes is never reported, and what stays inside a host (RFC 3810, 6)."""
    return group != ALL_NODES and group.packed[1] & 0xF >= LINK_LOCAL_SCOPE


IGMP = Protocol(
    "IGMP",
    IPv4Address,
    3,
    wire.parse,
    wire.build_reports,
    _first_address,
    wire.NO_ADDRESS,
    _is_snooped,
)
MLD = Protocol(
    "MLD",
    IPv6Address,
    2,
    mld.parse,
    mld.build_reports,
    lambda link: link.link_local,
    None,
    _is_snooped6,
)
PROTOCOLS = (IGMP, MLD)


def protocol_of(group: Address) -> Protocol:
    """The protocol in which hosts report a group."""
    return MLD if isinstance(group, IPv6Address) else IGMP
