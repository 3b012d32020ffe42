"""What ``show`` shows, as plain JSON values: keys are a promise, names follow `ip -j` and smcroutectl. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcrelay.config.writer import config_tables
from mcrelay.igmp.monitor import OF_SOURCES
from mcrelay.model.state import FeatureState, InputCount, OutputCount
from mcrelay.relay.rates import NO_RATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.model.plan import InputSpec, OutputSpec
    from mcrelay.model.state import NearMiss
    from mcrelay.relay.state import IgmpState, RelayState
    from mcrelay.relay.status import RuleStatus

Row = dict[str, Any]


def rules(relay: RelayState) -> list[Row]:
    """Every rule, how it stands and why."""
    return [_rule(relay, status) for status in relay.rules]


def _rule(relay: RelayState, status: RuleStatus) -> Row:
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


def _exclusive(relay: RelayState, status: RuleStatus) -> Row | None:
    """Null where the rule does not ask for it; ``off`` while it takes nothing, ``refused`` where it goes without."""
    if not status.rule.exclusive:
        return None
    standing = relay.exclusive.get(status.rule.name, FeatureState("off"))
    return {"state": standing.state, "reason": standing.reason or None}


def _input(each: InputSpec) -> Row:
    return {
        "from": each.text,
        "iif": each.iif,
        "group": str(each.group),
        "source": str(each.source) if each.source else None,
        "port": each.port,
        "vlan": "none",
        "state": each.state,
        "reason": each.reason or None,
    }


def _output(relay: RelayState, rule: str, each: OutputSpec) -> Row:
    source, port = each.source_address, each.source_port
    if endpoint := relay.endpoints.get((rule, each.to)):  # the real ones: the route's address, the next free port
        source, port = endpoint.address, endpoint.port
    return {
        "to": each.to,
        "oif": each.oif,
        "source_address": str(source) if source else None,
        "source_port": port,
        "ttl": each.ttl,
        "dscp": "keep" if each.dscp is None else each.dscp,
        "state": each.state,
        "reason": each.reason or None,
    }


def stats(relay: RelayState) -> Row:
    """Every counter; zeros where nothing has passed yet."""
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


def _rule_stats(relay: RelayState, status: RuleStatus) -> Row:
    name, counts = status.rule.name, relay.counts
    no_input = InputCount(0, 0, None, dict.fromkeys(counts.names.drops, 0))
    no_output = OutputCount(0, 0, 0, dict.fromkeys(counts.names.send_errors, 0))
    inputs = [counts.inputs.get((name, each.text), no_input) for each in status.inputs]
    inputs.append(counts.retired.get(name, no_input))
    rate = relay.rates.get((name, ""), NO_RATE)
    return {
        "name": name,
        "rx_packets": sum(each.rx_packets for each in inputs),
        "rx_bytes": sum(each.rx_bytes for each in inputs),
        "rx_rate": round(rate.packets, 1),
        "rx_bit_rate": round(rate.bits),
        "rx_rate_10s": round(rate.packets_10s, 1),
        "rx_bit_rate_10s": round(rate.bits_10s),
        "last_packet_time": relay.last_packet_times.get(name),
        "drops": {reason: sum(each.drops[reason] for each in inputs) for reason in counts.names.drops},
        "outputs": [
            {
                "to": each.to,
                "since_packets": count.since_packets,
                "tx_packets": count.tx_packets,
                "tx_bytes": count.tx_bytes,
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
    }


def _link_stats(relay: RelayState, name: str) -> Row:
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
        # Of groups of rules, sent on this link by this host: not captured.
        "outgoing_frames": relay.outgoing_frames.get(name, 0),
    }


def _near_miss(relay: RelayState, link: str, miss: NearMiss) -> Row:
    """``rule`` is one of that group that it almost met, of several the one with the same port."""
    inputs = [(status.rule.name, each) for status in relay.rules for each in status.inputs]
    near = [(name, each) for name, each in inputs if (each.iif, each.group) == (link, miss.group)]
    near.sort(key=lambda found: found[1].port != miss.port)
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


def links(relay: RelayState) -> list[Row]:
    """Every link of this host; of those that rules listen on, who queries there and what is wrong with that.

    ``gro`` is null where the link does not ask for it.
    """
    return [
        {
            "ifname": link.name,
            "ifindex": link.ifindex,
            "operstate": link.operstate,
            "mtu": link.mtu,
            "addresses": [str(address) for address in link.addresses],
            "querier": {
                "address": str(querier.address),
                "version": querier.version,
                "last_seen_time": round(querier.last_seen_time, 3),
            }
            if igmp and (querier := igmp.querier)
            else None,
            "warnings": _warnings(igmp),
            "gro": {"state": gro.state, "reason": gro.reason or None} if gro else None,
        }
        for link in relay.links.values()
        for igmp, gro in [(relay.igmp.get(link.name), relay.gro.get(link.name))]
    ]


def _warnings(igmp: IgmpState | None, sourced: bool = True) -> list[Row]:
    """What is wrong on a link, or with a membership there: an older querier harms only joins of one source."""
    found = igmp.warnings if igmp else ()
    return [{"kind": each.kind, "text": each.text} for each in found if sourced or each.kind not in OF_SOURCES]


def groups(relay: RelayState) -> list[Row]:
    """Every membership wanted; ``version`` is the IGMP version the kernel speaks on that link, null where unknown."""
    names = {link.ifindex: link.name for link in relay.links.values()}
    return [
        {
            "ifname": names.get(each.ifindex, str(each.ifindex)),
            "group": str(each.group),
            "source": str(each.source) if each.source else None,
            "state": "joined" if each in relay.joined else "error" if each in relay.failed else "pending",
            "reason": relay.failed.get(each),
            "version": relay.igmp_versions.get(names.get(each.ifindex, "")),
            "warnings": _warnings(relay.igmp.get(names.get(each.ifindex, "")), each.source is not None),
        }
        for each in sorted(relay.memberships)
    ]


def config(relay: RelayState) -> Row:
    """What runs, as the tables of a file that would make a relay run the same."""
    return config_tables(relay.config)


NOUNS: dict[str, Callable[[RelayState], Any]] = {
    "rules": rules,
    "stats": stats,
    "links": links,
    "groups": groups,
    "config": config,
}
