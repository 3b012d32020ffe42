"""The receive ring: its walk over memory that a test fills, and the real socket in a namespace."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest
from core.loops import ACCEPT_ALL, From, Running, Wire, only_groups, plan_of, settle, verdicts, wait_until
from support.frames import GROUP, PORT, SOURCE, frame

from mcrelay._core.ring import RingSocket

pytestmark = pytest.mark.core


@pytest.fixture
def wire(namespaces):
    made = Wire(namespaces)
    yield made
    made.close()


def open_fds():
    return len(os.listdir("/proc/self/fd"))


# The walk


kinds = pytest.mark.parametrize("slots", [False, True], ids=["blocks", "slots"])


@kinds
def test_a_place_is_taken_only_once_it_is_handed_over_and_in_order(probe, slots):
    ring = probe.FakeRing(3, slots=slots)
    assert ring.acquire() is None
    ring.hand_over(1)
    assert ring.acquire() is None, "place 0 is still the kernel's"
    ring.hand_over(0)
    assert [ring.acquire() for _ in range(3)] == [0, 1, None]


@kinds
def test_the_walk_wraps_around(probe, slots):
    ring = probe.FakeRing(4, slots=slots)
    for turn in range(10):
        ring.hand_over(turn % 4)
        assert ring.acquire() == turn % 4
        assert ring.acquire() is None
        ring.release()


@kinds
def test_what_is_taken_stays_ours_until_all_of_it_is_released(probe, slots):
    ring = probe.FakeRing(4, slots=slots)
    for index in range(4):
        ring.hand_over(index)
    assert [ring.acquire() for _ in range(5)] == [0, 1, 2, 3, None], "place 0 is not taken twice"
    assert [ring.is_ours(index) for index in range(4)] == [True] * 4
    ring.release()
    assert [ring.is_ours(index) for index in range(4)] == [False] * 4
    ring.hand_over(0)
    assert [ring.acquire(), ring.acquire()] == [0, None]


@kinds
@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize("places", [2, 4, 5])
def test_half_a_ring_is_free_until_the_place_half_a_ring_ahead_is_handed_over(probe, places, start, held, slots):
    ring = probe.FakeRing(places, slots=slots)
    for index in range(start):
        ring.hand_over(index % places)
        ring.acquire()
        ring.release()
    answers = []
    for ahead in range(places):
        answers.append(ring.half_free)
        ring.hand_over((start + ahead) % places)
        if ahead < held:
            ring.acquire()
    half = places // 2
    assert answers == [True] * (half + 1) + [False] * (places - half - 1)
    assert not ring.half_free


def test_frames_of_a_block_are_chained_by_their_offsets(probe):
    assert probe.FakeRing(1, 4096).walk([96, 112, 1500, 80]) == [64, 160, 272, 1772]


@kinds
def test_every_field_of_a_frame_is_read_from_its_own_place(probe, slots):
    names = ("mac", "size", "wire_size", "status", "seconds", "nanoseconds", "tci")
    assert probe.frame_as_read(slots) == {name: i + 1 for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("gso_type", "gso_size", "segment"), [(0, 0, 0), (0, 1316, 0), (1, 1448, 0), (4, 1448, 0), (5, 1316, 1316)]
)
def test_only_a_udp_superframe_has_segments(probe, gso_type, gso_size, segment):
    assert probe.segment_of(gso_type, gso_size) == segment


@pytest.mark.parametrize(
    ("left", "whose"),  # flags, gso_type, csum_start, csum_offset
    [
        ((0, 0, 0, 0), "ours"),
        ((2, 0, 0, 0), "ours"),  # the device vouches for it
        ((1, 0, 34, 6), "ours"),  # a local sender
        ((1, 5, 34, 6), "ours"),  # its superframe
        ((0, 5, 0, 0), "ours"),  # a list of whole datagrams, made by GRO
        ((1, 0, 84, 6), "done"),
        ((1, 0, 84, 16), "done"),
        ((1, 0, 592, 6), "done"),
        ((1, 0, 42, 6), "done"),
        ((1, 0, 84, 8), "tunnel"),  # SCTP
        ((1, 5, 84, 6), "tunnel"),  # a superframe of the inner sender: UDP, TCP over IPv4, the same with ECN, over IPv6
        ((1, 1, 84, 16), "tunnel"),
        ((1, 0x81, 84, 16), "tunnel"),
        ((1, 4, 104, 16), "tunnel"),
        ((0, 1, 0, 0), "tunnel"),
        ((1, 0, 593, 6), "tunnel"),  # beyond the payload
        ((1, 0, 65535, 6), "tunnel"),
        ((1, 0, 41, 6), "tunnel"),  # before it
        ((1, 0, 0, 6), "tunnel"),
    ],
)
def test_what_a_sender_left_to_its_device_is_told_by_where_its_checksum_starts(probe, left, whose):
    assert probe.work_left(*left) == whose


# The socket


@pytest.mark.net
def test_nothing_is_captured_before_a_filter_is_attached(wire):
    ring = wire.ring()
    wire.raw.send(frame())
    assert ring.statistics() == (0, 0)
    ring.attach(only_groups(GROUP))
    wire.raw.send(frame())
    assert ring.statistics() == (1, 0)


@pytest.mark.net
def test_statistics_add_up_over_readings_and_survive_close(wire):
    ring = wire.ring(ACCEPT_ALL)
    for count in range(1, 4):
        wire.raw.send(frame())
        assert ring.statistics() == (count, 0)
    wire.raw.send(frame())
    ring.close()
    ring.close()
    assert ring.statistics() == (4, 0)


@pytest.mark.net
def test_what_a_full_ring_has_no_room_for_is_counted_as_dropped(wire):
    ring = wire.ring(ACCEPT_ALL, ring_bytes=0)  # the least there is: 1 MiB
    for _ in range(1000):
        wire.raw.send(frame(bytes(1400)))
    received, dropped = ring.statistics()
    assert dropped > 0
    assert received + dropped == 1000
    with Running(plan_of(1, [ring], [])):
        settle(ring, received)
    assert verdicts(ring) == {"no_match": received}


@pytest.mark.net
def test_own_transmissions_are_not_captured(wire):
    ring = wire.ring(ACCEPT_ALL)
    with wire.near.socket(socket.AF_PACKET, socket.SOCK_RAW) as own:
        own.bind(("r0", 0))
        own.send(frame())
    assert ring.statistics() == (0, 0)


@pytest.mark.net
def test_the_filter_in_the_kernel_passes_udp_of_its_groups_and_nothing_else(wire):
    ring = wire.ring(only_groups(GROUP, "226.2.2.9"))
    for wanted in (frame(), frame(port=1), frame(source="192.0.2.77"), frame(fragment=1), frame(group="226.2.2.9")):
        wire.raw.send(wanted)
    for other in (frame(group="226.2.2.3"), frame(protocol=6), frame()[:12] + b"\x86\xdd" + frame()[14:]):
        wire.raw.send(other)
    assert ring.statistics() == (5, 0)


@pytest.mark.net
def test_a_program_the_kernel_refuses_leaves_the_old_one(wire):
    ring = wire.ring(only_groups(GROUP))
    with pytest.raises(OSError, match="SO_ATTACH_FILTER") as refused:
        ring.attach(struct.pack("=HBBI", 0x15, 9, 9, 0))  # a jump beyond the end
    assert refused.value.errno == errno.EINVAL
    wire.raw.send(frame())
    wire.raw.send(frame(group="226.9.9.9"))
    assert ring.statistics() == (1, 0)


@pytest.mark.net
def test_a_ring_on_no_link_is_an_error_and_leaks_nothing(wire):
    before = open_fds()
    with pytest.raises(OSError, match="bind to link 9999") as refused:
        wire.near.call(lambda: RingSocket(9999, 0))
    assert refused.value.errno == errno.ENODEV
    assert open_fds() == before


@pytest.mark.net
@pytest.mark.parametrize(
    ("latency", "mebibytes", "places"),
    [
        (False, 0, 4),
        (False, 1, 8),
        (False, 32, 256),
        (False, 128, 1024),
        (False, 255, 2040),
        (False, 256, 1024),
        (True, 0, 1310),
        (True, 4, 2620),
        (True, 32, 20960),
    ],
)
def test_a_ring_has_many_small_blocks_before_they_grow_and_a_slot_for_each_frame(wire, latency, mebibytes, places):
    wire.latency = latency
    assert wire.ring(ring_bytes=mebibytes << 20).places == places


@pytest.mark.net
@pytest.mark.parametrize(("frame_bytes", "places"), [(1500, 1310), (1492, 1310), (9000, 230), (65535, 30)])
def test_a_slot_is_as_large_as_the_frames_of_its_link(wire, frame_bytes, places):
    wire.latency = True
    assert wire.ring(ring_bytes=2 << 20, frame_bytes=frame_bytes).places == places


@pytest.mark.net
@pytest.mark.parametrize(("mtu", "count"), [(1500, 20_000), (9000, 2_000)])
def test_twenty_thousand_frames_back_to_back_have_room_in_slots(wire, mtu, count):
    """Nobody reads meanwhile: what the default ring holds is lost by no stall of the worker."""
    wire.latency = True
    wire.far.ip(f"link set s0 mtu {mtu}")
    wire.near.ip(f"link set r0 mtu {mtu}")
    ring = wire.ring(ACCEPT_ALL, frame_bytes=mtu)
    whole = frame(bytes(mtu - 28))
    for _ in range(count):
        wire.raw.send(whole)
    assert ring.statistics() == (count, 0)
    with Running(plan_of(1, [ring], [])):
        settle(ring, count)
    assert verdicts(ring) == {"no_match": count}, "and none was cut short"


@pytest.mark.net
def test_a_ring_knows_when_its_link_is_gone(wire):
    ring = wire.ring(ACCEPT_ALL)
    assert ring.bound
    wire.near.ip("link set r0 down")
    assert ring.bound
    wire.near.ip("link delete r0")
    wait_until(lambda: not ring.bound, "the ring to lose its link")


@pytest.mark.net
def test_a_plan_keeps_its_ring_alive(wire):
    before = open_fds()
    ring = wire.near.call(lambda: RingSocket(wire.ifindex, 0))
    plan = plan_of(1, [ring], [From([])])
    del ring
    assert open_fds() == before + 1
    del plan
    assert open_fds() == before


def test_the_frames_of_this_file_carry_what_its_names_say():
    assert (SOURCE, GROUP, PORT) == ("192.168.168.55", "226.2.2.2", 2068)
