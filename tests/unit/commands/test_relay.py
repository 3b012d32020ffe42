"""The live line of `mcrelay relay`: what fits, and what is said of the outputs that lose something."""

from __future__ import annotations

import pytest

from mcrelay.commands.relay import live_line


def stats(*errors):
    outputs = [
        {"to": f"192.0.2.{number}:7000", "tx_packets": 1000, "tx_errors": {"unreachable": each, "nobufs": 0}}
        for number, each in enumerate(errors, 1)
    ]
    rule = {"rx_packets": 1000, "rx_rate": 99.0, "rx_bit_rate": 1e6, "drops": {"source": 2}, "outputs": outputs}
    return {"rules": [rule], "links": [{"ring_dropped_frames": 3}]}


def test_all_that_was_not_sent_is_lost():
    assert live_line(stats(0, 7), 100) == "in 1000  out 2000  lost 12  99/s 1 Mbit/s  192.0.2.2:7000: 7 unreachable"


@pytest.mark.parametrize("width", range(60, 200))
def test_no_output_is_cut_in_two_and_the_others_are_counted(width):
    line = live_line(stats(1, 2, 3, 4), width)
    assert len(line) <= width
    named = line.count("unreachable")
    assert line.endswith(f"{4 - named} outputs losing" if named < 3 else "unreachable") or (
        named == 3 and line.endswith("1 output losing")
    )
