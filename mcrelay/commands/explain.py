"""``mcrelay explain``: a packet put through the parser and the table of the running relay."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import click

from mcrelay.commands import health
from mcrelay.commands.evidence import subject_of
from mcrelay.commands.options import json_option, relay_options
from mcrelay.commands.stages_frames import differences
from mcrelay.commands.table import columns, end, fold
from mcrelay.control.client import ask
from mcrelay.errors import UsageError
from mcrelay.model.address import host
from mcrelay.model.frame import Datagram, build
from mcrelay.model.notation import parse_stream, stream_of
from mcrelay.model.ports import Ports, mapping

if TYPE_CHECKING:
    from mcrelay.commands.evidence import Subject
    from mcrelay.model.stream import Address

# Where no source is named and the rules name none.
SOMEBODY: dict[int, Address] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}
SOURCE_PORT = 40000
VLAN_MAX = 4094

VERDICTS = {
    "relayed": "an input takes it",
    "dropped": "an input takes it, and drops it",
    "no_match": "no input takes it",
    "vlan": "it has a VLAN tag, and no input takes that",
    "not_udp": "it is no UDP",
    "fragment": "it is a fragment, and waits for the others",
    "truncated": "it is cut short",
    "malformed": "a length or a checksum is wrong",
    "tunnel": "its inner datagrams are left to a device to cut",
}
DROPS = {
    "source": "its source is not in `allow`",
    "echo": "an output of this relay sends just this: it has come back",
    "policer": "it is more than the limit",
}


@click.command(
    epilog="\b\nExamples:\n  mcrelay explain 239.1.1.1:5000%eth1\n"
    "  mcrelay explain 192.168.168.55@226.2.2.2:2068%eth1 --vlan 7 -j"
)
@click.argument("stream")
@click.option("--vlan", type=click.IntRange(0, VLAN_MAX), help="The packet has this VLAN tag; 0 is a priority tag.")
@click.option("--source-port", type=click.IntRange(1, 65535), default=SOURCE_PORT, help=f"[default: {SOURCE_PORT}]")
@click.option("--ttl", type=click.IntRange(1, 255), default=16, help="[default: 16]")
@click.option("--size", type=click.IntRange(0, 65507), default=1316, help="Bytes of payload.  [default: 1316]")
@json_option
@relay_options
def explain(
    stream: str, *, vlan: int | None, source_port: int, ttl: int, size: int, as_json: bool, socket_path: str | None
) -> None:
    """Say what the running relay would do with a packet of STREAM, [SOURCE@]GROUP:PORT%LINK, and why.

    The relay puts the packet through the parser and the table that it forwards by, and counts nothing. Where nothing
    takes it, the rules that nearly do are named. A limit, and what a second relay sends back, depend on other packets
    and are left out. Without SOURCE@ it comes from where the first rule of that group wants it to. Exits with 1 if it
    would not be relayed. Of a rule with `health` it also says what was found in its stream.
    """
    asked = parse_stream(stream)
    if not isinstance(asked.port, int) or asked.link is None or asked.length is not None:
        raise UsageError(f"a packet has one group, port and link: write GROUP:PORT%LINK in place of {stream}")
    group = asked.address
    rules = ask(socket_path, "show", read_only=True, noun="rules")
    subjects = [subject_of(row) for row in rules]
    source = asked.source or _source_of(subjects, group, asked.link)
    datagram = Datagram(source, source_port, group, asked.port, vlan, ttl, bytes(size))
    tag = {} if vlan is None else {"tci": vlan}
    found = ask(socket_path, "explain", read_only=True, link=asked.link, frame=build(datagram).hex(), **tag)
    result = _result(datagram, asked.link, found, rules, subjects)
    if result["rule"]:
        stats = ask(socket_path, "show", read_only=True, noun="stats")
        result["health"] = next((row["health"] for row in stats["rules"] if row["name"] == result["rule"]), None)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo("\n".join(fold(line, columns(), 4) for line in _readable(result)))
    sys.exit(result["verdict"] != "relayed")


def _source_of(subjects: list[Subject], group: Address, link: str) -> Address:
    wanted = [each.source for subject in subjects for each in subject.inputs if each.takes(group) and each.link == link]
    return next((source for source in wanted if source and source.version == group.version), SOMEBODY[group.version])


def _result(
    datagram: Datagram, link: str, found: dict[str, Any] | None, rules: list[dict[str, Any]], subjects: list[Subject]
) -> dict[str, Any]:
    verdict = found["verdict"] if found else None
    taken_by: str | None = found["input"] if found else None
    rule = next((row for row in rules if found and row["name"] == found["rule"]), None)
    return {
        "ifname": link,
        "source": str(datagram.source),
        "source_port": datagram.source_port,
        "group": str(datagram.group),
        "port": datagram.port,
        "vlan": datagram.vlan,
        "verdict": verdict,
        "rule": found["rule"] if found else None,
        "input": taken_by,
        "reason": found["reason"] if found else None,
        "engine": rule["engine"] if rule else None,
        "health": None,
        "outputs": [
            {**each, "destination": _destination(each["to"], str(taken_by), datagram)}
            for each in (rule["outputs"] if rule and taken_by and verdict == "relayed" else ())
        ],
        "near_misses": [] if rule else near_misses(datagram, link, subjects),
    }


def _destination(to: str, taken_by: str, datagram: Datagram) -> str:
    """Where an output sends this very packet: of a range, or of several ports, one."""
    sent, taken = stream_of(to), parse_stream(taken_by)
    port = sent.port if isinstance(sent.port, int) else datagram.port
    for low, high, becomes in mapping(taken.port, sent.port) if isinstance(sent.port, Ports) else ():
        if low <= datagram.port <= high:
            port = becomes + datagram.port - low
    return f"{host(sent.address + (int(datagram.group) - int(taken.address)))}:{port}"


def near_misses(datagram: Datagram, link: str, subjects: list[Subject]) -> list[dict[str, Any]]:
    """The rules of that group, or of that port on that link, and what each wants otherwise."""
    flow = replace(datagram, vlan=datagram.vlan or None)  # VLAN 0 is a priority alone
    found: list[tuple[int, dict[str, Any]]] = []
    for subject in subjects:
        for each in subject.inputs:
            differs = differences(flow, each)
            if not each.takes(datagram.group):
                differs.insert(0, f"takes group {each.named}")
            if each.link != link:
                differs.insert(0, f"takes it from {each.link}")
            if each.state not in {"active", "parked"}:
                differs.append(f"is {each.state}" + (f": {each.reason}" if each.reason else ""))
            if each.takes(datagram.group) or (each.link == link and len(differs) == 1):
                found.append((len(differs), {"rule": subject.rule, "input": each.text, "differs": differs}))
    return [row for _, row in sorted(found, key=lambda each: each[0])[:5]]


def _readable(result: dict[str, Any]) -> list[str]:
    tag = "untagged" if result["vlan"] is None else f"VLAN {result['vlan']}"
    source = end(result["source"], result["source_port"])
    lines = [f"{source} to {end(result['group'], result['port'])} on {result['ifname']}, {tag}"]
    verdict = result["verdict"]
    if verdict is None:
        lines.append(f"  not captured: no rule that runs listens on {result['ifname']}")
    else:
        lines.append(f"  {verdict}: {VERDICTS.get(verdict, verdict)}")
    if result["rule"]:
        lines.append(f"  by rule {result['rule']}, input {result['input']}, engine {result['engine']}")
    if words := health.summary(result["health"]):
        lines.append(f"  health of that input's stream so far: {words}")
    if result["reason"]:
        lines.append(f"  because {DROPS.get(result['reason'], result['reason'])}")
    for each in result["outputs"]:
        source = end(each["source_address"] or "?", each["source_port"])
        dscp = "" if each["dscp"] == "keep" else f" dscp {each['dscp']}"
        state = "" if each["state"] == "active" else f" ({each['state']}: {each['reason']})"
        where = "" if each["to"].startswith(each["destination"]) else f" ({each['destination']})"
        lines.append(f"  to {each['to']}{where} from {source} ttl {each['ttl']}{dscp}{state}")
    lines += [f"  rule {each['rule']} {' and '.join(each['differs']) or 'takes it'}" for each in result["near_misses"]]
    return lines
