"""What becomes of the packets at a joined socket that is never read, at 100 000 a second for ten seconds?

The contrast is the same helper bound to the stream's port: the one mistake that makes packets queue on it.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import pair, programs
from verdict import Experiment, run
from wire import Stream, Tap

GROUP, PORT = "239.255.1.1", 9999
RATE, SECONDS = 100_000, 10
COUNTERS = ("UdpIgnoredMulti", "UdpInDatagrams", "UdpNoPorts", "UdpInErrors", "UdpRcvbufErrors", "IcmpOutMsgs")


def load(exp: Experiment, pace: str, tag: str, port: int | None) -> None:
    source, relay = pair()
    helper, stream = wire.helper(relay, GROUP, port=port), Stream(source, GROUP, PORT)
    with Tap(relay) as capture:
        before = {name: relay.counter(name) for name in COUNTERS}
        wire.packet_statistics(capture.sock)
        sender = stream.paced(pace, rate=RATE, count=RATE * SECONDS, burst=20)
        looks = readable = errors = 0
        while sender.poll() is None:
            readable += bool(select.select([helper], [], [], 0.1)[0])
            errors += helper.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
            looks += 1
            if readable:  # it stays readable: no need to spin
                break
        sent = json.loads(sender.communicate()[0])
        captured, _ = wire.packet_statistics(capture.sock)
    exp.count(f"{tag}_sent", sent["sent"])
    exp.measure(f"{tag}_rate", sent["rate"])
    exp.count(f"{tag}_taken_by_af_packet", captured)
    exp.count(f"{tag}_was_readable", readable > 0)
    exp.count(f"{tag}_socket_errors", errors + (helper.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0))
    for name in COUNTERS:
        exp.count(f"{tag}_{name}", relay.counter(name) - before[name])
    exp.count(f"{tag}_waiting_at_the_end", wire.take_all(helper))


def main(exp: Experiment) -> None:
    with programs("pace.c") as (pace,):
        load(exp, pace, "unbound", None)
        load(exp, pace, "bound", PORT)
    total = RATE * SECONDS
    exp.claim(
        "the-load-was-real",
        "the sender kept the rate, and the AF_PACKET socket was offered every datagram",
        f"unbound_rate > {0.9 * RATE:.0f} and unbound_sent == {total} and unbound_taken_by_af_packet == unbound_sent",
    )
    exp.claim(
        "nothing-queues-on-the-helper",
        "an unbound helper is never readable and reports no error",
        "unbound_was_readable + unbound_waiting_at_the_end + unbound_socket_errors == 0",
    )
    exp.claim(
        "the-kernel-says-where-they-went",
        "every datagram is counted once, as UdpIgnoredMulti: no error, no drop, no ICMP",
        "unbound_UdpIgnoredMulti == unbound_sent and unbound_UdpInDatagrams + unbound_UdpNoPorts "
        "+ unbound_UdpInErrors + unbound_UdpRcvbufErrors + unbound_IcmpOutMsgs == 0",
    )
    exp.claim(
        "a-bound-helper-fills",
        "bound to the port, a helper is readable, and what does not fit is counted as a receive error",
        "bound_was_readable == 1 and bound_waiting_at_the_end > 0 and bound_UdpIgnoredMulti == 0 "
        "and bound_UdpRcvbufErrors + bound_waiting_at_the_end == bound_sent",
    )


if __name__ == "__main__":
    run(main, __file__)
