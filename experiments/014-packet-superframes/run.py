"""Is an AF_PACKET superframe a cheaper way out than a UDP_SEGMENT send, and an AF_PACKET frame than send()?

The relay writes Ethernet, IP and UDP headers itself: no route, no firewall, no address is looked up by the kernel.
Counted and measured as in 012.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from verdict import Experiment, run
from ways import Ways, compare

WAYS: Ways = {
    "send": ("send", 1, "off"),
    "packet": ("packet", 64, "off"),
    "txring": ("txring", 64, "off"),
    "segment_in_kernel": ("segment", 64, "off"),
    "superframe_in_kernel": ("superframe", 64, "off"),
    "segment_in_kernel_runs_of_16": ("segment", 16, "off"),
    "superframe_in_kernel_runs_of_16": ("superframe", 16, "off"),
    "segment_by_device": ("segment", 64, "on"),
    "superframe_by_device": ("superframe", 64, "on"),
}


def main(exp: Experiment) -> None:
    compare(exp, WAYS, list(WAYS), "send")
    exp.claim(
        "superframes-win-nothing",
        "a superframe written by hand costs at least 0.85 of a UDP_SEGMENT send of the same run",
        " and ".join(
            f"superframe_{how}_over_send > 0.85 * segment_{how}_over_send"
            for how in ("in_kernel", "in_kernel_runs_of_16", "by_device")
        ),
    )
    exp.claim(
        "runs-beat-single-packets",
        "a UDP_SEGMENT run costs less than AF_PACKET frames one by one, even if the kernel has to split it",
        "segment_in_kernel_over_send < packet_over_send and segment_in_kernel_over_send < txring_over_send",
    )


if __name__ == "__main__":
    run(main, __file__)
