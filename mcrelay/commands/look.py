"""The look of ``mcrelay doctor``: the running relay, links, sockets' counts, and a few seconds of frames."""

from __future__ import annotations

import contextlib
import errno
import select
import time
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcrelay.commands.evidence import LOOPBACK, PROBE, PROBE6, Evidence, LinkLook, Relay
from mcrelay.commands.tools import bridge_of, firewall, kind_of, made_of, more, ways
from mcrelay.control.client import ask
from mcrelay.errors import ControlError, OperationError
from mcrelay.igmp.membership import Memberships
from mcrelay.igmp.messages import Query, Report
from mcrelay.igmp.protocol import IGMP, PROTOCOLS, protocol_of
from mcrelay.igmp.tap import ETHERNET_BYTES, inside_of
from mcrelay.links import offload
from mcrelay.links.watch import LinkWatch, links_now
from mcrelay.linux import bpf, capabilities, procfs
from mcrelay.linux.features import probe
from mcrelay.linux.genl import GenericNetlink
from mcrelay.linux.packets import PacketSocket
from mcrelay.model.frame import read_datagram
from mcrelay.model.link import Link, Membership
from mcrelay.model.link_faults import no_ethernet

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mcrelay.commands.evidence import Subject
    from mcrelay.igmp.protocol import Protocol
    from mcrelay.model.stream import Address

PARSERS = {each.name: each.parse for each in PROTOCOLS}
FRAMES_MAX = 20_000  # looked at of one socket: a flood must not make the look longer
SETTLE_SECONDS = 0.2  # between a query on the link and at the kernel's IGMP


def relay_now(path: str | None) -> Relay:
    """Ask the running relay everything. Raises ControlError."""

    def show(noun: str) -> Any:
        return ask(path, "show", read_only=True, noun=noun)

    version = ask(path, "version", read_only=True)
    return Relay(version, show("rules"), show("links"), show("groups"), show("stats"))


def gather(subjects: Collection[Subject], relay: Relay | None, path: str | None, seconds: float) -> Evidence:
    """Look for so many seconds. What cannot be looked at is missing in the evidence, and no error."""
    found = Evidence(seconds, relay, features=probe(), links=links_now())
    found.may_look = capabilities.CAP_NET_RAW in capabilities.capabilities()
    found.max_memberships = procfs.read("net/ipv4/igmp_max_memberships", 20)
    names = {each.link for subject in subjects for each in subject.inputs if each.link in found.links}
    found.without_ipv6 = frozenset(filter(procfs.without_ipv6, names))
    found.offloads = {name: features for name in names if (features := _offloads(found.links[name])) is not None}
    rules = firewall()
    dropped = procfs.reverse_path_drops()
    _look(found, subjects, names)
    now = procfs.reverse_path_drops()
    found.filtered = None if dropped is None or now is None else now > dropped
    found.dropping = [(each, more(rules, each)) for each in firewall().values()]
    for name in names:
        made = made_of(name)
        if kind := kind_of(made):
            found.kinds[name] = kind
        if (bridge := bridge_of(made)) is not None:
            found.bridges[name] = bridge
    missed = {query.querier for look in found.looks.values() for query in look.queries if query not in look.delivered}
    found.routes = _routes(missed)
    found.ways = ways({(each.link, str(each.address)) for subject in subjects for each in subject.outputs})
    if relay is not None:
        with contextlib.suppress(ControlError):
            now_running = relay_now(path)
            found.relay = replace(relay, links=now_running.links, groups=now_running.groups, after=now_running.before)
    return found


def _look(found: Evidence, subjects: Collection[Subject], names: Iterable[str]) -> None:
    """Join what nobody has joined, and read what comes, for as long as was asked for."""
    inputs = [each for subject in subjects if not subject.disabled for each in subject.inputs]
    outputs = [each for subject in subjects for each in subject.outputs if each.link in found.links]
    incoming: dict[str, set[Address]] = {}
    ends = [(each.link, group) for each in inputs for group in each.groups]
    for name, group in ends + [(each.link, each.address + i) for each in outputs for i in range(each.group_count)]:
        if name in found.links and found.links[name].up and not no_ethernet(found.links[name]):
            incoming.setdefault(name, set()).add(group)
    held = {(row["ifname"], ip_address(row["group"])) for row in found.relay.groups} if found.relay else set()
    wanted = {
        Membership(found.links[each.link].ifindex, group, each.source)
        for each in inputs
        for group in each.groups
        if each.link in incoming and (each.link, group) not in held and group.is_multicast
    }
    of_groups = {(each.link, protocol_of(each.group)): None for each in inputs if each.group.is_multicast}
    known = {name for name in names if name in incoming and found.links[name].hardware != LOOPBACK}
    listening = [(name, protocol) for name, protocol in of_groups if name in known]
    probes = {Membership(found.links[name].ifindex, probe_of(protocol)) for name, protocol in listening}
    memberships = Memberships()
    with contextlib.ExitStack() as stack:
        readers: dict[Any, tuple[str, str]] = {}
        for name, groups in incoming.items() if found.may_look else ():
            look = found.looks[name] = LinkLook()
            try:
                protocols = [protocol for link, protocol in listening if link == name]
                for kind, program in _programs(groups, protocols):
                    readers[stack.enter_context(PacketSocket(name, program))] = (name, kind)
                for protocol in protocols:
                    inside = inside_of(protocol, found.links[name].ifindex)
                    readers[stack.enter_context(contextlib.closing(inside))] = (name, "delivered")
            except (OperationError, OSError) as error:
                look.trouble = str(error)
        stack.callback(memberships.close)
        memberships.reconcile(wanted | probes, [link.id for link in found.links.values()])
        numbers = {link.ifindex: link.name for link in found.links.values()}
        found.failed = {(numbers[each.ifindex], each.group): why for each, why in memberships.failed.items()}
        _read(found, readers, time.monotonic() + found.seconds)
        found.joined = joined_now()
        for name, protocol in listening:
            seen = found.looks.get(name)
            if seen is None or any(isinstance(report.host, protocol.address) for report in seen.reports):
                continue
            if _refused(protocol, found.links[name]):
                seen.refused.add(protocol.name)


def _programs(groups: Collection[Address], protocols: Iterable[Protocol]) -> list[tuple[str, bytes]]:
    found = [("frames", bpf.fitting_filter(groups)[0]), ("frames", bpf.fitting_filter(groups, outgoing=True)[0])]
    return found + [(each.name, bpf.igmp_filter() if each is IGMP else bpf.mld_filter()) for each in protocols]


def _read(found: Evidence, readers: dict[Any, tuple[str, str]], until: float) -> None:
    counts: Counter[Any] = Counter()
    late = until + SETTLE_SECONDS  # what was seen on a link just before the end
    while (now := time.monotonic()) < (late if readers else until):
        ready, _, _ = select.select(list(readers), [], [], max(0.0, (late if readers else until) - now))
        for each in ready:
            name, kind = readers[each]
            look = found.looks[name]
            if kind == "delivered":
                look.delivered += each.queries()
                continue
            for frame in each.read():
                counts[each] += 1
                if kind in PARSERS and now < until:
                    message = PARSERS[kind](frame.data)
                    if isinstance(message, Query) and not frame.outgoing:
                        look.queries.append(message)
                    elif isinstance(message, Report) and frame.outgoing and _of_the_look(message):
                        look.reports.append(message)
                elif kind == "frames" and (datagram := read_datagram(frame)) is not None:
                    kind_of_it = datagram.kind
                    (look.sent if frame.outgoing else look.flows)[kind_of_it] += datagram.count
                    size = len(datagram.payload) if datagram.count == 1 else frame.segment_bytes
                    look.largest[kind_of_it] = max(look.largest.get(kind_of_it, 0), size)
            if counts[each] > FRAMES_MAX:
                del readers[each]


def _of_the_look(report: Report) -> bool:
    """Whether the kernel has sent it for this look: a relay sends reports of its own past the host's firewall."""
    return any(record.group in {PROBE, PROBE6} for record in report.records)


def _refused(protocol: Protocol, link: Link) -> bool:
    """Try to send a report as the kernel sends its own, and say whether the host's output rules forbid it."""
    source = protocol.source(link) or protocol.stand_in
    if source is None:
        return False
    probe = probe_of(protocol)
    (frame,) = protocol.build_reports(protocol.newest, source, bytes(6), {probe: ()}, max(link.mtu, 1280))
    try:
        with contextlib.closing(inside_of(protocol, link.ifindex)) as inside:
            inside.send(frame[ETHERNET_BYTES:])
    except OSError as error:
        return error.errno == errno.EPERM  # what netfilter's verdict becomes
    return False


def probe_of(protocol: Protocol) -> Address:
    """The group that is joined for the look."""
    return PROBE if protocol is IGMP else PROBE6


def joined_now(path: Path = Path("/proc/net")) -> dict[str, set[Address]]:
    """What the kernel has joined, by link (proc(5)); empty where /proc is not mounted."""
    found: dict[str, set[Address]] = {}
    name = ""
    with contextlib.suppress(OSError):
        for line in (path / "igmp").read_text().splitlines()[1:]:
            first, *rest = line.split()
            if not line[:1].isspace():
                name = rest[0].rstrip(":")
            else:
                found.setdefault(name, set()).add(IPv4Address(bytes.fromhex(first)[::-1]))
    with contextlib.suppress(OSError):
        for line in (path / "igmp6").read_text().splitlines():
            _, name, group, *_ = line.split()
            found.setdefault(name, set()).add(IPv6Address(bytes.fromhex(group)))
    return found


def _offloads(link: Link) -> set[str] | None:
    netlink = GenericNetlink()
    try:
        return offload.features(netlink, link.ifindex)
    except OSError:
        return None
    finally:
        netlink.close()


def _routes(addresses: Collection[Address]) -> dict[Address, int | None]:
    import asyncio  # noqa: PLC0415  only where a query was lost

    async def look() -> dict[Address, int | None]:
        async with LinkWatch(lambda: None) as watch:
            return {each: await watch.route_to(each) for each in addresses}

    return asyncio.run(look()) if addresses else {}
