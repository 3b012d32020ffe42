"""Frames with a VLAN tag that an output makes itself: what the kernel is given, and what becomes of it."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import group_mac, number, ones_sum

from mcrelay._core.egress import EgressSocket, GsoState

pytestmark = pytest.mark.core

GROUP, MAC, LOOPBACK = "239.138.0.1", 0x02_00_00_00_00_A1, 1
MESSAGES = 128
HEADERS = 18 + 20 + 8


@pytest.fixture
def heard():
    """What is sent on lo, from the Ethernet header on."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        tap.bind(("lo", 3))
        tap.setblocking(False)
        yield tap


def frames(tap):
    """The frames of the test that came in, tag and all: the tap has taken it off, and says it beside."""
    found = []
    while True:
        try:
            data, address = tap.recvfrom(65600)
        except BlockingIOError:
            return found
        if address[2] == socket.PACKET_OUTGOING and data[6:12] == MAC.to_bytes(6, "big"):
            found.append(data)


def output(payload_max=1472, **fields):
    return EgressSocket(
        number(GROUP), 5004, GsoState(), ifindex=LOOPBACK, source_address=number("192.0.2.1"), source_port=20000,
        payload_max=payload_max, vlan=100, mac=MAC, **fields,
    )  # fmt: skip


def whole(frame, more=False, offset=0, flags=0):
    """The IPv4 payload of a frame whose headers are right."""
    assert frame[:18] == group_mac(GROUP) + MAC.to_bytes(6, "big") + struct.pack("!3H", 0x8100, 100, 0x0800)
    assert ones_sum(frame[18:38]) == 0xFFFF
    length, word = struct.unpack_from("!H2xH", frame, 20)
    assert (length, word) == (len(frame) - 18, more << 13 | flags | offset // 8)
    return frame[38:]


def reassembled(sent, unit):
    """The UDP datagrams of frames, each cut at ``unit`` bytes; (payload, identification)."""
    found, parts = [], b""
    for frame in sent:
        more = bool(frame[24] & 0x20)
        parts += whole(frame, more, len(parts))
        assert not more or len(frame) == 38 + unit // 8 * 8
        if not more:
            assert struct.unpack_from("!3H", parts) == (20000, 5004, len(parts))
            pseudo = frame[30:38] + struct.pack("!HH", socket.IPPROTO_UDP, len(parts))
            assert ones_sum(pseudo + parts) == 0xFFFF
            found.append((parts[8:], frame[22:24]))
            parts = b""
    assert not parts
    return found


@given(st.lists(st.integers(0, 5000), max_size=60), st.sampled_from([40, 548, 1472, 4000]))
def test_every_datagram_leaves_whole_or_in_parts_that_make_it_again(probe, sizes, payload_max):
    payloads = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    probe.script([])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        tap.bind(("lo", 3))
        tap.setblocking(False)
        chains = probe.Chains(output(payload_max))
        chains.queue_up([(payload, 0) for payload in payloads])
        assert chains.send() is None
        found = reassembled(frames(tap), payload_max + 8)
    fits = [payload for payload in payloads if -(-(len(payload) + 8) // ((payload_max + 8) // 8 * 8)) <= MESSAGES]
    assert [payload for payload, _ in found] == fits, "lo takes whole what would be more than 128 parts"
    assert len({identification for _, identification in found}) == len(found)
    assert chains.counted == (len(payloads), sum(sizes), {})


def test_what_may_not_be_cut_is_the_mtus_error_and_the_rest_leaves(probe, heard):
    probe.script([-1, errno.EMSGSIZE])
    chains = probe.Chains(output(df=True))
    chains.queue_up([(b"a", 0), (bytes(2000), 0), (b"b", 0)])
    assert chains.send() is None
    assert [whole(frame, flags=0x4000)[8:] for frame in frames(heard)] == [b"a", b"b"]
    assert chains.counted == (2, 2, {"mtu": 1})


def test_a_datagram_with_a_part_refused_is_lost_as_a_whole_and_counted_once(probe, heard):
    probe.script([-2, errno.ENOBUFS])
    chains = probe.Chains(output(payload_max=548))
    chains.queue_up([(b"a", 0), (bytes(1500), 0), (b"b", 0)])
    assert chains.send() is None
    assert [len(frame) for frame in frames(heard)] == [HEADERS + 1, 38 + 552, HEADERS + 1]
    assert chains.counted == (2, 2, {"nobufs": 1})


def test_where_room_ends_between_two_parts_the_datagram_is_sent_again(probe, heard):
    probe.script([-2, errno.EAGAIN])
    chains = probe.Chains(output(payload_max=548))
    chains.queue_up([(b"a", 0), (bytes(1500), 0), (b"b", 0)])
    assert chains.send() == 1
    assert chains.counted == (1, 1, {})
    probe.script([errno.EINTR])
    assert chains.send(1) is None
    sent = frames(heard)
    assert [payload for payload, _ in reassembled([sent[0], *sent[2:]], 556)] == [b"a", bytes(1500), b"b"]
    assert sent[1][22:24] != sent[2][22:24], "another identification, so that the parts do not mix"
    assert chains.counted == (3, 1502, {})


def test_a_source_that_no_host_has_is_not_sent_from(probe, heard):
    probe.script([])
    chains = probe.Chains(output(keep_address=True, keep_port=True))
    nobody = ("0.0.0.0", "239.1.1.1", "255.255.255.255")
    chains.queue_up_from([(b"x", number(each), 7001) for each in (*nobody, "10.0.0.9")])
    assert chains.send() is None
    (sent,) = frames(heard)
    assert (sent[30:34], sent[38:40]) == (socket.inet_aton("10.0.0.9"), struct.pack("!H", 7001))
    assert chains.counted == (1, 1, {"noaddr": 3})


@pytest.mark.parametrize(("group", "payload_max"), [(GROUP, 0), (GROUP, 39), ("192.0.2.7", 1472)])
def test_frames_need_the_mtu_and_a_group(group, payload_max):
    with pytest.raises(ValueError, match="frames to"):
        EgressSocket(number(group), 5004, GsoState(), ifindex=LOOPBACK, payload_max=payload_max, vlan=100, mac=MAC)
