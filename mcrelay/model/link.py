"""A network interface as it is now, and what is joined on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ipaddress import IPv4Interface, IPv6Address, IPv6Interface

    from mcrelay.model.stream import Address

POINT_TO_POINT = 31  # bits: a network of two hosts has no broadcast address (RFC 3021)


class LinkId(NamedTuple):
    """Which link it is. The kernel may reuse its number; ``incarnation`` tells the links apart, 0 if unwatched."""

    ifindex: int
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as it is now. ``addresses``, of IPv4, stand in the kernel's order, primary first.

    ``addresses6`` are those of IPv6 that can be used, in the kernel's order, wider scopes first. Duplicate address
    detection (RFC 4862, 5.4) is not done with the ``tentative`` ones yet; another host has the ``refused`` ones.
    ``hardware`` is the ARPHRD number (1 Ethernet, 772 loopback; linux/if_arp.h). ``carrier_losses`` is the kernel's
    count since the link was made. ``master`` is the bridge or bond whose port this link is; it takes the frames.
    ``master_kind`` is its kind in the words of ip-link(8). ``upper`` is a macvlan or ipvlan link of this namespace
    that takes frames from this one. ``cuts`` names a queueing discipline, of this link or of the one below it, that
    cuts runs into datagrams. ``scopes`` are the scopes of the addresses in the same order (rtnetlink(7); 0 is global);
    empty means that every one is 0. ``incarnation`` tells this link from a later one with the same name and number:
    sockets, rings and joins do not carry over.
    """

    name: str
    ifindex: int
    up: bool
    carrier: bool
    operstate: str
    mtu: int
    addresses: tuple[IPv4Interface, ...] = ()
    hardware: int = 1
    mac: str = ""
    carrier_losses: int = 0
    master: str = ""
    master_kind: str = ""
    upper: str = ""
    cuts: str = ""
    altnames: tuple[str, ...] = ()
    scopes: tuple[int, ...] = ()
    incarnation: int = 0
    addresses6: tuple[IPv6Interface, ...] = ()
    tentative: tuple[IPv6Address, ...] = ()
    refused: tuple[IPv6Address, ...] = ()

    @property
    def link_local(self) -> IPv6Address | None:
        """The IPv6 address of this link alone that it can send from; the first if there are several."""
        return next((each.ip for each in self.addresses6 if each.is_link_local), None)

    @property
    def id(self) -> LinkId:
        """Which link it is, apart from its name."""
        return LinkId(self.ifindex, self.incarnation)

    def broadcasts(self, address: Address) -> bool:
        """Whether every host of this link takes what is sent to *address* (RFC 919, RFC 922).

        One that ends in 255 may be that of a network which this host has no address in, as Art-Net's 2.255.255.255.
        """
        own = (each.network for each in self.addresses if each.network.prefixlen < POINT_TO_POINT)
        last = address.version == 4 and not address.is_multicast and int(address) & 0xFF == 0xFF
        return last or any(address == network.broadcast_address for network in own)


class LinkTable(dict[str, Link]):
    """Links by name. Look-up takes an altname too (ip-link(8), ``property``); iteration gives names only."""

    def __init__(self, links: dict[str, Link]) -> None:
        super().__init__(links)
        self._names = {alias: name for name, link in links.items() for alias in link.altnames}

    def __missing__(self, key: str) -> Link:
        return super().__getitem__(self._names[key])

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._names

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(self._names.get(key, key), default)


@dataclass(frozen=True, slots=True, order=True)
class Membership:
    """One joined (link, group[, source]); ``source`` None is any-source (ASM)."""

    ifindex: int
    group: Address
    source: Address | None = None
    incarnation: int = 0

    @property
    def link(self) -> LinkId:
        """The link that it is joined on."""
        return LinkId(self.ifindex, self.incarnation)
