"""Stages of ``mcrelay doctor`` about the membership: joined, reported, asked for, let through by a bridge. Pure."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from mcrelay.commands.evidence import LOOPBACK, PROBE, PROBE6
from mcrelay.commands.table import digits
from mcrelay.igmp import advice
from mcrelay.igmp.protocol import IGMP, protocol_of
from mcrelay.linux import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mcrelay.commands.walk import Found, Walk
    from mcrelay.igmp.messages import Query
    from mcrelay.igmp.protocol import Protocol

# Kinds of warnings that the stage link says by itself.
OF_LINKS = {"port", "no-address", "tentative-address", "refused-address", "ipv6-disabled"}


def membership(walk: Walk) -> Iterator[Found]:
    """Whether the kernel has joined the group there."""
    for each in walk.subject.inputs:
        if why := walk.because("link", "privileges"):
            yield "skipped", why
            continue
        if not each.group.is_multicast:
            yield "skipped", f"{each.group} is no group: nothing has to be joined"
            continue
        rows = [walk.index.groups.get((each.link, str(group)), {}) for group in each.groups]
        reasons = [row.get("reason") for row in rows]
        reasons += [walk.evidence.failed.get((each.link, group)) for group in each.groups]
        reason = next(filter(None, reasons), "")
        missing = [group for group in each.groups if group not in walk.evidence.joined.get(each.link, set())]
        limit = walk.evidence.max_memberships
        if reason and limit < 1 and protocol_of(each.group) is IGMP:
            yield (
                "broken",
                f"net.ipv4.igmp_max_memberships is {limit}: {reason}",
                "sysctl -w net.ipv4.igmp_max_memberships=20",
            )
        elif reason:
            yield "broken", reason
        elif missing and walk.evidence.joined:
            yield "broken", f"the kernel has not joined {missing[0]} on {each.link}", "systemctl restart mcrelay"
        else:
            by = "" if all(rows) else " (for this look alone)"
            yield "ok", f"the kernel has joined {each.named} on {each.link}{by}"


def _joining(walk: Walk) -> Iterable[tuple[str, Protocol]]:
    """The links on which a group is joined for the subject, and in which protocol, each once."""
    return dict.fromkeys(
        (each.link, protocol_of(each.group)) for each in walk.subject.inputs if each.group.is_multicast
    )


def report(walk: Walk) -> Iterator[Found]:
    """Whether a report of this host leaves."""
    for name, protocol in _joining(walk):
        look, probe = walk.look(name), PROBE if protocol is IGMP else PROBE6
        reports = [each for each in (look.reports if look else []) if isinstance(each.host, protocol.address)]
        if why := walk.because("link", "privileges", "membership"):
            yield "skipped", why
        elif look is None or (name, probe) in walk.evidence.failed:
            yield (
                "skipped",
                "no report could be provoked: "
                + (walk.evidence.failed.get((name, probe)) or f"nothing was seen of {name}"),
            )
        elif reports:
            yield "ok", f"an {protocol}v{reports[-1].version} report of this host left {name}"
        elif protocol.name in look.refused:
            yield (
                "broken",
                f"a report is joined for and does not leave {name}: a firewall of this host refuses {protocol} (EPERM)",
                advice.firewall_rule(protocol, name, "inet filter output", out=True),
            )
        elif walk.evidence.links[name].hardware == LOOPBACK:
            yield "skipped", f"{name} needs none"
        else:
            yield "broken", f"a group was joined and no report was seen to leave {name}; nothing was seen that keeps it"


def query(walk: Walk) -> Iterator[Found]:
    """Who queries, and whether what it asks is heard and answered."""
    rows = {row["ifname"]: row for row in walk.evidence.relay.links} if walk.evidence.relay else {}
    for name, protocol in _joining(walk):
        if why := walk.because("link", "privileges", "report"):
            yield "skipped", why
            continue
        row: dict[str, Any] = rows.get(name) or {}
        look = walk.look(name)
        queries = [each for each in (look.queries if look else []) if isinstance(each.querier, protocol.address)]
        warned = _warned(walk, name, protocol)
        lost = [query for query in queries if look and query not in look.delivered]
        if lost:  # what the relay warned of before is seen here, with its cause
            warned = [each for each in warned if each["kind"] != "unanswered-query"]
            yield _lost_query(walk, name, protocol, lost[0])
        for each in warned:
            text, _, remedy = each["text"].rpartition(". ")
            yield ("broken" if each["kind"] in {"unanswered-query", "silent-querier"} else "warning"), text, remedy
        if warned or lost:
            continue
        if queries:
            query = queries[-1]
            yield "ok", f"{query.querier} queries {name} in {protocol} version {query.version}, and this host hears it"
        elif querier := row.get("querier" if protocol is IGMP else "mld_querier"):
            age = max(0.0, time.time() - querier["last_seen_time"])
            yield (
                "ok",
                f"{querier['address']} queries {name} in {protocol} version {querier['version']}, {age:.0f} s ago",
            )
        else:
            yield "skipped", f"no query came to {name} in {walk.evidence.seconds:g} s; --duration 130 sees the next one"


def _warned(walk: Walk, name: str, protocol: Protocol) -> list[dict[str, Any]]:
    """What the relay says is wrong with a protocol there, but for what the stage link says."""
    rows = walk.evidence.relay.groups if walk.evidence.relay else []
    groups = [row for row in rows if row["ifname"] == name and protocol_of(ip_address(row["group"])) is protocol]
    found = {each["text"]: each for row in groups for each in row.get("warnings", []) if each["kind"] not in OF_LINKS}
    sourced = any(each.source for each in walk.subject.inputs)
    return [each for each in found.values() if sourced or each["kind"] not in {"older-querier", "forced-version"}]


def _lost_query(walk: Walk, name: str, protocol: Protocol, query: Query) -> Found:
    """Which of the host's filters a query met: one that was seen to drop it, never the one that is left."""
    evidence, rp_filter = walk.evidence, procfs.rp_filter(name)
    what = f"queries of {query.querier} arrive on {name} and do not reach this host's {protocol}"
    fails = protocol is IGMP and advice.fails_reverse_path(
        query.querier, evidence.links[name].ifindex, rp_filter, evidence.routes.get(query.querier)
    )
    if evidence.filtered and fails:
        return (
            "broken",
            f"{what}: the count of the reverse-path filter moved (rp_filter {rp_filter}, and no route to it by {name})",
            f"ip route add {query.querier}/32 dev {name}",
        )
    moved = [(each, more) for each, more in evidence.dropping if more]
    if moved:
        each, more = moved[0]
        return (
            "broken",
            f"{what}: a rule of `{each.place}` (handle {each.handle}) dropped {digits(more)} meanwhile",
            advice.firewall_rule(protocol, name, each.place),
        )
    silent = [each for each, more in evidence.dropping if more is None]
    if silent:
        remedy = advice.firewall_rule(protocol, name, silent[0].place)
        return "broken", f"{what}; `{silent[0].place}` drops, and has no counter to tell what", remedy
    return "broken", f"{what}, and nothing was seen that drops them", ""


def bridge(walk: Walk) -> Iterator[Found]:
    """Where the input is a bridge of this host: whether it passes the group to the host."""
    for each in walk.subject.inputs:
        bridge = walk.evidence.bridges.get(each.link)
        if bridge is None:
            yield "skipped", f"{each.link} is no bridge of this host"
        elif not each.group.is_multicast:
            yield "skipped", f"{each.group} is no group, and snooping is about groups alone"
        elif not bridge.snooping:
            yield "ok", f"{each.link} does not snoop: it passes every group on"
        elif why := walk.because("link", "membership", "report"):
            yield "skipped", why
        elif not (missing := [group for group in each.groups if group not in bridge.host_groups]):
            yield "ok", f"{each.link} snoops and passes {each.named} to this host"
        elif bridge.querier:
            yield (
                "broken",
                f"{each.link} snoops, and its table (bridge mdb show) has no {missing[0]} for this host",
                f"bridge mdb add dev {each.link} port {each.link} grp {missing[0]}",
            )
        else:
            yield "ok", f"{each.link} snoops, nobody queries, and so it passes every group on"
