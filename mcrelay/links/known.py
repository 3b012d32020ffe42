"""What the kernel has said of each link, put together: whose port it is, what is on top of it, what cuts runs below it.

Pure: the messages are asked for elsewhere (`links.watch`), all of them or those of single links.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any, NamedTuple

from mcrelay.model.link import Link, LinkTable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

# linux/if.h, linux/if_addr.h
IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFA_F_SECONDARY = 0x1
# Queueing disciplines that cut a GSO frame into packets, may drop some of them, and still report success
# (linux/net/sched: tbf_segment of sch_tbf.c; sch_cake.c, sch_taprio.c, sch_netem.c).
CUTS_RUNS = {"tbf", "cake", "taprio", "netem"}
HOLDS_NOTHING = {"noqueue", "noop"}  # queueing disciplines with none below them
TAKES_NO_FRAMES = {"vrf"}  # kinds of masters whose ports go on receiving: they share routes alone
TAKES_FRAMES = {"macvlan", "macvtap", "ipvlan", "ipvtap"}  # kinds of links whose frames come from the link below them


class Held(NamedTuple):
    """An address that a link has."""

    secondary: bool
    address: IPv4Interface
    scope: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the kernel says of one link: the link as far as it can be told by itself, and what others tell it apart by.

    ``master`` and ``below`` are ifindexes of this namespace, 0 for none. ``queue`` is its root queueing discipline.
    """

    link: Link
    master: int = 0
    master_kind: str = ""
    below: int = 0
    takes_frames: bool = False
    queue: str = ""


class Near(NamedTuple):
    """Ifindexes that matter to links that are followed.

    ``own`` are these links; ``below`` are they and every link below them; ``all`` are these, what they are ports of,
    and what takes frames from them.
    """

    own: frozenset[int] = frozenset()
    below: frozenset[int] = frozenset()
    all: frozenset[int] = frozenset()


class KnownLinks:
    """The facts of every link by ifindex, and the links that they come to."""

    def __init__(self, facts: Iterable[Facts] = (), cutting: Mapping[int, str] | None = None) -> None:
        self._facts = {each.link.ifindex: each for each in facts}
        self._cutting = dict(cutting or {})  # by ifindex: the queueing discipline that cuts runs
        self._made: dict[int, tuple[tuple[Facts, str, str, str], Link]] = {}  # an unchanged link stays the same object

    def get(self, ifindex: int) -> Facts | None:
        """What was said last of a link."""
        return self._facts.get(ifindex)

    def put(self, facts: Facts) -> None:
        """Go by these facts of a link. One whose queue has none below it cuts nothing."""
        self._facts[facts.link.ifindex] = facts
        if facts.queue in HOLDS_NOTHING:
            self._cutting.pop(facts.link.ifindex, None)

    def drop(self, ifindex: int) -> None:
        """The link is not there any more."""
        self._facts.pop(ifindex, None)
        self._made.pop(ifindex, None)
        self._cutting.pop(ifindex, None)

    def cut(self, cutting: Mapping[int, str]) -> None:
        """Go by these queueing disciplines that cut runs, by ifindex."""
        self._cutting = dict(cutting)

    def table(self) -> LinkTable | None:
        """Every link; None where two have one name, so that what is known of one of them is no longer true."""
        names = {ifindex: facts.link.name for ifindex, facts in self._facts.items()}
        if len(set(names.values())) < len(names):
            return None
        uppers = {each.below: each.link.name for each in self._facts.values() if each.takes_frames and each.below}
        return LinkTable({names[ifindex]: self._link(ifindex, names, uppers) for ifindex in names})

    def near(self, names: Collection[str]) -> Near:
        """What matters to the links of these names, altnames among them."""
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
        """The queueing discipline that cuts runs of a link: its own, or that of the first below it."""
        return next((self._cutting[each] for each in self._way_down(ifindex) if each in self._cutting), "")

    def _way_down(self, ifindex: int) -> list[int]:
        """A link and those below it, one under the other, also such as nothing is known of."""
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
        _link(message, sorted(held, key=lambda each: each.secondary)),
        master,
        slave if master else "",
        (message.get("link") or 0) if here else 0,
        kind in TAKES_FRAMES,
        message.get("qdisc") or "",
    )


def address_of(message: Any) -> Held:
    """Read an address message of pyroute2."""
    local = message.get("local") or message.get("address")
    flags = message.get("flags") or 0
    return Held(bool(flags & IFA_F_SECONDARY), IPv4Interface(f"{local}/{message['prefixlen']}"), message["scope"])


def _link(message: Any, held: Sequence[Held]) -> Link:
    flags = message["flags"]
    return Link(
        name=message.get("ifname"),
        ifindex=message["index"],
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        operstate=str(message.get("operstate") or "UNKNOWN"),
        mtu=message.get("mtu"),
        addresses=tuple(each.address for each in held),
        hardware=message["ifi_type"],
        mac=message.get("address") or "",
        carrier_losses=message.get("carrier_down_count") or 0,
        altnames=_altnames(message),
        scopes=tuple(each.scope for each in held),
    )


def _altnames(message: Any) -> tuple[str, ...]:
    properties = message.get("prop_list")
    return tuple(properties.get_attrs("IFLA_ALT_IFNAME")) if properties else ()
