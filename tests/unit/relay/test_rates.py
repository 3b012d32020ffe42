"""How fast it goes, over one second and over ten."""

from __future__ import annotations

import pytest

from mcrelay.model.state import CounterNames, InputCount, OutputCount, Snapshot
from mcrelay.relay.rates import FEW, Rate, Rates, counts_of

RULE, SENT = ("x", ""), ("x", "239.10.0.1:5004%out0")


def test_a_steady_flow_has_its_rate_over_both_spans():
    rates = Rates()
    for second in range(30):
        rates.look(second, {RULE: (1000 * second, 100_000 * second)})
    found = rates.rates(29.5, {RULE: (29_500, 2_950_000)})[RULE]
    assert found == Rate(1000, 800_000, 1000, 800_000)


def test_a_burst_is_seen_at_once_and_stays_in_the_ten_seconds():
    rates = Rates()
    for second in range(12):
        rates.look(second, {RULE: (0, 0)})
    found = rates.rates(12.0, {RULE: (500, 5000)})[RULE]
    assert (found.packets, found.packets_10s) == (500, 50)
    rates.look(12, {RULE: (500, 5000)})
    rates.look(13, {RULE: (500, 5000)})
    found = rates.rates(14.0, {RULE: (500, 5000)})[RULE]
    assert (found.packets, found.packets_10s) == (0, 50)
    for second in range(14, 30):
        rates.look(second, {RULE: (500, 5000)})
    assert rates.rates(30.0, {RULE: (500, 5000)}) == {}


def test_what_is_new_or_was_reset_is_never_negative():
    rates = Rates()
    rates.look(0, {RULE: (1000, 1000)})
    assert rates.rates(1, {RULE: (10, 10)}) == {}
    assert rates.rates(1, {SENT: (10, 10)})[SENT].packets == 10
    assert Rates().rates(5, {RULE: (1, 1)}) == {}


def test_few_flows_are_looked_at_each_second_and_thousands_every_ten():
    rates = Rates()
    assert rates.due(0)
    rates.look(0, {RULE: (0, 0)})
    assert not rates.due(0.5)
    assert rates.due(1)
    rates.look(1, {(str(n), ""): (0, 0) for n in range(FEW + 1)})
    assert not rates.due(9)
    assert rates.due(11)


def test_what_a_rule_receives_is_the_sum_of_its_inputs_and_of_former_ones():
    snapshot = Snapshot(
        names=CounterNames((), (), ()),
        inputs={("x", "a"): InputCount(1, 10, None, {}), ("x", "b"): InputCount(2, 20, None, {})},
        retired={"x": InputCount(4, 40, None, {})},
        outputs={SENT: OutputCount(5, 50, 0, {})},
        rings={}, sndbufs={}, workers=[],
    )  # fmt: skip
    assert counts_of(snapshot) == {RULE: (7, 70), SENT: (5, 50)}


@pytest.mark.parametrize("kept", [5, 50])
def test_no_more_looks_are_kept_than_ten_seconds_need(kept):
    rates = Rates()
    for second in range(kept):
        rates.look(second, {})
    assert len(rates._looks) <= 12
