"""What `show` shows, made of one value: every noun, and every key of the contract."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import IPv4Address

import msgspec
import pytest
from support.parts import ADDRESS, IN0, NAMES, Bench

from mcrelay.igmp.monitor import Concern
from mcrelay.model.state import (
    Endpoint,
    FeatureState,
    HealthCount,
    InputCount,
    NearMiss,
    OutputCount,
    RelayTimes,
    RingCount,
    RtpCount,
    Snapshot,
    TransportCount,
    WorkerCount,
)
from mcrelay.relay import views
from mcrelay.relay.shapes import SHAPES
from mcrelay.relay.state import IgmpState, QuerierState

CONFIG = """
[rules.cam]
description = "a camera"
input = "192.0.2.7@239.1.1.1:5000%in0"
outputs = ["239.10.0.1:5004%out0", "198.51.100.7:7000"]
exclusive = true
[rules.idle]
input = "239.1.1.2:5000%gone"
outputs = ["239.10.0.2:5004%out0"]
"""
FIRST, SECOND = "239.10.0.1:5004%out0", "198.51.100.7:7000"
NONE = {"nobufs": 0, "parked": 0}
STILL = {"tx_rate": 0, "tx_bit_rate": 0, "tx_rate_10s": 0}
INPUT = "192.0.2.7@239.1.1.1:5000%in0"
MISS = NearMiss(IPv4Address("239.1.1.1"), IPv4Address("192.0.2.7"), 5001, 0, "no_match", 5, 1.5)


@pytest.fixture
def state():
    """The value of a relay whose rule has carried something."""
    bench = Bench(CONFIG)
    zero = {"source": 0, "policer": 0, "echo": 0}
    bench.engine.counts = Snapshot(
        names=NAMES,
        inputs={("cam", INPUT): InputCount(90, 9000, 1.5, {**zero, "echo": 5})},
        retired={"cam": InputCount(10, 1000, 0.5, {**zero, "source": 1})},
        outputs={("cam", FIRST): OutputCount(84, 8400, 10, {"nobufs": 2, "parked": 0}, 3)},
        rings={
            "in0": RingCount(
                100,
                3,
                {"relayed": 95, "no_match": 5},
                coarse=True,
                misses=(MISS,),
                refused_fragments={"incomplete": 2, "room": 3},
            )
        },
        sndbufs={"out0": 4096},
        workers=[WorkerCount(0, 0.25, 7)],
    )
    bench.engine.times = {"cam": 1.5}
    bench.engine.sends_from = {("cam", FIRST): Endpoint(ADDRESS, 20123)}
    bench.outgoing.counts = {"in0": 4}
    bench.exclusive.states = {"cam": FeatureState("refused", "nft is not installed")}
    return bench.state()


def row(rows, name):
    (found,) = [each for each in rows if each["name"] == name]
    return found


def test_rules(state):
    assert views.rules(replace(state, losing=frozenset({"cam"})))[0] == {
        "name": "cam",
        "description": "a camera",
        "origin": "file",
        "state": "active",
        "reason": None,
        "engine": "ring",
        "engine_reason": None,
        "losing": True,
        "exclusive": {"state": "refused", "reason": "nft is not installed"},
        "inputs": [
            {
                "from": INPUT,
                "iif": "in0",
                "group": "239.1.1.1",
                "source": "192.0.2.7",
                "port": 5000,
                "vlan": "none",
                "own": False,
                "state": "active",
                "reason": None,
            }
        ],
        "outputs": [
            {
                "to": FIRST,
                "oif": "out0",
                "vlan": "none",
                "source_address": "198.51.100.1",
                "source_port": 20123,  # of the socket, not of the plan
                "ttl": 16,
                "dscp": "keep",
                "state": "active",
                "reason": None,
            },
            views.rules(state)[0]["outputs"][1],
        ],
    }
    host = views.rules(state)[0]["outputs"][1]
    assert (host["to"], host["oif"], host["source_address"], host["ttl"]) == (SECOND, None, None, 64)
    idle = row(views.rules(state), "idle")
    assert (idle["state"], idle["reason"], idle["exclusive"]) == ("pending", "link gone does not exist", None)


def test_stats_add_up_what_a_rule_had_before_and_have_zeros_for_what_never_ran(state):
    shown = views.stats(replace(state, time=1234.56789, uptime_seconds=2.00049))
    assert (shown["time"], shown["uptime_seconds"]) == (1234.568, 2.0)
    cam = row(shown["rules"], "cam")
    assert (cam["rx_packets"], cam["rx_bytes"], cam["last_packet_time"]) == (100, 10_000, 1.5)
    assert cam["drops"] == {"source": 1, "policer": 0, "echo": 5}
    assert cam["outputs"] == [
        {
            "to": FIRST,
            "since_packets": 10,
            "tx_packets": 84,
            "tx_bytes": 8400,
            "tx_fragmented": 3,
            **STILL,
            "tx_errors": {"nobufs": 2, "parked": 0},
        },
        {
            "to": SECOND,
            "since_packets": 0,
            "tx_packets": 0,
            "tx_bytes": 0,
            "tx_fragmented": 0,
            **STILL,
            "tx_errors": NONE,
        },
    ]
    idle = row(shown["rules"], "idle")
    assert (idle["rx_packets"], idle["last_packet_time"], idle["drops"]) == (0, None, dict.fromkeys(NAMES.drops, 0))
    assert shown["workers"] == [{"id": 0, "cpu_seconds": 0.25, "generation": 7}]


def test_a_range_is_one_row_with_its_groups_that_have_counted_anything():
    ends = ("239.1.0.0/20:5000-5001%in0", "239.9.0.0/20:7000,7002%out0")
    state = Bench(f'[rules.r]\ninput = "{ends[0]}"\noutputs = ["{ends[1]}"]\n').state()
    drops = dict.fromkeys(NAMES.drops, 0)
    state = replace(
        state,
        counts=replace(
            state.counts,
            input_groups={("r", ends[0]): {257: InputCount(9, 90, None, {**drops, "echo": 2})}},
            output_groups={("r", ends[1]): {257: OutputCount(6, 60, 0, {**NONE, "nobufs": 1})}},
        ),
    )
    (shown,) = views.rules(state)
    assert [(each["group"], each["port"], each["from"]) for each in shown["inputs"]] == [
        ("239.1.0.0/20", "5000-5001", ends[0])
    ]
    (stats,) = views.stats(state)["rules"]
    assert stats["groups"] == [
        {
            "group": "239.1.1.1",
            "rx_packets": 9,
            "rx_bytes": 90,
            "drops": {**drops, "echo": 2},
            "outputs": [
                {"to": "239.9.1.1", "tx_packets": 6, "tx_bytes": 60, "tx_errors": {**NONE, "nobufs": 1}},
            ],
        }
    ]
    assert msgspec.convert(views.stats(state), SHAPES["stats"])


def test_stats_have_every_link_that_a_rule_names_or_a_ring_was_on(state):
    in_, out = (
        {
            "ifname": "in0",
            "filter": "coarse",
            "sndbuf": None,
            "rx_frames": 100,
            "frames": {"relayed": 95, "no_match": 5},
            "refused_fragments": {"incomplete": 2, "room": 3},
            "ring_dropped_frames": 3,
            "kernel_frames": 0,
            "near_misses": [
                {
                    "group": "239.1.1.1",
                    "port": 5001,
                    "source": "192.0.2.7",
                    "vlan": "none",
                    "verdict": "no_match",
                    "packets": 5,
                    "last_time": 1.5,
                    "rule": "cam",
                }
            ],
            "outgoing_frames": 4,
        },
        {
            "ifname": "out0",
            "filter": None,
            "sndbuf": 4096,
            "rx_frames": 0,
            "frames": {"relayed": 0, "no_match": 0},
            "refused_fragments": {"incomplete": 0, "room": 0},
            "ring_dropped_frames": 0,
            "kernel_frames": 0,
            "near_misses": [],
            "outgoing_frames": 0,
        },
    )
    links = views.stats(state)["links"]
    assert [each["ifname"] for each in links] == ["gone", "in0", "out0"]
    assert links[1:] == [in_, out]


def test_links(state):
    querier = QuerierState(IPv4Address("192.0.2.1"), 3, 5.00049)
    known = {"in0": IgmpState(querier, (Concern("port", "in0 is a port of br0"),))}
    in0, out0 = views.links(replace(state, igmp=known, gro={"in0": FeatureState("on")}))
    assert in0 == {
        "ifname": "in0",
        "ifindex": IN0.ifindex,
        "operstate": "UP",
        "mtu": 1500,
        "addresses": [],
        "querier": {"address": "192.0.2.1", "version": 3, "last_seen_time": 5.0},
        "mld_querier": None,
        "warnings": [{"kind": "port", "text": "in0 is a port of br0"}],
        "gro": {"state": "on", "reason": None},
    }
    assert (out0["addresses"], out0["querier"], out0["warnings"], out0["gro"]) == (["198.51.100.1/24"], None, [], None)


@pytest.mark.parametrize("joined", ["joined", "error", "pending"])
def test_groups(state, joined):
    (membership,) = state.memberships
    held = {
        "joined": {"joined": frozenset({membership}), "failed": {}},
        "error": {"joined": frozenset(), "failed": {membership: "the limit is reached"}},
        "pending": {"joined": frozenset(), "failed": {}},
    }[joined]
    (shown,) = views.groups(replace(state, igmp_versions={"in0": 2}, **held))
    assert shown == {
        "ifname": "in0",
        "group": "239.1.1.1",
        "source": "192.0.2.7",
        "state": joined,
        "reason": "the limit is reached" if joined == "error" else None,
        "version": 2,
        "warnings": [],
    }


@pytest.mark.parametrize(("source", "warned"), [("192.0.2.7@", True), ("", False)])
def test_an_older_querier_is_a_warning_of_joins_of_one_source_alone(source, warned):
    state = Bench(CONFIG.replace("192.0.2.7@", source)).state()
    known = {"in0": IgmpState(None, (Concern("older-querier", "an IGMPv2 querier"),))}
    (shown,) = views.groups(replace(state, igmp=known))
    assert bool(shown["warnings"]) is warned


def test_config(state):
    shown = views.config(state)["rules"]
    assert shown["cam"]["input"] == INPUT
    assert shown["idle"]["outputs"] == ["239.10.0.2:5004%out0"]


@pytest.mark.parametrize("noun", SHAPES)
def test_what_is_shown_has_the_shape_that_the_reference_promises(state, noun):
    assert msgspec.convert(views.NOUNS[noun](state), SHAPES[noun])


def test_health_is_null_unless_the_rule_asks_and_then_all_at_0_from_the_start(state):
    assert [each["health"] for each in views.stats(state)["rules"]] == [None, None]
    found = {}
    for kind in ("rtp", "ts", "auto"):
        (each,) = views.stats(Bench(CONFIG.replace("exclusive = true", f'health = "{kind}"')).state())["rules"][:1]
        found[kind] = each["health"]
    assert found["rtp"] == found["auto"] | {"ts": None}
    assert found["ts"] == found["auto"] | {"rtp": None}
    assert found["auto"]["silent"] is True
    assert {value for part in ("rtp", "ts") for value in found["auto"][part].values() if value != {}} == {0, None}


def test_health_and_times_are_those_of_the_state(state):
    asking = Bench(CONFIG.replace("exclusive = true", 'health = "auto"')).state()
    health = HealthCount(
        RtpCount(packets=9, lost=1, ssrc=7, clock_rate=8000, jitter=0.5),
        TransportCount(packets=70, continuity_errors=3, continuity_errors_by_pid={300: 1, 20: 2}, bit_rate=5),
        silent=False,
        silences=1,
        silence_seconds=1.23456,
    )
    times = RelayTimes({0.001: 5, math.inf: 2}, 0.25)
    state = replace(asking, health={("cam", INPUT): health}, relay_times={"cam": times})
    found = row(views.stats(state)["rules"], "cam")
    assert found["health"]["silence_seconds"] == 1.235
    assert found["health"]["rtp"]["jitter_seconds"] == 0.5
    assert found["health"]["ts"]["continuity_errors_by_pid"] == {"20": 2, "300": 1}
    assert found["relay_seconds"] == {"count": 7, "sum": 0.25, "buckets": {"0.001": 5, "+Inf": 7}}
    assert row(views.stats(state)["rules"], "idle")["relay_seconds"] == {
        "count": 0,
        "sum": 0.0,
        "buckets": {"0.001": 0, "+Inf": 0},
    }
