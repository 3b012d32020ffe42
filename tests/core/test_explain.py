"""explain says of a frame what the loop does with it, and moves nothing."""

from __future__ import annotations

import asyncio

import pytest
from core.loops import ACCEPT_ALL, From, Running, Wire, plan_of, read, settle, verdicts
from core.test_wire import TABLE
from support.frames import GROUP, PORT, SOURCE, SOURCE_PORT, frame, number, tagged

from mcrelay._core.plan import PlanOwner
from mcrelay._core.policer import PolicerState
from mcrelay.config.parse import parse_config
from mcrelay.engine.ring import RingEngine
from mcrelay.linux.features import Features
from mcrelay.model.link import Link
from mcrelay.model.state import Explanation
from mcrelay.relay.compile import compile_plan

pytestmark = [pytest.mark.core, pytest.mark.net]

OURS = "198.51.100.1"
UNSENDABLE = {"nothing"}  # by a packet socket


@pytest.fixture
def wire(namespaces):
    made = Wire(namespaces)
    made.far.ip("link set s0 mtu 65535")
    made.near.ip("link set r0 mtu 65535")
    yield made
    made.close()


class Live:
    """A running plan; each frame is sent, and what moved is looked at."""

    def __init__(self, wire, ring, inputs):
        self.wire, self.ring, self.inputs = wire, ring, inputs
        self.sent = 0

    def _counted(self):
        return verdicts(self.ring), [each.counted for each in self.inputs]

    def judge(self, packet):
        """(verdict, number of the input that took it, why it dropped it), as `explain` has it."""
        frames, inputs = self._counted()
        self.wire.raw.send(packet)
        self.sent += 1
        settle(self.ring, self.sent)
        now, counts = self._counted()
        (verdict,) = [name for name in now if now[name] != frames.get(name, 0)]
        taken = [i for i, count in enumerate(counts) if count != inputs[i]]
        if not taken:
            return verdict, None, None
        drops, before = counts[taken[0]][2], inputs[taken[0]][2]
        reasons = [name for name in drops if drops[name] != before.get(name, 0)]
        return verdict, taken[0], reasons[0] if reasons else None


def explained(plan, packet, **options):
    verdict, label, reason = plan.explain(packet, ring=0, **options)
    return verdict, int(label[1]) if label else None, reason


def labelled(inputs):
    for i, each in enumerate(inputs):
        each.label = ("", str(i))
    return inputs


def test_every_frame_of_the_parsers_table_is_explained_as_the_loop_judges_it(wire):
    inputs = labelled([From([]), From([], port=65535)])
    ring = wire.ring(ACCEPT_ALL, frame_bytes=65535)
    plan = plan_of(1, [ring], inputs)
    with Running(plan):
        live = Live(wire, ring, inputs)
        for what, packet, verdict, _ in TABLE:
            told = explained(plan, packet)
            assert told[0] == verdict, what
            if what not in UNSENDABLE:
                assert told == live.judge(packet), what


def test_inputs_tags_sources_and_echoes_are_explained_as_the_loop_judges_them(wire):
    allow = [(number("192.0.2.0"), number("255.255.255.0"))]
    inputs = labelled(
        [From([]), From([], source="192.0.2.7"), From([], port=PORT + 1, allow=allow), From([], port=PORT + 2)]
    )
    ring = wire.ring(ACCEPT_ALL)
    own = [(number(OURS), SOURCE_PORT, number(GROUP), PORT)]
    plan = plan_of(1, [ring], inputs, own=own)
    cases = [
        (frame(), ("relayed", 0, None)),
        (frame(source="192.0.2.7"), ("relayed", 1, None)),
        (frame(port=PORT + 1, source="192.0.2.8"), ("relayed", 2, None)),
        (frame(port=PORT + 1, source="192.0.3.8"), ("dropped", 2, "source")),
        (frame(port=PORT + 2, source="192.0.3.8"), ("relayed", 3, None)),
        (frame(source=OURS), ("dropped", 0, "echo")),
        (frame(source=OURS, source_port=SOURCE_PORT + 1), ("relayed", 0, None)),
        (frame(port=9), ("no_match", None, None)),
        (frame(group="226.2.2.3"), ("no_match", None, None)),
    ]
    with Running(plan):
        live = Live(wire, ring, inputs)
        for packet, expected in cases:
            assert explained(plan, packet) == live.judge(packet) == expected
        for tci, expected in ((0, ("relayed", 0, None)), (0xE000, ("relayed", 0, None)), (100, ("vlan", None, None))):
            assert explained(plan, frame(), tci=tci) == live.judge(tagged(frame(), tci)) == expected
    looped = plan_of(2, [ring], inputs, own=own, loopback=[0])
    assert explained(looped, frame(source=OURS)) == ("relayed", 0, None)


def test_explaining_counts_nothing_and_leaves_the_policer_alone(wire, probe):
    policer = PolicerState(1, bits=False)
    entry = From([], policer=policer, allow=[(number(SOURCE), 0xFFFFFFFF)])
    ring = wire.ring(ACCEPT_ALL)
    plan = plan_of(1, [ring], [entry], own=[(number(OURS), SOURCE_PORT, number(GROUP), PORT)])
    before = probe.bucket(policer)
    for _ in range(300):
        assert plan.explain(frame(), ring=0)[0] == "relayed"
        for packet in (frame(source=OURS), frame(source="192.0.2.99"), frame(port=9), b""):
            plan.explain(packet, ring=0)
    assert probe.bucket(policer) == before
    assert not any(read(ring.frames).values())
    assert not any(read(entry.block).values())


def test_a_ring_that_is_not_there_and_a_plan_that_is_not_sealed_are_refused(wire):
    plan = plan_of(1, [wire.ring()], [])
    with pytest.raises(ValueError, match="ring 1 of 1"):
        plan.explain(frame(), ring=1)
    with pytest.raises(ValueError, match="plan 2 is not sealed"):
        PlanOwner(2).explain(frame(), ring=0)


def test_the_engine_names_the_rule_and_the_input(wire):
    text = f"""
        [rules.x]
        input = "{GROUP}:{PORT}%r0"
        outputs = ["127.0.0.1:9"]
        allow = ["{SOURCE}"]
    """
    links = {"r0": Link("r0", wire.ifindex, True, True, "UP", 1500)}
    spec = compile_plan(parse_config([("x.toml", text)]).config, links)
    (taken,) = [each.text for rule in spec.rules for each in rule.inputs]

    def ask():
        engine = RingEngine(Features(), workers=2)
        engine.start()
        try:
            assert engine.explain(frame(), wire.ifindex) is None, "nothing is captured yet"
            asyncio.run(engine.apply(spec))
            return [engine.explain(each, wire.ifindex) for each in (frame(), frame(source=OURS), frame(port=9))]
        finally:
            engine.close()

    assert wire.near.call(ask) == [
        Explanation("relayed", "x", taken),
        Explanation("dropped", "x", taken, "source"),
        Explanation("no_match"),
    ]
