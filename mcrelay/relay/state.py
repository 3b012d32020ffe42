"""The state of the relay as one frozen value. `show`, metrics and the log's dumps are made from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcrelay.igmp.monitor import Concern
    from mcrelay.model.link import Link, Membership
    from mcrelay.model.rule import Config
    from mcrelay.model.state import CounterKey, Endpoint, FeatureState, HealthCount, RelayTimes, Snapshot
    from mcrelay.model.stream import Address
    from mcrelay.relay.rates import Rate
    from mcrelay.relay.status import RuleStatus


@dataclass(frozen=True, slots=True)
class QuerierState:
    """Who queries on a link, in which version, and when it was heard last (Unix seconds)."""

    address: Address
    version: int
    last_seen_time: float


@dataclass(frozen=True, slots=True)
class IgmpState:
    """IGMP or MLD on an input link: the querier, None if none was heard, and what is wrong."""

    querier: QuerierState | None
    warnings: tuple[Concern, ...]


@dataclass(frozen=True, slots=True)
class DaemonState:
    """Facts about the process beside the relay. ``reload_time`` is the last reading of the files, in Unix seconds."""

    version: str
    restart_due: bool
    reload_successful: bool
    reload_time: float


@dataclass(frozen=True, slots=True)
class RelayState:
    """A relay at one moment. ``time`` is Unix seconds, ``uptime_seconds`` monotonic ones since it was made.

    ``losing`` are names of rules. ``engine_reasons`` has the rules that ask for the kernel engine: why the ring has
    them, "" if it does not. ``exclusive`` is by rule. ``gro`` is by link, for links that ask for it, and so are
    ``igmp`` and ``mld``, for links where rules listen to groups of IPv4 and of IPv6. ``last_packet_times`` are Unix
    seconds by rule, by the clock as it is set now. ``outgoing_frames`` counts frames that this host has sent to groups
    of rules on an input link. ``links`` that no rule names may be as old as the last dump. ``memberships`` are what the
    rules want, ``joined`` those that the kernel has, ``failed`` the reasons for the others. ``rates`` has the counters
    that move, under (rule, output), or (rule, "") for what the rule receives. ``igmp_versions`` and ``mld_versions``
    are what the kernel speaks, by link, as far as that is known.
    ``health`` is under (rule, input), for rules that ask for it, ``relay_times`` by rule: a rule that never had a plan
    is in neither.
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
    mld: Mapping[str, IgmpState] = field(default_factory=dict)
    mld_versions: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[CounterKey, Rate] = field(default_factory=dict)
    health: Mapping[CounterKey, HealthCount] = field(default_factory=dict)
    relay_times: Mapping[str, RelayTimes] = field(default_factory=dict)
