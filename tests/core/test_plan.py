"""How a plan is built, and that it never changes once it is sealed."""

from __future__ import annotations

import os

import pytest
from core.loops import ACCEPT_ALL, From, Running, To, Wire, settle, verdicts
from support.frames import GROUP, PORT, frame, number

from mcrelay._core.counters import INPUT_FIELDS, OUTPUT_FIELDS, CounterBlock
from mcrelay._core.plan import PlanOwner
from mcrelay._core.worker import Worker

pytestmark = [pytest.mark.core, pytest.mark.net]


@pytest.fixture
def wire(namespaces):
    made = Wire(namespaces)
    yield made
    made.close()


def an_output():
    return {"socket": None, "counters": CounterBlock(OUTPUT_FIELDS), "burst": 16, "keep_dscp": True}


def an_input():
    return {"group": number(GROUP), "port": PORT, "counters": CounterBlock(INPUT_FIELDS)}


def test_several_inputs_feed_one_flow_in_order_and_each_counts_its_own(wire):
    sink = wire.sink()
    output = To(wire.output_to(sink))
    first, second = From([output]), From([output], port=PORT + 1)
    ring = wire.ring(ACCEPT_ALL)
    plan = PlanOwner(1)
    plan.add_ring(ring)
    first.add_to(plan)
    second.add_to(plan, flow=0)
    with Running(plan.seal()):
        for i in range(100):
            wire.raw.send(frame(bytes([i]), port=PORT + i % 2, source=f"192.0.2.{10 + i % 2}"))
        settle(ring, 100)
    assert verdicts(ring) == {"relayed": 100}
    assert first.counted == second.counted == (50, 50, {})
    assert output.counted == (100, 100, {})
    assert [sink.recv(100) for _ in range(100)] == [bytes([i]) for i in range(100)]


def test_a_sealed_plan_takes_nothing_more(wire):
    ring = wire.ring()
    plan = PlanOwner(7)
    plan.add_ring(ring)
    flow = plan.add_flow()
    assert not plan.sealed
    assert plan.seal() is plan
    assert plan.sealed
    counters = {"output": CounterBlock(OUTPUT_FIELDS), "of_input": CounterBlock(INPUT_FIELDS)}
    for add in (
        lambda: plan.add_ring(ring),
        plan.add_flow,
        lambda: plan.add_output(flow=flow, **an_output()),
        lambda: plan.add_input(flow=flow, ring=0, **an_input()),
        lambda: plan.add_own(source=1, source_port=2, address=3, port=4),
        lambda: plan.add_beginning(**counters),
        plan.seal,
    ):
        with pytest.raises(RuntimeError, match="plan 7 is sealed"):
            add()


def test_a_worker_takes_only_a_sealed_plan(wire):
    half = PlanOwner(2)
    half.add_ring(wire.ring())
    with Running(PlanOwner(1).seal()) as running, pytest.raises(ValueError, match="plan 2 is not sealed"):
        running.publish(half)
    wake_fd = os.eventfd(0)
    try:
        with pytest.raises(ValueError, match="plan 2 is not sealed"):
            Worker(half, wake_fd)
    finally:
        os.close(wake_fd)


def test_a_plan_that_could_not_be_sealed_is_none(wire):
    plan = PlanOwner(3)
    plan.add_ring(wire.ring())
    flow = plan.add_flow()
    for _ in range(2):
        plan.add_input(flow=flow, ring=0, **an_input())
    with pytest.raises(ValueError, match="two inputs with one key"):
        plan.seal()
    assert not plan.sealed
    with pytest.raises(RuntimeError):
        plan.add_flow()


def test_outputs_are_added_to_the_newest_flow_and_inputs_to_any(wire):
    plan = PlanOwner(1)
    plan.add_ring(wire.ring())
    with pytest.raises(ValueError, match="flow 0, of 0"):
        plan.add_output(flow=0, **an_output())
    with pytest.raises(ValueError, match="flow 0 of 0"):
        plan.add_input(flow=0, ring=0, **an_input())
    first, second = plan.add_flow(), plan.add_flow()
    with pytest.raises(ValueError, match="flow 0, of 2"):
        plan.add_output(flow=first, **an_output())
    plan.add_output(flow=second, **an_output())
    assert plan.add_input(flow=first, ring=0, **an_input()) == 0


def test_counters_of_another_kind_are_refused(wire):
    plan = PlanOwner(1)
    plan.add_ring(wire.ring())
    flow = plan.add_flow()
    with pytest.raises(ValueError, match="another kind"):
        plan.add_output(flow=flow, **{**an_output(), "counters": CounterBlock(INPUT_FIELDS)})
    with pytest.raises(ValueError, match="another kind"):
        plan.add_input(flow=flow, ring=0, **{**an_input(), "counters": CounterBlock(OUTPUT_FIELDS)})
