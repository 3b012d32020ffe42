"""How a rule stands: what was planned, overlaid with what the kernel refused."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from mcrelay.model.plan import InputSpec, OutputSpec, PlanSpec, RuleSpec
from mcrelay.relay.status import rule_statuses

INPUT = InputSpec("226.2.2.2:2068%in0", "in0", 4, IPv4Address("226.2.2.2"), None, 2068)
OUTPUT = OutputSpec(
    to="239.10.0.1:5004%out0",
    address=IPv4Address("239.10.0.1"),
    port=5004,
    oif="out0",
    ifindex=5,
    source_address=IPv4Address("198.51.100.1"),
    bind_source=False,
    source_port=20000,
    exact_port=False,
    ttl=16,
    dscp=None,
    burst=16,
    payload_max=1472,
)
SECOND = replace(OUTPUT, to="239.10.0.2:5004%out0")
PENDING = replace(INPUT, state="pending", reason="link in0 does not exist", ifindex=0)
PARKED = replace(INPUT, state="parked", reason="link in0 is down")
FAILED = replace(INPUT, state="error", reason="link in0 carries no Ethernet frames")
DOWN = replace(OUTPUT, state="parked", reason="link out0 is down")


PORT = replace(INPUT, reason="in0 is a port of br0: take the input from br0")


def status(inputs=(INPUT,), outputs=(OUTPUT,), *, enabled=True, rings=None, refused=None, joins=None):
    rule = RuleSpec("x", "file", "", enabled, tuple(inputs), tuple(outputs))
    (found,) = rule_statuses(PlanSpec((rule,)), rings or {}, refused or {}, joins or {})
    assert found.rule == rule
    return found


@pytest.mark.parametrize(
    ("inputs", "outputs", "state", "reason"),
    [
        ([INPUT], [OUTPUT], "active", ""),
        ([PENDING], [OUTPUT], "pending", PENDING.reason),
        ([PARKED], [OUTPUT], "parked", PARKED.reason),
        ([FAILED], [OUTPUT], "error", FAILED.reason),
        ([INPUT], [DOWN], "parked", DOWN.reason),
        ([INPUT], [DOWN, SECOND], "active", ""),
        ([PENDING], [DOWN], "pending", PENDING.reason),
        ([INPUT, PARKED, PENDING, FAILED], [OUTPUT], "error", FAILED.reason),
        ([INPUT, PARKED, PENDING], [OUTPUT], "pending", PENDING.reason),
    ],
)
def test_the_state_of_a_rule_is_what_stops_it(inputs, outputs, state, reason):
    found = status(inputs, outputs)
    assert (found.state, found.reason) == (state, reason)
    assert (found.inputs, found.outputs) == (tuple(inputs), tuple(outputs))


def test_a_disabled_rule_is_disabled_whatever_its_links_do():
    off = replace(INPUT, state="disabled")
    assert (status([off], [DOWN], enabled=False).state, status([off], enabled=False).reason) == ("disabled", "")


def test_a_refused_ring_is_an_error_of_every_rule_on_that_link_alone():
    found = status(rings={4: "no memory for the ring of in0"})
    assert (found.state, found.reason) == ("error", "no memory for the ring of in0")
    assert found.inputs == (replace(INPUT, state="error", reason="no memory for the ring of in0"),)
    assert status(rings={5: "another"}).state == "active"


def test_a_refused_join_is_an_error_of_that_membership_alone():
    other = replace(INPUT, source=IPv4Address("192.0.2.9"))
    assert status(joins={INPUT.memberships[0]: "limit"}).reason == "limit"
    assert status(joins={other.memberships[0]: "limit"}).state == "active"


def test_a_ring_goes_before_a_join():
    assert status(rings={4: "ring"}, joins={INPUT.memberships[0]: "join"}).reason == "ring"


def test_a_link_that_is_gone_is_pending_and_not_what_the_kernel_said_last():
    found = status([PENDING], rings={0: "stale"}, joins={PENDING.memberships[0]: "stale"})
    assert (found.state, found.reason) == ("pending", PENDING.reason)


def test_a_parked_input_may_fail_too():
    assert status([PARKED], joins={PARKED.memberships[0]: "no device"}).state == "error"


def test_a_refused_output_is_an_error_and_the_others_keep_the_rule_active():
    refused = {("x", OUTPUT.to): "no route"}
    found = status(outputs=[OUTPUT, SECOND], refused=refused)
    assert (found.state, found.reason) == ("active", "")
    assert [(each.state, each.reason) for each in found.outputs] == [("error", "no route"), ("active", "")]


def test_a_rule_without_a_living_output_is_an_error_if_one_was_refused_else_parked():
    refused = {("x", SECOND.to): "no route"}
    found = status(outputs=[DOWN, SECOND], refused=refused)
    assert (found.state, found.reason) == ("error", "no route")
    assert status(outputs=[DOWN]).state == "parked"


def test_an_output_of_another_rule_is_not_meant():
    assert status(refused={("y", OUTPUT.to): "no route"}).outputs == (OUTPUT,)


def test_rules_keep_their_order():
    rules = tuple(RuleSpec(name, "file", "", True, (INPUT,), (OUTPUT,)) for name in ("b", "a", "c"))
    assert [each.rule.name for each in rule_statuses(PlanSpec(rules), {}, {}, {})] == ["b", "a", "c"]


def test_an_active_rule_says_what_will_stop_it():
    found = status(inputs=(INPUT, PORT))
    assert (found.state, found.reason) == ("active", "in0 is a port of br0: take the input from br0")
