"""Fragments in the loop: frames in by a real link, whole datagrams out, and every frame under one verdict at last."""

from __future__ import annotations

import random
import time

import pytest
from core.loops import (
    ACCEPT_ALL,
    From,
    Running,
    To,
    Wire,
    plan_of,
    quiet,
    read,
    settle,
    take,
    verdicts,
    wait_until,
)
from support.frames import GROUP, frame, number, part, parts, udp

from mcrelay._core.queue import Scratch

pytestmark = [pytest.mark.core, pytest.mark.net]

PATIENCE = 1.0  # seconds that a fragment waits


@pytest.fixture(params=[False, True], ids=["blocks", "slots"])
def wire(namespaces, request):
    made = Wire(namespaces, latency=request.param)
    yield made
    made.close()


def refused(ring):
    return {name: count for name, count in read(ring.fragments).items() if count}


def test_what_a_host_sends_in_fragments_leaves_as_the_datagrams_they_were(wire):
    sink = wire.sink()
    output = To(wire.output_to(sink))
    entry = From([output])
    ring = wire.ring(ACCEPT_ALL)
    sizes = [1472, 1473, 2953, 9000, 65507, 1, 30_000]
    sent = [random.Random(size).randbytes(size) for size in sizes]
    sender = wire.sender()
    frames = sum(-(-(size + 8) // 1480) for size in sizes)
    with Running(plan_of(1, [ring], [entry])):
        for each in sent:
            sender.send(each)
        settle(ring, frames)
    assert verdicts(ring) == {"relayed": frames}
    assert entry.counted == output.counted == (len(sizes), sum(sizes), {})
    assert take(sink, len(sizes)) == sent
    assert quiet(sink)


def test_superframes_and_single_datagrams_beside_fragments_keep_their_place(wire):
    """They waited while no worker ran, so that one turn finds them all."""
    sink = wire.sink()
    entry = From([To(wire.output_to(sink))])
    ring = wire.ring(ACCEPT_ALL)
    many, single = wire.sender(1000), wire.sender()
    sent = []
    for i in range(20):
        whole, large = i.to_bytes(2, "big") * 2000, i.to_bytes(2, "big") * 5000
        single.send(whole)
        many.send(large)
        single.send(b"%d" % i)
        sent += [whole, *(large[at : at + 1000] for at in range(0, 10_000, 1000)), b"%d" % i]
    with Running(plan_of(1, [ring], [entry])):
        settle(ring, 20 * 5)
    assert verdicts(ring) == {"relayed": 100}
    assert take(sink, len(sent)) == sent
    assert quiet(sink)


def test_more_datagrams_in_a_turn_than_there_is_room_for_are_sent_in_between(wire):
    sink = wire.sink()
    output = To(wire.output_to(sink))
    ring = wire.ring(ACCEPT_ALL)
    sender = wire.sender()
    sent = [random.Random(i).randbytes(1500 + i) for i in range(1400)]
    for each in sent:
        sender.send(each)
    with Running(plan_of(1, [ring], [From([output])])):
        settle(ring, 2800)
    assert verdicts(ring) == {"relayed": 2800}
    assert take(sink, len(sent)) == sent
    assert quiet(sink)
    assert output.counted == (len(sent), sum(map(len, sent)), {})


def test_all_frames_of_a_datagram_have_its_verdict(wire):
    sink = wire.sink()
    entries = [
        From([To(wire.output_to(sink))]),
        From([To(wire.output_to(sink))], port=7, allow=[(number("192.0.2.0"), 0xFFFFFF00)]),
    ]
    ring = wire.ring(ACCEPT_ALL)
    kinds = {
        "relayed": parts(b"r" * 100, 40, identification=1),
        "no_match": parts(b"n" * 130, 40, identification=2, port=8),
        "dropped": parts(b"d" * 170, 40, identification=3, port=7),
        "malformed": parts(b"m" * 210, 40, identification=4, checksum=0x1234),
    }
    todo = [each for frames in kinds.values() for each in frames]
    random.Random(3).shuffle(todo)
    with Running(plan_of(1, [ring], entries)):
        for each in todo:
            wire.raw.send(each)
        settle(ring, len(todo))
    assert verdicts(ring) == {verdict: len(frames) for verdict, frames in kinds.items()}
    assert take(sink, 1) == [b"r" * 100]
    assert quiet(sink)
    assert entries[0].counted == (1, 100, {})
    assert entries[1].counted == (1, 170, {"source": 1})


def test_what_is_never_whole_has_its_verdict_after_a_second_though_nothing_else_comes(wire):
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [From([])])):
        wire.raw.send(frame(b"whole"))
        settle(ring, 1)
        begin = time.monotonic()
        for each in parts(b"x" * 100, 40)[1:]:
            wire.raw.send(each)
        time.sleep(0.3)
        assert verdicts(ring) == {"relayed": 1}
        settle(ring, 3)
        assert time.monotonic() - begin < PATIENCE + 0.5
    assert verdicts(ring) == {"relayed": 1, "fragment": 2}
    assert refused(ring) == {"incomplete": 2}
    assert dict(enumerate(ring.lost_groups()))[5] == number(GROUP)


def test_a_ring_that_goes_takes_the_fragments_that_wait_along(wire):
    """And another's wait on, by the new plan, which knows another port."""
    sink = wire.sink()
    rings = [wire.ring(ACCEPT_ALL), wire.ring(ACCEPT_ALL)]
    scratch = Scratch()
    cut = parts(b"x" * 100, 40, port=7)
    with Running(plan_of(1, rings, [From([])], scratch=scratch)) as running:
        wire.raw.send(cut[0])
        wire.raw.send(frame(b"whole"))
        for each in rings:
            wait_until(lambda ring=each: sum(ring.frames.read()) == 1, "what came after the fragment")
        entry = From([To(wire.output_to(sink))], port=7)
        running.publish(plan_of(2, rings[1:], [entry], scratch=scratch))
        assert verdicts(rings[0]) == {"relayed": 1, "fragment": 1}
        assert verdicts(rings[1]) == {"no_match": 1}
        for each in cut[1:]:
            wire.raw.send(each)
        assert take(sink, 1) == [b"x" * 100]
        settle(rings[1], 4)
        assert verdicts(rings[1]) == {"no_match": 1, "relayed": 3}
    assert verdicts(rings[0]) == {"relayed": 1, "fragment": 1}


def test_fragments_that_wait_when_the_worker_stops_are_counted(wire):
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [From([])])) as running:
        wire.raw.send(part(udp(bytes(100)), 0, 40))
        wire.raw.send(frame(b"whole"))
        wait_until(lambda: verdicts(ring) == {"relayed": 1}, "what came after the fragment")
        running.stop()
    assert verdicts(ring) == {"relayed": 1, "fragment": 1}


def test_a_flood_of_first_fragments_costs_other_senders_nothing(wire):
    sink = wire.sink()
    entry = From([To(wire.output_to(sink))])
    ring = wire.ring(ACCEPT_ALL)
    flood = [
        part(udp(bytes(100)), 0, 40, source=f"10.0.{i >> 8 & 255}.{i & 255}", identification=i, group="226.2.2.99")
        for i in range(2000)
    ]
    sent = [random.Random(i).randbytes(20_000) for i in range(40)]
    sender = wire.sender()
    with Running(plan_of(1, [ring], [entry])):
        for i, each in enumerate(sent):
            for one in flood[50 * i : 50 * i + 50]:
                wire.raw.send(one)
            sender.send(each)
        assert take(sink, 40) == sent
        settle(ring, 2000 + 40 * 14)
    assert verdicts(ring) == {"relayed": 40 * 14, "fragment": 2000}
    assert refused(ring).keys() == {"incomplete", "room"}
    assert quiet(sink)


def test_who_lost_his_room_to_others_of_his_group_is_not_relayed_and_the_newest_are(wire):
    """More first halves than a group has room for, then all second halves, the newest first."""
    sink = wire.sink()
    ring = wire.ring(ACCEPT_ALL)
    payloads = [i.to_bytes(2, "big") * 50 for i in range(200)]
    cut = [parts(each, 64, source=f"10.0.0.{i}") for i, each in enumerate(payloads)]
    with Running(plan_of(1, [ring], [From([To(wire.output_to(sink))])])):
        for first, _ in cut:
            wire.raw.send(first)
        for _, second in reversed(cut):
            wire.raw.send(second)
        settle(ring, 400)
    assert verdicts(ring) == {"relayed": 256, "fragment": 144}
    assert refused(ring) == {"room": 72, "incomplete": 72}
    assert take(sink, 128) == payloads[:71:-1]
    assert quiet(sink)
