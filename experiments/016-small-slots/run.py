"""Slots as large as a superframe, as large as a frame, or blocks: what does each hold, and how soon is it seen?

A slot that is too small for a superframe can have the kernel queue the whole of it on the socket (PACKET_COPY_THRESH).
"""

from __future__ import annotations

import ctypes
import mmap
import select
import socket
import statistics
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from lab import Namespace, pair
from verdict import Experiment, run

SOL_PACKET, RX_RING, STATISTICS, COPY_THRESH, VERSION, VNET_HDR = 263, 5, 6, 7, 10, 15
UDP_SEGMENT = 103
TP_STATUS_USER, TP_STATUS_COPY = 1, 2
BLOCK, BLOCKS = 1 << 20, 32
BURST, DATAGRAM, SUPERFRAME = 20_000, 1316, 40 * 1316


class Ring:
    """A receive ring of 32 MiB on eth0; V2 with slots of ``slot`` bytes, else V3 with 1 ms blocks of 128 KiB."""

    def __init__(self, host: Namespace, slot: int, *, copy: bool = False) -> None:
        self.socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.slot = slot
        self.socket.setsockopt(SOL_PACKET, VERSION, 1 if slot else 2)
        self.socket.setsockopt(SOL_PACKET, VNET_HDR, 1)
        if copy:
            self.socket.setsockopt(SOL_PACKET, COPY_THRESH, 1)
        if slot:
            request = struct.pack("=4I", BLOCK, BLOCKS, slot, BLOCK // slot * BLOCKS)
        else:
            request = struct.pack("=7I", 128 << 10, 256, 128 << 10, 256, 1, 0, 0)
        self.socket.setsockopt(SOL_PACKET, RX_RING, request)
        self.memory = mmap.mmap(self.socket.fileno(), BLOCK * BLOCKS)
        udp_only = struct.pack("=HBBIHBBIHBBIHBBI", 0x30, 0, 0, 23, 0x15, 0, 1, 17, 6, 0, 0, 0x40000, 6, 0, 0, 0)
        self.filter(udp_only)
        with host:
            self.socket.bind(("eth0", 3))

    def filter(self, code: bytes) -> None:
        held = ctypes.create_string_buffer(code)
        self.socket.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", len(code) // 8, ctypes.addressof(held)))

    def statistics(self) -> tuple[int, int]:
        packets, drops = struct.unpack_from("=II", self.socket.getsockopt(SOL_PACKET, STATISTICS, 12))
        return packets - drops, drops

    def status(self, index: int) -> int:
        return struct.unpack_from("=I", self.memory, index * self.slot)[0]

    def close(self) -> None:
        self.memory.close()
        self.socket.close()


def sender(host: Namespace, segment: int = 0) -> socket.socket:
    sock = host.socket()
    if segment:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
    sock.connect(("239.1.1.1", 5000))
    return sock


def burst(source: Namespace, ring: Ring) -> int:
    """How many of 20 000 datagrams back to back a ring keeps that nobody reads."""
    with sender(source) as sock:
        for _ in range(BURST):
            sock.send(bytes(DATAGRAM))
    return ring.statistics()[0]


def delay_us(source: Namespace, ring: Ring) -> float:
    """The median time from a send to poll's answer, for single datagrams 5 ms apart."""
    times = []
    poll = select.poll()
    poll.register(ring.socket, select.POLLIN)
    with sender(source) as sock:
        for index in range(100):
            begin = time.monotonic()
            sock.send(bytes(100))
            poll.poll(1000)
            times.append((time.monotonic() - begin) * 1e6)
            at = index * ring.slot if ring.slot else index % 256 * (128 << 10) + 8
            struct.pack_into("=I", ring.memory, at, 0)
            time.sleep(0.005)
    return statistics.median(times)


def superframes(source: Namespace, ring: Ring) -> tuple[int, int]:
    """(how many of 3 superframes came whole by recv, how many of 100 the socket queues with its default buffer)."""
    whole = 0
    with sender(source, DATAGRAM) as sock:
        for index in range(3):
            sock.send(bytes([index]) * SUPERFRAME)
        for index in range(3):
            if ring.status(index) & TP_STATUS_COPY:
                got = ring.socket.recv(70_000, socket.MSG_DONTWAIT)
                whole += got[10 + 42 :] == bytes([index]) * SUPERFRAME and got[1] == 5
        for _ in range(100):
            sock.send(bytes(SUPERFRAME))
    return whole, sum(bool(ring.status(3 + index) & TP_STATUS_COPY) for index in range(100))


def main(exp: Experiment) -> None:
    source, host = pair()
    source.run("ip route replace 224.0.0.0/4 dev eth0")
    kinds = {"large_slots": 66048, "small_slots": 1600, "blocks": 0}
    for name, slot in kinds.items():
        ring = Ring(host, slot, copy=slot == 1600)
        exp.count(f"{name}_kept", burst(source, ring))
        ring.close()
        ring = Ring(host, slot, copy=slot == 1600)
        exp.measure(f"{name}_delay_us", delay_us(source, ring))
        ring.close()
    ring = Ring(host, 1600, copy=True)
    whole, queued = superframes(source, ring)
    ring.close()
    exp.count("superframes_whole", whole)
    exp.measure("superframes_queued", queued)
    exp.claim(
        "small-slots-hold-the-burst",
        "of 20 000 datagrams back to back slots as large as a frame keep all, slots for superframes under 1000",
        "small_slots_kept == 20000 and large_slots_kept < 1000",
    )
    exp.claim(
        "blocks-are-later",
        "blocks with the shortest timer hand a datagram over at least three times as late as slots",
        "blocks_delay_us > 3 * small_slots_delay_us",
    )
    exp.claim(
        "a-superframe-comes-whole",
        "a superframe larger than its slot is read whole from the socket, with its gso_type, in its order",
        "superframes_whole == 3",
    )
    exp.claim(
        "but-few-wait",
        "the socket's default buffer queues fewer than 20 superframes that nobody has read",
        "superframes_queued < 20",
    )


if __name__ == "__main__":
    run(main, __file__)
