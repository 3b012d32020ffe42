"""``mcrelay show``: what is running. Imports little, because it is typed often."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from mcrelay import __version__
from mcrelay.commands.options import json_option, relay_options
from mcrelay.commands.table import colourful, count, print_json, render
from mcrelay.config.writer import toml_text
from mcrelay.control.client import ask
from mcrelay.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

Row = dict[str, Any]
NOUNS = ("rules", "stats", "links", "groups", "config")


def _nouns(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    return [noun for noun in NOUNS if noun.startswith(text)]


@click.command(epilog="\b\nExamples:\n  mcrelay show\n  mcrelay show stats -j | jq '.rules[].rx_packets'")
@click.argument("noun", default="rules", metavar="[rules|stats|links|groups|config]", shell_complete=_nouns)
@json_option
@relay_options
def show(noun: str, as_json: bool, socket_path: str | None) -> None:
    """Show what the running relay does. The noun may be shortened: `mcrelay show st`.

    config is the effective configuration as TOML: what differs from the built-in defaults, [defaults] already applied.
    """
    noun = complete(noun)
    result = ask(socket_path, "show", read_only=True, noun=noun)
    if as_json:
        print_json(result)
    else:
        click.echo(RENDERERS[noun](result, colour=colourful()))
        relay = ask(socket_path, "version", read_only=True)
        due = restart_due(relay)
        keys = relay.get("needs_restart", ())
        for line in filter(None, [due, *(f"{key} changed: restart the relay to apply it" for key in keys)]):
            click.echo(f"\n{line}", err=True)


def complete(noun: str) -> str:
    """The one noun that starts like this. Raises UsageError."""
    found = [each for each in NOUNS if each.startswith(noun)]
    if len(found) != 1:
        raise UsageError(f"show {noun!r}: say one of {', '.join(NOUNS)}")
    return found[0]


def restart_due(relay: Row) -> str:
    """Say that the relay is not the mcrelay that is installed, if so: an upgrade leaves the one that runs alone."""
    if relay["version"] == __version__ and not relay.get("restart_due"):
        return ""
    installed = "another build of it" if relay["version"] == __version__ else f"mcrelay {__version__}"
    return f"a restart is due: mcrelay {relay['version']} is running, {installed} is installed"


def show_rules(rules: list[Row], *, colour: bool) -> str:
    """Draw one line for each output; reasons follow under the table."""
    if not rules:
        return "no rules"
    rows = []
    reasons = []
    for rule in rules:
        exclusive = rule.get("exclusive") or {"state": None, "reason": None}
        mark = " exclusive" if exclusive["state"] == "on" else ""
        mark += " kernel" if rule.get("engine") == "kernel" else ""
        state = rule["state"] + (" losing" if rule.get("losing") else "")
        first = [rule["name"], state, ", ".join(each["from"] for each in rule["inputs"]) + mark]
        for output in rule["outputs"]:
            source = f"{output['source_address'] or '?'}:{output['source_port']}"
            if output["state"] == "active":
                sent = f"from {source} ttl {output['ttl']}" + (
                    "" if output["dscp"] == "keep" else f" dscp {output['dscp']}"
                )
            else:
                sent = output["state"]
            rows.append([*first, output["to"], sent])
            first = ["", "", ""]
            if output["reason"] and output["reason"] != rule["reason"]:
                reasons.append(f"{rule['name']} -> {output['to']}: {output['state']}: {output['reason']}")
        if rule.get("losing"):
            reasons.append(f"{rule['name']}: losing: the counters are in `mcrelay show stats`, the cause in the log")
        if rule["reason"]:
            reasons.append(f"{rule['name']}: {rule['state']}: {rule['reason']}")
        if exclusive["reason"]:
            reasons.append(f"{rule['name']}: not exclusive: {exclusive['reason']}")
        if rule.get("engine_reason"):
            reasons.append(f"{rule['name']}: by the ring: {rule['engine_reason']}")
    table = render(["RULE", "STATE", "INPUT", "OUTPUT", "SENT"], rows, colour=colour)
    return "\n".join([table, *([""] if reasons else []), *reasons])


def show_stats(stats: Row, *, colour: bool) -> str:
    """Draw rules with their outputs, then the links."""
    rows = []
    notes = []
    for rule in stats["rules"]:
        last = _ago(rule["last_packet_time"])
        first = [rule["name"], count(rule["rx_packets"]), count(rule["rx_bytes"]), _sum(rule["drops"]), last]
        for output in rule["outputs"]:
            rows.append([*first, output["to"], count(output["tx_packets"]), _sum(output["tx_errors"])])
            first = [""] * 5
            notes += _detail(f"{rule['name']} -> {output['to']}: errors", output["tx_errors"])
        notes += _detail(f"{rule['name']}: drops", rule["drops"])
    numbers = ["RX PACKETS", "RX BYTES", "DROPS", "LAST", "TX PACKETS", "ERRORS", "FRAMES", "RING DROPS", "SNDBUF"]
    header = ["RULE", "RX PACKETS", "RX BYTES", "DROPS", "LAST", "OUTPUT", "TX PACKETS", "ERRORS"]
    parts = [render(header, rows, colour=colour, right=numbers) if rows else "no rules"]
    links = []
    for link in stats["links"]:
        sndbuf = "-" if link["sndbuf"] is None else f"{link['sndbuf'] >> 10} KiB"
        frames = count(link["rx_frames"]) if link["filter"] else "-"
        drops = count(link["ring_dropped_frames"]) if link["filter"] else "-"
        links.append([link["ifname"], link["filter"] or "-", frames, drops, sndbuf])
        others = {verdict: n for verdict, n in link["frames"].items() if verdict != "relayed"}
        notes += _detail(f"{link['ifname']}: frames not relayed", others)
        notes += _detail(f"{link['ifname']}: fragments not relayed", link.get("refused_fragments", {}))
        notes += [f"{link['ifname']}: {near_miss(each)}" for each in link.get("near_misses", ())]
        notes += _detail(f"{link['ifname']}: frames not captured", {"sent by this host": link["outgoing_frames"]})
        notes += _detail(f"{link['ifname']}: taken by the kernel engine", {"frames": link.get("kernel_frames", 0)})
    if links:
        parts.append(render(["LINK", "FILTER", "FRAMES", "RING DROPS", "SNDBUF"], links, colour=colour, right=numbers))
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def near_miss(miss: Row) -> str:
    """Say of frames that no rule took what they are, and which rule they almost met."""
    port = "" if miss["port"] is None else f" port {miss['port']}"
    tag = "" if miss["vlan"] == "none" else f" in VLAN {miss['vlan']}"
    rule = f", almost rule {miss['rule']}" if miss["rule"] else ""
    seen = f"{count(miss['packets'])} frames, last {_ago(miss['last_time'])}"
    return f"near miss: {miss['source']} sends to {miss['group']}{port}{tag}: {miss['verdict']}: {seen}{rule}"


def show_links(links: list[Row], *, colour: bool) -> str:
    """Draw one line for each link."""
    rows = []
    for link in links:
        querier = link["querier"]
        seen = f"{querier['address']} v{querier['version']}, {_ago(querier['last_seen_time'])}" if querier else "-"
        rows.append(
            [
                link["ifname"],
                str(link["ifindex"]),
                link["operstate"],
                str(link["mtu"]),
                " ".join(link["addresses"]) or "-",
                seen,
            ]
        )
    header = ["LINK", "INDEX", "STATE", "MTU", "ADDRESSES", "QUERIER"]
    table = render(header, rows, colour=colour, right=["INDEX", "MTU"])
    warnings = _warnings(links)
    for link in links:
        if gro := link.get("gro"):
            warnings.append(f"{link['ifname']}: gro: {gro['state']}{': ' + gro['reason'] if gro['reason'] else ''}")
    return "\n".join([table, *([""] if warnings else []), *warnings])


def show_groups(groups: list[Row], *, colour: bool) -> str:
    """Draw one line for each membership."""
    if not groups:
        return "no groups"
    rows = [
        [
            each["ifname"],
            each["group"],
            each["source"] or "any",
            each["state"],
            f"v{each['version']}" if each["version"] else "?",
        ]
        for each in groups
    ]
    reasons = [f"{each['group']} on {each['ifname']}: {each['reason']}" for each in groups if each["reason"]]
    reasons += _warnings(groups)
    table = render(["LINK", "GROUP", "SOURCE", "STATE", "IGMP"], rows, colour=colour)
    return "\n".join([table, *([""] if reasons else []), *reasons])


def _warnings(rows: list[Row]) -> list[str]:
    """Each warning of a link once, however many of its groups it concerns."""
    said = {f"{row['ifname']}: {each['kind']}: {each['text']}": None for row in rows for each in row["warnings"]}
    return list(said)


def show_config(tables: Row, *, colour: bool) -> str:
    """Write a file that would make a relay run the same."""
    return toml_text(tables)


RENDERERS: dict[str, Callable[..., str]] = {
    "rules": show_rules,
    "stats": show_stats,
    "links": show_links,
    "groups": show_groups,
    "config": show_config,
}


def _sum(counts: dict[str, int]) -> str:
    return count(sum(counts.values()))


def _detail(what: str, counts: dict[str, int]) -> list[str]:
    named = ", ".join(f"{reason} {count(n)}" for reason, n in counts.items() if n)
    return [f"{what}: {named}"] if named else []


def _ago(moment: float | None) -> str:
    """How long ago, as one short word."""
    if moment is None:
        return "never"
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago" if seconds >= 2 else "now"
