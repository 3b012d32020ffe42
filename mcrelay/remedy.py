"""What can be wrong with the IGMP of a link, why, and what to do about it, in words for a person: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from ipaddress import IPv4Address

    from .igmp import Querier, Query

STRICT = 1  # rp_filter


def older_querier(link: str, query: Query, groups: Collection[IPv4Address]) -> str:
    """A querier of version 1 or 2 takes the sources out of our reports."""
    named = ", ".join(map(str, sorted(groups)[:3])) + (f" and {len(groups) - 3} more" if len(groups) > 3 else "")
    drop = f'iifname "{link}" igmp type membership-query ip length < 36 drop'
    return (
        f"{query.querier} queries in IGMP version {query.version}, so the kernel joins {named} from any source, not the"
        " rule's alone: the network may deliver every source (only the rule's is relayed), and routers ignore such a"
        " join in 232.0.0.0/8. Make the querier speak version 3; where another one does, keep the older queries from"
        f" the kernel: nft 'table ip mcrelay_igmp {{ chain in {{ type filter hook input priority 0; {drop}; }}; }}'"
    )


def silent_querier(link: str, querier: Querier, seconds: float) -> str:
    """A querier that was there asks no more."""
    return (
        f"no IGMP query for {seconds:.0f} s; the last came from {querier.address} (version {querier.version}). Switches"
        f" that snoop forget the groups and stop the streams of {link}. Switch a querier on, in the switch or router of"
        " that network (a Linux bridge: ip link set BRIDGE type bridge mcast_querier 1)"
    )


def unanswered_query(link: str, ifindex: int, query: Query, rp_filter: int, route_ifindex: int | None) -> str:
    """Queries arrive, and no report of ours leaves in time."""
    seen = f"queries of {query.querier} arrive and this host does not answer: switches that snoop will stop the streams"
    if fails_reverse_path(query.querier, ifindex, rp_filter, route_ifindex):
        return (
            f"{seen}. The reverse-path filter drops them (rp_filter {rp_filter}, and no route to {query.querier} by"
            f" {link}). Add the route: ip route add {query.querier}/32 dev {link}; or switch the filter off: sysctl -w"
            f" net/ipv4/conf/all/rp_filter=0 net/ipv4/conf/{link}/rp_filter=0"
        )
    return (
        f"{seen}. A firewall of this host drops IGMP (see: nft list ruleset; iptables-save). Let it in and out, for"
        f' example: nft insert rule inet filter input iifname "{link}" meta l4proto igmp accept'
    )


def fails_reverse_path(source: IPv4Address, ifindex: int, rp_filter: int, route_ifindex: int | None) -> bool:
    """Whether the kernel drops what ``source`` sends on link ``ifindex``, when its way back is by ``route_ifindex``.

    Strict wants the route by that very link, loose any route. 0.0.0.0 always passes, without a look at the routes.
    """
    if source.is_unspecified or not rp_filter:
        return False
    return route_ifindex is None or (rp_filter == STRICT and route_ifindex != ifindex)
