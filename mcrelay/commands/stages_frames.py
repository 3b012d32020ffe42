"""Stages of ``mcrelay doctor`` about the frames of the group: do they come, and does a rule take them. Pure."""

from __future__ import annotations

import shlex
from ipaddress import ip_address
from typing import TYPE_CHECKING

from mcrelay.commands.evidence import LOOPBACK
from mcrelay.commands.table import digits
from mcrelay.commands.walk import moved
from mcrelay.config.writer import toml_value
from mcrelay.links.outgoing import SAYING
from mcrelay.model.address import host
from mcrelay.model.frame import Datagram
from mcrelay.model.notation import format_stream, stream_of
from mcrelay.model.ports import names_port
from mcrelay.relay.alarms import SAYINGS
from mcrelay.relay.losses import LINK_SAYINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay.commands.evidence import Input, Output, Subject
    from mcrelay.commands.walk import Found, Row, State, Walk

FRAME_VERDICTS = ("truncated", "malformed", "tunnel")


def frames(walk: Walk) -> Iterator[Found]:
    """Whether the group arrives, and as what."""
    for each in walk.subject.inputs:
        flows = walk.flows(each)
        if flows:
            yield "ok", "; ".join(told(flow, count) for flow, count in list(flows.items())[:3])
        elif why := walk.because("privileges", "link", "membership", "report", "query", "bridge"):
            yield "skipped", why
        elif walk.look(each.link) is None:
            yield "skipped", f"the frames of {each.link} could not be looked at"
        elif walk.sent_here(each):
            yield "skipped", f"nobody but this host itself sends to {each.named} on {each.link}"
        else:
            yield (
                "broken",
                f"nothing for {each.named} arrived on {each.link} in {walk.evidence.seconds:g} s",
                f"see whether it leaves its sender, and where on the way it ends: `tcpdump -ni LINK host {each.group}`",
            )


def told(flow: Datagram, count: int) -> str:
    """Datagrams of one sender in words."""
    part = ", in fragments" if flow.fragment else ""
    return f"{_heading(flow, count)}, TTL {flow.ttl}{part}"


def _heading(flow: Datagram, count: int) -> str:
    tag = "untagged" if flow.vlan is None else f"VLAN {flow.vlan}"
    return f"{digits(count)} from {flow.source} to {host(flow.group)}:{flow.port}, {tag}"


def sender(walk: Walk) -> Iterator[Found]:
    """Whether this very host sends to the group on that link."""
    for each in walk.subject.inputs:
        link = walk.evidence.links.get(each.link)
        own = next(iter(walk.sent_here(each)), None) if link is not None and link.hardware != LOOPBACK else None
        if own is not None and each.own:
            yield (
                "ok",
                f"{host(own.source)}:{own.source_port}: this host itself sends to it there, which own = true takes",
            )
        elif own is not None:
            what, _, remedy = SAYING.format(link=each.link).partition("; ")
            state: State = "warning" if walk.flows(each) else "broken"
            yield state, f"{host(own.source)}:{own.source_port}: {what}", remedy
        elif walk.look(each.link) is None:
            yield "skipped", "nothing could be seen"
        else:
            yield "ok", "this host sends nothing to it there"


def match(walk: Walk) -> Iterator[Found]:
    """Whether a rule takes what arrives, and what differs where none does."""
    subject = walk.subject
    if subject.disabled:
        yield "broken", f"rule {subject.rule} is disabled", f"mcrelay enable {subject.rule}"
        return
    if not subject.rule:
        stream = subject.inputs[0].text
        yield "broken", f"no rule takes {stream}", f"mcrelay add NAME {stream} GROUP:PORT%LINK"
        return
    for each in subject.inputs:
        flows = {flow: count for flow, count in walk.flows(each).items() if not flow.fragment}
        near = {flow: wanted for flow in flows if (wanted := differences(flow, each))}
        missed = [] if flows else near_misses(walk, each)
        if each.state == "error" and not walk.broken:
            yield "broken", each.reason or subject.reason
        elif missed and not moved(walk.index.rules, subject.rule).get("rx_packets"):
            flow, count = missed[0]
            wanted = differences(flow, each)
            yield (
                "broken",
                f"the relay counted {_heading(flow, count)}, and the rule {' and '.join(wanted)}",
                _replace(subject, flow),
            )
        elif not flows and moved(walk.index.rules, subject.rule).get("rx_packets"):  # what came in fragments
            yield from _taken(walk, each)
        elif not flows:
            yield "skipped", "no whole datagram of the group was seen"
        elif len(near) == len(flows):
            free = [flow for flow in near if not taken_by(walk, each.link, flow)]
            flow = free[0] if free else next(iter(near))
            differs = " and ".join(near[flow])
            if free:
                yield "broken", f"{told(flow, flows[flow])}, and the rule {differs}", _replace(subject, flow)
            else:
                whose = f"which is rule {taken_by(walk, each.link, flow)}'s"
                yield "broken", f"{told(flow, flows[flow])}, {whose}; this rule {differs}, and none came"
        else:
            yield from _taken(walk, each)


def taken_by(walk: Walk, link: str, flow: Datagram) -> str:
    """Which rule takes a flow; "" if none does."""
    takers = walk.index.takers.get((link, str(flow.group)), [])
    return next((name for name, each in takers if not differences(flow, each)), "")


def near_misses(walk: Walk, each: Input) -> list[tuple[Datagram, int]]:
    """What the running relay counted during the look as almost an input's, which no rule takes; newest first."""
    before, after = walk.index.links.get(each.link, ({}, {}))
    known = {_miss_key(row): row["packets"] for row in before.get("near_misses", ())}
    found = []
    rows = sorted(after.get("near_misses", ()), key=lambda row: row["last_time"], reverse=True)
    for row in rows:
        more = row["packets"] - known.get(_miss_key(row), 0)
        group = ip_address(row["group"])
        if group.version == each.group.version and each.takes(group) and row["port"] is not None and more > 0:
            vlan = None if row["vlan"] == "none" else int(row["vlan"])
            flow = Datagram(ip_address(row["source"]), 0, group, row["port"], vlan, 0, b"")
            if differences(flow, each):
                found.append((flow, more))
    return found


def _miss_key(row: Row) -> tuple[str, int | None, str, str]:
    return row["group"], row["port"], str(row["vlan"]), row["verdict"]


def differences(flow: Datagram, each: Input) -> list[str]:
    """What a rule wants otherwise."""
    found = []
    if each.port is not None and not names_port(each.port, flow.port):
        found.append(f"takes port {each.port}")
    if each.source is not None and flow.source != each.source:
        found.append(f"takes source {each.source} alone")
    if each.vlan == "none" and flow.vlan is not None:
        found.append("takes untagged frames")
    elif each.vlan not in {"none", "any", str(flow.vlan)}:
        found.append(f"takes VLAN {each.vlan}")
    return found


def _said(output: Output) -> str:
    """Write an output as a shell takes it."""
    if output.vlan == "none":
        return output.to
    return shlex.quote(toml_value({"to": format_stream(stream_of(output.to)), "vlan": int(output.vlan)}))


def _replace(subject: Subject, flow: Datagram) -> str:
    link = subject.inputs[0].link
    outputs = " ".join(map(_said, subject.outputs))
    vlan = f" --vlan {flow.vlan}" if flow.vlan is not None else ""
    return f"mcrelay replace {subject.rule} {host(flow.source)}@{host(flow.group)}:{flow.port}%{link} {outputs}{vlan}"


def _taken(walk: Walk, each: Input) -> Iterator[Found]:
    """What the relay did with datagrams that match."""
    counts = moved(walk.index.rules, walk.subject.rule)
    if not counts:
        yield "ok", f"datagrams match {each.text}; whether they are taken, a running relay could say"
        return
    taken, drops = counts["rx_packets"], counts["drops"]
    if not taken:
        yield (
            "broken",
            f"datagrams match {each.text}, and the relay took none",
            "see `mcrelay show` for the state of the rule",
        )
    elif drops.get("source"):
        state: State = "broken" if drops["source"] >= taken else "warning"
        yield (
            state,
            f"{digits(drops['source'])} of {digits(taken)} came from sources that `allow` keeps out",
            (f"add the source to allow of rules.{walk.subject.rule}, or take allow away"),
        )
    elif drops.get("policer"):
        yield (
            "warning",
            f"{digits(drops['policer'])} of {digits(taken)}: {SAYINGS['policer']}",
            f"raise limit of rules.{walk.subject.rule}",
        )
    elif losses := _losses(counts.get("health")):
        yield (
            "warning",
            f"{digits(taken)} datagrams taken by {each.text}, and others were lost before the relay had them: {losses}",
            "look for the loss on the way from the sender, and in the stage ring",
        )
    else:
        yield "ok", f"{digits(taken)} datagrams taken by {each.text}"


def _losses(health: Row | None) -> str:
    """What was missing in a stream whose rule has `health`."""
    rtp, ts = (health or {}).get("rtp"), (health or {}).get("ts")
    said = [f"RTP lost {digits(rtp['lost'])}"] if rtp and rtp["lost"] else []
    said += [f"continuity errors {digits(ts['continuity_errors'])}"] if ts and ts["continuity_errors"] else []
    return ", ".join(said)


def ring(walk: Walk) -> Iterator[Found]:
    """Frames that found no room, or that cannot be relayed as they are."""
    for name in dict.fromkeys(each.link for each in walk.subject.inputs):
        counts = moved(walk.index.links, name)
        if not counts:
            yield (
                "skipped",
                "there is no relay to ask" if walk.evidence.relay is None else f"there is no ring on {name}",
            )
            continue
        lost = {"ring": counts["ring_dropped_frames"]} | {
            each: counts["frames"].get(each, 0) for each in FRAME_VERDICTS
        }
        found = False
        for verdict, count in lost.items():
            if count:
                found = True
                what, _, remedy = LINK_SAYINGS[verdict].format(link=name).partition("; ")
                yield (
                    ("broken" if verdict == "ring" else "warning"),
                    f"{digits(count)} frames in {walk.evidence.seconds:g} s: {what}",
                    remedy,
                )
        if not found:
            yield "ok", f"{digits(counts['rx_frames'])} frames on {name}, none lost"
