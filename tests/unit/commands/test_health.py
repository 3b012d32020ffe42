"""What `show stats` says of the health of a stream: in 80 columns, and nothing of what is 0."""

from __future__ import annotations

import pytest

from mcrelay.commands import health
from mcrelay.commands.table import render

RTP = {
    "packets": 1_234_567, "lost": 12, "duplicated": 3, "reordered": 4, "restarts": 0, "ssrc_changes": 1, "foreign": 0,
    "ssrc": 7, "payload_type": 33, "clock_rate": 90_000, "jitter_seconds": 0.00012, "jitter_max_seconds": 0.0034,
}  # fmt: skip
TS = {
    "packets": 8_641_969, "continuity_errors": 15, "continuity_errors_by_pid": {"0": 1, "256": 14}, "sync_errors": 0,
    "transport_errors": 0, "bit_rate": 8_000_000, "pcr_gaps": 2, "pcr_jitter_seconds": 0.0002,
    "pcr_jitter_max_seconds": 1.25,
}  # fmt: skip


def rule(**more):
    found = {"silent": False, "silences": 0, "silence_seconds": 0.0, "unrecognised": 0, "rtp": RTP, "ts": TS}
    return {"name": "lobby", "health": found | more}


def test_the_table_fits_a_terminal_and_each_figure_stands_in_it():
    text = render(health.HEADER, health.rows(rule()), colour=False, right=health.NUMBERS, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for word in ("lobby", "1234567", "12", "0.12 ms", "3.4 ms", "8641969", "15", "1.25 s", "8 Mbit/s"):
        assert word in text.split() or word in text


def test_what_has_no_column_is_said_unless_it_is_0():
    assert health.notes(rule(silences=2, silence_seconds=3.25)) == [
        "lobby: health: silences 2, 3.2 s in all; SSRC changes 1; PCR gaps 2; continuity errors of PID 0 1, PID 256 14"
    ]
    quiet = {"ssrc_changes": 0}
    clean = {"pcr_gaps": 0, "continuity_errors_by_pid": {}}
    assert health.notes(rule(rtp=RTP | quiet, ts=TS | clean)) == []


@pytest.mark.parametrize("part", ["rtp", "ts"])
def test_what_is_not_looked_for_is_not_spoken_of(part):
    other = {"rtp": "ts", "ts": "rtp"}[part]
    (row,) = health.rows(rule(**{other: None}))
    assert row[:2] == ["lobby", part]
    assert health.summary(rule(**{other: None})["health"]).startswith(part)


def test_a_rule_that_does_not_ask_has_no_line():
    for each in ({"name": "x"}, {"name": "x", "health": None}):
        assert (health.rows(each), health.notes(each), health.summary(each.get("health"))) == ([], [], "")


@pytest.mark.parametrize(
    ("counts", "said"),
    [((0, 0, 0), "-"), ((99, 99, 100), "<= 0.02 ms"), ((98, 99, 100), "<= 1 ms"), ((0, 98, 100), "> 1 ms")],
)
def test_the_time_of_99_in_100_is_the_bound_of_a_step(counts, said):
    buckets = dict(zip(("2e-05", "0.001", "+Inf"), counts, strict=True))
    assert health.within({"count": counts[-1], "sum": 0.1, "buckets": buckets}) == said
