"""What does each way out cost: send() per datagram, sendmmsg, an AF_PACKET TX ring, or UDP_SEGMENT runs?

The same prototype relay, V3 ring in, one 1316-byte stream; only the way out differs. First that every way delivers
each datagram once and whole, counted at a UDP socket in the sink; then the relay's CPU time per datagram, in turn.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from verdict import Experiment, run
from ways import Ways, compare

WAYS: Ways = {
    "receive_only": ("none", 64, "on"),
    "send": ("send", 1, "on"),
    "sendmmsg": ("sendmmsg", 64, "on"),
    "txring": ("txring", 64, "on"),
    "segment_in_kernel": ("segment", 64, "off"),
    "segment_by_device": ("segment", 64, "on"),
    "segment_in_kernel_runs_of_4": ("segment", 4, "off"),
    "segment_in_kernel_runs_of_16": ("segment", 16, "off"),
}


def main(exp: Experiment) -> None:
    compare(exp, WAYS, list(WAYS)[1:], "send")
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
