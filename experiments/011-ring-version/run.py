"""TPACKET_V2 or V3: what does each cost, what latency does each add, and what runs does each leave for the way out?

V2 shows a frame as soon as it is there; V3 shows a block when it is full or its timer runs out.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from lab import Namespace, pair, programs, veth
from verdict import Experiment, alternating, run
from wire import Relay, Stream

ROUNDS = 6
RINGS = {"v2": (2, 0), "v3_1ms": (3, 1), "v3_4ms": (3, 4), "v3_40ms": (3, 40)}
BUSY = ["v2", "v3_1ms"]
SLOW = {"rate": 1_000, "count": 300, "burst": 1}
FAST = {"rate": 100_000, "count": 30_000, "burst": 5}  # five datagrams every 50 us: as even as a sleep can make it


class Site:
    """source --- relay --- sink"""

    def __init__(self, pace: str, program: str) -> None:
        self.pace, self.program = pace, program
        (self.source, self.relay), self.sink = pair(), Namespace()
        veth(self.relay, "eth1", self.sink, "eth0")
        self.relay.run("ip address add 198.51.100.1/24 dev eth1")

    def once(self, ring: str, way: str, load: dict[str, int]) -> dict[str, float]:
        version, timeout_ms = RINGS[ring]
        relay = Relay(
            self.program, self.relay, load["count"], version=version, timeout_ms=timeout_ms, way=way, out="eth1"
        )
        Stream(self.source, "239.1.1.1").paced(self.pace, **load).wait()
        return relay.result()


def medians(rounds: list[dict[str, dict[str, float]]], ring: str) -> dict[str, float]:
    return {key: statistics.median(one[ring][key] for one in rounds) for key in rounds[0][ring]}


def main(exp: Experiment) -> None:
    lost = 0.0
    with programs("pace.c", "relay.c") as (pace, program):
        site = Site(pace, program)
        slow = alternating(list(RINGS), ROUNDS, lambda ring: site.once(ring, "none", SLOW))
        receive = alternating(BUSY, ROUNDS, lambda ring: site.once(ring, "none", FAST))
        relayed = alternating(BUSY, ROUNDS, lambda ring: site.once(ring, "segment", FAST))
    for ring in RINGS:
        result = medians(slow, ring)
        exp.measure(f"{ring}_p50_us", result["p50_us"])
        exp.say(f"  {ring} p99: {result['p99_us']:.0f} us")  # too restless to be recorded
    for ring in BUSY:
        exp.measure(f"{ring}_receive_cpu_ns", medians(receive, ring)["cpu_ns"])
        result = medians(relayed, ring)
        exp.measure(f"{ring}_relay_cpu_ns", result["cpu_ns"])
        exp.measure(f"{ring}_run_length", result["sent"] / result["sends"])
        lost += sum(FAST["count"] - one[ring]["received"] for one in (*receive, *relayed))
    exp.say(f"  lost: {lost:.0f}")

    exp.claim(
        "v3-latency-is-its-timer",
        "at a low rate V3 adds about its block timeout, V2 next to nothing",
        "v2_p50_us < 0.25 * v3_4ms_p50_us and v3_40ms_p50_us > 3 * v3_4ms_p50_us",
    )
    exp.claim(
        "v3-relays-for-less",
        "at a high rate V3 relays a datagram for less than 0.8 of V2's CPU time",
        "v3_1ms_relay_cpu_ns < 0.8 * v2_relay_cpu_ns",
    )
    exp.claim(
        "because-its-runs-are-longer",
        "V3 hands the way out runs more than twice as long, for V2 wakes up for a few frames at a time",
        "v3_1ms_run_length > 2 * v2_run_length",
    )


if __name__ == "__main__":
    run(main, __file__)
