"""What ``show`` shows, as plain JSON values: keys are a promise, names follow `ip -j` and smcroutectl. Pure.

Each key has its text in relay/shapes.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

from mcrelay.config.writer import config_tables
from mcrelay.igmp.monitor import OF_SOURCES
from mcrelay.model.ports import names_port
from mcrelay.model.state import FeatureState, InputCount, OutputCount, RelayTimes, no_health
from mcrelay.relay.rates import NO_RATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.model.link import Membership
    from mcrelay.model.plan import InputSpec, OutputSpec
    from mcrelay.model.state import NearMiss, RtpCount, TransportCount
    from mcrelay.model.stream import Address
    from mcrelay.relay.shapes import (
        FeatureRow,
        GroupRow,
        GroupStatsRow,
        HealthRow,
        InputRow,
        LinkRow,
        LinkStatsRow,
        NearMissRow,
        OutputRow,
        QuerierRow,
        RelayTimesRow,
        RtpRow,
        RuleRow,
        RuleStatsRow,
        StatsRow,
        TransportRow,
        WarningRow,
    )
    from mcrelay.relay.state import IgmpState, RelayState
    from mcrelay.relay.status import RuleStatus


def rules(relay: RelayState) -> list[RuleRow]:
    """Every rule with its state and the reason."""
    return [_rule(relay, status) for status in relay.rules]


def _rule(relay: RelayState, status: RuleStatus) -> RuleRow:
    reason = relay.engine_reasons.get(status.rule.name)
    return {
        "name": status.rule.name,
        "description": status.rule.description,
        "origin": status.rule.origin,
        "state": status.state,
        "reason": status.reason or None,
        "engine": "ring" if reason is None or reason else "kernel",
        "engine_reason": reason or None,
        "losing": status.rule.name in relay.losing,
        "exclusive": _exclusive(relay, status),
        "inputs": [_input(each) for each in status.inputs],
        "outputs": [_output(relay, status.rule.name, each) for each in status.outputs],
    }


def _exclusive(relay: RelayState, status: RuleStatus) -> FeatureRow | None:
    """Null if the rule does not ask for it; ``off`` while it takes nothing, ``refused`` if there is no drop."""
    if not status.rule.exclusive:
        return None
    standing = relay.exclusive.get(status.rule.name, FeatureState("off"))
    return {"state": standing.state, "reason": standing.reason or None}


def _input(each: InputSpec) -> InputRow:
    return {
        "from": each.text,
        "iif": each.iif,
        "group": str(each.group) if each.length is None else f"{each.group}/{each.length}",
        "source": str(each.source) if each.source else None,
        "port": each.port if isinstance(each.port, int) else str(each.port),
        "vlan": each.vlan,
        "own": each.own,
        "state": each.state,
        "reason": each.reason or None,
    }


def _output(relay: RelayState, rule: str, each: OutputSpec) -> OutputRow:
    source: Address | None = each.source_address
    port = each.source_port
    if endpoint := relay.endpoints.get((rule, each.to)):  # the real ones: the route's address, the next free port
        source, port = endpoint.address, endpoint.port
    address = "keep" if each.keep_address else str(source) if source else None
    return {
        "to": each.to,
        "oif": each.oif,
        "vlan": each.vlan or "none",
        "source_address": address,
        "source_port": "keep" if each.keep_port else port,
        "ttl": each.ttl,
        "dscp": "keep" if each.dscp is None else each.dscp,
        "state": each.state,
        "reason": each.reason or None,
    }


def stats(relay: RelayState) -> StatsRow:
    """Every counter; zeros if nothing has passed yet."""
    used = {each.iif for status in relay.rules for each in status.inputs}
    used |= {each.oif for status in relay.rules for each in status.outputs if each.oif}
    return {
        "time": round(relay.time, 3),
        "uptime_seconds": round(relay.uptime_seconds, 3),
        "rules": [_rule_stats(relay, status) for status in relay.rules],
        "links": [_link_stats(relay, name) for name in sorted(used | relay.counts.rings.keys())],
        "workers": [
            {"id": each.number, "cpu_seconds": each.cpu_seconds, "generation": each.generation}
            for each in relay.counts.workers
        ],
    }


def _rule_stats(relay: RelayState, status: RuleStatus) -> RuleStatsRow:
    name, counts = status.rule.name, relay.counts
    no_input = InputCount(0, 0, None, dict.fromkeys(counts.names.drops, 0))
    no_output = OutputCount(0, 0, 0, dict.fromkeys(counts.names.send_errors, 0))
    inputs = [counts.inputs.get((name, each.text), no_input) for each in status.inputs]
    inputs.append(counts.retired.get(name, no_input))
    rate = relay.rates.get((name, ""), NO_RATE)
    row: RuleStatsRow = {
        "name": name,
        "rx_packets": sum(each.rx_packets for each in inputs),
        "rx_bytes": sum(each.rx_bytes for each in inputs),
        "rx_rate": round(rate.packets, 1),
        "rx_bit_rate": round(rate.bits),
        "rx_rate_10s": round(rate.packets_10s, 1),
        "rx_bit_rate_10s": round(rate.bits_10s),
        "last_packet_time": relay.last_packet_times.get(name),
        "drops": {reason: sum(each.drops[reason] for each in inputs) for reason in counts.names.drops},
        "health": _health(relay, status),
        "relay_seconds": _relay_seconds(relay, name),
        "outputs": [
            {
                "to": each.to,
                "since_packets": count.since_packets,
                "tx_packets": count.tx_packets,
                "tx_bytes": count.tx_bytes,
                "tx_fragmented": count.tx_fragmented,
                "tx_rate": round(sent.packets, 1),
                "tx_bit_rate": round(sent.bits),
                "tx_rate_10s": round(sent.packets_10s, 1),
                "tx_errors": count.tx_errors,
            }
            for each in status.outputs
            for count, sent in [
                (counts.outputs.get((name, each.to), no_output), relay.rates.get((name, each.to), NO_RATE))
            ]
        ],
        "groups": _groups_stats(relay, status, no_output),
    }
    if answers := counts.answers.get(name):
        row["answers"] = {
            "passed": answers.passed,
            "failed": answers.failed,
            "late": answers.late,
            "waiting": answers.waiting,
        }
    return row


def _health(relay: RelayState, status: RuleStatus) -> HealthRow | None:
    """Null where the rule does not ask for it. What is not looked for, and what is not known, is null too."""
    if status.rule.health == "none":
        return None
    slot = (status.rule.name, status.inputs[0].text)  # a rule has one so far
    found = relay.health.get(slot) or no_health(status.rule.health)
    return {
        "silent": found.silent,
        "silences": found.silences,
        "silence_seconds": round(found.silence_seconds, 3),
        "unrecognised": found.unrecognised,
        "rtp": _rtp(found.rtp) if found.rtp else None,
        "ts": _transport(found.transport) if found.transport else None,
    }


def _rtp(found: RtpCount) -> RtpRow:
    return {
        "packets": found.packets,
        "lost": found.lost,
        "duplicated": found.duplicated,
        "reordered": found.reordered,
        "restarts": found.restarts,
        "ssrc_changes": found.ssrc_changes,
        "foreign": found.foreign,
        "ssrc": found.ssrc,
        "payload_type": found.payload_type,
        "clock_rate": found.clock_rate,
        "jitter_seconds": found.jitter,
        "jitter_max_seconds": found.jitter_most,
    }


def _transport(found: TransportCount) -> TransportRow:
    """PIDs are keys, in decimal digits: of the first 32 with errors."""
    return {
        "packets": found.packets,
        "continuity_errors": found.continuity_errors,
        "continuity_errors_by_pid": {str(pid): count for pid, count in sorted(found.continuity_errors_by_pid.items())},
        "sync_errors": found.sync_errors,
        "transport_errors": found.transport_errors,
        "bit_rate": found.bit_rate,
        "pcr_gaps": found.pcr_gaps,
        "pcr_jitter_seconds": found.pcr_jitter,
        "pcr_jitter_max_seconds": found.pcr_jitter_most,
    }


def _relay_seconds(relay: RelayState, rule: str) -> RelayTimesRow:
    """A histogram as Prometheus has them: datagrams that took so long at most, by bound."""
    found = relay.relay_times.get(rule) or RelayTimes(dict.fromkeys(relay.counts.names.times, 0), 0.0)
    return {"count": sum(found.datagrams.values()), "sum": found.seconds, "buckets": found.within}


def _groups_stats(relay: RelayState, status: RuleStatus, no_output: OutputCount) -> list[GroupStatsRow]:
    """Each group of a range that has counted anything, as the rule's outputs have it too."""
    name, counts = status.rule.name, relay.counts
    return [
        {
            "group": str(each.group + place),
            "rx_packets": count.rx_packets,
            "rx_bytes": count.rx_bytes,
            "drops": count.drops,
            "outputs": [
                {
                    "to": str(output.address + place),
                    "tx_packets": sent.tx_packets,
                    "tx_bytes": sent.tx_bytes,
                    "tx_errors": sent.tx_errors,
                }
                for output in status.outputs
                for sent in [counts.output_groups.get((name, output.to), {}).get(place, no_output)]
            ],
        }
        for each in status.inputs
        for place, count in counts.input_groups.get((name, each.text), {}).items()
    ]


def _link_stats(relay: RelayState, name: str) -> LinkStatsRow:
    """``filter`` is null for a link that only sends, ``sndbuf`` (bytes) for one that only receives."""
    ring = relay.counts.rings.get(name)
    return {
        "ifname": name,
        "filter": None if ring is None else "coarse" if ring.coarse else "exact",
        "sndbuf": relay.counts.sndbufs.get(name),
        "rx_frames": ring.rx_frames if ring else 0,
        "frames": ring.frames if ring else dict.fromkeys(relay.counts.names.verdicts, 0),
        "refused_fragments": ring.refused_fragments if ring else dict.fromkeys(relay.counts.names.refusals, 0),
        "ring_dropped_frames": ring.dropped if ring else 0,
        "kernel_frames": ring.kernel_frames if ring else 0,
        "near_misses": [_near_miss(relay, name, each) for each in ring.misses] if ring else [],
        # Sent by this host on this link to groups of rules: not captured.
        "outgoing_frames": relay.outgoing_frames.get(name, 0),
    }


def _near_miss(relay: RelayState, link: str, miss: NearMiss) -> NearMissRow:
    """``rule`` is one of that group that it almost met, of several the one with the same port."""
    inputs = [(status.rule.name, each) for status in relay.rules for each in status.inputs]
    near = [(name, each) for name, each in inputs if each.iif == link and each.takes(miss.group)]
    near.sort(key=lambda found: not names_port(found[1].port, miss.port or -1))
    return {
        "group": str(miss.group),
        "port": miss.port,
        "source": str(miss.source),
        "vlan": miss.vlan or "none",
        "verdict": miss.verdict,
        "packets": miss.packets,
        "last_time": round(miss.last_time, 3),
        "rule": near[0][0] if near else None,
    }


def links(relay: RelayState) -> list[LinkRow]:
    """Every link of this host; for input links the querier, and what is wrong.

    ``gro`` is null where the link does not ask for it.
    """
    return [
        {
            "ifname": link.name,
            "ifindex": link.ifindex,
            "operstate": link.operstate,
            "mtu": link.mtu,
            "addresses": [str(address) for address in (*link.addresses, *link.addresses6)],
            "querier": _querier(igmp),
            "mld_querier": _querier(mld),
            "warnings": _of_both(_warnings(igmp), _warnings(mld)),
            "gro": {"state": gro.state, "reason": gro.reason or None} if gro else None,
        }
        for link in relay.links.values()
        for igmp, mld, gro in [(relay.igmp.get(link.name), relay.mld.get(link.name), relay.gro.get(link.name))]
    ]


def _querier(heard: IgmpState | None) -> QuerierRow | None:
    if heard is None or heard.querier is None:
        return None
    return {
        "address": str(heard.querier.address),
        "version": heard.querier.version,
        "last_seen_time": round(heard.querier.last_seen_time, 3),
    }


def _of_both(igmp: list[WarningRow], mld: list[WarningRow]) -> list[WarningRow]:
    """What both say of the link itself is said once."""
    return [*igmp, *(each for each in mld if each not in igmp)]


def _warnings(igmp: IgmpState | None, sourced: bool = True) -> list[WarningRow]:
    """The concern about a link or a membership on it: an older querier harms only joins of one source."""
    found = igmp.warnings if igmp else ()
    return [{"kind": each.kind, "text": each.text} for each in found if sourced or each.kind not in OF_SOURCES]


def groups(relay: RelayState) -> list[GroupRow]:
    """Every membership wanted; ``version`` is what the kernel speaks on that link, null where unknown."""
    names = {link.ifindex: link.name for link in relay.links.values()}
    return [_group(relay, each, names.get(each.ifindex, "")) for each in sorted(relay.memberships, key=_order)]


def _order(each: Membership) -> tuple[int, int, int, int]:
    return each.ifindex, each.group.version, int(each.group), int(each.source or 0)


def _group(relay: RelayState, each: Membership, link: str) -> GroupRow:
    is_mld = isinstance(each.group, IPv6Address)
    heard, versions = (relay.mld, relay.mld_versions) if is_mld else (relay.igmp, relay.igmp_versions)
    return {
        "ifname": link or str(each.ifindex),
        "group": str(each.group),
        "source": str(each.source) if each.source else None,
        "state": "joined" if each in relay.joined else "error" if each in relay.failed else "pending",
        "reason": relay.failed.get(each),
        "version": versions.get(link),
        "warnings": _warnings(heard.get(link), each.source is not None),
    }


def config(relay: RelayState) -> dict[str, Any]:
    """The running configuration as the tables of a file."""
    return config_tables(relay.config)


NOUNS: dict[str, Callable[[RelayState], Any]] = {
    "rules": rules,
    "stats": stats,
    "links": links,
    "groups": groups,
    "config": config,
}
