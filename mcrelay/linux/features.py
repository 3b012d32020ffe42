"""What this kernel offers, probed once into one value; tests pass another to force every fallback."""

from __future__ import annotations

import socket
from dataclasses import dataclass

UDP_SEGMENT = 103  # linux/udp.h


@dataclass(frozen=True, slots=True)
class Features:
    """What there is and what is not.

    ``udp_segment``: runs can be sent as one message (udp(7), Linux 4.18). ``fanout``: several workers may leave it to
    the kernel whose a frame is (packet(7)); that is found out when a ring is made, so the probe says yes.
    """

    udp_segment: bool = True
    fanout: bool = True


def probe() -> Features:
    """Ask the running kernel; needs no privilege."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
        except OSError:
            return Features(udp_segment=False)
    return Features(udp_segment=True)
