"""What ``mcrelay doctor`` looks at: the running relay, links, sockets' counts, and a few seconds of frames."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcrelay.control.client import ask
from mcrelay.errors import ControlError, OperationError
from mcrelay.igmp import wire
from mcrelay.igmp.membership import Memberships
from mcrelay.igmp.wire import Query, Report
from mcrelay.links import offload
from mcrelay.links.watch import LinkWatch, links_now
from mcrelay.linux import bpf, capabilities, procfs
from mcrelay.linux.features import Features, probe
from mcrelay.linux.genl import GenericNetlink
from mcrelay.linux.packets import PacketSocket
from mcrelay.linux.programs import search_path
from mcrelay.model.frame import read_datagram
from mcrelay.model.link import Link, Membership
from mcrelay.model.link_faults import no_ethernet
from mcrelay.model.notation import parse_stream

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

Row = dict[str, Any]

PROBE = IPv4Address("233.252.0.254")  # MCAST-TEST-NET of RFC 6676: joined for the look, so that a report has to leave
SO_BINDTOIFINDEX = 62
FRAMES_MAX = 20_000  # looked at of one socket: a flood must not make the look longer
SETTLE_SECONDS = 0.2  # between a query on the link and at the kernel's IGMP
LOOPBACK = 772  # ARPHRD_LOOPBACK


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a rule, or a stream that somebody asks about. ``state`` and ``reason`` as ``show`` has them."""

    text: str
    link: str
    group: IPv4Address
    port: int | None
    source: IPv4Address | None = None
    vlan: str = "none"
    state: str = "active"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a rule; ``link`` "" is routed."""

    to: str
    link: str
    address: IPv4Address
    port: int | None
    state: str = "active"
    reason: str = ""


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


@dataclass(frozen=True, slots=True)
class Flow:
    """Datagrams of one sender to one destination, as they were on a link. ``outgoing``: this host sent them."""

    source: IPv4Address
    source_port: int
    group: IPv4Address
    port: int
    vlan: int | None
    ttl: int
    fragment: bool
    outgoing: bool


@dataclass(slots=True)
class LinkLook:
    """What was seen on one link. ``trouble``: why nothing could be seen."""

    flows: Counter[Flow] = field(default_factory=Counter)
    largest: dict[Flow, int] = field(default_factory=dict)  # payload bytes
    queries: list[Query] = field(default_factory=list)
    delivered: list[Query] = field(default_factory=list)  # those that the kernel's IGMP was given
    reports: list[Report] = field(default_factory=list)  # of the test group, that left
    refused: bool = False  # a report that was tried by hand was forbidden by the host's output rules
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of this host: whether it snoops and queries, and the groups that it passes to the host itself."""

    snooping: bool
    querier: bool
    host_groups: frozenset[IPv4Address]


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
    may_look: bool = True
    features: Features = field(default_factory=Features)
    links: Mapping[str, Link] = field(default_factory=dict)
    offloads: dict[str, set[str]] = field(default_factory=dict)
    joined: dict[str, set[IPv4Address]] = field(default_factory=dict)
    failed: dict[tuple[str, IPv4Address], str] = field(default_factory=dict)
    max_memberships: int = 20
    looks: dict[str, LinkLook] = field(default_factory=dict)
    bridges: dict[str, Bridge] = field(default_factory=dict)
    filtered: bool | None = None  # the reverse-path filter's count moved
    routes: dict[IPv4Address, int | None] = field(default_factory=dict)  # way back to queriers, by ifindex
    dropping: list[tuple[Dropping, int | None]] = field(default_factory=list)  # and by how much its counter moved


def subject_of(row: dict[str, Any]) -> Subject:
    """A rule as the running relay tells it."""
    return Subject(
        row["name"],
        tuple(
            Input(
                each["from"],
                each["iif"],
                IPv4Address(each["group"]),
                each["port"] if isinstance(each["port"], int) else None,
                IPv4Address(each["source"]) if each["source"] else None,
                str(each["vlan"]),
                each["state"],
                each["reason"] or "",
            )
            for each in row["inputs"]
        ),
        tuple(_output(each["to"], each["oif"], each["state"], each["reason"]) for each in row["outputs"]),
        row["state"],
        row["reason"] or "",
    )


def _output(to: str, oif: str | None, state: str, reason: str | None) -> Output:
    stream = parse_stream(to)
    port = stream.port if isinstance(stream.port, int) else None
    return Output(to, oif or "", IPv4Address(str(stream.address)), port, state, reason or "")


def relay_now(path: str | None) -> Relay:
    """Ask the running relay everything. Raises ControlError."""

    def show(noun: str) -> Any:
        return ask(path, "show", read_only=True, noun=noun)

    version = ask(path, "version", read_only=True)
    return Relay(version, show("rules"), show("links"), show("groups"), show("stats"))


def gather(
    subjects: Collection[Subject], relay: Relay | None, trouble: str, path: str | None, seconds: float
) -> Evidence:
    """Look for so many seconds. What cannot be looked at is missing in the evidence, and no error."""
    found = Evidence(seconds, relay, trouble, features=probe(), links=links_now())
    found.may_look = capabilities.CAP_NET_RAW in capabilities.capabilities()
    found.max_memberships = procfs.read("net/ipv4/igmp_max_memberships", 20)
    names = {each.link for subject in subjects for each in subject.inputs if each.link in found.links}
    found.offloads = {name: features for name in names if (features := _offloads(found.links[name])) is not None}
    firewall = _firewall()
    dropped = procfs.reverse_path_drops()
    _look(found, subjects, names)
    now = procfs.reverse_path_drops()
    found.filtered = None if dropped is None or now is None else now > dropped
    found.dropping = [(each, _more(firewall, each)) for each in _firewall().values()]
    found.bridges = {name: bridge for name in names if (bridge := _bridge(name)) is not None}
    missed = {query.querier for look in found.looks.values() for query in look.queries if query not in look.delivered}
    found.routes = _routes(missed)
    if relay is not None:
        with contextlib.suppress(ControlError):
            now_running = relay_now(path)
            found.relay = replace(relay, links=now_running.links, groups=now_running.groups, after=now_running.before)
    return found


def _look(found: Evidence, subjects: Collection[Subject], names: Iterable[str]) -> None:
    """Join what nobody has joined, and read what comes, for as long as was asked for."""
    inputs = [each for subject in subjects if not subject.disabled for each in subject.inputs]
    outputs = [each for subject in subjects for each in subject.outputs if each.link in found.links]
    incoming: dict[str, set[IPv4Address]] = {}
    for name, group in [(each.link, each.group) for each in inputs] + [(each.link, each.address) for each in outputs]:
        if name in found.links and found.links[name].up and not no_ethernet(found.links[name]):
            incoming.setdefault(name, set()).add(group)
    held = {(row["ifname"], IPv4Address(row["group"])) for row in found.relay.groups} if found.relay else set()
    wanted = {
        Membership(found.links[each.link].ifindex, each.group, each.source)
        for each in inputs
        if each.link in incoming and (each.link, each.group) not in held
    }
    listening = [name for name in names if name in incoming and found.links[name].hardware != LOOPBACK]
    probes = {Membership(found.links[name].ifindex, PROBE) for name in listening}
    memberships = Memberships()
    with contextlib.ExitStack() as stack:
        readers: dict[Any, tuple[str, str]] = {}
        for name, groups in incoming.items() if found.may_look else ():
            look = found.looks[name] = LinkLook()
            try:
                for kind, program in _programs(groups, igmp=name in listening):
                    readers[stack.enter_context(PacketSocket(name, program))] = (name, kind)
                if name in listening:
                    readers[stack.enter_context(_igmp_socket(found.links[name].ifindex))] = (name, "delivered")
            except (OperationError, OSError) as error:
                look.trouble = str(error)
        stack.callback(memberships.close)
        memberships.reconcile(wanted | probes, [link.id for link in found.links.values()])
        numbers = {link.ifindex: link.name for link in found.links.values()}
        found.failed = {(numbers[each.ifindex], each.group): why for each, why in memberships.failed.items()}
        _read(found, readers, time.monotonic() + found.seconds)
        found.joined = joined_now()
        for name in listening:
            if name in found.looks and not found.looks[name].reports:
                found.looks[name].refused = _refused(found.links[name])


def _programs(groups: Collection[IPv4Address], *, igmp: bool) -> list[tuple[str, bytes]]:
    found = [("frames", bpf.fitting_filter(groups)[0]), ("frames", bpf.fitting_filter(groups, outgoing=True)[0])]
    return [*found, ("igmp", bpf.igmp_filter())] if igmp else found


def _igmp_socket(ifindex: int) -> socket.socket:
    """What it gets has passed the reverse-path filter and the input rules: it stands where the kernel's IGMP does."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_IGMP)
    opened.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, ifindex)
    return opened


def _read(found: Evidence, readers: dict[Any, tuple[str, str]], until: float) -> None:
    counts: Counter[Any] = Counter()
    late = until + SETTLE_SECONDS  # what was seen on a link just before the end
    while (now := time.monotonic()) < (late if readers else until):
        ready, _, _ = select.select(list(readers), [], [], max(0.0, (late if readers else until) - now))
        for each in ready:
            name, kind = readers[each]
            look = found.looks[name]
            if kind == "delivered":
                _read_delivered(each, look)
                continue
            for frame in each.read():
                counts[each] += 1
                if kind == "igmp" and now < until:
                    message = wire.parse(frame.data)
                    if isinstance(message, Query) and not frame.outgoing:
                        look.queries.append(message)
                    elif isinstance(message, Report) and frame.outgoing and _of_the_look(message):
                        look.reports.append(message)
                elif kind == "frames" and (datagram := read_datagram(frame)) is not None:
                    flow = Flow(
                        datagram.source, datagram.source_port, datagram.group, datagram.port, datagram.vlan,
                        datagram.ttl, datagram.fragment, frame.outgoing,
                    )  # fmt: skip
                    look.flows[flow] += datagram.count
                    size = len(datagram.payload) if datagram.count == 1 else frame.segment_bytes
                    look.largest[flow] = max(look.largest.get(flow, 0), size)
            if counts[each] > FRAMES_MAX:
                del readers[each]


def _of_the_look(report: Report) -> bool:
    """Whether the kernel has sent it for this look: a relay sends reports of its own past the host's firewall."""
    return any(record.group == PROBE for record in report.records)


def _read_delivered(inside: socket.socket, look: LinkLook) -> None:
    with contextlib.suppress(OSError):
        while packet := inside.recv(65535):
            query = wire.parse_query(bytes(12) + b"\x08\0" + packet)
            if query is not None:
                look.delivered.append(query)


def _refused(link: Link) -> bool:
    """Try to send a report as the kernel sends its own, and say whether the host's output rules forbid it."""
    source = link.addresses[0].ip if link.addresses else wire.NO_ADDRESS
    (frame,) = wire.build_reports(3, source, bytes(6), {PROBE: ()}, max(link.mtu, 576))
    packet = frame[14:]
    try:
        with _igmp_socket(link.ifindex) as inside:
            inside.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
            inside.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
    except OSError as error:
        return error.errno == errno.EPERM  # what netfilter's verdict becomes
    return False


def joined_now(path: Path = Path("/proc/net/igmp")) -> dict[str, set[IPv4Address]]:
    """What the kernel has joined, by link (proc(5)); empty where /proc is not mounted."""
    found: dict[str, set[IPv4Address]] = {}
    name = ""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines()[1:]:
            first, *rest = line.split()
            if not line[:1].isspace():
                name = rest[0].rstrip(":")
            else:
                found.setdefault(name, set()).add(IPv4Address(bytes.fromhex(first)[::-1]))
    return found


def _offloads(link: Link) -> set[str] | None:
    netlink = GenericNetlink()
    try:
        return offload.features(netlink, link.ifindex)
    except OSError:
        return None
    finally:
        netlink.close()


def _bridge(name: str) -> Bridge | None:
    """What ip(8) and bridge(8) say of a link, if it is a bridge and they are installed."""
    for link in _json("ip", "-d", "-j", "link", "show", "dev", name):
        info = link.get("linkinfo", {})
        if info.get("info_kind") == "bridge":
            data = info.get("info_data", {})
            groups = frozenset(
                IPv4Address(entry["grp"])
                for part in _json("bridge", "-j", "mdb", "show", "dev", name)
                for entry in part.get("mdb", [])
                if entry.get("port") == name and ":" not in entry["grp"] and entry["grp"].count(".") == 3
            )
            return Bridge(bool(data.get("mcast_snooping")), bool(data.get("mcast_querier")), groups)
    return None


def _firewall() -> dict[tuple[str, int], Dropping]:
    """What nft(8) says may drop what comes in, iptables-nft's rules among it; nothing without CAP_NET_ADMIN."""
    ruleset: Any = _json("nft", "-j", "list", "ruleset")
    entries: list[Row] = ruleset.get("nftables", []) if isinstance(ruleset, dict) else []
    chains = {_place(row): row for entry in entries if (row := entry.get("chain"))}
    tables = {row["table"] for row in chains.values() if row.get("hook") in {"input", "prerouting", "ingress"}}
    found = [
        Dropping(place, 0)
        for place, row in chains.items()
        if row.get("hook") in {"input", "prerouting", "ingress"} and row.get("policy") == "drop"
    ]
    for entry in entries:
        row = entry.get("rule")
        if not row or row["table"] not in tables:
            continue
        if chains.get(_place(row), {}).get("hook", "input") not in {"input", "prerouting", "ingress"}:
            continue
        words = [word for word in row.get("expr", []) if isinstance(word, dict)]
        if any("drop" in word or "reject" in word for word in words):
            counters = [word["counter"]["packets"] for word in words if isinstance(word.get("counter"), dict)]
            found.append(Dropping(_place(row), row["handle"], counters[0] if counters else None))
    return {(each.place, each.handle): each for each in found}


def _place(row: Row) -> str:
    return f"{row['family']} {row['table']} {row.get('chain', row.get('name'))}"


def _more(before: Mapping[tuple[str, int], Dropping], now: Dropping) -> int | None:
    """By how much its counter has grown; None where it has none."""
    was = before.get((now.place, now.handle))
    return None if now.packets is None else now.packets - ((was.packets if was else None) or 0)


def _json(*command: str) -> Any:
    environment = {**os.environ, "PATH": search_path()}
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=environment)
        return json.loads(done.stdout or "[]")
    return []


def _routes(addresses: Collection[IPv4Address]) -> dict[IPv4Address, int | None]:
    import asyncio  # noqa: PLC0415  only where a query was lost

    async def look() -> dict[IPv4Address, int | None]:
        async with LinkWatch(lambda: None) as watch:
            return {each: await watch.route_to(each) for each in addresses}

    return asyncio.run(look()) if addresses else {}
