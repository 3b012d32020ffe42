"""A network interface as it is now, and what is joined on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Interface


class LinkId(NamedTuple):
    """Which link it is: a number may be another link's later. ``incarnation`` 0 is a link that nobody watches over."""

    ifindex: int
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as it is now. ``addresses`` stands in the kernel's order, primary first.

    ``hardware`` is the ARPHRD number (1 Ethernet, 772 loopback; linux/if_arp.h). ``carrier_losses`` is the kernel's
    count since the link was made. ``master`` is the bridge, bond or the like that it is a port of, which takes its
    frames, and ``master_kind`` what that is, as ip-link(8) calls it; ``upper`` is a macvlan or ipvlan link of this
    namespace that takes frames from it. ``cuts`` names a queueing discipline, its own or one of the link below it,
    that cuts runs into datagrams. ``scopes`` are those of the addresses, in the same order, as rtnetlink(7) numbers
    them (0: known everywhere); without them every one is 0. ``incarnation`` tells a link from another that was made
    later with the same name and number: sockets, rings and joins of the one are worth nothing on the other.
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

    @property
    def id(self) -> LinkId:
        """Which link it is, whatever it is called."""
        return LinkId(self.ifindex, self.incarnation)


class LinkTable(dict[str, Link]):
    """Links by name. An altname (ip-link(8), ``property``) finds its link as well; going through lists names alone."""

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
    group: IPv4Address
    source: IPv4Address | None = None
    incarnation: int = 0

    @property
    def link(self) -> LinkId:
        """The link that it is joined on."""
        return LinkId(self.ifindex, self.incarnation)
