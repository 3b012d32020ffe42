"""The features of this kernel, probed once into one value. Tests pass another value to force every fallback."""

from __future__ import annotations

import socket
from dataclasses import dataclass

UDP_SEGMENT = 103  # linux/udp.h


@dataclass(frozen=True, slots=True)
class Features:
    """The features that forwarding can use.

    ``udp_segment``: runs can be sent as one message (udp(7), Linux 4.18). ``fanout``: the kernel deals frames to
    several workers (packet(7)); this is known when a ring is made, so the probe says yes.
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
