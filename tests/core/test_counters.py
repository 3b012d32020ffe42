"""Counter blocks, and that names and numbers of verdicts, drops and errors agree."""

from __future__ import annotations

import pytest
from core.loops import read

from mcrelay._core.counters import (
    DROPS,
    FRAGMENT_FIELDS,
    FRAME_FIELDS,
    INPUT_FIELDS,
    OUTPUT_FIELDS,
    REFUSALS,
    SEND_ERRORS,
    VERDICTS,
    CounterBlock,
)

pytestmark = pytest.mark.core


def test_the_names_are_those_promised():
    frames = ("relayed", "dropped", "no_match", "not_udp", "vlan", "fragment", "truncated", "malformed", "tunnel")
    assert frames == VERDICTS
    assert REFUSALS == ("incomplete", "overlap", "repeated", "broken", "many", "room")
    assert DROPS == ("source", "policer", "echo")
    assert SEND_ERRORS == (
        "nobufs", "netdown", "mtu", "noaddr", "noroute", "unreachable", "blocked", "ttl", "parked", "other",
    )  # fmt: skip


@pytest.mark.parametrize(
    "fields", [FRAME_FIELDS, FRAGMENT_FIELDS, INPUT_FIELDS, OUTPUT_FIELDS, ("one",), ("many",) * 100]
)
def test_a_block_starts_at_zero(fields):
    block = CounterBlock(fields)
    assert block.fields == fields
    assert block.read() == (0,) * len(fields)


def test_each_field_is_read_under_the_name_that_c_has_for_it(probe):
    frames, fragments, inputs, outputs = map(CounterBlock, (FRAME_FIELDS, FRAGMENT_FIELDS, INPUT_FIELDS, OUTPUT_FIELDS))
    probe.count_up(frames, fragments, inputs, outputs)
    assert read(fragments) == {name: 100 + number for number, name in enumerate(REFUSALS)}
    assert read(frames) == {name: 100 + number for number, name in enumerate(VERDICTS)}
    assert read(inputs) == {
        "rx_packets": 1, "rx_bytes": 2, "last_packet_ns": 3,
        **{name: 100 + number for number, name in enumerate(DROPS)},
    }  # fmt: skip
    assert read(outputs) == {
        "tx_packets": 1, "tx_bytes": 2, "since_packets": 3, "tx_fragmented": 4,
        **{name: 100 + number for number, name in enumerate(SEND_ERRORS)},
    }  # fmt: skip
