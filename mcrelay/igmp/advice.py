"""Faults of a link and its IGMP or MLD, with cause and remedy, in words for a person. Pure.

A remedy is given for a cause that was seen, never for the one that is left when others are ruled out.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from mcrelay.igmp.protocol import IGMP, MLD
from mcrelay.model.link_faults import reports_from_nobody

if TYPE_CHECKING:
    from collections.abc import Collection

    from mcrelay.igmp.messages import Querier, Query
    from mcrelay.igmp.protocol import Protocol
    from mcrelay.model.link import Link
    from mcrelay.model.stream import Address

STRICT = 1  # rp_filter
IGNORED = "routers ignore MLD reports that come from ::"  # RFC 3810, 5.2.13


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a query that nobody answered.

    ``delivered``: this host's IP layer passed it on to IGMP or MLD. ``filtered``: the kernel's count of what its
    reverse-path filter dropped moved meanwhile; None where it cannot be read. ``refused``: the host's own rules forbade
    a report.
    """

    delivered: bool
    filtered: bool | None
    refused: bool = False


def of_addresses(protocol: Protocol, link: Link, *, disabled: bool) -> dict[str, str]:
    """What keeps a link's reports from being heeded: its kind, and the words for it. Empty if nothing does."""
    name = link.name
    if disabled:
        return {
            "ipv6-disabled": f"IPv6 is switched off on {name}, so this host reports no IPv6 group there, and switches"
            f" that snoop stop the streams. Switch it on: sysctl -w net/ipv6/conf/{name}/disable_ipv6=0"
        }
    if protocol.source(link) is not None:
        return {}
    if protocol is IGMP:
        return {"no-address": reports_from_nobody(name)}
    own = [each for each in link.tentative if each.is_link_local]
    if own:
        return {
            "tentative-address": f"{name} cannot use {own[0]} yet, because duplicate address detection still looks for"
            f" another host that has it; until then {IGNORED}"
        }
    taken = [each for each in link.refused if each.is_link_local]
    if taken:
        return {
            "refused-address": f"another host of {name} has {taken[0]}, so this host does not use it (duplicate address"
            f" detection failed), and {IGNORED}. Give {name} another: ip -6 address add fe80::1:1/64 dev {name}"
        }
    return {
        "no-address": f"{name} has no link-local IPv6 address, and {IGNORED}. Give it one: ip -6 address add"
        f" fe80::1:1/64 dev {name}"
    }


def older_querier(protocol: Protocol, link: str, query: Query | None, groups: Collection[Address], version: int) -> str:
    """A querier of an older version takes the sources out of our reports.

    Without ``query`` it asked before anybody listened, and the kernel goes by it: ``version`` is what that speaks.
    """
    if query is not None:
        who = f"{query.querier} queries in {protocol} version {query.version}"
    else:
        who = f"a querier on {link} asked in {protocol} version {version} before the relay listened"
    if protocol is IGMP:
        drop = f'iifname "{link}" igmp type membership-query ip length < 36 drop'
        keep_out = f"nft 'table ip mcrelay_igmp {{ chain in {{ type filter hook input priority 0; {drop}; }}; }}'"
    else:
        keep_out = f"sysctl -w net/ipv6/conf/{link}/force_mld_version={protocol.newest}"
    return (
        f"{who}, {_any_source(protocol, groups)}. Make the querier speak version {protocol.newest}; where another one"
        f" does, keep the older queries from the kernel: {keep_out}"
    )


def forced_version(protocol: Protocol, link: str, version: int, key: str, groups: Collection[Address]) -> str:
    """A setting of this host, ``key``, forces an older version."""
    return (
        f"this host is told to speak {protocol} version {version} on {link}, {_any_source(protocol, groups)}. Let the"
        f" querier decide: sysctl -w {key}=0"
    )


def _any_source(protocol: Protocol, groups: Collection[Address]) -> str:
    ordered = sorted(groups, key=int)
    named = ", ".join(map(str, ordered[:3])) + (f" and {len(groups) - 3} more" if len(groups) > 3 else "")
    return (
        f"so the kernel joins {named} from any source, not the rule's alone: the network may deliver every source"
        f" (only the rule's is relayed), and routers ignore such a join in {_of_single_sources(protocol)}"
    )


def _of_single_sources(protocol: Protocol) -> str:
    return "232.0.0.0/8" if protocol is IGMP else "ff30::/12"  # RFC 4607, 1


def silent_querier(protocol: Protocol, link: str, querier: Querier, seconds: float) -> str:
    """The querier has stopped asking."""
    return (
        f"no {protocol} query for {seconds:.0f} s; the last came from {querier.address} (version {querier.version})."
        f" Switches that snoop forget the groups and stop the streams of {link}. Switch a querier on, in the switch or"
        " router of that network (a Linux bridge: ip link set BRIDGE type bridge mcast_querier 1)"
    )


def unanswered_query(
    link: str, ifindex: int, query: Query, rp_filter: int, route_ifindex: int | None, *, seen: Seen
) -> str:
    """Queries of IGMP arrive, and no report of ours leaves in time."""
    what, known = _why_unanswered(IGMP, link, query, seen)
    if known:
        return known
    if seen.filtered is None:
        return f"{what}. They are dropped in this host; by what was not seen, since /proc/net cannot be read"
    if seen.filtered and fails_reverse_path(query.querier, ifindex, rp_filter, route_ifindex):
        return (
            f"{what}. The reverse-path filter drops them (rp_filter {rp_filter}, and no route to {query.querier} by"
            f" {link}). Add the route: ip route add {query.querier}/32 dev {link}; or switch the filter off: sysctl -w"
            f" net/ipv4/conf/all/rp_filter=0 net/ipv4/conf/{link}/rp_filter=0"
        )
    return _firewall_drops(what, IGMP, link)


def unanswered_mld_query(link: str, query: Query, *, seen: Seen) -> str:
    """The same of MLD. The kernel has no reverse-path filter for IPv6, but heeds link-local queriers alone."""
    what, known = _why_unanswered(MLD, link, query, seen)
    if isinstance(query.querier, IPv6Address) and not query.querier.is_link_local:
        return (
            f"{what}. The kernel ignores a query from an address that is not link-local (RFC 3810, 5.1.14): give the"
            " querier a link-local address"
        )
    return known or _firewall_drops(what, MLD, link)


def firewall_rule(protocol: Protocol, link: str, place: str, *, out: bool = False) -> str:
    """The command that lets a protocol through a chain of this host's firewall, such as "inet filter input"."""
    match = "meta l4proto igmp" if protocol is IGMP else _MLD_OUT if out else "icmpv6 type mld-listener-query"
    return f'nft insert rule {place} {"oifname" if out else "iifname"} "{link}" {match} accept'


_MLD_OUT = "icmpv6 type '{ mld-listener-report, mld-listener-done, mld2-listener-report }'"
_SEE = "(see: nft list ruleset; iptables-save)"


def _why_unanswered(protocol: Protocol, link: str, query: Query, seen: Seen) -> tuple[str, str]:
    """What happens, and why, if a cause that both families share was seen."""
    what = f"queries of {query.querier} arrive and this host does not answer: switches that snoop will stop the streams"
    if seen.refused:
        return what, (
            f"{what}. A firewall of this host refuses to let {protocol} out {_SEE}. Let it out, for example:"
            f" {firewall_rule(protocol, link, 'inet filter output', out=True)}"
        )
    if seen.delivered:
        return (
            what,
            f"{what}. They were delivered to the kernel's {protocol}, and nothing was seen that keeps its reports back",
        )
    return what, ""


def _firewall_drops(what: str, protocol: Protocol, link: str) -> str:
    return (
        f"{what}. A firewall of this host drops them between the link and the kernel's {protocol}, if a counter of its"
        f" rules moves with each query {_SEE}: nothing else that drops them was seen. Let {protocol} in and out then,"
        f" for example: {firewall_rule(protocol, link, 'inet filter input')}"
    )


def fails_reverse_path(source: Address, ifindex: int, rp_filter: int, route_ifindex: int | None) -> bool:
    """Whether the kernel drops what ``source`` sends on link ``ifindex``, when its way back is by ``route_ifindex``.

    Strict wants the route by that very link, loose any route. 0.0.0.0 always passes, without a look at the routes.
    """
    if source.is_unspecified or not rp_filter:
        return False
    return route_ifindex is None or (rp_filter == STRICT and route_ifindex != ifindex)
