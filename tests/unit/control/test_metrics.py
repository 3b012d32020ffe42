"""Metrics: the contract's names, every series from the start, and names of rules that try to be something else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families
from support.parts import NAMES, Bench

from mcrelay.control.exposition import Counter, Histogram
from mcrelay.control.metrics import exposition
from mcrelay.igmp.monitor import Concern
from mcrelay.model.state import (
    AnswerCount,
    HealthCount,
    InputCount,
    OutputCount,
    RelayTimes,
    RingCount,
    RtpCount,
    WorkerCount,
)
from mcrelay.relay.state import DaemonState, IgmpState, QuerierState

CONFIG = """
[rules.cam]
input = "239.1.1.1:5000%in0"
outputs = ["239.10.0.1:5004%out0", "198.51.100.7:7000"]
[rules.idle]
input = "239.1.1.2:5000%gone"
outputs = ["239.10.0.2:5004%out0"]
enabled = false
"""
DAEMON = DaemonState(version="1.2", restart_due=False, reload_successful=True, reload_time=100.0)
INPUT, FIRST = "239.1.1.1:5000%in0", "239.10.0.1:5004%out0"


def samples(state, daemon=DAEMON):
    """Every series: its value by name and labels."""
    text, kind = exposition(state, daemon, "")
    assert kind.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(found, name, **labels):
    return found[name, tuple(sorted(labels.items()))]


def test_groups_of_a_range_have_series_of_their_own_from_the_start_unless_they_are_many():
    """Names of series are bounded by the configuration: 256 groups, or none of them."""
    ends = ("239.1.0.0/30:5000%in0", "239.9.0.0/30:5000%out0")
    wide = 'input = "239.2.0.0/23:5000%in0"\noutputs = ["239.8.0.0/23%out0"]'
    state = Bench(f'[rules.r]\ninput = "{ends[0]}"\noutputs = ["{ends[1]}"]\n[rules.wide]\n{wide}\n').state()
    drops, errors = dict.fromkeys(NAMES.drops, 0), dict.fromkeys(NAMES.send_errors, 0)
    counts = replace(
        state.counts,
        input_groups={("r", ends[0]): {2: InputCount(7, 70, None, drops)}},
        output_groups={("r", ends[1]): {2: OutputCount(6, 60, 0, errors)}},
    )
    found = samples(replace(state, counts=counts))
    of = [labels for name, labels in found if name.startswith("mcrelay_group_")]
    assert len(of) == 8
    received, sent = {"rule": "r", "input": ends[0]}, {"rule": "r", "output": ends[1]}
    assert value(found, "mcrelay_group_rx_packets_total", **received, group="239.1.0.2") == 7
    assert value(found, "mcrelay_group_tx_packets_total", **sent, group="239.9.0.2") == 6
    assert value(found, "mcrelay_group_rx_packets_total", **received, group="239.1.0.3") == 0


def busy(state):
    counts = replace(
        state.counts,
        inputs={("cam", INPUT): InputCount(90, 9000, 1.5, {"source": 0, "policer": 0, "echo": 5})},
        retired={"cam": InputCount(10, 1000, 0.5, {"source": 1, "policer": 0, "echo": 0})},
        outputs={("cam", FIRST): OutputCount(84, 8400, 10, {"nobufs": 2, "parked": 1}, 7)},
        rings={
            "in0": RingCount(
                100, 3, {"relayed": 95, "no_match": 5}, coarse=False, refused_fragments={"incomplete": 2, "room": 3}
            )
        },
        workers=[WorkerCount(0, 0.25, 7)],
    )
    igmp = {"in0": IgmpState(QuerierState("192.0.2.1", 3, 50.0), (Concern("port", ""),))}
    return replace(
        state,
        counts=counts,
        losing=frozenset({"cam"}),
        last_packet_times={"cam": 1.5},
        outgoing_frames={"in0": 4},
        igmp=igmp,
    )


def test_the_numbers_are_those_of_the_state():
    found = samples(busy(Bench(CONFIG).state()), replace(DAEMON, restart_due=True, reload_successful=False))
    rule = {"rule": "cam"}
    assert value(found, "mcrelay_rx_packets_total", **rule, input=INPUT) == 90
    assert value(found, "mcrelay_rx_bytes_total", **rule, input=INPUT) == 9000
    assert value(found, "mcrelay_last_packet_timestamp_seconds", **rule, input=INPUT) == 1.5
    assert value(found, "mcrelay_tx_packets_total", **rule, output=FIRST) == 84
    assert value(found, "mcrelay_tx_bytes_total", **rule, output=FIRST) == 8400
    assert value(found, "mcrelay_tx_fragmented_total", **rule, output=FIRST) == 7
    assert value(found, "mcrelay_tx_errors_total", **rule, output=FIRST) == 3
    assert value(found, "mcrelay_since_packets", **rule, output=FIRST) == 10
    assert value(found, "mcrelay_rule_drops_total", **rule, reason="echo") == 5
    assert value(found, "mcrelay_rule_drops_total", **rule, reason="source") == 1
    assert value(found, "mcrelay_rule_state", **rule, state="active") == 1
    assert value(found, "mcrelay_rule_state", **rule, state="error") == 0
    assert value(found, "mcrelay_rule_state", rule="idle", state="disabled") == 1
    assert value(found, "mcrelay_rule_losing", **rule) == 1
    assert value(found, "mcrelay_frames_total", link="in0", verdict="relayed") == 95
    assert value(found, "mcrelay_refused_fragments_total", link="in0", reason="room") == 3
    assert value(found, "mcrelay_ring_dropped_frames_total", link="in0") == 3
    assert value(found, "mcrelay_outgoing_frames_total", link="in0") == 4
    assert value(found, "mcrelay_querier_last_seen_timestamp_seconds", link="in0") == 50
    assert value(found, "mcrelay_worker_cpu_seconds_total", worker="0") == 0.25
    assert value(found, "mcrelay_build_info", version="1.2") == 1
    assert value(found, "mcrelay_restart_due") == 1
    assert value(found, "mcrelay_config_last_reload_successful") == 0
    assert value(found, "mcrelay_config_last_reload_timestamp_seconds") == 100


def test_every_series_is_there_from_the_start_at_0():
    state = Bench(CONFIG).state()
    assert samples(state).keys() >= samples(busy(state)).keys() - {
        ("mcrelay_worker_cpu_seconds_total", (("worker", "0"),))
    }
    assert value(samples(state), "mcrelay_tx_errors_total", rule="idle", output="239.10.0.2:5004%out0") == 0
    for reason in NAMES.drops:
        assert value(samples(state), "mcrelay_rule_drops_total", rule="idle", reason=reason) == 0
    for verdict in NAMES.verdicts:
        assert value(samples(state), "mcrelay_frames_total", link="gone", verdict=verdict) == 0
    for reason in NAMES.refusals:
        assert value(samples(state), "mcrelay_refused_fragments_total", link="gone", reason=reason) == 0


@pytest.mark.parametrize("link", ['a"b', "a\\b", "a}b", "ä"])
def test_a_link_may_be_called_what_it_likes(link):
    written = link.replace("\\", "\\\\").replace('"', '\\"')
    state = Bench(CONFIG.replace("%in0", f"%{written}")).state()
    assert value(samples(state), "mcrelay_ring_dropped_frames_total", link=link) == 0


def test_whoever_asks_for_openmetrics_gets_it():
    accept = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"
    text, kind = exposition(Bench(CONFIG).state(), DAEMON, accept)
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    found = [sample.name for family in open_metrics_families(text.decode()) for sample in family.samples]
    assert "mcrelay_rx_packets_total" in found


@pytest.mark.parametrize("label", ["plain", 'a"b', "a\\b", "a\nb", "a}b", "ä", ""])
def test_what_is_written_is_what_prometheus_client_writes(label):
    ours, theirs = (
        Counter("x", 'a "word" \\ more', labels=["rule", "link"]),
        CounterMetricFamily("x", 'a "word" \\ more', labels=["rule", "link"]),
    )
    bars, their_bars = Histogram("t", "times", labels=["rule"]), HistogramMetricFamily("t", "times", labels=["rule"])
    buckets = [("0.1", 2), ("+Inf", 5)]
    for each in (ours, theirs):
        each.add_metric([label, "in0"], 3)
    bars.add_buckets([label], dict(buckets), 1.5)
    their_bars.add_metric([label], buckets, 1.5)

    class Registry:
        def collect(self):
            return [theirs, their_bars]

    def parsed(text):
        return [
            (family.name, family.type, family.documentation, sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    text = ours.text(open_metrics=False) + bars.text(open_metrics=False)
    assert parsed(text) == parsed(generate_latest(Registry()).decode())


def test_answers_to_searches_are_counted_by_what_became_of_them():
    state = Bench(CONFIG).state()
    searching = replace(state, counts=replace(state.counts, answers={"found-in0": AnswerCount(4, 1, 3, 2)}))
    assert value(samples(searching), "mcrelay_answers_total", rule="found-in0", result="passed") == 4
    assert value(samples(searching), "mcrelay_answers_total", rule="found-in0", result="failed") == 1


def test_health_has_series_of_the_rules_that_ask_at_0_from_the_start_and_the_histogram_those_of_all():
    config = CONFIG.replace("enabled = false", 'health = "rtp"')
    state = Bench(config).state()
    found = samples(state)
    idle = {"rule": "idle", "input": "239.1.1.2:5000%gone"}
    assert value(found, "mcrelay_health_rtp_lost_total", **idle) == 0
    assert value(found, "mcrelay_health_silent", **idle) == 1
    health = {name: labels for name, labels in found if name.startswith("mcrelay_health")}
    assert len(health) == 12
    assert {dict(labels)["rule"] for labels in health.values()} == {"idle"}
    assert not [name for name in health if "_ts_" in name]
    for rule in ("cam", "idle"):
        assert value(found, "mcrelay_relay_seconds_bucket", rule=rule, le="+Inf") == 0
        assert value(found, "mcrelay_relay_seconds_count", rule=rule) == 0
    seen = HealthCount(RtpCount(lost=4, jitter=0.25), None, silent=False, silence_seconds=1.5)
    slot = ("idle", idle["input"])
    found = samples(replace(state, health={slot: seen}, relay_times={"cam": RelayTimes({0.001: 5, math.inf: 2}, 0.25)}))
    assert value(found, "mcrelay_health_rtp_lost_total", **idle) == 4
    assert value(found, "mcrelay_health_rtp_jitter_seconds", **idle) == 0.25
    assert value(found, "mcrelay_health_silent", **idle) == 0
    assert value(found, "mcrelay_health_silence_seconds_total", **idle) == 1.5
    assert value(found, "mcrelay_relay_seconds_bucket", rule="cam", le="0.001") == 5
    assert value(found, "mcrelay_relay_seconds_bucket", rule="cam", le="+Inf") == 7
    assert value(found, "mcrelay_relay_seconds_sum", rule="cam") == 0.25
