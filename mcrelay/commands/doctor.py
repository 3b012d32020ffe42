"""``mcrelay doctor``: which stage of a stream's way is broken, the evidence, and what mends it."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mcrelay.commands.evidence import Input, Output, Relay, Subject, subject_of
from mcrelay.commands.look import gather, relay_now
from mcrelay.commands.options import config_options, json_option, socket_option
from mcrelay.commands.stages import diagnose, worst_of
from mcrelay.commands.table import BOLD, DIM, GREEN, RED, YELLOW, colourful, columns, fold, paint, say
from mcrelay.commands.walk import Index
from mcrelay.config.files import config_paths, parse
from mcrelay.control.client import NotRunningError
from mcrelay.errors import ConfigError, ControlError, NotationError, UsageError
from mcrelay.links.watch import links_now
from mcrelay.model.instance import control_path
from mcrelay.model.notation import format_stream, parse_stream
from mcrelay.model.ports import have_common
from mcrelay.relay.compile import compile_plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mcrelay.commands.walk import Finding
    from mcrelay.model.plan import RuleSpec
    from mcrelay.model.stream import Stream

SECONDS = 3.0
INDENT = 23  # of what a stage says
PROGRAMS = {
    "bridge",
    "ethtool",
    "ip",
    "journalctl",
    "mcrelay",
    "nft",
    "sudo",
    "sysctl",
    "systemctl",
}  # that mend something
COLOURS = {"ok": GREEN, "warning": YELLOW, "broken": RED, "skipped": DIM}


@click.command(epilog="\b\nExamples:\n  mcrelay doctor\n  mcrelay doctor lobby\n  mcrelay doctor 239.1.1.1:5000%eth1")
@click.argument("what", required=False, metavar="[STREAM|RULE]")
@click.option(
    "--duration",
    type=click.FloatRange(0, 3600, min_open=True),
    default=SECONDS,
    help=f"Look for so many seconds.  [default: {SECONDS:g}]",
)
@json_option
@config_options
@socket_option
def doctor(
    what: str | None,
    *,
    duration: float,
    as_json: bool,
    paths: tuple[Path, ...],
    instance: str | None,
    socket_path: str | None,
) -> None:
    """Say which stage of a stream's way is broken, with the evidence and what mends it.

    Looks at every rule, or at one rule or stream: first at the running relay, or without one at the files, then for a
    few seconds at links, IGMP, MLD and frames. It joins test groups meanwhile (233.252.0.254, ff0e::db8:0:fe), to see a
    report leave, and what nobody has joined. Exits with 1 if anything is broken. Seeing frames needs CAP_NET_RAW.
    """
    path = socket_path
    if instance and socket_path in {None, os.environ.get("MCRELAY_SOCKET")}:  # what is typed goes before what is set
        path = control_path(instance)
    relay: Relay | None = None
    trouble, silent = "", False
    try:
        relay = relay_now(path)
    except ControlError as error:
        trouble, silent = str(error), not isinstance(error, NotRunningError)
    known = (
        [subject_of(row) for row in relay.rules] if relay else _configured(paths, instance, needed=not _stream(what))
    )
    subjects = chosen(what, known)
    evidence = gather(subjects, relay, path, duration)
    evidence.trouble, evidence.silent = trouble, silent
    index = Index(evidence)
    found = [(subject, diagnose(subject, evidence, index)) for subject in subjects]
    if as_json:
        import json  # noqa: PLC0415

        click.echo(json.dumps([_json(*each) for each in found], indent=2))
    else:
        click.echo("\n".join(report(*each, colour=colourful(), whole=len(found) == 1) for each in found) or "no rules")
    sys.exit(any(worst_of(findings) == "broken" for _, findings in found))


def chosen(what: str | None, known: Sequence[Subject]) -> list[Subject]:
    """Pick the rules that are asked about: by name, or those that take a stream; or else the stream by itself."""
    if what is None:
        return list(known)
    if named := [each for each in known if each.rule == what]:
        return named
    stream = _stream(what)
    if stream is None:
        names = [each.rule for each in known if each.rule]
        more = ", …" if len(names) > 8 else ""
        rules = f"the rules are {', '.join(names[:8])}{more}" if names else "there are no rules"
        raise UsageError(f"there is no rule {what!r}, and it is no stream (GROUP:PORT%LINK); {rules}")
    if taking := [each for each in known if any(_takes(entry, stream) for entry in each.inputs)]:
        return taking
    if stream.link is None:
        raise UsageError(f"no rule takes {what}; say on which link it is to arrive: {what}%LINK")
    wanted = Input(
        format_stream(stream), stream.link, stream.address, stream.port, stream.source, group_count=stream.group_count
    )
    return [Subject("", (wanted,))]


def _stream(what: str | None) -> Stream | None:
    try:
        stream = parse_stream(what or "")
    except NotationError:
        return None
    return stream if stream.address.is_multicast else None


def _takes(each: Input, stream: Stream) -> bool:
    return (
        stream.address.version == each.group.version
        and any(map(each.takes, (stream.address, stream.address + stream.group_count - 1)))
        and stream.link in {None, each.link}
        and (stream.port is None or have_common(stream.port, each.port))
        and (stream.source is None or each.source in {None, stream.source})
    )


def _configured(paths: tuple[Path, ...], instance: str | None, *, needed: bool) -> list[Subject]:
    """The rules of the configuration files, on the links as they are now."""
    try:
        config = parse(config_paths(paths, instance), instance).config
    except ConfigError:
        if needed:
            say("mcrelay: no relay runs here, and no rule can be read; `mcrelay doctor GROUP:PORT%LINK` needs neither")
            raise
        return []
    return [_planned(rule) for rule in compile_plan(config, links_now()).rules]


def _planned(rule: RuleSpec) -> Subject:
    return Subject(
        rule.name,
        tuple(
            Input(
                each.text,
                each.iif,
                each.group,
                each.port,
                each.source,
                str(each.vlan),
                each.state,
                each.reason,
                each.group_count,
                each.own,
            )
            for each in rule.inputs
        ),
        tuple(
            Output(
                each.to,
                each.oif or "",
                each.address,
                each.ports,
                each.state,
                each.reason,
                each.groups,
                str(each.vlan or "none"),
            )
            for each in rule.outputs
        ),
        "active" if rule.enabled else "disabled",
    )


def report(subject: Subject, findings: list[Finding], *, colour: bool, whole: bool) -> str:
    """One line a stage, what mends it beneath; of a rule among others only the stages that are not well."""
    lines = [paint(f"{subject.rule or subject.inputs[0].text}: {worst_of(findings)}", BOLD, on=colour)]
    if not whole:
        findings = [each for each in findings if each.state in {"broken", "warning"}]
    for each in findings:
        mark = paint(each.state.ljust(7), COLOURS[each.state], on=colour)
        text = fold(" " * INDENT + each.text, columns(), INDENT)[INDENT:]
        lines.append(f"  {each.stage.ljust(10)}  {mark}  {text}")
        if each.remedy:
            lines.append(f"{' ' * INDENT}-> {_remedy(each.remedy)}")
    return "\n".join(lines)


def _remedy(text: str) -> str:
    """A command stays whole, to be copied; a sentence is folded."""
    if text.partition(" ")[0] in PROGRAMS:
        return text
    return fold(f"{' ' * INDENT}-> {text}", columns(), INDENT + 3)[INDENT + 3 :]


def _json(subject: Subject, findings: list[Finding]) -> dict[str, Any]:
    return {
        "rule": subject.rule or None,
        "inputs": [each.text for each in subject.inputs],
        "state": worst_of(findings),
        "stages": [asdict(each) | {"remedy": each.remedy or None} for each in findings],
    }
