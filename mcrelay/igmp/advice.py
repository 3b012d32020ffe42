"""What can be wrong with a link and its IGMP, why, and what to do about it, in words for a person: pure.

A remedy is given for a cause that was seen, never for the one that is left when others are ruled out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from ipaddress import IPv4Address

    from mcrelay.igmp.wire import Querier, Query

STRICT = 1  # rp_filter


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a query that nobody answered.

    ``delivered``: this host's IP layer passed it on to IGMP. ``filtered``: the kernel's count of what its reverse-path
    filter dropped moved meanwhile; None where it cannot be read. ``refused``: the host's own rules forbade a report.
    """

    delivered: bool
    filtered: bool | None
    refused: bool = False


def older_querier(link: str, query: Query | None, groups: Collection[IPv4Address], version: int = 2) -> str:
    """A querier of version 1 or 2 takes the sources out of our reports.

    Without ``query`` it asked before anybody listened, and the kernel goes by it: ``version`` is what that speaks.
    """
    drop = f'iifname "{link}" igmp type membership-query ip length < 36 drop'
    if query is not None:
        who = f"{query.querier} queries in IGMP version {query.version}"
    else:
        who = f"a querier on {link} asked in IGMP version {version} before the relay listened"
    return (
        f"{who}, {_any_source(groups)}. Make the querier speak version 3; where another one does, keep the older"
        " queries from the kernel:"
        f" nft 'table ip mcrelay_igmp {{ chain in {{ type filter hook input priority 0; {drop}; }}; }}'"
    )


def forced_version(link: str, version: int, key: str, groups: Collection[IPv4Address]) -> str:
    """A setting of this host, ``key``, makes it speak an older version."""
    return (
        f"this host is told to speak IGMP version {version} on {link}, {_any_source(groups)}. Let the querier decide:"
        f" sysctl -w {key}=0"
    )


def _any_source(groups: Collection[IPv4Address]) -> str:
    named = ", ".join(map(str, sorted(groups)[:3])) + (f" and {len(groups) - 3} more" if len(groups) > 3 else "")
    return (
        f"so the kernel joins {named} from any source, not the rule's alone: the network may deliver every source"
        " (only the rule's is relayed), and routers ignore such a join in 232.0.0.0/8"
    )


def silent_querier(link: str, querier: Querier, seconds: float) -> str:
    """A querier that was there asks no more."""
    return (
        f"no IGMP query for {seconds:.0f} s; the last came from {querier.address} (version {querier.version}). Switches"
        f" that snoop forget the groups and stop the streams of {link}. Switch a querier on, in the switch or router of"
        " that network (a Linux bridge: ip link set BRIDGE type bridge mcast_querier 1)"
    )


def unanswered_query(
    link: str, ifindex: int, query: Query, rp_filter: int, route_ifindex: int | None, *, seen: Seen
) -> str:
    """Queries arrive, and no report of ours leaves in time."""
    what = f"queries of {query.querier} arrive and this host does not answer: switches that snoop will stop the streams"
    firewall = "(see: nft list ruleset; iptables-save)"
    if seen.refused:
        return (
            f"{what}. A firewall of this host refuses to let IGMP out {firewall}. Let it out, for example: nft insert"
            f' rule inet filter output oifname "{link}" meta l4proto igmp accept'
        )
    if seen.delivered:
        return f"{what}. They were delivered to the kernel's IGMP, and nothing was seen that keeps its reports back"
    if seen.filtered is None:
        return f"{what}. They are dropped in this host; by what was not seen, since /proc/net cannot be read"
    if seen.filtered and fails_reverse_path(query.querier, ifindex, rp_filter, route_ifindex):
        return (
            f"{what}. The reverse-path filter drops them (rp_filter {rp_filter}, and no route to {query.querier} by"
            f" {link}). Add the route: ip route add {query.querier}/32 dev {link}; or switch the filter off: sysctl -w"
            f" net/ipv4/conf/all/rp_filter=0 net/ipv4/conf/{link}/rp_filter=0"
        )
    return (
        f"{what}. A firewall of this host drops them between the link and the kernel's IGMP {firewall}. Let IGMP in and"
        f' out, for example: nft insert rule inet filter input iifname "{link}" meta l4proto igmp accept'
    )


def fails_reverse_path(source: IPv4Address, ifindex: int, rp_filter: int, route_ifindex: int | None) -> bool:
    """Whether the kernel drops what ``source`` sends on link ``ifindex``, when its way back is by ``route_ifindex``.

    Strict wants the route by that very link, loose any route. 0.0.0.0 always passes, without a look at the routes.
    """
    if source.is_unspecified or not rp_filter:
        return False
    return route_ifindex is None or (rp_filter == STRICT and route_ifindex != ifindex)
