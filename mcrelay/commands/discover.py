"""``mcrelay discover``: which groups are alive on a link, what they seem to carry, and a rule for each."""

from __future__ import annotations

import contextlib
import json
import re
import select
import shutil
import signal
import sys
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from mcrelay.commands.options import json_option
from mcrelay.commands.table import BOLD, bit_rate, colourful, columns, digits, paint, render, say
from mcrelay.config import schema
from mcrelay.config.protocols import MDNS
from mcrelay.errors import LinkError, NotationError, UsageError
from mcrelay.igmp.membership import Memberships
from mcrelay.links.watch import links_now
from mcrelay.linux import bpf
from mcrelay.linux.packets import PacketSocket
from mcrelay.model.address import host, parse_network
from mcrelay.model.flows import FlowTable
from mcrelay.model.frame import read_datagram
from mcrelay.model.link import Membership
from mcrelay.model.link_faults import no_ethernet
from mcrelay.model.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mcrelay.model.flows import Flow
    from mcrelay.model.link import Link
    from mcrelay.model.stream import Address

ANNOUNCED = "announced"
# RFC 2974, 3, and the scopes that are in use
SAP_GROUPS = ("224.2.127.254", "239.195.255.255", "239.255.255.255", "ff05::2:7ffe", "ff08::2:7ffe", "ff0e::2:7ffe")
JOINED_MAX = 4096
LOOK_SECONDS = 1.0
CLEAR = "\033[H\033[J"  # to the first column of the first line, and nothing after it


@click.command(
    epilog="\b\nExamples:\n  mcrelay discover eth1\n  mcrelay discover eth1 --join announced --join 239.1.1.0/24"
)
@click.argument("name", metavar="LINK")
@click.option(
    "--join",
    "joins",
    multiple=True,
    metavar="GROUP[/LEN]|announced",
    help="Ask for these groups; or for SAP announcements, and the groups that they announce. May repeat.",
)
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Seconds in all.  [default: until Ctrl-C]")
@json_option
def discover(name: str, *, joins: tuple[str, ...], duration: float | None, as_json: bool) -> None:
    """List the multicast flows on a link, what they seem to carry, and for each a rule to paste.

    Live on a terminal; elsewhere, and with -j, printed once at the end. A switch that snoops passes on only what
    somebody has joined: --join asks for more. The outputs of the rules are for you to fill in. Needs CAP_NET_RAW.
    """
    links = links_now()
    if name not in links:
        raise LinkError(f"there is no link {name}; `ip link` lists those that there are")
    link = links[name]
    if fault := no_ethernet(link):
        raise LinkError(fault)
    groups = set(groups_of(joins))
    live = sys.stdout.isatty() and not as_json
    table = FlowTable()
    begin = time.monotonic()
    memberships = Memberships()
    with contextlib.closing(memberships), PacketSocket(link.name, bpf.multicast_filter(), all_groups=True) as packets:
        for _ in _looks(packets, table, None if duration is None else begin + duration):
            wanted = groups | (announced(table) if ANNOUNCED in joins else set())
            wanted_there = {Membership(link.ifindex, group, incarnation=link.incarnation) for group in wanted}
            memberships.reconcile(wanted_there, [link.id])
            if live:
                width, height = shutil.get_terminal_size()
                text = show(table, link, seconds=time.monotonic() - begin, width=width, live=True).splitlines()
                click.echo(CLEAR + "\n".join(text[: height - 1]))
        missed = packets.dropped()
        refused = sorted(memberships.failed.values())
    if as_json:
        click.echo(json.dumps(_json(table, link), indent=2))
    else:
        click.echo((CLEAR if live else "") + show(table, link, seconds=time.monotonic() - begin, width=columns()))
        if rules := rules_of(table, link):
            click.echo(f"\n{rules}")
    for each in refused[:3]:
        say(f"warning: {each}")
    if missed:
        say(f"warning: {digits(missed)} frames came faster than they could be looked at: rates are too low")


def groups_of(joins: Iterable[str]) -> Iterator[Address]:
    """Every group that is asked for by name or range. Raises UsageError."""
    count = 0
    for text in joins:
        if text == ANNOUNCED:
            continue
        try:
            network = parse_network(text)
        except NotationError as error:
            raise UsageError(f"--join {text}: {error}") from error
        if not network.is_multicast:
            raise UsageError(f"--join {text}: groups are 224.0.0.1 to 239.255.255.255, and those of IPv6 begin with ff")
        count += network.num_addresses
        if count > JOINED_MAX:
            raise UsageError(f"--join asks for more than {JOINED_MAX} groups; ask for fewer at a time")
        yield from network


def announced(table: FlowTable) -> set[Address]:
    """The groups of SAP, and those that it announces."""
    return {*map(ip_address, SAP_GROUPS), *(session.group for session in table.announced.values())}


def _looks(packets: PacketSocket, table: FlowTable, until: float | None) -> Iterator[None]:
    """Fill the table; stop by every second, until it is time or a person says so."""
    stopped: list[int] = []
    before = {number: signal.signal(number, lambda *_: stopped.append(1)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        due = time.monotonic() + LOOK_SECONDS
        while not stopped:
            now = time.monotonic()
            if until is not None and now >= until:
                break
            if now >= due:
                due = now + LOOK_SECONDS
                yield
            if select.select([packets], [], [], 0.1)[0]:
                for frame in packets.read():
                    if (datagram := read_datagram(frame)) is not None and datagram.group.is_multicast:
                        table.add(
                            datagram, frame.time_ns, outgoing=frame.outgoing, segment_bytes=frame.segment_bytes
                        )  # fmt: skip
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(table: FlowTable, link: Link, *, seconds: float, width: int | None = None, live: bool = False) -> str:
    """Draw one line a flow; what is wider than *width* columns is cut if *live*, else goes on in a second line."""
    rows = []
    for flow in table.all():
        key = flow.key
        sizes = f"{flow.smallest}-{flow.largest}" if flow.smallest != flow.largest else str(flow.largest)
        rows.append([
            "this host" if key.outgoing else str(key.source),
            f"{host(key.group)}:{key.port}",
            "-" if key.vlan is None else str(key.vlan),
            str(flow.ttl),
            digits(flow.rate, 0 if flow.rate >= 10 else 1),
            bit_rate(flow.bit_rate),
            sizes,
            ("fragments " if flow.fragments else "") + (table.told(flow) or "?"),
        ])  # fmt: skip
    header = ["SOURCE", "GROUP", "VLAN", "TTL", "PKT/S", "RATE", "SIZE", "CONTENT"]
    head = f"{link.name}: {counted(len(rows), 'flow')} in {seconds:.0f} s"
    if table.forgotten:
        head += f"; {digits(table.forgotten)} more that sent once are forgotten"
    if not rows:
        return f"{head}. A switch that snoops passes on only what somebody has joined: see --join"
    numbers = ["VLAN", "TTL", "PKT/S", "RATE", "SIZE"]
    if not live:
        return f"{head}\n{render(header, rows, colour=colourful(), right=numbers, width=width)}"
    heading, *lines = [line[:width] for line in render(header, rows, colour=False, right=numbers).splitlines()]
    return "\n".join([head, paint(heading, BOLD, on=colourful()), *lines])


def rules_of(table: FlowTable, link: Link) -> str:
    """A table of TOML for each destination that others send to."""
    by_destination: dict[tuple[Address, int, int | None], list[Flow]] = {}
    for flow in table.all():
        if not flow.key.outgoing and flow.key.port:
            by_destination.setdefault((flow.key.group, flow.key.port, flow.key.vlan), []).append(flow)
    return "\n\n".join(rule_of(flows, table.told(flows[0]), link.name) for flows in by_destination.values())


def rule_of(flows: Sequence[Flow], told: str, link: str) -> str:
    """The rule that takes these flows, which have one destination; its output wants a LINK."""
    key = flows[0].key
    sources = {flow.key.source for flow in flows}
    name = f"{re.sub('[.:]+', '-', str(key.group))}-{key.port}"
    lines = []
    if key.vlan is not None and schema.not_yet("vlan", key.vlan) is not None:
        lines.append(f"# ip link add link {link} name {link}.{key.vlan} type vlan id {key.vlan}")
        link = f"{link}.{key.vlan}"[:15]
    vlan = [f"vlan = {key.vlan}"] if key.vlan is not None and not lines else []
    if key.vlan is not None:
        name += f"-vlan{key.vlan}"
    source = f"{host(key.source)}@" if len(sources) == 1 else ""
    group = host(key.group)
    lines += [f"[rules.{name}]", *([f"# {told}"] if told else [])]
    lines += [f'input = "{source}{group}:{key.port}%{link}"', f'outputs = ["{group}:{key.port}%LINK"]', *vlan]
    if (key.group, key.port) in MDNS:
        lines += ["ttl = 255", f"source_port = {key.port}"]
    return "\n".join(lines)


def _json(table: FlowTable, link: Link) -> list[dict[str, Any]]:
    return [
        {
            "ifname": link.name,
            "source": str(flow.key.source),
            "source_port": flow.key.source_port,
            "group": str(flow.key.group),
            "port": flow.key.port,
            "vlan": flow.key.vlan,
            "ttl": flow.ttl,
            "outgoing": flow.key.outgoing,
            "packets": flow.packets,
            "rate": round(flow.rate, 3),
            "bit_rate": round(flow.bit_rate),
            "size_min": flow.smallest,
            "size_max": flow.largest,
            "fragments": flow.fragments,
            "last_time": round(flow.last_ns / 1e9, 3),
            "content": flow.content.kind if flow.content else None,
            "detail": table.told(flow) or None,
            "rule": None if flow.key.outgoing or not flow.key.port else rule_of([flow], table.told(flow), link.name),
        }
        for flow in table.all()
    ]
