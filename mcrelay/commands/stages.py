"""The stages that ``mcrelay doctor`` walks through, in the order in which a datagram meets them: pure.

A stage is broken only by what was seen to be wrong there. What a stage cannot say because an earlier one is broken, or
because nobody looked, is skipped, and says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mcrelay.commands.evidence import PROBE
from mcrelay.igmp import advice
from mcrelay.links.outgoing import SAYING
from mcrelay.linux import procfs
from mcrelay.model.link_faults import no_ethernet, port_of, reports_from_nobody
from mcrelay.model.wording import counted
from mcrelay.relay.alarms import SAYINGS
from mcrelay.relay.losses import LINK_SAYINGS, OUTPUT_SAYINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ipaddress import IPv4Address

    from mcrelay.commands.evidence import Dropping, Evidence, Flow, Input, LinkLook, Output, Subject
    from mcrelay.igmp.wire import Query

Row = dict[str, Any]
State = Literal["ok", "warning", "broken", "skipped"]
WORST: tuple[State, ...] = ("broken", "warning", "ok", "skipped")
MERGING = ("rx-udp-gro-forwarding", "rx-gro-list")  # receive offloads that make one frame of several datagrams
HEADERS_BYTES = 28  # IPv4 and UDP
FRAME_VERDICTS = ("truncated", "malformed", "tunnel")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one stage says. ``remedy`` is a command or what else to do, "" where the cause was not seen."""

    stage: str
    state: State
    text: str
    remedy: str = ""


class Index:
    """The evidence by what the stages look for: there may be thousands of rules."""

    def __init__(self, evidence: Evidence) -> None:
        relay = evidence.relay
        self.flows: dict[tuple[str, IPv4Address], dict[Flow, int]] = {}
        for name, look in evidence.looks.items():
            for flow, count in look.flows.items():
                self.flows.setdefault((name, flow.group), {})[flow] = count
        self.groups = {(row["ifname"], row["group"]): row for row in (relay.groups if relay else [])}
        outputs = [output for row in (relay.rules if relay else []) for output in row["outputs"]]
        self.ends = {(output["source_address"], output["source_port"]) for output in outputs}
        before, after = (relay.before, relay.after) if relay else ({}, {})
        self.rules = _by_name(before, after, "rules", "name")
        self.links = _by_name(before, after, "links", "ifname")


def _by_name(before: Row, after: Row, what: str, key: str) -> dict[str, tuple[Row, Row]]:
    """The counters of each rule or link before and after the look."""
    first = {row[key]: row for row in before.get(what, ())}
    return {row[key]: (first[row[key]], row) for row in after.get(what, ()) if row[key] in first}


def diagnose(subject: Subject, evidence: Evidence, index: Index | None = None) -> list[Finding]:
    """One finding a stage at least, in order; more where several links or outputs differ."""
    walk = _Walk(subject, evidence, index or Index(evidence))
    findings: list[Finding] = []
    for stage, function in STAGES.items():
        found = [Finding(stage, *each) for each in function(walk)]
        worst = [each for each in found if each.state in {"broken", "warning"}]
        shown = worst or found[:1] or [Finding(stage, "skipped", "there is nothing to look at")]
        findings += dict.fromkeys(shown)
        if any(each.state == "broken" for each in found):
            walk.broken.append(stage)
    return findings


def worst_of(findings: list[Finding]) -> State:
    """How a walk ended: skipped stages alone harm nobody."""
    states = {each.state for each in findings} - {"skipped"}
    return next((state for state in WORST if state in states), "ok")


_Found = tuple[State, str, str] | tuple[State, str]


class _Walk:
    """A subject, the evidence, and which stages were broken so far."""

    def __init__(self, subject: Subject, evidence: Evidence, index: Index) -> None:
        self.subject = subject
        self.evidence = evidence
        self.index = index
        self.broken: list[str] = []

    def running(self, each: Input) -> bool:
        """Whether the link of an input can carry anything."""
        link = self.evidence.links.get(each.link)
        return link is not None and link.up and link.carrier and not no_ethernet(link)

    def look(self, name: str) -> LinkLook | None:
        """What was seen on a link, None where nothing could be."""
        look = self.evidence.looks.get(name)
        return None if look is None or look.trouble else look

    def because(self, *stages: str) -> str:
        """Say that earlier stages make a look here worthless; "" where they do not."""
        held = [each for each in self.broken if each in stages]
        if held:
            return f"not before {' and '.join(held)} is mended"
        return "the rule is disabled" if self.subject.disabled else ""

    def flows(self, each: Input) -> dict[Flow, int]:
        """What arrived for the group of an input, by sender, and how much of it."""
        flows = self.index.flows.get((each.link, each.group), {}) if self.look(each.link) else {}
        return {flow: count for flow, count in flows.items() if not flow.outgoing}


def _relay(walk: _Walk) -> Iterator[_Found]:
    relay = walk.evidence.relay
    if relay is None:
        yield "skipped", f"{walk.evidence.trouble or 'none is asked'}; this host is looked at without it"
        return
    version = relay.version.get("version", "?")
    if relay.version.get("restart_due"):
        yield "warning", f"mcrelay {version} runs, and another build is installed", "systemctl restart mcrelay"
    else:
        yield "ok", f"mcrelay {version} runs with {counted(len(relay.rules), 'rule')}"


def _privileges(walk: _Walk) -> Iterator[_Found]:
    evidence, subject = walk.evidence, walk.subject
    told = [each.reason for each in subject.inputs if "CAP_NET_RAW" in each.reason]
    if told:
        yield "broken", told[0], "run the relay as root, or give it CAP_NET_RAW: systemctl edit mcrelay"
    elif not evidence.may_look and evidence.relay is None:
        yield (
            "broken",
            "this user has no CAP_NET_RAW, without which nothing is captured",
            f"sudo mcrelay doctor {_named(subject)}",
        )
    elif not evidence.may_look:
        yield (
            "warning", "the relay may capture, and this look may not: no frame and no IGMP was seen",
            f"sudo mcrelay doctor {_named(subject)}",
        )  # fmt: skip
    elif not evidence.features.udp_segment:
        yield "warning", "this kernel has no UDP_SEGMENT: each datagram is sent by itself", "use Linux 4.18 or newer"
    else:
        yield "ok", "CAP_NET_RAW, UDP_SEGMENT"


def _named(subject: Subject) -> str:
    return subject.rule or subject.inputs[0].text


def _link(walk: _Walk) -> Iterator[_Found]:
    for each in walk.subject.inputs:
        link = walk.evidence.links.get(each.link)
        if link is None:
            yield "broken", f"there is no link {each.link} here", "see `ip link` for those that there are"
        elif fault := no_ethernet(link):
            yield "broken", fault, "take the input from the link below it, if there is one"
        elif not link.up:
            yield "broken", f"{link.name} is down", f"ip link set {link.name} up"
        elif not link.carrier:
            yield "broken", f"{link.name} has no carrier: nothing is plugged in, or the other end is down"
        elif fault := port_of(link):
            yield "broken", fault.partition(": ")[0], fault.partition(": ")[2]
        elif not link.addresses:
            what, _, remedy = reports_from_nobody(link.name).partition("; give it one, any will do: ")
            yield "warning", what, remedy
        else:
            address = ", ".join(map(str, link.addresses[:2]))
            yield "ok", f"{link.name} is up, with carrier, {address}, MTU {link.mtu}"


def _offloads(walk: _Walk) -> Iterator[_Found]:
    asked = {row["ifname"] for row in walk.evidence.relay.links if row.get("gro")} if walk.evidence.relay else set()
    for name in dict.fromkeys(each.link for each in walk.subject.inputs):
        active = walk.evidence.offloads.get(name)
        merging = [each for each in MERGING if active and each in active]
        if active is None:
            yield "skipped", f"the offloads of {name} cannot be read"
        elif merging and "rx-gro" in active and name not in asked:
            yield (
                "warning",
                f"{' and '.join(merging)} of {name} makes one frame of several datagrams; the relay cuts them up again",
                f"ethtool -K {name} " + " ".join(f"{each} off" for each in merging),
            )
        else:
            yield "ok", f"{name} merges no datagrams" if not merging else f"{name} merges datagrams, as gro = true asks"


def _membership(walk: _Walk) -> Iterator[_Found]:
    for each in walk.subject.inputs:
        if why := walk.because("link", "privileges"):
            yield "skipped", why
            continue
        row = walk.index.groups.get((each.link, str(each.group)))
        reason = (row or {}).get("reason") or walk.evidence.failed.get((each.link, each.group), "")
        limit = walk.evidence.max_memberships
        if reason and limit < 1:
            yield (
                "broken",
                f"net.ipv4.igmp_max_memberships is {limit}: {reason}",
                "sysctl -w net.ipv4.igmp_max_memberships=20",
            )
        elif reason:
            yield "broken", reason
        elif each.group not in walk.evidence.joined.get(each.link, set()) and walk.evidence.joined:
            yield "broken", f"the kernel has not joined {each.group} on {each.link}", "systemctl restart mcrelay"
        else:
            by = "" if row else " (for this look alone)"
            yield "ok", f"the kernel has joined {each.group} on {each.link}{by}"


def _report(walk: _Walk) -> Iterator[_Found]:
    for name in dict.fromkeys(each.link for each in walk.subject.inputs):
        look = walk.look(name)
        if why := walk.because("link", "privileges", "membership"):
            yield "skipped", why
        elif look is None or (name, PROBE) in walk.evidence.failed:
            yield (
                "skipped",
                "no report could be provoked: "
                + (walk.evidence.failed.get((name, PROBE)) or f"nothing was seen of {name}"),
            )
        elif look.reports:
            yield "ok", f"an IGMPv{look.reports[-1].version} report of this host left {name}"
        elif look.refused:
            yield (
                "broken",
                f"a report is joined for and does not leave {name}: a firewall of this host refuses IGMP (EPERM)",
                f'nft insert rule inet filter output oifname "{name}" meta l4proto igmp accept',
            )
        elif walk.evidence.links[name].hardware == 772:
            yield "skipped", f"{name} needs none"
        else:
            yield "broken", f"a group was joined and no report was seen to leave {name}; nothing was seen that keeps it"


def _query(walk: _Walk) -> Iterator[_Found]:
    rows = {row["ifname"]: row for row in walk.evidence.relay.links} if walk.evidence.relay else {}
    for name in dict.fromkeys(each.link for each in walk.subject.inputs):
        if why := walk.because("link", "privileges", "report"):
            yield "skipped", why
            continue
        row: dict[str, Any] = rows.get(name) or {}
        look = walk.look(name)
        warned = [each for each in row.get("warnings", []) if each["kind"] not in {"port", "no-address"}]
        if not any(each.source for each in walk.subject.inputs):
            warned = [each for each in warned if each["kind"] not in {"older-querier", "forced-version"}]
        for each in warned:
            text, _, remedy = each["text"].rpartition(". ")
            yield ("broken" if each["kind"] in {"unanswered-query", "silent-querier"} else "warning"), text, remedy
        lost = [query for query in (look.queries if look else []) if look and query not in look.delivered]
        if lost and not any(each["kind"] == "unanswered-query" for each in warned):
            yield _lost_query(walk, name, lost[0])
        if warned or lost:
            continue
        if look and look.queries:
            query = look.queries[-1]
            yield "ok", f"{query.querier} queries {name} in IGMP version {query.version}, and this host hears it"
        elif querier := row.get("querier"):
            age = max(0.0, time.time() - querier["last_seen_time"])
            yield "ok", f"{querier['address']} queries {name} in IGMP version {querier['version']}, {age:.0f} s ago"
        else:
            yield "skipped", f"no query came to {name} in {walk.evidence.seconds:g} s; --duration 130 sees the next one"


def _lost_query(walk: _Walk, name: str, query: Query) -> _Found:
    """Which of the host's filters a query met: one that was seen to drop it, never the one that is left."""
    evidence, rp_filter = walk.evidence, procfs.rp_filter(name)
    what = f"queries of {query.querier} arrive on {name} and do not reach this host's IGMP"
    fails = advice.fails_reverse_path(
        query.querier, evidence.links[name].ifindex, rp_filter, evidence.routes.get(query.querier)
    )
    if evidence.filtered and fails:
        return (
            "broken",
            f"{what}: the count of the reverse-path filter moved (rp_filter {rp_filter}, and no route to it by {name})",
            f"ip route add {query.querier}/32 dev {name}",
        )
    moved = [(each, more) for each, more in evidence.dropping if more]
    if moved:
        each, more = moved[0]
        return (
            "broken",
            f"{what}: a rule of `{each.place}` (handle {each.handle}) dropped {more} meanwhile",
            _let_in(name, each),
        )
    silent = [each for each, more in evidence.dropping if more is None]
    if silent:
        return "broken", f"{what}; `{silent[0].place}` drops, and has no counter to tell what", _let_in(name, silent[0])
    return "broken", f"{what}, and nothing was seen that drops them", ""


def _let_in(name: str, each: Dropping) -> str:
    return f'nft insert rule {each.place} iifname "{name}" meta l4proto igmp accept'


def _bridge(walk: _Walk) -> Iterator[_Found]:
    for each in walk.subject.inputs:
        bridge = walk.evidence.bridges.get(each.link)
        if bridge is None:
            yield "skipped", f"{each.link} is no bridge of this host"
        elif not bridge.snooping:
            yield "ok", f"{each.link} does not snoop: it passes every group on"
        elif why := walk.because("link", "membership", "report"):
            yield "skipped", why
        elif each.group in bridge.host_groups:
            yield "ok", f"{each.link} snoops and passes {each.group} to this host"
        elif bridge.querier:
            yield (
                "broken",
                f"{each.link} snoops, and its table (bridge mdb show) has no {each.group} for this host",
                f"bridge mdb add dev {each.link} port {each.link} grp {each.group}",
            )
        else:
            yield "ok", f"{each.link} snoops, nobody queries, and so it passes every group on"


def _frames(walk: _Walk) -> Iterator[_Found]:
    for each in walk.subject.inputs:
        flows = walk.flows(each)
        if flows:
            yield "ok", "; ".join(_told(flow, count) for flow, count in list(flows.items())[:3])
        elif why := walk.because("privileges", "link", "membership", "report", "query", "bridge"):
            yield "skipped", why
        elif walk.look(each.link) is None:
            yield "skipped", f"the frames of {each.link} could not be looked at"
        elif _own(walk, each):
            yield "skipped", f"nobody but this host itself sends to {each.group} on {each.link}"
        else:
            yield (
                "broken",
                f"nothing for {each.group} arrived on {each.link} in {walk.evidence.seconds:g} s",
                f"see whether it leaves its sender, and where on the way it ends: tcpdump -ni LINK host {each.group}",
            )


def _told(flow: Flow, count: int) -> str:
    tag = "untagged" if flow.vlan is None else f"VLAN {flow.vlan}"
    part = ", in fragments" if flow.fragment else ""
    return f"{count} from {flow.source} to {flow.group}:{flow.port}, {tag}, TTL {flow.ttl}{part}"


def _own(walk: _Walk, each: Input) -> list[Flow]:
    """What this host itself sends to the group there, less what outputs do."""
    flows = walk.index.flows.get((each.link, each.group), {}) if walk.look(each.link) else {}
    return [flow for flow in flows if flow.outgoing and (str(flow.source), flow.source_port) not in walk.index.ends]


def _sender(walk: _Walk) -> Iterator[_Found]:
    for each in walk.subject.inputs:
        link = walk.evidence.links.get(each.link)
        own = _own(walk, each) if link is not None and link.hardware != 772 else []
        if own:
            what, _, remedy = SAYING.format(link=each.link).partition("; ")
            state: State = "warning" if walk.flows(each) else "broken"
            yield state, f"{own[0].source}:{own[0].source_port}: {what}", remedy
        elif walk.look(each.link) is None:
            yield "skipped", "nothing could be seen"
        else:
            yield "ok", "this host sends nothing to it there"


def _match(walk: _Walk) -> Iterator[_Found]:
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
        if each.state == "error" and not walk.broken:
            yield "broken", each.reason or subject.reason
        elif not flows:
            yield "skipped", "no whole datagram of the group was seen"
        elif len(near) == len(flows):
            flow, wanted = next(iter(near.items()))
            yield (
                "broken",
                f"{_told(flow, flows[flow])}, and the rule {' and '.join(wanted)}",
                _replace(subject, flow),
            )
        else:
            yield from _taken(walk, each)


def differences(flow: Flow, each: Input) -> list[str]:
    """What a rule wants otherwise."""
    found = []
    if each.port is not None and flow.port != each.port:
        found.append(f"takes port {each.port}")
    if each.source is not None and flow.source != each.source:
        found.append(f"takes source {each.source} alone")
    if each.vlan == "none" and flow.vlan is not None:
        found.append("takes untagged frames")
    return found


def _replace(subject: Subject, flow: Flow) -> str:
    link = subject.inputs[0].link
    if flow.vlan is not None:
        return (
            f"make the VLAN a link, and take the input from it:"
            f" ip link add link {link} name {link}.{flow.vlan} type vlan id {flow.vlan}"
        )
    outputs = " ".join(each.to for each in subject.outputs)
    return f"mcrelay replace {subject.rule} {flow.source}@{flow.group}:{flow.port}%{link} {outputs}"


def _taken(walk: _Walk, each: Input) -> Iterator[_Found]:
    """What the relay did with datagrams that match."""
    counts = _moved(walk.index.rules, walk.subject.rule)
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
            f"{drops['source']} of {taken} came from sources that `allow` keeps out",
            (f"add the source to allow of rules.{walk.subject.rule}, or take allow away"),
        )
    elif drops.get("policer"):
        yield (
            "warning",
            f"{drops['policer']} of {taken}: {SAYINGS['policer']}",
            f"raise limit of rules.{walk.subject.rule}",
        )
    else:
        yield "ok", f"{taken} datagrams taken by {each.text}"


def _moved(counters: dict[str, tuple[Row, Row]], name: str) -> Row:
    """By how much the counters of a rule or link grew during the look; empty where there are none."""
    found: Row = _difference(*counters[name]) if name in counters else {}
    return found


def _difference(before: Any, after: Any) -> Any:
    if isinstance(after, dict):
        return {key: _difference(before.get(key), value) for key, value in after.items()}
    if isinstance(after, list):
        return [_difference(*pair) for pair in zip(before or after, after, strict=False)]
    if isinstance(after, int | float) and isinstance(before, int | float) and not isinstance(after, bool):
        return after - before
    return after


def _ring(walk: _Walk) -> Iterator[_Found]:
    for name in dict.fromkeys(each.link for each in walk.subject.inputs):
        counts = _moved(walk.index.links, name)
        if not counts:
            yield "skipped", "no relay runs" if walk.evidence.relay is None else f"there is no ring on {name}"
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
                    f"{count} frames in {walk.evidence.seconds:g} s: {what}",
                    remedy,
                )
        if not found:
            yield "ok", f"{counts['rx_frames']} frames on {name}, none lost"


def _send(walk: _Walk) -> Iterator[_Found]:
    counts = _moved(walk.index.rules, walk.subject.rule)
    if not counts:
        yield "skipped", "no relay runs" if walk.evidence.relay is None else "there are no counters"
        return
    sent = []
    for output in counts["outputs"]:
        for error, count in output["tx_errors"].items():
            if count and error != "parked":
                what, _, remedy = OUTPUT_SAYINGS.get(error, error).partition("; ")
                yield "broken", f"{count} to {output['to']} not sent ({error}): {what}", remedy
        sent.append(f"{output['tx_packets']} to {output['to']}")
    yield "ok", "; ".join(sent[:3])


def _egress(walk: _Walk) -> Iterator[_Found]:
    for each in walk.subject.outputs:
        link = walk.evidence.links.get(each.link)
        if each.link and link is None:
            yield "broken", f"there is no link {each.link} here", "see `ip link` for those that there are"
        elif link is not None and not link.up:
            yield "broken", f"{link.name} is down", f"ip link set {link.name} up"
        elif link is not None and not link.carrier:
            yield "broken", f"{link.name} has no carrier: nothing is plugged in, or the other end is down"
        elif link is not None and not link.addresses:
            yield (
                "broken",
                f"{link.name} has no IPv4 address to send from",
                f"ip address add ADDRESS/LENGTH dev {link.name}",
            )
        elif each.state != "active" and not walk.subject.disabled:
            yield "broken", f"{each.to}: {each.reason or each.state}", _route_remedy(each)
        elif link is not None and (large := _largest(walk)) > link.mtu - HEADERS_BYTES:
            yield (
                "warning",
                f"datagrams of {large} bytes leave {link.name} in fragments: its MTU is {link.mtu}",
                f"ip link set {link.name} mtu {large + HEADERS_BYTES}",
            )
        else:
            yield "ok", f"{each.to} leaves by {each.link or 'the route'}" + (f", MTU {link.mtu}" if link else "")


def _route_remedy(each: Output) -> str:
    return f"ip route add {each.address}/32 dev LINK" if "no route" in each.reason else ""


def _largest(walk: _Walk) -> int:
    found = [0]
    for each in walk.subject.inputs:
        look = walk.look(each.link)
        found += [look.largest[flow] for flow in walk.flows(each) if look and not flow.fragment]
    return max(found)


def _echo(walk: _Walk) -> Iterator[_Found]:
    counts = _moved(walk.index.rules, walk.subject.rule)
    if counts and counts["drops"].get("echo"):
        yield (
            "broken",
            f"{counts['drops']['echo']} withheld: {SAYINGS['echo']}",
            ("end the mirror, or give the second relay another output"),
        )
        return
    for each in walk.subject.outputs:
        flows = walk.index.flows.get((each.link, each.address), {}) if walk.look(each.link) else {}
        others = {flow.source: None for flow in flows if not flow.outgoing and flow.port == each.port}
        taken = {(i.link, i.group) for i in walk.subject.inputs}
        if others and (each.link, each.address) not in taken:
            names = ", ".join(map(str, list(others)[:3]))
            yield (
                "warning", f"{names} sends to {each.address}:{each.port} on {each.link} too: perhaps a second relay",
                "stop one of them, or give this output another group",
            )  # fmt: skip
    yield "ok", "nobody else was seen to send to its outputs"


STAGES: dict[str, Callable[[_Walk], Iterator[_Found]]] = {
    "relay": _relay,
    "privileges": _privileges,
    "link": _link,
    "offloads": _offloads,
    "membership": _membership,
    "report": _report,
    "query": _query,
    "bridge": _bridge,
    "frames": _frames,
    "sender": _sender,
    "match": _match,
    "ring": _ring,
    "send": _send,
    "egress": _egress,
    "echo": _echo,
}
