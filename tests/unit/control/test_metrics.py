"""Metrics: the contract's names, every series from the start, and names of rules that try to be something else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.parts import NAMES, Bench

from mcrelay.control.metrics import exposition
from mcrelay.igmp.monitor import Concern
from mcrelay.model.state import InputCount, OutputCount, RingCount, WorkerCount
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


def busy(state):
    counts = replace(
        state.counts,
        inputs={("cam", INPUT): InputCount(90, 9000, 1.5, {"source": 0, "policer": 0, "echo": 5})},
        retired={"cam": InputCount(10, 1000, 0.5, {"source": 1, "policer": 0, "echo": 0})},
        outputs={("cam", FIRST): OutputCount(84, 8400, 10, {"nobufs": 2, "parked": 1})},
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
