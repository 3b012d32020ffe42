"""``mcrelay show``: what is running. Imports little, because it is typed often."""

from __future__ import annotations

import difflib
import os
import time
from typing import TYPE_CHECKING, Any

import click

from mcrelay import __version__
from mcrelay.commands import health
from mcrelay.commands.options import json_option, relay_options, rule_names
from mcrelay.commands.table import bit_rate, colourful, columns, digits, end, fold, print_json, render, say
from mcrelay.control.client import NotRunningError, ask
from mcrelay.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.relay.shapes import NearMissRow

Row = dict[str, Any]
NOUNS = ("rules", "stats", "links", "groups", "config")


def _nouns(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    return [noun for noun in NOUNS if noun.startswith(text)]


@click.command(epilog="\b\nExamples:\n  mcrelay show\n  mcrelay show stats lobby -j | jq '.rules[].rx_packets'")
@click.argument("noun", default="rules", metavar="[rules|stats|links|groups|config]", shell_complete=_nouns)
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=rule_names)
@json_option
@relay_options
def show(noun: str, names: tuple[str, ...], as_json: bool, socket_path: str | None) -> None:
    """Show what the running relay does. The noun may be shortened: `mcrelay show st`.

    NAMEs choose single rules or links. config is the effective configuration as TOML: the values that differ from the
    built-in defaults, with [defaults] already applied.
    """
    noun = complete(noun)
    result, socket_path = ask_any(socket_path, "show", noun=noun)
    if names:
        result = named(noun, result, names)
    if as_json:
        print_json(result)
        return
    click.echo(RENDERERS[noun](result, colour=colourful()))
    relay = ask(socket_path, "version", read_only=True)
    due = restart_due(relay)
    keys = relay.get("needs_restart", ())
    for line in filter(None, [due, *(f"{key} changed: restart the relay to apply it" for key in keys)]):
        say(f"\n{line}")


def ask_any(socket_path: str | None, command: str, **arguments: str) -> tuple[Any, str | None]:
    """What the daemon says, or a relay command where none runs and nobody named one; and the socket that it was.

    Raises ControlError.
    """
    try:
        return ask(socket_path, command, read_only=True, **arguments), socket_path
    except NotRunningError:
        if socket_path is not None or "MCRELAY_SOCKET" in os.environ or (found := _relay_command()) is None:
            raise
    return ask(found, command, read_only=True, **arguments), found


def _relay_command() -> str | None:
    """The socket of a running `mcrelay relay`, if no daemon runs; None if there is no choice."""
    from mcrelay.control.running import relay_commands  # noqa: PLC0415  where no daemon runs

    found = relay_commands()
    if len(found) > 1:
        raise UsageError(f"several relay commands run; name one with --socket: {', '.join(found)}")
    for path in found:
        command = ask(path, "version", read_only=True).get("command", "mcrelay relay")
        say(f"no daemon, but a relay command runs: {command}\n")
        return path
    return None


def named(noun: str, result: Any, names: tuple[str, ...]) -> Any:
    """Keep the rows of these rules or links. Raises UsageError for an unknown name."""
    lists = {"stats": ("rules", "links"), "config": ("rules", "links")}
    rows = [row for part in lists[noun] for row in result[part]] if noun in lists else result
    known = dict.fromkeys(row if isinstance(row, str) else row.get("name") or row["ifname"] for row in rows)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"show {noun}: there is no {name!r}; "
                + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}")
            )
    if noun == "config":
        return {part: {key: value for key, value in result[part].items() if key in names} for part in lists[noun]}
    if noun == "stats":
        kept = {
            part: [row for row in result[part] if (row.get("name") or row["ifname"]) in names] for part in lists[noun]
        }
        return result | kept
    return [row for row in result if (row.get("name") or row["ifname"]) in names]


def complete(noun: str) -> str:
    """The only noun that begins like this. Raises UsageError."""
    found = [each for each in NOUNS if each.startswith(noun)]
    if len(found) != 1:
        raise UsageError(f"show {noun!r}: say one of {', '.join(NOUNS)}")
    return found[0]


def restart_due(relay: Row) -> str:
    """Say if another mcrelay is installed than the one that runs: an upgrade leaves a running relay alone."""
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
        inputs = ", ".join(each["from"] for each in rule["inputs"]) + mark
        first = [rule["name"], state, rule["origin"], inputs, rule["description"] or "-"]
        for output in rule["outputs"]:
            source = end(output["source_address"] or "?", output["source_port"])
            if output["state"] == "active":
                sent = f"from {source} ttl {output['ttl']}" + (
                    "" if output["dscp"] == "keep" else f" dscp {output['dscp']}"
                )
            else:
                sent = output["state"]
            rows.append([*first, output["to"], sent])
            first = [""] * 5
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
    header = ["RULE", "STATE", "ORIGIN", "INPUT", "DESCRIPTION", "OUTPUT", "SENT"]
    order = [0, 1, 2, 3, 4, 5, 6] if columns() else [0, 1, 3, 5, 6, 2, 4]  # in a pipe, newer columns come last
    if not any(rule["description"] for rule in rules):
        order.remove(4)
    header, rows = [header[i] for i in order], [[row[i] for i in order] for row in rows]
    return _with_notes(render(header, rows, colour=colour, width=columns()), reasons)


def show_stats(stats: Row, *, colour: bool) -> str:
    """Draw rules with their outputs, then the links."""
    rows = []
    notes = []
    for rule in stats["rules"]:
        first = [
            rule["name"],
            digits(rule["rx_packets"]),
            digits(rule["rx_rate"]),
            digits(rule["rx_rate_10s"]),
            bit_rate(rule["rx_bit_rate"]),
            _sum(rule["drops"]),
            _ago(rule["last_packet_time"]),
        ]
        within = health.within(rule.get("relay_seconds"))
        for output in rule["outputs"]:
            sent = [digits(output["tx_packets"]), digits(output["tx_rate"]), _sum(output["tx_errors"])]
            rows.append([*first, output["to"], *sent, within])
            first, within = [""] * len(first), ""
            notes += _detail(f"{rule['name']} -> {output['to']}: errors", output["tx_errors"])
        notes += _detail(f"{rule['name']}: drops", rule["drops"])
        notes += health.notes(rule)
        notes += _detail(f"{rule['name']}: answers to who searched", rule.get("answers", {}))
    numbers = [
        "RX PACKETS", "RX/S", "IN 10 S", "RX RATE", "DROPS", "TX PACKETS", "TX/S", "ERRORS", "FRAMES", "RING DROPS",
        "SNDBUF",
    ]  # fmt: skip
    header = ["RULE", *numbers[:5], "LAST", "OUTPUT", *numbers[5:8], "99 % WITHIN"]
    width = columns()
    parts = [render(header, rows, colour=colour, right=numbers, width=width) if rows else "no rules"]
    if looked_at := [row for rule in stats["rules"] for row in health.rows(rule)]:
        parts.append(render(health.HEADER, looked_at, colour=colour, right=health.NUMBERS, width=width))
    links = []
    for link in stats["links"]:
        sndbuf = "-" if link["sndbuf"] is None else f"{link['sndbuf'] >> 10} KiB"
        frames = digits(link["rx_frames"]) if link["filter"] else "-"
        drops = digits(link["ring_dropped_frames"]) if link["filter"] else "-"
        links.append([link["ifname"], link["filter"] or "-", frames, drops, sndbuf])
        others = {verdict: n for verdict, n in link["frames"].items() if verdict != "relayed"}
        notes += _detail(f"{link['ifname']}: frames not relayed", others)
        notes += _detail(f"{link['ifname']}: fragments not relayed", link.get("refused_fragments", {}))
        notes += [f"{link['ifname']}: {near_miss(each)}" for each in link.get("near_misses", ())]
        notes += _detail(f"{link['ifname']}: frames not captured", {"sent by this host": link["outgoing_frames"]})
        notes += _detail(f"{link['ifname']}: taken by the kernel engine", {"frames": link.get("kernel_frames", 0)})
    if links:
        parts.append(render(["LINK", "FILTER", *numbers[8:]], links, colour=colour, right=numbers, width=width))
    if notes:
        parts.append("\n".join(fold(note, width) for note in notes))
    return "\n\n".join(parts)


def near_miss(miss: NearMissRow) -> str:
    """Describe frames that no rule took, and the rule that they almost met."""
    port = "" if miss["port"] is None else f" port {miss['port']}"
    tag = "" if miss["vlan"] == "none" else f" in VLAN {miss['vlan']}"
    rule = f", almost rule {miss['rule']}" if miss["rule"] else ""
    number = miss["packets"]
    seen = f"{digits(number)} {'frame' if number == 1 else 'frames'}, last {_ago(miss['last_time'])}"
    return f"near miss: {miss['source']} sends to {miss['group']}{port}{tag}: {miss['verdict']}: {seen}{rule}"


def _with_notes(table: str, notes: list[str]) -> str:
    """A table with sentences about some of its rows under it."""
    return "\n".join([table, *([""] if notes else []), *(fold(note, columns()) for note in notes)])


def show_links(links: list[Row], *, colour: bool) -> str:
    """Draw one line for each link."""
    rows = []
    for link in links:
        queriers = [each for each in (link["querier"], link.get("mld_querier")) if each]
        seen = "; ".join(f"{each['address']} v{each['version']}, {_ago(each['last_seen_time'])}" for each in queriers)
        rows.append(
            [
                link["ifname"],
                str(link["ifindex"]),
                link["operstate"],
                str(link["mtu"]),
                " ".join(link["addresses"]) or "-",
                seen or "-",
            ]
        )
    header = ["LINK", "INDEX", "STATE", "MTU", "ADDRESSES", "QUERIER"]
    table = render(header, rows, colour=colour, right=["INDEX", "MTU"], width=columns())
    warnings = _warnings(links)
    for link in links:
        if gro := link.get("gro"):
            warnings.append(f"{link['ifname']}: gro: {gro['state']}{': ' + gro['reason'] if gro['reason'] else ''}")
    return _with_notes(table, warnings)


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
    protocols = sorted({"MLD" if ":" in each["group"] else "IGMP" for each in groups})
    table = render(["LINK", "GROUP", "SOURCE", "STATE", "/".join(protocols)], rows, colour=colour, width=columns())
    return _with_notes(table, reasons)


def _warnings(rows: list[Row]) -> list[str]:
    """Each warning of a link once, however many of its groups it concerns."""
    said = {f"{row['ifname']}: {each['kind']}: {each['text']}": None for row in rows for each in row["warnings"]}
    return list(said)


def show_config(tables: Row, *, colour: bool) -> str:
    """Write the running configuration as a file."""
    from mcrelay.config.writer import toml_text  # noqa: PLC0415  for this alone

    return toml_text(tables)


RENDERERS: dict[str, Callable[..., str]] = {
    "rules": show_rules,
    "stats": show_stats,
    "links": show_links,
    "groups": show_groups,
    "config": show_config,
}


def _sum(counts: dict[str, int]) -> str:
    return digits(sum(counts.values()))


def _detail(what: str, counts: dict[str, int]) -> list[str]:
    named = ", ".join(f"{reason} {digits(n)}" for reason, n in counts.items() if n)
    return [f"{what}: {named}"] if named else []


def _ago(moment: float | None) -> str:
    """The time since then, in one short word."""
    if moment is None:
        return "never"
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago" if seconds >= 2 else "now"
