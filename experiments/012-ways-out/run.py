"""What does each way out cost: send() per datagram, sendmmsg, an AF_PACKET TX ring, or UDP_SEGMENT runs?

The same prototype relay, V3 ring in, one 1316-byte stream; only the way out differs. First that every way delivers
each datagram once and whole, counted at a UDP socket in the sink; then the relay's CPU time per datagram, in turn.
"""

from __future__ import annotations

import select
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, big_receive_buffer, pair, programs, veth
from verdict import Experiment, alternating, run
from wire import Relay, Stream

if TYPE_CHECKING:
    import socket

ROUNDS, SIZE, TO = 7, 1316, ("239.2.2.2", 8888)
LOAD = {"rate": 100_000, "count": 30_000, "burst": 50, "size": SIZE}
PROOF = {"rate": 10_000, "count": 2_000, "burst": 50, "size": SIZE}
# name -> (the relay's way, the longest run, whether the device out may segment)
WAYS = {
    "receive_only": ("none", 64, "on"),
    "send": ("send", 1, "on"),
    "sendmmsg": ("sendmmsg", 64, "on"),
    "txring": ("txring", 64, "on"),
    "segment_in_kernel": ("segment", 64, "off"),
    "segment_by_device": ("segment", 64, "on"),
    "segment_in_kernel_runs_of_4": ("segment", 4, "off"),
    "segment_in_kernel_runs_of_16": ("segment", 16, "off"),
}


class Site:
    """source --- relay --- sink"""

    def __init__(self, pace: str, program: str) -> None:
        self.pace, self.program = pace, program
        (self.source, self.relay), self.sink = pair(), Namespace()
        veth(self.relay, "eth1", self.sink, "eth0")
        self.relay.run("ip address add 198.51.100.1/24 dev eth1")
        self.sink.run("ip address add 198.51.100.2/24 dev eth0")

    def start(self, name: str, load: dict[str, int]) -> tuple[Relay, Stream]:
        way, run, device = WAYS[name]
        self.relay.run(f"ethtool -K eth1 tx-udp-segmentation {device}")
        relay = Relay(self.program, self.relay, load["count"], way=way, run=run, out="eth1", to=TO)
        return relay, Stream(self.source, "239.1.1.1")

    def prove(self, name: str) -> tuple[int, int, int]:
        """Datagrams that reach a socket in the sink: distinct, in all, and how many with another size."""
        relay, stream = self.start(name, PROOF)
        with self.sink.socket() as sock:
            big_receive_buffer(sock, 8 << 20)
            sock.bind(TO)
            wire.join(sock, self.sink, TO[0])
            sender = stream.paced(self.pace, **PROOF)
            payloads = list(received(sock, stream.run_id, PROOF["count"]))
            sender.wait()
        relay.result()
        sequences = {payload[8:16] for payload in payloads}
        return len(sequences), len(payloads), sum(len(payload) != SIZE for payload in payloads)

    def cost(self, name: str) -> float:
        """The relay's CPU time per datagram."""
        relay, stream = self.start(name, LOAD)
        stream.paced(self.pace, **LOAD).wait()
        result = relay.result()
        if result["received"] != LOAD["count"] or result["refused"]:
            print(f"  note: {name}: {result}")
        return result["cpu_ns"]


def received(sock: socket.socket, run_id: bytes, most: int):
    end, count = time.monotonic() + 3, 0
    while count < most and select.select([sock], [], [], max(0.0, end - time.monotonic()))[0]:
        payload = sock.recv(65535)
        if payload[:8] == run_id:
            count += 1
            yield payload


def main(exp: Experiment) -> None:
    with programs("pace.c", "relay.c") as (pace, program):
        site = Site(pace, program)
        for name in list(WAYS)[1:]:
            distinct, in_all, odd = site.prove(name)
            exp.count(f"{name}_delivered", distinct)
            exp.count(f"{name}_copies_or_damaged", in_all - distinct + odd)
        rounds = alternating(list(WAYS), ROUNDS, site.cost)
    for name in WAYS:
        exp.measure(f"{name}_cpu_ns", statistics.median(one[name] for one in rounds))
    for name in list(WAYS)[2:]:
        exp.measure(f"{name}_over_send", statistics.median(one[name] / one["send"] for one in rounds))

    exp.claim(
        "every-way-delivers",
        "each way out delivers every datagram once and whole",
        " and ".join(f"{n}_delivered == {PROOF['count']} and {n}_copies_or_damaged == 0" for n in list(WAYS)[1:]),
    )
    exp.claim(
        "the-cost-is-the-way-out",
        "receiving is less than a third of the cost of receiving and sending one by one",
        "receive_only_cpu_ns < 0.33 * send_cpu_ns",
    )
    exp.claim(
        "sendmmsg-saves-little",
        "the system call is not the cost: sendmmsg of 64 costs more than 0.6 of a send() per datagram",
        "sendmmsg_over_send > 0.6",
    )
    exp.claim(
        "segment-wins-in-kernel",
        "UDP_SEGMENT runs cost less than 0.7 of send(), and less than a TX ring, even if the kernel has to split them",
        "segment_in_kernel_over_send < 0.7 and segment_in_kernel_over_send < 0.9 * txring_over_send",
    )
    exp.claim(
        "segment-wins-by-device",
        "UDP_SEGMENT runs cost less than 0.4 of send() if the device splits them",
        "segment_by_device_over_send < 0.4",
    )
    exp.claim(
        "short-runs-have-most-of-the-gain",
        "runs of 16 save at least three quarters of what the longest runs save",
        "1 - segment_in_kernel_runs_of_16_over_send > 0.75 * (1 - segment_in_kernel_over_send)",
    )


if __name__ == "__main__":
    run(main, __file__)
