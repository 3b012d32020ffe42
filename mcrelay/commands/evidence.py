"""What the stages of ``mcrelay doctor`` judge by: values, made by `commands/look`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from mcrelay.linux.features import Features
from mcrelay.model.notation import parse_stream, stream_of
from mcrelay.model.ports import names_port

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcrelay.igmp.messages import Query, Report
    from mcrelay.model.frame import Datagram
    from mcrelay.model.link import Link
    from mcrelay.model.ports import Port
    from mcrelay.model.stream import Address

Row = dict[str, Any]

# Of the networks of RFC 6676: joined for the look, so that a report has to leave.
PROBE, PROBE6 = IPv4Address("233.252.0.254"), IPv6Address("ff0e::db8:0:fe")
LOOPBACK = 772  # ARPHRD_LOOPBACK


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a rule, or a stream that somebody asks about. ``state`` and ``reason`` as ``show`` has them.

    Of a range, ``group`` is the first of so many; ``port`` None is not known. ``own``: what this host itself sends is
    taken too.
    """

    text: str
    link: str
    group: Address
    port: Port | None
    source: Address | None = None
    vlan: str = "none"
    state: str = "active"
    reason: str = ""
    group_count: int = 1
    own: bool = False

    @property
    def groups(self) -> list[Address]:
        """Every group of it."""
        return [self.group + i for i in range(self.group_count)]

    @property
    def named(self) -> str:
        """The group, or the range by its ends."""
        return str(self.group) if self.group_count == 1 else f"{self.group} to {self.group + self.group_count - 1}"

    def takes(self, group: Address) -> bool:
        """Whether the group is one of it."""
        return 0 <= int(group) - int(self.group) < self.group_count

    def carries(self, flow: Datagram) -> bool:
        """Whether those datagrams are for the input; a later fragment is, whichever port it belongs to."""
        of_it = self.takes(flow.group) and self.source in {None, flow.source}
        port = flow.later_fragment or names_port(self.port, flow.port)
        return of_it and port and self.vlan in {"any", str(flow.vlan or "none")}


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a rule; ``link`` "" is routed. Of a range, ``address`` is the first of so many groups."""

    to: str
    link: str
    address: Address
    port: Port | None
    state: str = "active"
    reason: str = ""
    group_count: int = 1
    vlan: str = "none"

    @property
    def groups(self) -> list[Address]:
        """Every group of it, or its one address."""
        return [self.address + i for i in range(self.group_count)]

    def sends_to(self, flow: Datagram) -> bool:
        """Whether those datagrams go where the output sends."""
        return self._sends_there(flow) and names_port(self.port, flow.port)

    def carries(self, flow: Datagram) -> bool:
        """Whether they are, or seem to be, the output's: a later fragment does, whichever port it belongs to."""
        return self._sends_there(flow) and (flow.later_fragment or names_port(self.port, flow.port))

    def _sends_there(self, flow: Datagram) -> bool:
        """Whatever the port."""
        inside = 0 <= int(flow.group) - int(self.address) < self.group_count
        return inside and self.vlan == str(flow.vlan or "none")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is walked through: a rule, or a stream that no rule names (``rule`` is then "")."""

    rule: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...] = ()
    state: str = "active"
    reason: str = ""

    @property
    def disabled(self) -> bool:
        """Whether nobody expects anything of it."""
        return self.state == "disabled"


@dataclass(slots=True)
class LinkLook:
    """What was seen on one link: how many datagrams of each kind. ``trouble``: why nothing could be seen."""

    flows: Counter[Datagram] = field(default_factory=Counter)
    sent: Counter[Datagram] = field(default_factory=Counter)  # by this host
    largest: dict[Datagram, int] = field(default_factory=dict)  # payload bytes, by kind
    queries: list[Query] = field(default_factory=list)
    delivered: list[Query] = field(default_factory=list)  # those that the kernel's IGMP or MLD was given
    reports: list[Report] = field(default_factory=list)  # of the test group, that left
    refused: set[str] = field(default_factory=set)  # protocols whose report, tried by hand, the output rules forbade
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of this host: whether it snoops and queries, and the groups that it passes to the host itself."""

    snooping: bool
    querier: bool
    host_groups: frozenset[Address]


@dataclass(frozen=True, slots=True)
class Way:
    """Where a route leads: by which link, and by which gateway, "" for none."""

    link: str
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class Dropping:
    """A rule of nftables that drops what comes in, or a chain whose policy it is.

    ``place`` is family, table and chain; ``packets`` its counter, None where it has none.
    """

    place: str
    handle: int
    packets: int | None = None


@dataclass(frozen=True, slots=True)
class Relay:
    """The answers of the running relay, as ``show -j`` has them; ``before`` and ``after`` are its counters."""

    version: Row
    rules: list[Row]
    links: list[Row]
    groups: list[Row]
    before: Row
    after: Row = field(default_factory=dict)


@dataclass(slots=True)
class Evidence:
    """Everything that the stages judge by. ``relay`` None: there is none, or it did not answer (``trouble``)."""

    seconds: float = 0.0
    relay: Relay | None = None
    trouble: str = ""
    silent: bool = False  # somebody listens there and does not answer
    may_look: bool = True
    features: Features = field(default_factory=Features)
    links: Mapping[str, Link] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)  # of links that are made of others: "macvlan of eth0"
    offloads: dict[str, set[str]] = field(default_factory=dict)
    joined: dict[str, set[Address]] = field(default_factory=dict)
    without_ipv6: frozenset[str] = frozenset()  # links on which it is switched off
    failed: dict[tuple[str, Address], str] = field(default_factory=dict)
    max_memberships: int = 20
    looks: dict[str, LinkLook] = field(default_factory=dict)
    bridges: dict[str, Bridge] = field(default_factory=dict)
    filtered: bool | None = None  # the reverse-path filter's count moved
    routes: dict[Address, int | None] = field(default_factory=dict)  # way back to queriers, by ifindex
    ways: dict[tuple[str, str], Way] = field(default_factory=dict)  # of outputs, by link ("" for any) and address
    dropping: list[tuple[Dropping, int | None]] = field(default_factory=list)  # and by how much its counter moved


def subject_of(row: dict[str, Any]) -> Subject:
    """A rule as the running relay tells it."""
    return Subject(
        row["name"],
        tuple(map(_input, row["inputs"])),
        tuple(map(_output, row["outputs"])),
        row["state"],
        row["reason"] or "",
    )


def _output(row: Row) -> Output:
    stream = stream_of(row["to"])
    return Output(
        row["to"],
        row["oif"] or "",
        stream.address,
        stream.port,
        row["state"],
        row["reason"] or "",
        stream.group_count,
        str(row["vlan"]),
    )


def _input(row: Row) -> Input:
    stream = parse_stream(row["from"])
    return Input(
        row["from"],
        row["iif"],
        stream.address,
        stream.port,
        ip_address(row["source"]) if row["source"] else None,
        str(row["vlan"]),
        row["state"],
        row["reason"] or "",
        stream.group_count,
        row["own"],
    )
