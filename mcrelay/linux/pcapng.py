"""Write the part of pcapng (draft-ietf-opsawg-pcapng) that a capture needs; wireshark and tshark read it. Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcrelay.model.frame import Frame

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
BYTE_ORDER = 0x1A2B3C4D
ETHERNET = 1
END_OF_OPTIONS = 0
USER_APPLICATION, INTERFACE_NAME, TIME_RESOLUTION, PACKET_FLAGS = 4, 2, 9, 2
STATISTICS_RECEIVED, STATISTICS_DROPPED = 4, 5
INBOUND, OUTBOUND = 1, 2
NANOSECONDS = 9  # as a power of ten


def section(application: str) -> bytes:
    """The first block of a file."""
    head = struct.pack("=IHHq", BYTE_ORDER, 1, 0, -1)
    return _block(SECTION, head, (USER_APPLICATION, application.encode()))


def interface(name: str, snaplen: int) -> bytes:
    """The block of one link. Frames refer to it by its place in the file."""
    head = struct.pack("=HHI", ETHERNET, 0, snaplen)
    return _block(INTERFACE, head, (INTERFACE_NAME, name.encode()), (TIME_RESOLUTION, bytes([NANOSECONDS])))


def packet(number: int, frame: Frame, snaplen: int) -> bytes:
    """One frame of interface *number*, at most *snaplen* bytes of it."""
    data = frame.data[:snaplen]
    head = struct.pack("=IIIII", number, frame.time_ns >> 32, frame.time_ns & 0xFFFFFFFF, len(data), frame.length)
    flags = struct.pack("=I", OUTBOUND if frame.outgoing else INBOUND)
    return _block(PACKET, head + data + bytes(-len(data) % 4), (PACKET_FLAGS, flags))


def statistics(number: int, time_ns: int, received: int, dropped: int) -> bytes:
    """The totals of interface *number*: frames received, and frames lost for lack of room."""
    head = struct.pack("=III", number, time_ns >> 32, time_ns & 0xFFFFFFFF)
    counts = ((STATISTICS_RECEIVED, received), (STATISTICS_DROPPED, dropped))
    return _block(STATISTICS, head, *((code, struct.pack("=Q", count)) for code, count in counts))


def _block(kind: int, body: bytes, *options: tuple[int, bytes]) -> bytes:
    for code, value in (*options, (END_OF_OPTIONS, b"")):
        body += struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)
    length = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + length + body + length
