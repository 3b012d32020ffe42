"""The doctor's stages on evidence by hand: one fault is one line, and what follows from it is skipped."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from mcrelay.commands.doctor import chosen, report
from mcrelay.commands.evidence import PROBE, Evidence, Input, LinkLook, Output, Relay, Subject
from mcrelay.commands.stages import STAGES, diagnose, worst_of
from mcrelay.commands.walk import Finding, Index
from mcrelay.errors import UsageError
from mcrelay.igmp.messages import IS_EXCLUDE, Record, Report
from mcrelay.linux.features import Features
from mcrelay.model.frame import Datagram
from mcrelay.model.link import Link
from mcrelay.model.ports import Ports

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
    return Datagram(**{
        "source": SOURCE, "source_port": 4000, "group": GROUP, "port": port, "vlan": None, "ttl": 4, "payload": b"",
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


def evidence(flows=WHOLE, after=None, sent=(), **fields):
    counts = Counter(dict.fromkeys(flows, 10)), Counter(dict.fromkeys(sent, 10))
    look = LinkLook(*counts, dict.fromkeys([*flows, *sent], 100))
    look.reports.append(Report(IPv4Address("192.0.2.1"), 3, (Record(IS_EXCLUDE, PROBE),)))
    rules = [{"name": "x", "outputs": [{"source_address": "192.0.2.2", "source_port": 20000}]}]
    groups = [{"ifname": "in0", "group": str(GROUP), "reason": None}]
    relay = Relay({"version": "1"}, rules, [], groups, stats(), after or stats(rx=10, tx=10))
    links = {"in0": link("in0", 1), "out0": link("out0", 2)}
    facts = {"relay": relay, "links": links, "joined": {"in0": {GROUP}}, "offloads": {"in0": set()}}
    return Evidence(3.0, **facts | {"looks": {"in0": look}} | fields)


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
        (evidence((), links={"in0": link("in0", 1, hardware=32), "out0": link("out0", 2)}), "link"),
        (evidence((), joined={"in0": {PROBE}}), "membership"),
        (evidence(()), "frames"),
        (evidence((), sent=(flow(),)), "sender"),
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


def test_a_kernel_without_runs_is_a_warning_of_its_stage():
    assert wrong(SUBJECT, evidence(features=Features(udp_segment=False))) == {"privileges": "warning"}


def test_a_relay_is_broken_that_does_not_answer_and_a_restart_that_is_due_is_a_warning():
    silent = evidence(relay=None, silent=True, trouble="the relay at x has not answered within 5 s: it may be stopped")
    assert wrong(SUBJECT, silent) == {"relay": "broken"}
    assert wrong(SUBJECT, evidence(relay=None, trouble="no relay is running")) == {}
    relay = evidence().relay
    due = Relay({"version": "1", "restart_due": True}, relay.rules, [], relay.groups, relay.before, relay.after)
    assert wrong(SUBJECT, evidence(relay=due)) == {"relay": "warning"}


MISS = {"group": str(GROUP), "port": 5001, "source": str(SOURCE), "vlan": "none", "verdict": "no_match",
        "packets": 5, "last_time": 1.5, "rule": "x"}  # fmt: skip


@pytest.mark.parametrize(
    ("miss", "says"),
    [
        ({}, "5 from 192.0.2.55 to 239.1.1.1:5001, untagged, and the rule takes port 5000"),
        ({"port": 5000, "vlan": 7}, "VLAN 7, and the rule takes untagged frames"),
        ({"group": "239.9.9.9"}, ""),
        ({"port": None}, ""),
        ({"packets": 0}, ""),
    ],
)
def test_what_the_relay_nearly_took_says_what_differs_where_this_look_saw_nothing(miss, says):
    before, after = stats(), stats()
    before["links"][0]["near_misses"] = []
    after["links"][0]["near_misses"] = [MISS | miss]
    relay = evidence().relay
    told = Relay({"version": "1"}, relay.rules, [], relay.groups, before, after)
    found = evidence((), relay=told, may_look=False, looks={}, joined={})
    findings = {each.stage: each for each in diagnose(SUBJECT, found)}
    assert findings["match"].state == ("broken" if says else "skipped")
    assert says in findings["match"].text
    assert findings["frames"].state == "skipped"


def test_a_stream_that_another_rule_takes_is_no_reason_to_replace_this_one():
    taken = {"from": "239.1.1.1:5001%in0", "iif": "in0", "group": str(GROUP), "port": 5001, "source": None,
             "vlan": "none", "own": False, "state": "active", "reason": None}  # fmt: skip
    other = {"name": "y", "inputs": [taken], "outputs": [], "state": "active", "reason": None}
    relay = evidence().relay
    both = Relay({"version": "1"}, [*relay.rules, other], [], relay.groups, relay.before, relay.after)
    (found,) = [each for each in diagnose(SUBJECT, evidence((flow(5001),), relay=both)) if each.stage == "match"]
    assert (found.state, found.remedy) == ("broken", "")
    assert found.text.endswith("which is rule y's; this rule takes port 5000, and none came")
    (found,) = [
        each for each in diagnose(SUBJECT, evidence((flow(5001), flow(5002)), relay=both)) if each.stage == "match"
    ]
    assert ":5002" in found.text
    assert "mcrelay replace x" in found.remedy


def test_numbers_are_grouped_for_people(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    after = stats(rx=12345, tx=12345)
    told = {each.stage: each.text for each in diagnose(SUBJECT, evidence(after=after), Index(evidence(after=after)))}
    assert "12 345 datagrams taken" in told["match"]
    assert "12 345 frames" in told["ring"]
    assert "12 345 to 239.10.0.1" in told["send"]


def test_a_remedy_that_is_a_command_stays_whole_and_a_sentence_is_folded(monkeypatch):
    monkeypatch.setattr("mcrelay.commands.doctor.columns", lambda: 60)
    command = "nft insert rule inet filter output oifname eth1 meta l4proto igmp accept"
    sentence = "see whether it leaves its sender, and where on the way it ends"
    findings = [Finding("report", "broken", "x", command), Finding("frames", "broken", "y", sentence)]
    lines = report(SUBJECT, findings, colour=False, whole=True).splitlines()
    assert any(line.endswith(f"-> {command}") for line in lines)
    assert all(len(line) <= 60 for line in lines if command not in line)


def test_a_stream_in_fragments_is_one_like_others():
    assert wrong(SUBJECT, evidence((flow(fragment=True),))) == {}


def test_what_our_own_outputs_send_is_no_sender_of_this_host():
    own = flow(source=IPv4Address("192.0.2.2"), source_port=20000)
    assert wrong(SUBJECT, evidence(sent=(own,))) == {}
    assert wrong(SUBJECT, evidence(sent=(flow(),))) == {"sender": "warning"}


def test_what_this_host_sends_is_no_fault_where_the_rule_takes_it():
    own = replace(SUBJECT, inputs=(replace(SUBJECT.inputs[0], own=True),))
    found = evidence((), sent=(flow(),))
    assert wrong(own, found) == {}
    said = {each.stage: each for each in diagnose(own, found)}
    assert said["sender"].text.endswith("which own = true takes")
    assert said["frames"].state == said["match"].state == "ok"
    assert wrong(own, evidence((), sent=(flow(5001),))) == {"match": "broken"}


def test_errors_that_were_there_before_the_look_are_history():
    before, after = stats(rx=5, nobufs=9, echo=4, ring=7), stats(rx=15, nobufs=9, echo=4, ring=7)
    found = evidence()
    relay = Relay({"version": "1"}, found.relay.rules, [], found.relay.groups, before, after)
    assert wrong(SUBJECT, evidence(relay=relay)) == {}


def ranged(port="any"):
    """A rule for 239.1.1.0 to 239.1.1.3, whose first group nobody sends to."""
    first = IPv4Address("239.1.1.0")
    taken = Input(f"239.1.1.0/30:{port}%in0", "in0", first, port, group_count=4)
    return Subject("x", (taken,), (Output(f"239.9.0.0/30:{port}%out0", "out0", OUT, port, group_count=4),))


def joined(*places):
    return {"in0": {IPv4Address("239.1.1.0") + place for place in places}}


def test_every_group_of_a_range_is_looked_at():
    groups = [{"ifname": "in0", "group": f"239.1.1.{place}", "reason": None} for place in range(4)]
    relay = replace(evidence().relay, groups=groups)
    assert wrong(ranged(), evidence(relay=relay, joined=joined(0, 1, 2, 3))) == {}
    assert wrong(ranged(), evidence(relay=relay, joined=joined(0, 1, 2)))["membership"] == "broken"
    refused = replace(relay, groups=[*groups[:3], {**groups[3], "reason": "no room"}])
    assert wrong(ranged(), evidence(relay=refused, joined=joined(0, 1, 2)))["membership"] == "broken"


def test_a_port_that_a_list_does_not_name_is_no_match():
    relay = replace(evidence().relay, groups=[])
    ports = Ports(((5001, 5002),))
    assert wrong(ranged(ports), evidence(relay=relay, joined=joined(0, 1, 2, 3)))["match"] == "broken"
    assert wrong(ranged(ports), evidence((flow(5002),), relay=relay, joined=joined(0, 1, 2, 3))) == {}


def test_a_second_sender_to_any_destination_of_an_output_is_named():
    relay = replace(evidence().relay, groups=[])
    look = LinkLook(Counter({flow(7, group=OUT + 3): 1}))
    found = evidence(relay=relay, joined=joined(0, 1, 2, 3))
    found.looks["out0"] = look
    assert wrong(ranged(), found)["echo"] == "warning"


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


def test_a_rule_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(UsageError, match=r"there is no rule 'nosuch'.*the rules are x$"):
        chosen("nosuch", [SUBJECT])
    with pytest.raises(UsageError, match=r"there are no rules$"):
        chosen("nosuch", [])


@pytest.mark.parametrize(
    ("lost", "errors", "said"),
    [(0, 0, ""), (12, 0, ": RTP lost 12"), (0, 3, ": continuity errors 3"), (1, 2, "RTP lost 1, continuity errors 2")],
)
def test_what_a_stream_lost_on_its_way_here_is_a_warning_of_the_match(lost, errors, said):
    """During the look, and also where the rule has asked for its health only since then."""
    for before in ({"rtp": {"lost": 5}, "ts": {"continuity_errors": 5}}, None):
        found = evidence(after=stats(rx=10, tx=10))
        old, new = found.relay.before["rules"][0], found.relay.after["rules"][0]
        add = 5 if before else 0
        old["health"], new["health"] = before, {"rtp": {"lost": add + lost}, "ts": {"continuity_errors": add + errors}}
        assert wrong(SUBJECT, found) == ({"match": "warning"} if said else {})
        (match,) = [each for each in diagnose(SUBJECT, found) if each.stage == "match"]
        assert said in match.text
        assert bool(said) == ("lost" in match.text)
