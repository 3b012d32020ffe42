"""Slots of the kernel engine's maps: nothing is given twice, nothing is lost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrelay.engine.table import FullError, InputCounters, OutputCounters, Slots, macs_of


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60))
def test_no_place_is_given_twice_and_all_come_back(steps):
    slots, held = Slots(32), []
    for takes, count in steps:
        if takes:
            try:
                first = slots.take(count)
            except FullError:
                continue
            mine = set(range(first, first + count))
            assert not any(mine & set(range(start, start + size)) for start, size in held)
            assert mine <= set(range(32))
            held.append((first, count))
        elif held:
            slots.give(*held.pop())
    for each in held:
        slots.give(*each)
    assert slots.take(32) == 0


def test_a_full_array_says_so():
    slots = Slots(2)
    slots.take(2)
    with pytest.raises(FullError):
        slots.take()


def test_counters_without_a_slot_read_what_they_had():
    """Each as many as it has fields: the registry adds them up with those of the workers."""
    for counters in (InputCounters(), OutputCounters()):
        assert counters.read() == (0,) * len(counters.fields)


def test_what_a_slot_had_is_kept_when_it_goes():
    table = SimpleNamespace(
        program=SimpleNamespace(read_input=lambda slot: (slot, 10 * slot, slot), read_output=lambda _: range(12)),
        unix_ns=lambda moment: 1000 + moment,
    )
    counters = InputCounters()
    counters.table, counters.slots = table, [3, 5]
    counters.fold(3)
    assert (counters.slots, counters.passed) == ([5], 3)
    before = counters.read()
    counters.fold(5)
    assert counters.read() == before
    named = dict(zip(counters.fields, before, strict=True))
    assert (named["rx_packets"], named["rx_bytes"], named["last_packet_ns"]) == (8, 80, 1005)
    output = OutputCounters()
    output.table, output.slot, output.since = table, 0, 7
    before = output.read()
    output.fold()
    assert output.read() == before == (0, 1, 7, 0, *range(2, 12))


def test_a_group_has_the_mac_of_rfc_1112_and_of_rfc_2464():
    assert macs_of(0xEF8A0001, b"\2\0\0\0\0\1") == bytes.fromhex("01005e0a0001020000000001")
    six = bytes.fromhex("ff1500000000000000000000ef8a0001")
    assert macs_of(six, b"\2\0\0\0\0\1") == bytes.fromhex("3333ef8a0001020000000001")
