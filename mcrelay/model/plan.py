"""All rules compiled against the present links: what the engine and the memberships are given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_network
from typing import TYPE_CHECKING, Literal, TypeAlias

from mcrelay.model.link import Membership
from mcrelay.model.ports import names_port, spans_of

if TYPE_CHECKING:
    from mcrelay.model.address import Network
    from mcrelay.model.ports import Port
    from mcrelay.model.rate import Rate
    from mcrelay.model.rule import LinkSettings
    from mcrelay.model.stream import Address, Ttl, Vlan

RuleState: TypeAlias = Literal["active", "pending", "parked", "error", "disabled"]
OutputState: TypeAlias = Literal["active", "parked", "error"]
HostPort: TypeAlias = "tuple[Address, int]"  # an address of this host, and a UDP port


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """An output as the loop gets it, or the reason why it cannot. Equal specs may share a socket across plans.

    ``ifindex`` 0 means routed (a unicast output without a link), ``incarnation`` is its link's (Link).
    ``source_address`` is the source of the datagrams, None where the route decides (a unicast output that names
    none); ``bind_source`` says that the rule names it. ``dscp`` None keeps the input's. ``payload_max`` is the largest
    payload that fits the link's MTU, 0 where the route's must be asked for.
    ``keep_address`` and ``keep_port``: each datagram leaves from where it came from; ``mac`` is then the link's, by
    which it is known when it comes back. ``vlan``: it leaves in frames with that tag, from that ``mac``; 0 is none.
    An output that is not active is still in the plan: the loop counts each of its datagrams under ``parked``.
    Of a range, ``address`` is the first of so many ``groups``. ``port`` is a number or, where the output has several or
    keeps any, the one of them that its socket is made with; ``ports`` are then all of them.
    ``addressed``: it has many destinations, and each message names its own; ``port_map`` says which ports change
    (lowest, highest, what the lowest becomes), ``into_one`` that every port becomes ``port``.
    """

    to: str
    address: Address
    port: int
    oif: str | None
    ifindex: int
    source_address: Address | None
    bind_source: bool
    source_port: int
    exact_port: bool
    ttl: Ttl
    dscp: int | None
    burst: int
    payload_max: int
    df: bool = False
    keep_address: bool = False
    keep_port: bool = False
    mac: str = ""
    vlan: int = 0
    incarnation: int = 0
    state: OutputState = "active"
    reason: str = ""
    groups: int = 1
    ports: Port = 0
    addressed: bool = False
    port_map: tuple[tuple[int, int, int], ...] = ()
    into_one: bool = False

    def sends_to(self, group: Address, port: int) -> bool:
        """Whether datagrams of this output may go there."""
        inside = group.version == self.address.version and 0 <= int(group) - int(self.address) < self.groups
        return inside and (names_port(self.ports, port) if self.addressed else port == self.port)

    @property
    def needs_port_sockets(self) -> bool:
        """Whether workers may open sockets more for it: a frame says any port, a UDP socket has one."""
        return self.keep_port and not self.vlan

    @property
    def keeps(self) -> bool:
        """Whether it sends from where the datagrams came from, in part or altogether."""
        return self.keep_address or self.keep_port


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a rule: the identity the table is keyed by, and how it stands with its link.

    ``ifindex`` is 0 while the link does not exist. An active or parked input has a ring, a table entry and a join;
    parked means that its link is there but down, so that it resumes by itself. An active one has a reason where
    something will stop its stream. ``group`` is a broadcast address, or with ``unicast`` one of this host's own, where
    the input is no group. ``own``: what this host sends on the link is taken too. Of a range, ``group`` is its first
    and ``length`` that of its prefix, in bits.
    """

    text: str
    iif: str
    ifindex: int
    group: Address
    source: Address | None
    port: Port
    vlan: Vlan = "none"
    allow: tuple[Network, ...] | None = None
    limit: Rate | None = None
    incarnation: int = 0
    state: RuleState = "active"
    reason: str = ""
    unicast: bool = False
    own: bool = False
    length: int | None = None

    @property
    def group_count(self) -> int:
        """How many groups it takes: 1, unless it is a range."""
        return 1 if self.length is None else 1 << (self.group.max_prefixlen - self.length)

    @property
    def groups(self) -> list[Address]:
        """Every group that it takes."""
        return [self.group] if self.length is None else list(ip_network((self.group, self.length)))

    def takes(self, group: Address) -> bool:
        """Whether a group is one of its own, whatever the port."""
        return group.version == self.group.version and 0 <= int(group) - int(self.group) < self.group_count

    @property
    def many(self) -> bool:
        """Whether it names more than one group or port."""
        return self.length is not None or not isinstance(self.port, int)

    @property
    def live(self) -> bool:
        """Whether the loop and the memberships know this input."""
        return self.state in {"active", "parked"}

    @property
    def memberships(self) -> list[Membership]:
        """The joins that make this input arrive, one a group."""
        return [Membership(self.ifindex, group, self.source, self.incarnation) for group in self.groups]


def _own(each: InputSpec) -> Address:
    """Give the address of this host that an input has; a link-local one says its link (RFC 4007)."""
    if each.group.version == 6 and each.group.is_link_local:
        return IPv6Address(f"{each.group}%{each.iif}")
    return each.group


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """A rule as compiled against the links of this moment. ``searches``: no engine has it, but `relay.searches`."""

    name: str
    origin: Literal["file", "runtime"]
    description: str
    enabled: bool
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    exclusive: bool = False
    engine: Literal["ring", "kernel"] = "ring"
    searches: bool = False
    health: Literal["none", "rtp", "ts", "auto"] = "none"


@dataclass(frozen=True, slots=True)
class RingSpec:
    """One link that frames are captured on.

    ``loopback``: this host sends everything on it, so nothing is an echo. ``bare``: its packets have no Ethernet
    header. ``mtu`` matters when a ring is made; a ring that exists is kept when it changes. ``own``: what this host
    sends there is captured too, by a ring beside this one.
    """

    ifname: str
    settings: LinkSettings
    loopback: bool = False
    incarnation: int = 0
    bare: bool = False
    mtu: int = field(default=1500, compare=False)
    own: bool = False


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """Everything the relay has to do, computed from a Config and the present links: no side effect, no socket.

    ``rings`` is keyed by ifindex, and so is ``ethernet``: the hardware addresses of Ethernet links by which rules of
    the kernel engine send.
    """

    rules: tuple[RuleSpec, ...] = ()
    rings: dict[int, RingSpec] = field(default_factory=dict)
    ethernet: dict[int, str] = field(default_factory=dict)

    @property
    def forwarded(self) -> PlanSpec:
        """The part of it that an engine forwards."""
        return replace(self, rules=tuple(each for each in self.rules if not each.searches))

    @property
    def memberships(self) -> frozenset[Membership]:
        """Every join that the live inputs want."""
        inputs = (each for rule in self.rules for each in rule.inputs)
        live = (each for each in inputs if each.live and each.group.is_multicast)
        return frozenset(join for each in live for join in each.memberships)

    @property
    def ports(self) -> frozenset[HostPort]:
        """Where live inputs are addressed to this host itself, which has to have the port open then."""
        live = [each for rule in self.rules for each in rule.inputs if each.live and each.unicast]
        spans = [(_own(each), span) for each in live for span in spans_of(each.port)]
        return frozenset((group, port) for group, (low, high) in spans for port in range(low, high + 1))
