"""What each operation of the core costs, by itself. ``extra_info`` says how many operations a round has."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from mcrelay._core.health import HealthState

GROUP, PORT, SIZE = 0xEF010000, 5000, 1316
SOURCE = 0xC0000202
FRAME = 42 + SIZE
ROUNDS = 4096 * 16  # operations in one call


def frame(group: int, port: int) -> bytes:
    """The headers of a datagram of SIZE bytes: more of it is not looked at, unless checksums are to be verified."""
    mac = bytes([1, 0, 0x5E, group >> 16 & 0x7F, group >> 8 & 255, group & 255])
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 28 + SIZE, 0, 0, 16, 17, 0, SOURCE, group)
    total = sum(struct.unpack(">10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
    return mac + bytes([2, 0, 0, 0, 0, 1, 8, 0]) + ip + struct.pack(">HHHH", 40000, port, 8 + SIZE, 0)


@pytest.mark.parametrize("groups", [1, 4096])
def test_parse(loops: Any, benchmark: Any, groups: int) -> None:
    frames = loops.Frames([frame(GROUP + i, PORT) for i in range(groups)], [(GROUP, PORT, 0)], FRAME)
    benchmark.extra_info["operations"] = ROUNDS
    assert benchmark(frames.parse, ROUNDS // groups) == ROUNDS


@pytest.mark.parametrize("rules", [1, 4096])
def test_parse_and_find(loops: Any, benchmark: Any, rules: int) -> None:
    """Every rule has traffic, in turn: neither frame nor slot is the one just used."""
    keys = [(GROUP + i, PORT, 0) for i in range(rules)]
    frames = loops.Frames([frame(group, port) for group, port, _ in keys], keys, FRAME)
    benchmark.extra_info["operations"] = ROUNDS
    assert benchmark(frames.parse_and_find, ROUNDS // rules) == ROUNDS


def test_parse_and_find_one_busy(loops: Any, benchmark: Any) -> None:
    frames = loops.Frames([frame(GROUP + 2000, PORT)], [(GROUP + i, PORT, 0) for i in range(4096)], FRAME)
    benchmark.extra_info["operations"] = ROUNDS
    assert benchmark(frames.parse_and_find, ROUNDS) == ROUNDS


@pytest.mark.parametrize("shape", ["all", "port any"])
def test_parse_and_find_with_all_shapes(loops: Any, benchmark: Any, shape: str) -> None:
    """4096 rules: 1024 groups with one port, and as many with any port, with a source, and with any VLAN.

    Every one has traffic, or those with any port alone.
    """
    shapes = [(PORT, 0), (0, 0), (PORT, SOURCE), (PORT, 0, True)]
    keys = [(GROUP + 1024 * kind + i, *rest) for kind, rest in enumerate(shapes) for i in range(1024)]
    sent = [(group, port or 7) for group, port, *_ in keys if shape == "all" or not port]
    frames = loops.Frames([frame(*each) for each in sent], keys, FRAME)
    benchmark.extra_info["operations"] = ROUNDS
    assert benchmark(frames.parse_and_find, ROUNDS // len(sent)) == ROUNDS


def test_push(loops: Any, benchmark: Any) -> None:
    chain = loops.Chain()
    benchmark.extra_info["operations"] = pushed = chain.push(16)
    assert benchmark(chain.push, 16) == pushed


@pytest.mark.parametrize("kind", ["rtp", "ts", "ts in rtp"])
def test_look(loops: Any, benchmark: Any, kind: str) -> None:
    """256 datagrams of 7 packets in order, which is a multiple of what continuity counters go by."""
    packets = [struct.pack(">BHB", 0x47, 256, 0x10 | i & 15) + bytes(184) for i in range(256 * 7)]
    datagrams = [b"".join(packets[at : at + 7]) for at in range(0, len(packets), 7)]
    if kind != "ts":
        datagrams = [struct.pack(">BBHII", 0x80, 33, i, i * 9, 1) + each for i, each in enumerate(datagrams)]
    stream = loops.Stream(datagrams, HealthState(rtp=kind != "ts", transport=kind != "rtp"))
    benchmark.extra_info["operations"] = 256 * 16
    assert benchmark(stream.look, 16) == 256 * 16
