"""What everything else talks about: streams, rules, links and the plan, as frozen values without behaviour.

Ownership is simple because nothing here changes after it is made: any thread may read any of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from typing import Any, Literal, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Keep: TypeAlias = Literal["keep"]
Auto: TypeAlias = Literal["auto"]
Vlan: TypeAlias = int | Literal["none", "any"]
RuleState: TypeAlias = Literal["active", "pending", "parked", "error", "disabled"]
OutputState: TypeAlias = Literal["active", "parked", "error"]

DEFAULT_CONTROL = "/run/mcrelay/mcrelay.sock"  # where the relay listens, and its clients ask


@dataclass(frozen=True, slots=True)
class Stream:
    """A flow as a user names it: ``[SOURCE@]GROUP[/LEN][:PORT][%LINK]``.

    ``address`` is the group, or a host for a unicast output. ``length`` is the prefix length in bits when the text
    names a range, else None. ``port`` is 1-65535, ``"any"``, or None where the text has none.
    """

    address: Address
    port: int | Literal["any"] | None = None
    link: str | None = None
    source: Address | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second: datagrams (``unit`` pps), or bits of UDP payload (``unit`` bit)."""

    number: float
    unit: Literal["pps", "bit"]


@dataclass(frozen=True, slots=True)
class Input:
    """One stream that a rule takes in. ``allow`` None lets every source in, ``limit`` None any rate."""

    stream: Stream
    vlan: Vlan = "none"
    allow: tuple[IPv4Network, ...] | None = None
    limit: Rate | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One destination of a rule, every option resolved: no value here still waits for a default.

    ``stream.port`` is filled in (an output without a port keeps the input's). ``ttl`` is 16 for multicast and 64
    for unicast where nothing was said.
    """

    stream: Stream
    source_address: IPv4Address | Auto | Keep = "auto"
    source_port: int | Auto | Keep = "auto"
    ttl: int | Keep | Literal["decrement"] = 16
    dscp: int | Keep = "keep"
    burst: int = 16
    df: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Datagrams of every input go to every output. ``origin`` tells whether a file or a command made it."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    description: str = ""
    exclusive: bool = False
    enabled: bool = True
    shared: bool = False
    reflect: bool = False
    origin: Literal["file", "runtime"] = "file"


# No link with IPv4 has this name, which /proc/sys/net/ipv4/conf needs itself (linux/net/ipv4/devinet.c).
DEFAULT_LINK = "default"


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """``[links.NAME]``: how frames are captured on one link; with NAME "default" on every link that says nothing else.

    ``ring_bytes`` is the total for all workers, and memory that the kernel gives up as soon as the link is used.

    ``gro``: the kernel is asked to merge datagrams of a flow before they are captured.
    """

    profile: Literal["throughput", "latency"] = "throughput"
    ring_bytes: int = 32 << 20
    gro: bool = False


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """``[relay]``: the process as a whole. ``cpus`` empty means: not pinned."""

    workers: int = 1
    cpus: tuple[int, ...] = ()
    control: str = DEFAULT_CONTROL
    metrics: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration, already found free of complaints."""

    relay: RelaySettings = RelaySettings()
    links: dict[str, LinkSettings] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)

    def link(self, *names: str) -> LinkSettings:
        """Give the settings of a link with these names: its own, else those of ``[links.default]``."""
        known = (self.links[name] for name in (*names, DEFAULT_LINK) if name in self.links)
        return next(known, LinkSettings())


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as it is now. ``addresses`` stands in the kernel's order, primary first.

    ``hardware`` is the ARPHRD number (1 Ethernet, 772 loopback; linux/if_arp.h). ``carrier_losses`` is the kernel's
    count since the link was made. ``master`` is the bridge, bond or the like that it is a port of, which takes its
    frames, and ``master_kind`` what that is, as ip-link(8) calls it; ``upper`` is a macvlan or ipvlan link of this
    namespace that takes frames from it. ``cuts`` names a queueing discipline, its own or one of the link below it,
    that cuts runs into datagrams. ``scopes`` are those of the addresses, in the same order, as rtnetlink(7) numbers
    them (0: known everywhere); without them every one is 0.
    """

    name: str
    ifindex: int
    up: bool
    carrier: bool
    operstate: str
    mtu: int
    addresses: tuple[IPv4Interface, ...] = ()
    hardware: int = 1
    mac: str = ""
    carrier_losses: int = 0
    master: str = ""
    master_kind: str = ""
    upper: str = ""
    cuts: str = ""
    altnames: tuple[str, ...] = ()
    scopes: tuple[int, ...] = ()


class LinkTable(dict[str, Link]):
    """Links by name. An altname (ip-link(8), ``property``) finds its link as well; going through lists names alone."""

    def __init__(self, links: dict[str, Link]) -> None:
        super().__init__(links)
        self._names = {alias: name for name, link in links.items() for alias in link.altnames}

    def __missing__(self, key: str) -> Link:
        return super().__getitem__(self._names[key])

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._names

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(self._names.get(key, key), default)


@dataclass(frozen=True, slots=True, order=True)
class Membership:
    """One joined (link, group[, source]); ``source`` None is any-source (ASM)."""

    ifindex: int
    group: IPv4Address
    source: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """An output as the loop will have it, or why it cannot: two equal specs may share a socket across plans.

    ``ifindex`` 0 means routed (a unicast output without a link). ``source_address`` is the one datagrams will carry,
    None where the route decides (a unicast output that asks for none); ``bind_source`` says that it was asked for.
    ``dscp`` None keeps the input's. ``payload_max`` is the largest payload that fits the link's MTU,
    0 where the route's must be asked for.
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
    ttl: int
    dscp: int | None
    burst: int
    payload_max: int
    df: bool = False
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
    state: RuleState = "active"
    reason: str = ""

    @property
    def live(self) -> bool:
        """Whether the loop and the memberships know this input."""
        return self.state in {"active", "parked"}

    @property
    def membership(self) -> Membership:
        """The join that makes this input arrive."""
        return Membership(self.ifindex, self.group, self.source)


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


@dataclass(frozen=True, slots=True)
class RingSpec:
    """One link that frames are captured on.

    ``loopback``: all that it carries was sent here, and nothing came back. ``mtu`` is for making a ring: one that
    stands goes on if it changes.
    """

    ifname: str
    settings: LinkSettings
    loopback: bool = False
    mtu: int = field(default=1500, compare=False)


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """Everything the relay is to do, computed from a Config and the links as they are: no side effect, no socket.

    ``rings`` is keyed by ifindex.
    """

    rules: tuple[RuleSpec, ...] = ()
    rings: dict[int, RingSpec] = field(default_factory=dict)

    @property
    def memberships(self) -> frozenset[Membership]:
        """Every join that the live inputs want."""
        return frozenset(each.membership for rule in self.rules for each in rule.inputs if each.live)
