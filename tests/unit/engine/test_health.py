"""What all workers have found in a stream, and how long datagrams were in the relay: one value of each."""

from __future__ import annotations

import math

import pytest

from mcrelay._core.counters import RTP_FIELDS, STREAM_FIELDS, TRANSPORT_FIELDS
from mcrelay.engine.health import HealthRegistry
from mcrelay.engine.times import TimeRegistry
from mcrelay.model.state import HealthCount, RtpCount, TransportCount, no_health

SLOT = ("x", "239.1.1.1:5000%in0")


class Block:
    """Counters of the core, as a test sets them."""

    def __init__(self, fields, **counts):
        self.fields = fields
        self.counts = dict.fromkeys(fields, 0) | counts

    def read(self):
        return tuple(self.counts.values())


class Looker:
    def __init__(self, rtp, transport):
        self.stream = Block(STREAM_FIELDS)
        self.rtp = Block(RTP_FIELDS) if rtp else None
        self.transport = Block(TRANSPORT_FIELDS) if transport else None
        self.pids = {}

    def continuity_errors(self):
        return self.pids


@pytest.fixture
def registry():
    return HealthRegistry(lambda rtp, transport: [Looker(rtp, transport), Looker(rtp, transport)])


def found(registry, now=100.0):
    return registry.read(now)[SLOT]


@pytest.mark.parametrize("kind", ["rtp", "ts", "auto"])
def test_a_stream_from_which_nothing_has_come_is_silent_and_has_no_silences(registry, kind):
    registry.of(SLOT, kind)
    assert found(registry) == no_health(kind)
    assert found(registry).silent


def test_counters_are_added_up_and_the_rest_is_of_the_worker_that_saw_the_newest(registry):
    first, second = registry.of(SLOT, "auto")
    first.stream.counts |= {"last_packet_ns": 90_000_000_000, "silences": 1, "silence_ns": 2_500_000_000}
    second.stream.counts |= {"last_packet_ns": 99_500_000_000, "silences": 2, "unrecognised": 3}
    first.rtp.counts |= {"packets": 10, "lost": 1, "missing": 7, "clock_rate": 8000, "jitter_ns": 5, "ssrc": 4}
    second.rtp.counts |= {
        "packets": 20,
        "lost": 2,
        "missing": 1,
        "clock_rate": 90_000,
        "jitter_ns": 2_000_000,
        "ssrc": 9,
    }
    first.transport.counts |= {"packets": 70, "continuity_errors": 3, "bit_rate": 5}
    second.transport.counts |= {"packets": 7, "continuity_errors": 1, "bit_rate": 6}
    first.pids, second.pids = {256: 1, 257: 2}, {257: 1}
    assert found(registry) == HealthCount(
        RtpCount(30, 3, ssrc=9, payload_type=0, clock_rate=90_000, jitter=0.002, jitter_most=0.0),
        TransportCount(77, 4, {256: 1, 257: 3}, bit_rate=6),
        silent=False,
        silences=3,
        silence_seconds=2.5,
        unrecognised=3,
    )


def test_a_silence_that_lasts_counts_and_what_is_missing_is_lost(registry):
    first, _ = registry.of(SLOT, "rtp")
    first.stream.counts |= {"last_packet_ns": 95_000_000_000, "silences": 1, "silence_ns": 1_000_000_000}
    first.rtp.counts |= {"packets": 10, "lost": 1, "missing": 7}
    value = found(registry)
    assert (value.silent, value.silences, value.silence_seconds, value.rtp.lost) == (True, 2, 6.0, 8)
    value = found(registry, 95.9)
    assert (value.silent, value.silences, value.silence_seconds, value.rtp.lost) == (False, 1, 1.0, 1)


def test_a_look_stays_with_its_input_until_the_rule_looks_for_something_else(registry):
    held = registry.of(SLOT, "rtp")
    assert registry.of(SLOT, "rtp") is held
    assert registry.of(SLOT, "ts") is not held
    registry.prune({("y", "z")})
    assert registry.read(1.0) == {}


def test_a_histogram_adds_up_all_workers_and_goes_with_its_rule():
    registry = TimeRegistry(
        lambda: [Block("abc", a=1, b=2, c=3_000_000_000), Block("abc", a=10, c=1)], (0.001, math.inf)
    )
    assert registry.of("x") is registry.of("x")
    (times,) = registry.read().values()
    assert times.datagrams == {0.001: 11, math.inf: 2}
    assert times.within == {"0.001": 11, "+Inf": 13}
    assert times.seconds == pytest.approx(3)
    registry.prune(())
    assert registry.read() == {}
