"""Inputs of many streams: which of them takes a datagram, and where each of its datagrams goes and is counted."""

from __future__ import annotations

import contextlib
import socket

import pytest
from core.loops import ACCEPT_ALL, SO_RCVBUFFORCE, Running, Wire, quiet, settle, take, verdicts
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.frames import GROUP, SOURCE, SOURCE_PORT, frame, number

from mcrelay._core.counters import INPUT_FIELDS, OUTPUT_FIELDS, CounterBlock
from mcrelay._core.egress import EgressSocket, GsoState
from mcrelay._core.plan import PlanOwner
from mcrelay._core.policer import PolicerState

pytestmark = [pytest.mark.core, pytest.mark.net]

FIRST = "226.2.2.0"
HOSTS = "127.0.1.0"  # all of 127.0.0.0/8 is this host's: a range of them stands for a range of groups


@pytest.fixture
def wire(namespaces):
    made = Wire(namespaces)
    yield made
    made.close()


def group(place: int) -> str:
    return f"226.2.2.{place}"


def counters(fields, groups=1):
    return CounterBlock(fields, groups)


def addressed(wire, port=0):
    """A socket that sends to any of HOSTS."""
    return wire.near.call(
        lambda: EgressSocket(
            number(HOSTS), port or 9, GsoState(), payload_max=1472, addressed=True,
            source_address=number("127.0.0.1"), bind_source=True,
        )
    )  # fmt: skip


def sink_of(wire, place: int, port: int):
    sink = wire.near.socket()
    with contextlib.suppress(PermissionError):  # then only small bursts fit
        sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    sink.bind((f"127.0.1.{place}", port))
    sink.settimeout(5)
    return sink


@pytest.mark.parametrize("superframes", [False, True])
def test_datagrams_of_many_groups_go_each_to_its_place_in_order_and_are_counted_there(wire, superframes):
    ring = wire.ring(ACCEPT_ALL)
    received, sent = counters(INPUT_FIELDS, 4), counters(OUTPUT_FIELDS, 4)
    plan = PlanOwner(1)
    plan.add_ring(ring)
    flow = plan.add_flow(addressed=True, lanes=2)  # fewer than groups: two streams share each
    plan.add_output(
        flow=flow, socket=addressed(wire), counters=sent, burst=16, keep_dscp=True, group=number(HOSTS), port=7000
    )
    plan.add_input(flow=flow, ring=0, group=number(FIRST), spans=((5000, 5001), (6000, 6000)), counters=received)
    sinks = [sink_of(wire, place, 7000) for place in range(4)]
    sender = wire.sender(segment=4 if superframes else 0)
    with Running(plan.seal()):
        for i in range(90):
            for place in range(4):
                payload = b"".join(b"%02d%d " % (i, k) for k in range(5))
                size = len(payload) if superframes else 4
                sender.connect((group(place), (5000, 5001, 6000, 5000)[place]))
                sender.send(payload[:size])
        settle(ring, 360)
    number_of = 90 * (5 if superframes else 1)
    for place, sink in enumerate(sinks):
        expected = [b"%02d%d " % (i, k) for i in range(90) for k in range(5 if superframes else 1)]
        assert take(sink, number_of) == expected, place
        assert quiet(sink)
        sink.close()
    assert verdicts(ring) == {"relayed": 360}
    rx = {place: counts[INPUT_FIELDS.index("rx_packets")] for place, counts in received.read_groups().items()}
    tx = {place: counts[OUTPUT_FIELDS.index("tx_packets")] for place, counts in sent.read_groups().items()}
    assert rx == tx == dict.fromkeys(range(4), number_of)
    assert received.read()[0] == 4 * number_of


def test_ports_are_kept_or_mapped_and_what_leaves_no_more_is_counted_in_its_group(wire):
    ring = wire.ring(ACCEPT_ALL)
    mapped, parked = counters(OUTPUT_FIELDS, 2), counters(OUTPUT_FIELDS, 2)
    plan = PlanOwner(1)
    plan.add_ring(ring)
    flow = plan.add_flow(addressed=True, lanes=64)
    plan.add_output(
        flow=flow, socket=addressed(wire), counters=mapped, burst=16, keep_dscp=True, group=number(HOSTS),
        keep_ttl=True, hops=1, spans=((5000, 5001, 7000),),
    )  # fmt: skip
    plan.add_output(flow=flow, socket=None, counters=parked, burst=16, keep_dscp=True, group=number(HOSTS))
    plan.add_input(flow=flow, ring=0, group=number(FIRST), counters=counters(INPUT_FIELDS, 2))
    sinks = [sink_of(wire, 0, 7001), sink_of(wire, 1, 9999)]
    with Running(plan.seal()):
        wire.raw.send(frame(b"mapped", group=group(0), port=5001))
        wire.raw.send(frame(b"kept", group=group(1), port=9999))
        wire.raw.send(frame(b"over", group=group(1), port=9999, ttl=1))
        settle(ring, 3)
    assert [sink.recv(100) for sink in sinks] == [b"mapped", b"kept"]
    assert all(map(quiet, sinks))
    for sink in sinks:
        sink.close()
    names = ("tx_packets", "ttl", "parked")
    assert [
        {place: [counts[OUTPUT_FIELDS.index(name)] for name in names] for place, counts in block.read_groups().items()}
        for block in (mapped, parked)
    ] == [{0: [1, 0, 0], 1: [1, 1, 0]}, {0: [0, 0, 1], 1: [0, 0, 2]}]


def plan_with(wire, *inputs, own=()):
    """A sealed plan of such inputs, by name: first group, groups, port (0: any), source, VLAN (0: untagged)."""
    plan = PlanOwner(1)
    plan.add_ring(wire.ring(ring_bytes=1 << 20))
    for name, first, groups, port, source, *vlan in inputs:
        flow = plan.add_flow(addressed=True)
        plan.add_input(
            flow=flow, ring=0, group=number(first), source=number(source) if source else 0, port=port,
            counters=counters(INPUT_FIELDS, groups), label=(name, name), vlan=vlan[0] if vlan else 0,
        )  # fmt: skip
    for each in own:
        plan.add_own(**each)
    return plan.seal()


def taken(plan, packet, vlan=0):
    """The input that takes a frame, with why it drops it; else the verdict."""
    verdict, label, reason = plan.explain(packet, ring=0, tci=vlan or None)
    if label is None:
        return verdict
    return (label[0], reason) if reason else label[0]


SHAPES = [
    ("source any", FIRST, 16, 0, SOURCE),
    ("one", GROUP, 1, 2068, None),
    ("near", FIRST, 8, 2068, None),
    ("wide", FIRST, 256, 2068, None),
    ("any", GROUP, 1, 0, None),
    ("any near", FIRST, 4, 0, None),
    ("any wide", FIRST, 256, 0, None),
]


@pytest.mark.parametrize("backwards", [False, True])
def test_the_most_exact_input_takes_a_datagram_whatever_their_order(wire, backwards):
    plan = plan_with(wire, *(SHAPES[::-1] if backwards else SHAPES))
    other = {"source": "192.0.2.7"}
    assert taken(plan, frame(group=GROUP)) == "source any"
    assert taken(plan, frame(group=group(15), port=1)) == "source any"
    assert taken(plan, frame(group=group(16))) == "wide"
    assert taken(plan, frame(group=GROUP, **other)) == "one"
    assert taken(plan, frame(group=group(3), **other)) == "near"
    assert taken(plan, frame(group=group(8), **other)) == "wide"
    assert taken(plan, frame(group=GROUP, port=1, **other)) == "any"
    assert taken(plan, frame(group=group(3), port=1, **other)) == "any near"
    assert taken(plan, frame(group=group(255), port=1, **other)) == "any wide"
    assert taken(plan, frame(group="226.2.3.0", **other)) == "no_match"


GROUPS, PORTS, SOURCES, VLANS = range(8), (1, 2, 3), (None, SOURCE), (0, 100, None)


@st.composite
def shapes(draw):
    """Inputs that no other of them is the same as: (first place, groups, port, source, VLAN)."""
    lengths, ports = st.sampled_from([1, 2, 4, 8]), st.sampled_from([0, *PORTS[:2]])
    one = st.tuples(lengths, st.integers(0, 7), ports, st.sampled_from(SOURCES), st.sampled_from(VLANS))
    found = draw(st.lists(one, max_size=12))
    return list(dict.fromkeys((place // groups * groups, groups, *rest) for groups, place, *rest in found))


def best(inputs, place: int, port: int, source: str, vlan: int):
    """The contract, said plainly: source before none, port before any, group before range, VLAN id before any."""
    fit = [
        (of_source is None, of_port == 0, groups, of_vlan is None, (first, groups, of_port, of_source, of_vlan))
        for first, groups, of_port, of_source, of_vlan in inputs
        if first <= place < first + groups and of_port in {0, port} and of_source in {None, source}
        if of_vlan in {None, vlan}
    ]
    return min(fit, key=lambda found: found[:4])[4] if fit else None


@given(shapes())
@example([(0, 8, 1, None, 100), (0, 1, 1, None, None), (0, 2, 0, SOURCE, None), (0, 4, 0, SOURCE, 100)])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_datagram_is_taken_as_the_order_of_precedence_says(wire, inputs):
    plan = plan_with(wire, *((each, group(each[0]), *each[1:]) for each in inputs))
    for place in GROUPS:
        for port in PORTS:
            for source in (SOURCE, "192.0.2.7"):
                packet = frame(b"x", group=group(place), port=port, source=source)
                for vlan in (0, 100, 200):
                    expected = best(inputs, place, port, source, vlan) or ("vlan" if vlan else "no_match")
                    assert taken(plan, packet, vlan) == expected


def test_our_own_datagrams_are_told_by_each_group_and_port_that_an_output_sends_to(wire):
    ends = {"source": number(SOURCE), "source_port": SOURCE_PORT}
    listed = {**ends, "address": number(FIRST), "port": 5000, "groups": 4}
    kept = {**ends, "address": number(group(8)), "port": 0, "groups": 2}
    plan = plan_with(wire, ("x", FIRST, 16, 0, None), own=(listed, kept))
    assert taken(plan, frame(group=group(3), port=5000)) == ("x", "echo")
    assert taken(plan, frame(group=group(4), port=5000)) == "x"
    assert taken(plan, frame(group=group(3), port=5001)) == "x"
    assert taken(plan, frame(group=group(9), port=77)) == ("x", "echo")
    assert taken(plan, frame(group=group(10), port=77)) == "x"
    assert taken(plan, frame(group=group(9), port=77, source_port=1)) == "x"


def test_two_inputs_of_one_key_and_many_streams_of_a_flow_for_one_are_refused(wire):
    with pytest.raises(ValueError, match="two inputs with one key"):
        plan_with(wire, ("a", FIRST, 4, 2068, None), ("b", FIRST, 4, 2068, None))
    plan = PlanOwner(1)
    plan.add_ring(wire.ring())
    flow = plan.add_flow()
    for port, groups in ((0, 1), (2068, 2)):
        with pytest.raises(ValueError, match="not addressed"):
            plan.add_input(flow=flow, ring=0, group=number(FIRST), port=port, counters=counters(INPUT_FIELDS, groups))
    flow = plan.add_flow(addressed=True)
    with pytest.raises(ValueError, match="limits for 1 groups of 2"):
        plan.add_input(
            flow=flow, ring=0, group=number(FIRST), port=1, counters=counters(INPUT_FIELDS, 2),
            policer=PolicerState(1, bits=False),
        )  # fmt: skip


def test_a_limit_holds_for_each_group_by_itself(wire):
    ring = wire.ring(ACCEPT_ALL)
    received = counters(INPUT_FIELDS, 2)
    plan = PlanOwner(1)
    plan.add_ring(ring)
    flow = plan.add_flow(addressed=True)
    plan.add_input(
        flow=flow, ring=0, group=number(FIRST), port=2068, counters=received, policer=PolicerState(1, False, 2)
    )
    with Running(plan.seal()):
        for i in range(300):
            wire.raw.send(frame(b"x", group=group(int(i % 3 == 0))))
        settle(ring, 300)
    dropped = {place: counts[INPUT_FIELDS.index("policer")] for place, counts in received.read_groups().items()}
    assert dropped == {0: 200 - 128, 1: 0}  # a tenth of a second of it, and 128 at least
