"""Who gets a datagram: the helper socket, the AF_PACKET socket, or both?

Every combination of a helper (none, unbound, bound to the port) and AF_PACKET sockets (none, ETH_P_IP, ETH_P_ALL,
both at once), counting only what the sender sent.
"""

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
from wire import ETH_P_ALL, ETH_P_IP, Stream, Tap

if TYPE_CHECKING:
    import socket

GROUP, PORT, COUNT = "239.255.1.1", 9999, 10
HELPERS = ("none", "unbound", "bound")
CAPTURES = {"none": (), "ip": (ETH_P_IP,), "all": (ETH_P_ALL,), "both": (ETH_P_IP, ETH_P_ALL)}


def joined_helper(relay: Namespace, kind: str) -> socket.socket | None:
    """The buffer is the default one here, so that whatever reaches the helper is counted in full."""
    if kind == "none":
        return None
    sock = relay.socket()
    if kind == "bound":
        sock.bind(("0.0.0.0", PORT))
    wire.join(sock, relay, GROUP)
    return sock


def reached_helper(sock: socket.socket | None, stream: Stream) -> int:
    if sock is None:
        return 0
    sock.setblocking(False)
    mine = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            mine += sock.recv(2048)[:8] == stream.run_id
    return mine


def combination(exp: Experiment, source: Namespace, relay: Namespace, helper_kind: str, capture_kind: str) -> None:
    tag = f"helper_{helper_kind}_capture_{capture_kind}"
    helper, stream = joined_helper(relay, helper_kind), Stream(source, GROUP, PORT)
    taps = [Tap(relay, protocol=protocol) for protocol in CAPTURES[capture_kind]]
    sent = stream.send(COUNT)
    time.sleep(0.1)
    reached = [len(sent & {stream.sequence(frame) for frame in tap.frames(0)}) for tap in taps]
    exp.text(tag, f"helper {reached_helper(helper, stream)}, capture {' '.join(map(str, reached)) or '-'}")
    for sock in (*(tap.sock for tap in taps), *filter(None, [helper])):
        sock.close()


def main(exp: Experiment) -> None:
    source, relay = pair()
    for helper_kind in HELPERS:
        for capture_kind in CAPTURES:
            combination(exp, source, relay, helper_kind, capture_kind)

    def all_are(helper: str, expected: dict[str, str]) -> str:
        return " and ".join(f"helper_{helper}_capture_{kind} == '{text}'" for kind, text in expected.items())

    exp.claim(
        "unbound-helper-gets-nothing",
        "with an unbound helper every AF_PACKET socket gets every datagram and the helper none, captured or not",
        all_are(
            "unbound",
            {
                "none": "helper 0, capture -",
                "ip": "helper 0, capture 10",
                "all": "helper 0, capture 10",
                "both": "helper 0, capture 10 10",
            },
        ),
    )
    exp.claim(
        "bound-helper-gets-a-copy",
        "with a bound helper both get every datagram: capturing takes nothing away from the IP stack",
        all_are(
            "bound",
            {
                "none": "helper 10, capture -",
                "ip": "helper 10, capture 10",
                "all": "helper 10, capture 10",
                "both": "helper 10, capture 10 10",
            },
        ),
    )
    exp.claim(
        "capture-does-not-need-the-helper-on-a-veth",
        "control: on a veth the AF_PACKET socket gets an unjoined group as well",
        all_are("none", {"ip": "helper 0, capture 10", "all": "helper 0, capture 10"}),
    )


if __name__ == "__main__":
    run(main, __file__)
