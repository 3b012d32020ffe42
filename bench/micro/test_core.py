"""What parsing, looking up and queueing cost, each by itself. ``extra_info`` says how many operations a round has."""

from __future__ import annotations

import struct
from typing import Any

import pytest

GROUP, PORT, SIZE = 0xEF010000, 5000, 1316
FRAME = 42 + SIZE
ROUNDS = 4096 * 16  # operations in one call


def frame(group: int, port: int) -> bytes:
    """The headers of a datagram of SIZE bytes: more of it is not looked at, unless checksums are to be verified."""
    mac = bytes([1, 0, 0x5E, group >> 16 & 0x7F, group >> 8 & 255, group & 255])
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 28 + SIZE, 0, 0, 16, 17, 0, 0xC0000202, group)
    total = sum(struct.unpack(">10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
    return mac + bytes([2, 0, 0, 0, 0, 1, 8, 0]) + ip + struct.pack(">HHHH", 40000, port, 8 + SIZE, 0)


@pytest.mark.parametrize("groups", [1, 4096])
def test_parse(loops: Any, benchmark: Any, groups: int) -> None:
    frames = loops.Frames([frame(GROUP + i, PORT) for i in range(groups)], [(GROUP, PORT)], FRAME)
    benchmark.extra_info["operations"] = ROUNDS
    assert benchmark(frames.parse, ROUNDS // groups) == ROUNDS


@pytest.mark.parametrize("rules", [1, 4096])
def test_parse_and_find(loops: Any, benchmark: Any, rules: int) -> None:
    """Every rule has traffic, in turn: neither frame nor slot is the one just used."""
    keys = [(GROUP + i, PORT) for i in range(rules)]
    frames = loops.Frames([frame(*key) for key in keys], keys, FRAME)
    benchmark.extra_info["operations"] = ROUNDS
    assert benchmark(frames.parse_and_find, ROUNDS // rules) == ROUNDS


def test_parse_and_find_one_busy(loops: Any, benchmark: Any) -> None:
    frames = loops.Frames([frame(GROUP + 2000, PORT)], [(GROUP + i, PORT) for i in range(4096)], FRAME)
    benchmark.extra_info["operations"] = ROUNDS
    assert benchmark(frames.parse_and_find, ROUNDS) == ROUNDS


def test_push(loops: Any, benchmark: Any) -> None:
    chain = loops.Chain()
    benchmark.extra_info["operations"] = pushed = chain.push(16)
    assert benchmark(chain.push, 16) == pushed
