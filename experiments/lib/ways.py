"""Ways out, compared: the same prototype relay with a V3 ring in and one 1316-byte stream; only the way out differs."""

from __future__ import annotations

import select
import statistics
import time
from typing import TYPE_CHECKING

import wire
from lab import Namespace, big_receive_buffer, pair, programs, veth
from verdict import Experiment, alternating
from wire import Relay, Stream

if TYPE_CHECKING:
    import socket

ROUNDS, SIZE, TO = 7, 1316, ("239.2.2.2", 8888)
LOAD = {"rate": 100_000, "count": 30_000, "burst": 50, "size": SIZE}
PROOF = {"rate": 10_000, "count": 2_000, "burst": 50, "size": SIZE}
Ways = dict[str, tuple[str, int, str]]  # name -> (the relay's way, the longest run, whether the device may segment)


class Site:
    """source --- relay --- sink"""

    def __init__(self, pace: str, program: str, ways: Ways) -> None:
        self.pace, self.program, self.ways = pace, program, ways
        (self.source, self.relay), self.sink = pair(), Namespace()
        veth(self.relay, "eth1", self.sink, "eth0")
        self.relay.run("ip address add 198.51.100.1/24 dev eth1")
        self.sink.run("ip address add 198.51.100.2/24 dev eth0")

    def start(self, name: str, load: dict[str, int]) -> tuple[Relay, Stream]:
        way, run, device = self.ways[name]
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


def compare(exp: Experiment, ways: Ways, senders: list[str], reference: str) -> None:
    """Count what each of the senders delivers, then each way's CPU time, in turn, and its ratio to the reference."""
    with programs("pace.c", "relay.c") as (pace, program):
        site = Site(pace, program, ways)
        for name in senders:
            distinct, in_all, odd = site.prove(name)
            exp.count(f"{name}_delivered", distinct)
            exp.count(f"{name}_copies_or_damaged", in_all - distinct + odd)
        rounds = alternating(list(ways), ROUNDS, site.cost)
    for name in ways:
        exp.measure(f"{name}_cpu_ns", statistics.median(one[name] for one in rounds))
    for name in senders:
        if name != reference:
            exp.measure(f"{name}_over_{reference}", statistics.median(one[name] / one[reference] for one in rounds))
    exp.claim(
        "every-way-delivers",
        "each way out delivers every datagram once and whole",
        " and ".join(f"{n}_delivered == {PROOF['count']} and {n}_copies_or_damaged == 0" for n in senders),
    )
