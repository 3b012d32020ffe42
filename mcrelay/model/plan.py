"""What is to be done on the links of this moment: the compiled form of all rules, before the engine has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from mcrelay.model.link import Membership

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network

    from mcrelay.model.rate import Rate
    from mcrelay.model.rule import LinkSettings
    from mcrelay.model.stream import Ttl

RuleState: TypeAlias = Literal["active", "pending", "parked", "error", "disabled"]
OutputState: TypeAlias = Literal["active", "parked", "error"]


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """An output as the loop will have it, or why it cannot: two equal specs may share a socket across plans.

    ``ifindex`` 0 means routed (a unicast output without a link), ``incarnation`` is its link's (Link).
    ``source_address`` is the one datagrams will carry, None where the route decides (a unicast output that asks for
    none); ``bind_source`` says that it was asked for. ``dscp`` None keeps the input's. ``payload_max`` is the largest
    payload that fits the link's MTU, 0 where the route's must be asked for.
    An output that is not active is still in the plan: the loop counts each of its datagrams under ``parked``.
    """

    to: str
    address: IPv4Address
    port: int
    oif: str | None
    ifindex: int
    source_address: IPv4Address | None
    bind_source: bool
    source_port: int
    exact_port: bool
    ttl: Ttl
    dscp: int | None
    burst: int
    payload_max: int
    df: bool = False
    incarnation: int = 0
    state: OutputState = "active"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a rule: the identity the table is keyed by, and how it stands with its link.

    ``ifindex`` is 0 while the link does not exist. An active or parked input has a ring, a table entry and a join;
    parked means that its link is there but down, so that it resumes by itself. An active one has a reason where
    something will stop its stream.
    """

    text: str
    iif: str
    ifindex: int
    group: IPv4Address
    source: IPv4Address | None
    port: int
    allow: tuple[IPv4Network, ...] | None = None
    limit: Rate | None = None
    incarnation: int = 0
    state: RuleState = "active"
    reason: str = ""

    @property
    def live(self) -> bool:
        """Whether the loop and the memberships know this input."""
        return self.state in {"active", "parked"}

    @property
    def membership(self) -> Membership:
        """The join that makes this input arrive."""
        return Membership(self.ifindex, self.group, self.source, self.incarnation)


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """A rule as compiled against the links of this moment."""

    name: str
    origin: Literal["file", "runtime"]
    description: str
    enabled: bool
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    exclusive: bool = False
    engine: Literal["ring", "kernel"] = "ring"


@dataclass(frozen=True, slots=True)
class RingSpec:
    """One link that frames are captured on.

    ``loopback``: all that it carries was sent here, and nothing came back. ``mtu`` is for making a ring: one that
    stands goes on if it changes.
    """

    ifname: str
    settings: LinkSettings
    loopback: bool = False
    incarnation: int = 0
    mtu: int = field(default=1500, compare=False)


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """Everything the relay is to do, computed from a Config and the links as they are: no side effect, no socket.

    ``rings`` is keyed by ifindex, and so is ``ethernet``: the hardware addresses of Ethernet links by which rules of
    the kernel engine send.
    """

    rules: tuple[RuleSpec, ...] = ()
    rings: dict[int, RingSpec] = field(default_factory=dict)
    ethernet: dict[int, str] = field(default_factory=dict)

    @property
    def memberships(self) -> frozenset[Membership]:
        """Every join that the live inputs want."""
        return frozenset(each.membership for rule in self.rules for each in rule.inputs if each.live)
