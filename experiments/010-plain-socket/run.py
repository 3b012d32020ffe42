"""Third fall-back: a plain AF_INET socket. What reaches it from a source that the host has no route to?"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, pair
from verdict import Experiment, run
from wire import Stream, Tap

if TYPE_CHECKING:
    import socket

GROUP, PORT, COUNT = "239.255.1.1", 9999, 10
ROUTABLE, UNROUTABLE = "192.0.2.2", "192.168.168.55"
DROPS = "TcpExtIPReversePathFilter"


def plain_socket(relay: Namespace) -> socket.socket:
    sock = relay.socket()
    sock.bind((GROUP, PORT))
    wire.join(sock, relay, GROUP)
    sock.setblocking(False)
    return sock


def deliver(exp: Experiment, tag: str, source: Namespace, relay: Namespace, address: str) -> None:
    """Ten datagrams from the address: what the plain socket, the AF_PACKET socket and the kernel's counter saw."""
    stream, plain = Stream(source, GROUP, PORT), plain_socket(relay)
    with Tap(relay) as capture, Tap(source) as sender:
        before = relay.counter(DROPS)
        for sequence in range(COUNT):
            sender.send(wire.udp_frame(address, GROUP, PORT, stream.payload(sequence)))
        time.sleep(0.1)
        captured = {stream.sequence(frame) for frame in capture.frames(0)} - {None}
    read = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            read += plain.recv(2048)[:8] == stream.run_id
    plain.close()
    exp.count(f"{tag}_plain", read)
    exp.count(f"{tag}_af_packet", len(captured))
    exp.count(f"{tag}_counted_as_rp_filter", relay.counter(DROPS) - before)


def set_rp_filter(relay: Namespace, everywhere: int, here: int) -> None:
    relay.sysctl("net/ipv4/conf/all/rp_filter", everywhere)
    relay.sysctl("net/ipv4/conf/eth0/rp_filter", here)


def queries(exp: Experiment, source: Namespace, relay: Namespace) -> None:
    """IGMP queries are judged like any packet: which queriers does a strict host answer?"""
    set_rp_filter(relay, 0, 1)
    member = plain_socket(relay)
    with Tap(source) as querier:
        time.sleep(1.2)  # past the reports that the join itself causes
        for tag, address in (("routable", ROUTABLE), ("unroutable", UNROUTABLE), ("proxy", "0.0.0.0")):
            querier.drain()
            querier.send(wire.query(GROUP, source=address, response_s=0.3))
            answers = wire.about(querier.listen(0.5), GROUP, {"IS_EX"})
            exp.count(f"query_from_{tag}_querier_answered", answers > 0)
    member.close()


def main(exp: Experiment) -> None:
    source, relay = pair()
    for tag, everywhere, here in (("off", 0, 0), ("strict", 0, 1), ("loose", 0, 2), ("all_only", 1, 0)):
        set_rp_filter(relay, everywhere, here)
        deliver(exp, f"{tag}_unroutable", source, relay, UNROUTABLE)
    set_rp_filter(relay, 0, 1)
    deliver(exp, "strict_routable", source, relay, ROUTABLE)

    queries(exp, source, relay)

    exp.claim(
        "rp-filter-starves-the-plain-socket",
        "strict or loose, rp_filter drops an unroutable source before a plain socket, and counts it",
        " and ".join(
            f"{tag}_unroutable_plain == 0 and {tag}_unroutable_counted_as_rp_filter == 10"
            for tag in ("strict", "loose", "all_only")
        ),
    )
    exp.claim(
        "af-packet-does-not-care",
        "an AF_PACKET socket gets every datagram whatever rp_filter says",
        " and ".join(f"{tag}_unroutable_af_packet == 10" for tag in ("off", "strict", "loose", "all_only")),
    )
    exp.claim(
        "control",
        "control: the plain socket gets a routable source, and an unroutable one with rp_filter off",
        "strict_routable_plain == 10 and off_unroutable_plain == 10",
    )
    exp.claim(
        "an-unroutable-querier-goes-unanswered",
        "with rp_filter strict a query from an unroutable address is not answered, one from 0.0.0.0 is",
        "query_from_unroutable_querier_answered == 0 and query_from_proxy_querier_answered == 1 "
        "and query_from_routable_querier_answered == 1",
    )


if __name__ == "__main__":
    run(main, __file__)
