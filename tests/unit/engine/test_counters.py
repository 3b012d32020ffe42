"""Counters of several workers added up, kept as long as they are wanted, and those of closed rings kept for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mcrelay.engine.counters import CounterRegistry
from mcrelay.model.state import CounterNames, InputCount, OutputCount, RingCount

NAMES = CounterNames(verdicts=("relayed", "vlan"), drops=("source", "echo"), send_errors=("nobufs", "mtu"))
INPUT_FIELDS = ("rx_packets", "rx_bytes", "last_packet_ns", "source", "echo")
OUTPUT_FIELDS = ("tx_packets", "tx_bytes", "since_packets", "tx_fragmented", "nobufs", "mtu")
INPUT, OUTPUT = ("x", "in"), ("x", "out")


class Block:
    """One worker's counters, as the core's are read."""

    def __init__(self, fields, groups=1):
        self.fields = fields
        self.groups = groups
        self.counts = (0,) * len(fields)
        self.of_groups = {}

    def read(self):
        return self.counts

    def read_groups(self):
        return self.of_groups


@pytest.fixture
def ledger():
    """Of two workers."""
    return registry(INPUT_FIELDS, OUTPUT_FIELDS)


def registry(inputs, outputs):
    def make(fields):
        return lambda groups: [Block(fields, groups) for _ in range(2)]

    return CounterRegistry(make(inputs), make(outputs), NAMES)


def count(blocks, *workers):
    for block, counts in zip(blocks, workers, strict=True):
        block.counts = counts


def test_an_input_is_the_sum_of_its_workers_and_its_last_packet_the_newest(ledger):
    count(ledger.input(INPUT), (1, 100, 5_000_000_000, 10, 0), (2, 200, 3_000_000_000, 20, 4))
    assert ledger.inputs() == {INPUT: InputCount(3, 300, 5.0, {"source": 30, "echo": 4})}


def test_an_input_that_has_had_no_packet_has_no_time(ledger):
    ledger.input(INPUT)
    assert ledger.inputs()[INPUT].last_packet_time is None


def test_an_output_is_the_sum_of_its_workers(ledger):
    count(ledger.output(OUTPUT), (1, 100, 30, 1, 7, 0), (2, 200, 40, 2, 0, 8))
    assert ledger.outputs() == {OUTPUT: OutputCount(3, 300, 70, {"nobufs": 7, "mtu": 8}, 3)}


def test_counters_are_told_by_their_names_in_whatever_order_the_core_has_them():
    ledger = registry(("echo", "other", *INPUT_FIELDS[:4]), ("other", "mtu", *OUTPUT_FIELDS[:5]))
    count(ledger.input(INPUT), (4, 99, 1, 100, 5_000_000_000, 10), (0, 99, 2, 200, 3_000_000_000, 20))
    count(ledger.output(OUTPUT), (99, 8, 1, 100, 30, 1, 7), (99, 0, 2, 200, 40, 2, 0))
    assert ledger.inputs() == {INPUT: InputCount(3, 300, 5.0, {"source": 30, "echo": 4})}
    assert ledger.outputs() == {OUTPUT: OutputCount(3, 300, 70, {"nobufs": 7, "mtu": 8}, 3)}
    assert ledger.drops() == {"x": {"source": 30, "echo": 4}}
    assert ledger.errors() == {OUTPUT: {"nobufs": 7, "mtu": 8}}


def test_what_a_former_input_counted_stays_its_rules_and_is_before_a_new_output(ledger):
    count(ledger.input(INPUT), (10, 100, 5_000_000_000, 1, 0), (20, 200, 3_000_000_000, 0, 2))
    ledger.output(OUTPUT)
    new = ("x", "in2")
    ledger.input(new)
    ledger.prune({new}, {OUTPUT})
    assert ledger.inputs()[new].rx_packets == 0
    assert ledger.retired() == {"x": InputCount(30, 300, 5.0, {"source": 1, "echo": 2})}
    assert ledger.drops() == {"x": {"source": 1, "echo": 2}}
    assert ledger.begin([OUTPUT]) == [], "it goes on"
    added = ("x", "out2")
    assert ledger.begin([OUTPUT, added]) == [(ledger.output(added), ledger.input(new))]
    assert ledger.outputs()[added].since_packets == 27
    ledger.prune({("y", "in")}, set())
    assert ledger.retired() == {}, "the rule is gone"


def test_counters_are_made_once(ledger):
    assert ledger.input(INPUT) is ledger.input(INPUT)
    assert ledger.output(OUTPUT) is ledger.output(OUTPUT)
    assert len(ledger.input(INPUT)) == 2


def test_what_is_kept_goes_on_and_what_is_not_begins_again(ledger):
    for slot in (INPUT, ("y", "in")):
        count(ledger.input(slot), (1, 1, 0, 0, 0), (0, 0, 0, 0, 0))
    for slot in (OUTPUT, ("y", "out")):
        count(ledger.output(slot), (1, 1, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0))
    ledger.prune({INPUT}, {OUTPUT})
    assert ledger.inputs().keys() == {INPUT}
    assert ledger.outputs().keys() == {OUTPUT}
    ledger.input(("y", "in"))
    ledger.output(("y", "out"))
    assert [each.rx_packets for each in ledger.inputs().values()] == [1, 0]
    assert [each.tx_packets for each in ledger.outputs().values()] == [1, 0]


def ring(received, dropped, relayed, vlan, *, coarse=False):
    return RingCount(received, dropped, {"relayed": relayed, "vlan": vlan}, coarse)


def test_a_link_has_what_its_closed_rings_counted_too(ledger):
    ledger.retire("in0", ring(10, 1, 8, 1))
    ledger.retire("in0", ring(100, 10, 80, 10))
    assert ledger.ring("in0", ring(1000, 100, 800, 100, coarse=True)) == RingCount(
        1110, 111, {"relayed": 888, "vlan": 111}, coarse=True
    )
    assert ledger.ring("in1", ring(1, 0, 1, 0)) == RingCount(1, 0, {"relayed": 1, "vlan": 0}, coarse=False)
    assert ledger.ring("in0", ring(0, 0, 0, 0)).rx_frames == 110, "read twice, buried once"


def test_refused_fragments_of_closed_rings_are_the_links_too(ledger):
    for count in (1, 20):
        ledger.retire("in0", replace(ring(0, 0, 0, 0), refused_fragments={"incomplete": count, "room": 0}))
    open_ = replace(ring(0, 0, 0, 0), refused_fragments={"incomplete": 300, "room": 4})
    assert ledger.ring("in0", open_).refused_fragments == {"incomplete": 321, "room": 4}


def test_only_rules_that_dropped_something_are_named_with_the_drops_of_all_their_inputs(ledger):
    count(ledger.input(("x", "a")), (1, 1, 1, 0, 3), (1, 1, 1, 0, 4))
    count(ledger.input(("x", "b")), (1, 1, 1, 2, 0), (1, 1, 1, 0, 0))
    count(ledger.input(("y", "a")), (9, 9, 9, 0, 0), (9, 9, 9, 0, 0))
    assert ledger.drops() == {"x": {"source": 2, "echo": 7}}
