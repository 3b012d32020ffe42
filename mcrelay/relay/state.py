"""How the relay stands: one frozen value. `show`, the log's dumps, and whatever tells of a relay are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from mcrelay.igmp.monitor import Concern
    from mcrelay.model.link import Link, Membership
    from mcrelay.model.rule import Config
    from mcrelay.model.state import CounterKey, Endpoint, FeatureState, Snapshot
    from mcrelay.relay.rates import Rate
    from mcrelay.relay.status import RuleStatus


@dataclass(frozen=True, slots=True)
class QuerierState:
    """Who queries on a link, in which IGMP version, and when it was heard last (Unix seconds)."""

    address: IPv4Address
    version: int
    last_seen_time: float


@dataclass(frozen=True, slots=True)
class IgmpState:
    """What is known of IGMP on an input link: who queries there, None if nobody has, and what is wrong with it."""

    querier: QuerierState | None
    warnings: tuple[Concern, ...]


@dataclass(frozen=True, slots=True)
class DaemonState:
    """What there is to say of the process beside the relay. ``reload_time`` (Unix seconds): of the files, the last."""

    version: str
    restart_due: bool
    reload_successful: bool
    reload_time: float


@dataclass(frozen=True, slots=True)
class RelayState:
    """A relay at one moment. ``time`` is Unix seconds, ``uptime_seconds`` monotonic ones since it was made.

    ``losing`` are names of rules; ``engine_reasons`` tells of those that ask for the kernel engine why the ring has
    them, nothing where it does not; ``exclusive`` is by rule, ``gro`` and ``igmp`` by link, of those that ask for it or
    listen there. ``last_packet_times`` are Unix seconds by rule, as the clock is set now. ``outgoing_frames`` are what
    this host itself has sent on an input link to groups of rules. Of ``links``, those that no rule names may be as old
    as the last look at all of them. ``memberships`` are all that the rules want, ``joined`` those that the kernel has,
    ``failed`` why it refuses others; ``rates`` of those that move, under (rule, output), or (rule, "") for
    what it receives; ``igmp_versions`` is what the kernel speaks, by link.
    """

    time: float
    uptime_seconds: float
    config: Config
    rules: tuple[RuleStatus, ...]
    losing: frozenset[str]
    engine_reasons: Mapping[str, str]
    exclusive: Mapping[str, FeatureState]
    endpoints: Mapping[CounterKey, Endpoint]
    counts: Snapshot
    last_packet_times: Mapping[str, float | None]
    outgoing_frames: Mapping[str, int]
    links: Mapping[str, Link]
    gro: Mapping[str, FeatureState]
    igmp: Mapping[str, IgmpState]
    memberships: frozenset[Membership]
    joined: frozenset[Membership]
    failed: Mapping[Membership, str]
    igmp_versions: Mapping[str, int]
    rates: Mapping[CounterKey, Rate] = field(default_factory=dict)
