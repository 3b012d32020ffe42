"""Counter blocks, and that names and numbers of verdicts, drops and errors agree."""

from __future__ import annotations

import pytest

from mcrelay._core.counters import DROPS, FRAME_WORDS, INPUT_WORDS, OUTPUT_WORDS, SEND_ERRORS, VERDICTS, CounterBlock

pytestmark = pytest.mark.core


def test_names_stand_in_the_order_of_the_numbers(probe):
    assert {name: number for number, name in enumerate(VERDICTS)} == probe.VERDICTS
    assert {name: number for number, name in enumerate(SEND_ERRORS)} == probe.SEND_ERRORS


def test_the_names_are_those_promised():
    frames = ("relayed", "dropped", "no_match", "not_udp", "vlan", "fragment", "truncated", "malformed", "tunnel")
    assert frames == VERDICTS
    assert DROPS == ("source", "policer", "echo")
    assert SEND_ERRORS == (
        "nobufs", "netdown", "mtu", "noaddr", "noroute", "unreachable", "blocked", "ttl", "parked", "other",
    )  # fmt: skip


@pytest.mark.parametrize("words", [FRAME_WORDS, INPUT_WORDS, OUTPUT_WORDS, 1, 100])
def test_a_block_starts_at_zero(words):
    assert CounterBlock(words).read() == (0,) * words


def test_words_are_fields_then_reasons():
    assert (len(VERDICTS), 3 + len(DROPS), 3 + len(SEND_ERRORS)) == (FRAME_WORDS, INPUT_WORDS, OUTPUT_WORDS)
