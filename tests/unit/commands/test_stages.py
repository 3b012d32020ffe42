"""The doctor's stages on evidence by hand: one fault is one line, and what follows from it is skipped."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv4Interface

import pytest

from mcrelay.commands.doctor import chosen, report
from mcrelay.commands.evidence import PROBE, Evidence, Flow, Input, LinkLook, Output, Relay, Subject
from mcrelay.commands.stages import STAGES, diagnose, worst_of
from mcrelay.errors import UsageError
from mcrelay.igmp.wire import IS_EXCLUDE, Record, Report
from mcrelay.model.link import Link

GROUP, OUT = IPv4Address("239.1.1.1"), IPv4Address("239.10.0.1")
SOURCE = IPv4Address("192.0.2.55")
SUBJECT = Subject(
    "x", (Input("239.1.1.1:5000%in0", "in0", GROUP, 5000),), (Output("239.10.0.1:5004%out0", "out0", OUT, 5004),)
)


def link(name, index, **fields):
    facts = {"up": True, "carrier": True, "operstate": "UP", "mtu": 1500}
    addresses = (IPv4Interface(f"192.0.2.{index}/24"),)
    return Link(**{"name": name, "ifindex": index, "addresses": addresses} | facts | fields)


def flow(port=5000, **fields):
    return Flow(**{
        "source": SOURCE, "source_port": 4000, "group": GROUP, "port": port, "vlan": None, "ttl": 4,
        "fragment": False, "outgoing": False,
    } | fields)  # fmt: skip


def stats(rx=0, echo=0, tx=0, ring=0, **errors):
    frames = {"truncated": 0, "malformed": 0, "tunnel": 0}
    return {
        "rules": [{
            "name": "x", "rx_packets": rx, "drops": {"source": 0, "policer": 0, "echo": echo},
            "outputs": [{"to": "239.10.0.1:5004%out0", "tx_packets": tx, "tx_errors": errors}],
        }],
        "links": [{"ifname": "in0", "rx_frames": rx, "ring_dropped_frames": ring, "frames": frames}],
    }  # fmt: skip


WHOLE = (flow(),)


def evidence(flows=WHOLE, after=None, **fields):
    look = LinkLook(Counter(dict.fromkeys(flows, 10)), dict.fromkeys(flows, 100))
    look.reports.append(Report(IPv4Address("192.0.2.1"), 3, (Record(IS_EXCLUDE, PROBE),)))
    rules = [{"name": "x", "outputs": [{"source_address": "192.0.2.2", "source_port": 20000}]}]
    groups = [{"ifname": "in0", "group": str(GROUP), "reason": None}]
    relay = Relay({"version": "1"}, rules, [], groups, stats(), after or stats(rx=10, tx=10))
    links = {"in0": link("in0", 1), "out0": link("out0", 2)}
    facts = {"relay": relay, "links": links, "joined": {"in0": {GROUP}}, "offloads": {"in0": set()}}
    return Evidence(3.0, looks={"in0": look}, **facts | fields)


def wrong(subject, found):
    return {each.stage: each.state for each in diagnose(subject, found) if each.state in {"broken", "warning"}}


def test_every_stage_speaks_in_order_and_nothing_is_wrong():
    findings = diagnose(SUBJECT, evidence())
    assert [each.stage for each in findings] == list(STAGES)
    assert worst_of(findings) == "ok"


@pytest.mark.parametrize(
    ("found", "stage"),
    [
        (evidence((), links={"out0": link("out0", 2)}), "link"),
        (evidence((), links={"in0": link("in0", 1, up=False), "out0": link("out0", 2)}), "link"),
        (evidence((), links={"in0": link("in0", 1, hardware=65534), "out0": link("out0", 2)}), "link"),
        (evidence((), joined={"in0": {PROBE}}), "membership"),
        (evidence(()), "frames"),
        (evidence((flow(outgoing=True),)), "sender"),
        (evidence((flow(5001),)), "match"),
        (evidence((flow(vlan=7),)), "match"),
        (evidence(after=stats(tx=10)), "match"),
        (evidence(after=stats(rx=10, ring=3)), "ring"),
        (evidence(after=stats(rx=10, nobufs=3)), "send"),
        (evidence(after=stats(rx=10, echo=3)), "echo"),
        (evidence(links={"in0": link("in0", 1), "out0": link("out0", 2, addresses=())}), "egress"),
    ],
)
def test_one_fault_is_one_broken_stage(found, stage):
    assert wrong(SUBJECT, found) == {stage: "broken"}


def test_a_stream_in_fragments_is_one_like_others():
    assert wrong(SUBJECT, evidence((flow(fragment=True),))) == {}


def test_what_our_own_outputs_send_is_no_sender_of_this_host():
    own = flow(outgoing=True, source=IPv4Address("192.0.2.2"), source_port=20000)
    assert wrong(SUBJECT, evidence((flow(), own))) == {}
    assert wrong(SUBJECT, evidence((flow(), flow(outgoing=True)))) == {"sender": "warning"}


def test_errors_that_were_there_before_the_look_are_history():
    before, after = stats(rx=5, nobufs=9, echo=4, ring=7), stats(rx=15, nobufs=9, echo=4, ring=7)
    found = evidence()
    relay = Relay({"version": "1"}, found.relay.rules, [], found.relay.groups, before, after)
    assert wrong(SUBJECT, evidence(relay=relay)) == {}


def test_a_rule_without_a_fault_among_others_is_one_line():
    findings = diagnose(SUBJECT, evidence())
    assert report(SUBJECT, findings, colour=False, whole=False) == "x: ok"
    shown = report(SUBJECT, diagnose(SUBJECT, evidence((flow(5001),))), colour=False, whole=False)
    assert (
        "  match       broken   10 from 192.0.2.55 to 239.1.1.1:5001, untagged, TTL 4, and the rule takes port 5000"
        in shown
    )
    assert "-> mcrelay replace x 192.0.2.55@239.1.1.1:5001%in0 239.10.0.1:5004%out0" in shown


def test_who_is_meant():
    other = Subject("y", (Input("239.1.1.1:5001%in0", "in0", GROUP, 5001),))
    known = [SUBJECT, other]
    assert chosen(None, known) == known
    assert chosen("y", known) == [other]
    assert chosen("239.1.1.1", known) == known
    assert chosen("239.1.1.1:5000%in0", known) == [SUBJECT]
    assert chosen("192.0.2.1@239.7.7.7:1%in0", known)[0].inputs[0].source == IPv4Address("192.0.2.1")
    for text in ("nothing", "239.7.7.7:1", "192.0.2.1:1"):
        with pytest.raises(UsageError):
            chosen(text, known)
