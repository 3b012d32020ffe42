"""What ``show`` shows, as plain JSON values: keys are a promise, names follow `ip -j` and smcroutectl."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mcrelay.config.writer import config_tables
from mcrelay.engine.ring import DROPS, SEND_ERRORS, VERDICTS
from mcrelay.igmp import wire
from mcrelay.igmp.monitor import OF_SOURCES
from mcrelay.linux.clock import unix_time
from mcrelay.model.state import FeatureState, InputCount, OutputCount

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.igmp.monitor import IgmpMonitor
    from mcrelay.linux.clock import Stamps
    from mcrelay.model.plan import InputSpec, OutputSpec
    from mcrelay.model.state import Snapshot
    from mcrelay.relay.service import Service
    from mcrelay.relay.status import RuleStatus

Row = dict[str, Any]

_NO_INPUT = InputCount(0, 0, None, dict.fromkeys(DROPS, 0))
_NO_OUTPUT = OutputCount(0, 0, 0, dict.fromkeys(SEND_ERRORS, 0))


def rules(service: Service) -> list[Row]:
    """Every rule, how it stands and why."""
    losing = service.losing()
    return [_rule(service, status, losing=status.rule.name in losing) for status in service.statuses()]


def _rule(service: Service, status: RuleStatus, *, losing: bool) -> Row:
    return {
        "name": status.rule.name,
        "description": status.rule.description,
        "origin": status.rule.origin,
        "state": status.state,
        "reason": status.reason or None,
        "engine": status.rule.engine,
        "engine_reason": None,
        "losing": losing,
        "exclusive": _exclusive(service, status),
        "inputs": [_input(each) for each in status.inputs],
        "outputs": [_output(service, status.rule.name, each) for each in status.outputs],
    }


def _exclusive(service: Service, status: RuleStatus) -> Row | None:
    """Null where the rule does not ask for it; ``off`` while it takes nothing, ``refused`` where it goes without."""
    if not status.rule.exclusive:
        return None
    standing = service.exclusive.states.get(status.rule.name, FeatureState("off"))
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


def _output(service: Service, rule: str, each: OutputSpec) -> Row:
    source, port = each.source_address, each.source_port
    socket = service.engine.egress_of(rule, each.to)
    if socket is not None:  # the real ones: the route's address, the next free port
        source, port = socket.local_address, socket.source_port
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


def stats(service: Service) -> Row:
    """Every counter; zeros where nothing has passed yet."""
    snapshot = service.engine.snapshot()
    statuses = service.statuses()
    used = {each.iif for status in statuses for each in status.inputs}
    used |= {each.oif for status in statuses for each in status.outputs if each.oif}
    return {
        "time": round(time.time(), 3),
        "uptime_seconds": round(time.monotonic() - service.started, 3),
        "rules": [_rule_stats(snapshot, status, service.stamps) for status in statuses],
        "links": [
            _link_stats(snapshot, name, service.outgoing.frames(name)) for name in sorted(used | snapshot.rings.keys())
        ],
        "workers": [
            {"id": each.number, "cpu_seconds": each.cpu_seconds, "generation": each.generation}
            for each in snapshot.workers
        ],
    }


def _rule_stats(snapshot: Snapshot, status: RuleStatus, stamps: Stamps) -> Row:
    name = status.rule.name
    inputs = [snapshot.inputs.get((name, each.text), _NO_INPUT) for each in status.inputs]
    inputs.append(snapshot.retired.get(name, _NO_INPUT))
    times = [each.last_packet_time for each in inputs if each.last_packet_time is not None]
    last = stamps.right(name, max(times, default=None))
    return {
        "name": name,
        "rx_packets": sum(each.rx_packets for each in inputs),
        "rx_bytes": sum(each.rx_bytes for each in inputs),
        "last_packet_time": last,
        "drops": {reason: sum(each.drops[reason] for each in inputs) for reason in DROPS},
        "outputs": [
            {
                "to": each.to,
                "since_packets": count.since_packets,
                "tx_packets": count.tx_packets,
                "tx_bytes": count.tx_bytes,
                "tx_errors": count.tx_errors,
            }
            for each in status.outputs
            for count in [snapshot.outputs.get((name, each.to), _NO_OUTPUT)]
        ],
    }


def _link_stats(snapshot: Snapshot, name: str, outgoing: int) -> Row:
    """``filter`` is null for a link that only sends, ``sndbuf`` (bytes) for one that only receives."""
    ring = snapshot.rings.get(name)
    return {
        "ifname": name,
        "filter": None if ring is None else "coarse" if ring.coarse else "exact",
        "sndbuf": snapshot.sndbufs.get(name),
        "rx_frames": ring.rx_frames if ring else 0,
        "frames": ring.frames if ring else dict.fromkeys(VERDICTS, 0),
        "ring_dropped_frames": ring.dropped if ring else 0,
        "outgoing_frames": outgoing,  # of groups of rules, sent on this link by this host: not captured
    }


def links(service: Service) -> list[Row]:
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
                "last_seen_time": round(unix_time(querier.heard), 3),
            }
            if monitor and (querier := monitor.querier)
            else None,
            "warnings": _warnings(monitor),
            "gro": {"state": gro.state, "reason": gro.reason or None} if gro else None,
        }
        for link in service.all_links.values()
        for monitor, gro in [(service.monitors.of(link.name), service.gro.states.get(link.name))]
    ]


def _warnings(monitor: IgmpMonitor | None, sourced: bool = True) -> list[Row]:
    """What is wrong on a link, or with a membership there: an older querier harms only joins of one source."""
    found = monitor.warnings if monitor else []
    return [{"kind": each.kind, "text": each.text} for each in found if sourced or each.kind not in OF_SOURCES]


def groups(service: Service) -> list[Row]:
    """Every membership wanted; ``version`` is the IGMP version the kernel speaks on that link, null where unknown."""
    names = {link.ifindex: link.name for link in service.links.values()}
    versions = wire.host_versions()
    joined, failed = service.memberships.joined, service.memberships.failed
    return [
        {
            "ifname": names.get(each.ifindex, str(each.ifindex)),
            "group": str(each.group),
            "source": str(each.source) if each.source else None,
            "state": "joined" if each in joined else "error" if each in failed else "pending",
            "reason": failed.get(each),
            "version": versions.get(names.get(each.ifindex, "")),
            "warnings": _warnings(service.monitors.of(names.get(each.ifindex, "")), each.source is not None),
        }
        for each in sorted(service.memberships_wanted())
    ]


def config(service: Service) -> Row:
    """What runs, as the tables of a file that would make a relay run the same."""
    return config_tables(service.config)


NOUNS: dict[str, Callable[[Service], Any]] = {
    "rules": rules,
    "stats": stats,
    "links": links,
    "groups": groups,
    "config": config,
}
