"""The kernel's facts about each link, combined: its master, the links on top of it, what cuts runs below it.

Pure: `links.watch` asks the kernel, for all links or for single ones.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from mcrelay.model.link import Link, LinkTable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

T = TypeVar("T", IPv4Interface, IPv6Interface)

# linux/if.h, linux/if_addr.h
IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFA_F_SECONDARY = 0x1  # of IPv4; of IPv6 the same bit says that an address is for a while (RFC 8981)
IFA_F_DADFAILED = 0x8
IFA_F_OPTIMISTIC = 0x4  # used while it is tentative (RFC 4429)
IFA_F_TENTATIVE = 0x40
# Queueing disciplines that cut a GSO frame into packets, may drop some of them, and still report success
# (linux/net/sched: tbf_segment of sch_tbf.c; sch_cake.c, sch_taprio.c, sch_netem.c).
CUTS_RUNS = {"tbf", "cake", "taprio", "netem"}
HOLDS_NOTHING = {"noqueue", "noop"}  # queueing disciplines with none below them
TAKES_NO_FRAMES = {"vrf"}  # kinds of masters whose ports still receive: they share only routes
TAKES_FRAMES = {"macvlan", "macvtap", "ipvlan", "ipvtap"}  # kinds of links whose frames come from the link below them


class Held(NamedTuple):
    """An address that a link has; ``flags`` are those of linux/if_addr.h."""

    address: IPv4Interface | IPv6Interface
    scope: int
    flags: int


@dataclass(frozen=True, slots=True)
class Facts:
    """The kernel's facts about one link: the link itself, and its relations to others.

    ``master`` and ``below`` are ifindexes of this namespace, 0 for none. ``queue`` is its root queueing discipline.
    """

    link: Link
    master: int = 0
    master_kind: str = ""
    below: int = 0
    takes_frames: bool = False
    queue: str = ""


class Near(NamedTuple):
    """Ifindexes that matter to the followed links.

    ``own`` are these links. ``below`` adds every link below them. ``all`` adds their masters and the links that take
    frames from them.
    """

    own: frozenset[int] = frozenset()
    below: frozenset[int] = frozenset()
    all: frozenset[int] = frozenset()


class KnownLinks:
    """The facts about every link by ifindex, and the Link values made from them."""

    def __init__(self, facts: Iterable[Facts] = (), cutting: Mapping[int, str] | None = None) -> None:
        self._facts = {each.link.ifindex: each for each in facts}
        self._cutting = dict(cutting or {})  # by ifindex: the queueing discipline that cuts runs
        self._made: dict[
            int, tuple[tuple[Facts, str, str, str], Link]
        ] = {}  # so that an unchanged link stays the same object

    def get(self, ifindex: int) -> Facts | None:
        """The last facts about a link."""
        return self._facts.get(ifindex)

    def put(self, facts: Facts) -> None:
        """Store these facts about a link. A root queue without others below it cuts nothing."""
        self._facts[facts.link.ifindex] = facts
        if facts.queue in HOLDS_NOTHING:
            self._cutting.pop(facts.link.ifindex, None)

    def drop(self, ifindex: int) -> None:
        """Forget a deleted link."""
        self._facts.pop(ifindex, None)
        self._made.pop(ifindex, None)
        self._cutting.pop(ifindex, None)

    def cut(self, cutting: Mapping[int, str]) -> None:
        """Store the queueing disciplines that cut runs, by ifindex."""
        self._cutting = dict(cutting)

    def table(self) -> LinkTable | None:
        """Every link; None if two have the same name, so that the facts about one of them are out of date."""
        names = {ifindex: facts.link.name for ifindex, facts in self._facts.items()}
        if len(set(names.values())) < len(names):
            return None
        uppers = {each.below: each.link.name for each in self._facts.values() if each.takes_frames and each.below}
        return LinkTable({names[ifindex]: self._link(ifindex, names, uppers) for ifindex in names})

    def near(self, names: Collection[str]) -> Near:
        """The ifindexes that matter to the links with these names or altnames."""
        wanted = set(names)
        own = {
            ifindex
            for ifindex, facts in self._facts.items()
            if facts.link.name in wanted or not wanted.isdisjoint(facts.link.altnames)
        }
        below = {each for ifindex in own for each in self._way_down(ifindex)}
        masters = {self._facts[ifindex].master for ifindex in own}
        uppers = {i for i, facts in self._facts.items() if facts.takes_frames and facts.below in own}
        return Near(frozenset(own), frozenset(below), frozenset((below | masters | uppers) - {0}))

    def _link(self, ifindex: int, names: Mapping[int, str], uppers: Mapping[int, str]) -> Link:
        facts = self._facts[ifindex]
        cuts = self._cuts(ifindex) if self._cutting else ""
        told = (facts, names.get(facts.master, ""), uppers.get(ifindex, ""), cuts)
        made = self._made.get(ifindex)
        if made is None or made[0][0] is not facts or made[0][1:] != told[1:]:
            _, master, upper, cuts = told
            link = facts.link
            if master or facts.master_kind or upper or cuts:
                link = replace(link, master=master, master_kind=facts.master_kind, upper=upper, cuts=cuts)
            made = self._made[ifindex] = (told, link)
        return made[1]

    def _cuts(self, ifindex: int) -> str:
        """The queueing discipline that cuts a link's runs: its own, or that of the first link below it."""
        return next((self._cutting[each] for each in self._way_down(ifindex) if each in self._cutting), "")

    def _way_down(self, ifindex: int) -> list[int]:
        """The ifindexes of a link and of those below it, in order; facts about them may be missing."""
        way: list[int] = []
        while ifindex and ifindex not in way:
            way.append(ifindex)
            facts = self._facts.get(ifindex)
            ifindex = facts.below if facts else 0
        return way


def facts_of(message: Any, held: Sequence[Held]) -> Facts:
    """Read a link message of pyroute2, with the addresses of that link in the kernel's order."""
    kind = message.get(("linkinfo", "kind")) or ""
    slave = message.get(("linkinfo", "slave_kind")) or ""
    here = kind != "veth" and message.get("link_netnsid") is None  # the other end of a veth pair is not below it
    master = 0 if slave in TAKES_NO_FRAMES else message.get("master") or 0
    return Facts(
        _link(message, held),
        master,
        slave if master else "",
        (message.get("link") or 0) if here else 0,
        kind in TAKES_FRAMES,
        message.get("qdisc") or "",
    )


def address_of(message: Any) -> Held:
    """Read an address message of pyroute2."""
    local = message.get("local") or message.get("address")
    of_family = IPv6Interface if message["family"] == socket.AF_INET6 else IPv4Interface
    return Held(of_family(f"{local}/{message['prefixlen']}"), message["scope"], message.get("flags") or 0)


def _link(message: Any, held: Sequence[Held]) -> Link:
    flags = message["flags"]
    held4 = sorted(_of(IPv4Interface, held), key=lambda each: each[1].flags & IFA_F_SECONDARY)
    held6 = list(_of(IPv6Interface, held))
    return Link(
        name=message.get("ifname"),
        ifindex=message["index"],
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        operstate=str(message.get("operstate") or "UNKNOWN"),
        mtu=message.get("mtu"),
        addresses=tuple(address for address, _ in held4),
        hardware=message["ifi_type"],
        mac=message.get("address") or "",
        carrier_losses=message.get("carrier_down_count") or 0,
        altnames=_altnames(message),
        scopes=tuple(each.scope for _, each in held4),
        addresses6=tuple(address for address, each in held6 if _detection(each.flags) == "done"),
        tentative=tuple(address.ip for address, each in held6 if _detection(each.flags) == "tentative"),
        refused=tuple(address.ip for address, each in held6 if _detection(each.flags) == "refused"),
    )


def _of(kind: type[T], held: Sequence[Held]) -> Iterator[tuple[T, Held]]:
    """The addresses of one family."""
    return ((each.address, each) for each in held if isinstance(each.address, kind))


def _detection(flags: int) -> Literal["done", "tentative", "refused"]:
    """How far duplicate address detection is with an IPv6 address (linux/net/ipv6/addrconf.c, ipv6_get_lladdr)."""
    if flags & IFA_F_DADFAILED:
        return "refused"
    return "tentative" if flags & (IFA_F_TENTATIVE | IFA_F_OPTIMISTIC) == IFA_F_TENTATIVE else "done"


def _altnames(message: Any) -> tuple[str, ...]:
    properties = message.get("prop_list")
    return tuple(properties.get_attrs("IFLA_ALT_IFNAME")) if properties else ()
