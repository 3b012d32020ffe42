from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from mcrelay.linux.rtnetlink import Notice, notices


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, ifindex: int, *attributes: bytes) -> bytes:
    body = struct.pack("=BBHiII", 0, 0, 1, ifindex, 0, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_a_link_is_told_by_number_name_altnames_and_the_link_below():
    names = attribute(0x8000 | 52, attribute(53, b"uplink\0") + attribute(53, b"lobby\0"))
    data = message(16, 7, attribute(3, b"eth0\0"), attribute(5, struct.pack("=i", 3)), names)
    assert list(notices(data)) == [Notice(16, 7, frozenset({"eth0", "uplink", "lobby"}), 3)]


def test_several_messages_come_in_one_piece():
    data = message(16, 7, attribute(3, b"a\0")) + message(20, 8) + message(36, 9) + message(17, 7, attribute(3, b"a\0"))
    assert [(each.kind, each.ifindex) for each in notices(data)] == [(16, 7), (20, 8), (36, 9), (17, 7)]


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_without_an_error(data):
    list(notices(data))
    list(notices(message(16, 7) + data))
