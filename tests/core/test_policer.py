"""The token bucket, and the set of what our own outputs send."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.frames import number

from mcrelay._core.policer import PolicerState

pytestmark = pytest.mark.core

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND  # Unix time, as ring slots have it
FASTEST = 90_000_000_000
LEAST = {False: 128, True: 2 * 65536 * 8}  # a bucket holds that much at any rate
arrivals = st.lists(
    st.tuples(st.integers(0, SECOND), st.integers(1, 64), st.integers(0, 65507)), min_size=1, max_size=60
)


@given(arrivals, st.one_of(st.integers(1, 100_000), st.integers(1, FASTEST)), st.booleans())
@example([(0, 1, 65507)] * 60, 1, True)
@example([(SECOND, 1, 65507)] * 60, FASTEST, True)
def test_never_more_passes_than_the_bucket_and_the_rate_allow(probe, frames, rate, bits):
    state = PolicerState(rate, bits)
    now, passed = START, 0
    for after, count, payload in frames:
        now += after
        if probe.conform(state, now, count, payload):
            passed += payload * 8 if bits else count
        assert passed <= max(rate / 10, LEAST[bits]) + rate * (now - START) / SECOND + 1
        tokens, depth = probe.bucket(state)
        assert 0 <= tokens <= depth < 2**63


@pytest.mark.parametrize("rate", [10, 1000, 20_000, 1_000_000])
def test_a_steady_stream_at_the_rate_passes_whole(probe, rate):
    state = PolicerState(rate, False)
    assert all(probe.conform(state, START + i * SECOND // rate, 1, 1316) for i in range(3000))


@pytest.mark.parametrize("rate", [10, 1000, 20_000, 1_000_000])
def test_half_of_a_stream_of_twice_the_rate_passes(probe, rate):
    state = PolicerState(rate, False)
    count = 20 * max(128, rate // 10)
    passed = sum(probe.conform(state, START + i * SECOND // (2 * rate), 1, 1316) for i in range(min(count, 300_000)))
    expected = min(count, 300_000) / 2
    assert expected - 1 <= passed <= expected + max(128, rate / 10) + 1


@pytest.mark.parametrize(("bits", "count", "payload"), [(False, 64, 64), (True, 1, 65507), (True, 64, 65507)])
def test_a_superframe_passes_at_any_rate(probe, bits, count, payload):
    assert probe.conform(PolicerState(1, bits), START, count, payload)


def test_a_clock_that_steps_back_credits_nothing_and_stops_nothing(probe):
    state = PolicerState(1000, False)
    assert probe.conform(state, START, 128, 0)
    assert not probe.conform(state, START - 3600 * SECOND, 1, 0)
    assert not probe.conform(state, START - 3600 * SECOND, 1, 0)
    assert probe.conform(state, START - 3600 * SECOND + SECOND // 1000, 1, 0)


@pytest.mark.parametrize("rate", [0, FASTEST + 1])
def test_rates_that_it_cannot_count_to_are_refused(rate):
    with pytest.raises(ValueError, match=f"a rate of {rate}"):
        PolicerState(rate, True)


addresses = st.sampled_from([number("192.0.2.1"), number("192.0.2.2"), number("239.1.1.1"), 1, 2**32 - 1])
ports = st.sampled_from([1, 5000, 20000, 65535])
ends = st.tuples(addresses, ports, addresses, ports)


@given(st.frozensets(ends, max_size=7), ends)
def test_a_datagram_is_ours_by_all_four_of_its_ends_and_by_nothing_less(probe, sent, other):
    own = probe.Own(sent, 16)
    for each in (*sent, other):
        assert own.holds(*each) == (each in sent)


def test_nothing_is_ours_when_nothing_is_sent(probe):
    own = probe.Own([], 2)
    assert not own.holds(0, 0, 0, 0)
    assert not own.holds(number("192.0.2.1"), 20000, number("239.1.1.1"), 5000)
