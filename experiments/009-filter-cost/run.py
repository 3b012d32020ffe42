"""Second fall-back: no join at all, a BPF filter instead. What does each unwanted frame on the link then cost?

The sender's own clock is the instrument: over a veth a frame is received on its sender's time, so what a filter adds
shows as time per datagram sent. Differences are taken within a round, and the median of the rounds counts.
"""

from __future__ import annotations

import ipaddress
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, pair, programs, pruning_switch
from verdict import Experiment, alternating, run
from wire import DROP_ALL, Stream, Tap

UNWANTED, GROUPS, ROUNDS, DATAGRAMS = "239.200.0.1", 500, 21, 8_000
LD_HALF, LD_BYTE, LD_WORD, JEQ, JGE, JA, RET = 0x28, 0x30, 0x20, 0x15, 0x35, 0x05, 0x06
ACCEPT, DROP = (RET, 0, 0, 0x40000), (RET, 0, 0, 0)
Program = list[tuple[int, int, int, int]]

# IPv4 and UDP, else drop; then the destination address is in the accumulator.
IS_UDP: Program = [(LD_HALF, 0, 0, 12), (JEQ, 0, 2, 0x0800), (LD_BYTE, 0, 0, 23), (JEQ, 1, 0, 17), DROP]
GROUP_ADDRESS: Program = [(LD_WORD, 0, 0, 30)]


def linear(groups: list[int]) -> Program:
    """Compare with one group after the other."""
    tests = [step for group in groups for step in ((JEQ, 0, 1, group), ACCEPT)]
    return IS_UDP + GROUP_ADDRESS + tests + [DROP]


def binary(groups: list[int]) -> Program:
    """Halve the sorted groups at each step."""

    def search(part: list[int]) -> Program:
        if len(part) == 1:
            return [(JEQ, 0, 1, part[0]), ACCEPT, DROP]
        low, high = part[: len(part) // 2], part[len(part) // 2 :]
        below = search(low)
        return [(JGE, 0, 1, high[0]), (JA, 0, 0, len(below)), *below, *search(high)]

    return IS_UDP + GROUP_ADDRESS + search(sorted(groups))


def one_round(pace: str, source: Namespace, relay: Namespace, program: Program | None) -> float:
    """Nanoseconds per datagram that the filter drops; without a program, with no AF_PACKET socket at all."""
    tap = Tap(relay, program=program) if program else None
    stream = Stream(source, UNWANTED)
    sender = stream.paced(pace, rate=0, count=DATAGRAMS, size=64)
    cost = json.loads(sender.communicate()[0])["ns_per_datagram"]
    if tap:
        packets, _ = wire.packet_statistics(tap.sock)
        assert packets == 0, "the filter let unwanted frames through"
        tap.sock.close()
    return cost


def brings_nothing(exp: Experiment, program: Program) -> None:
    """Behind a switch that prunes, wanting is not enough: nobody was asked for the stream."""
    source, relay = Namespace(), Namespace()
    pruning_switch({"to-source": source, "to-relay": relay})
    source.run("ip address add 192.0.2.2/24 dev eth0")
    with Tap(relay, program=program) as tap:
        time.sleep(0.3)
        exp.count("wanted_arriving_behind_switch", Stream(source, "239.1.0.7").arrive_at(tap))


def main(exp: Experiment) -> None:
    wanted = [int(ipaddress.IPv4Address("239.1.0.0")) + n for n in range(GROUPS)]
    programs_tried: dict[str, Program | None] = {
        "no_socket": None,
        "drop_all": DROP_ALL,
        "one_group": linear(wanted[:1]),
        f"linear_{GROUPS}": linear(wanted),
        f"binary_{GROUPS}": binary(wanted),
    }
    source, relay = pair()
    with Tap(relay, program=programs_tried[f"binary_{GROUPS}"]) as tap:
        exp.count("wanted_through_binary", Stream(source, "239.1.1.99").arrive_at(tap))
    exp.count(f"instructions_linear_{GROUPS}", len(programs_tried[f"linear_{GROUPS}"] or ()))
    exp.count(f"instructions_binary_{GROUPS}", len(programs_tried[f"binary_{GROUPS}"] or ()))

    with programs("pace.c") as (pace,):
        rounds = alternating(
            list(programs_tried), ROUNDS, lambda name: one_round(pace, source, relay, programs_tried[name])
        )
    exp.measure("ns_per_datagram_no_socket", statistics.median(one["no_socket"] for one in rounds))
    for name in list(programs_tried)[1:]:
        extra = statistics.median(one[name] - one["no_socket"] for one in rounds)
        exp.measure(f"extra_ns_{name}", extra)
    brings_nothing(exp, binary(wanted))

    exp.claim("filters-right", "the binary search lets its last group through", "wanted_through_binary == 10")
    exp.claim(
        "linear-is-dear",
        f"a linear filter of {GROUPS} groups adds more than 100 ns to every unwanted frame",
        f"extra_ns_linear_{GROUPS} - extra_ns_one_group > 100",
    )
    exp.claim(
        "binary-is-cheap",
        "a binary search costs less than half of that",
        f"extra_ns_binary_{GROUPS} - extra_ns_one_group < 0.5 * (extra_ns_linear_{GROUPS} - extra_ns_one_group)",
    )
    exp.claim(
        "a-filter-asks-for-nothing",
        "behind a switch that prunes a filter brings no packets",
        "wanted_arriving_behind_switch == 0",
    )


if __name__ == "__main__":
    run(main, __file__)
