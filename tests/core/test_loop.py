"""The loop itself: frames in by a real link, a worker thread, datagrams out by real sockets, every one counted."""

from __future__ import annotations

import itertools
import random
import socket
import struct
import time
import weakref

import pytest
from core.loops import (
    ACCEPT_ALL,
    UDP_SEGMENT,
    From,
    Running,
    To,
    Wire,
    on_a_thread,
    only_groups,
    plan_of,
    quiet,
    read,
    settle,
    take,
    verdicts,
    wait_until,
)
from support.frames import GROUP, PORT, SOURCE, SOURCE_PORT, ethernet, frame, ipv4, number, ones_sum, tagged, udp

from mcrelay._core.counters import INPUT_FIELDS, OUTPUT_FIELDS, VERDICTS, CounterBlock
from mcrelay._core.egress import EgressSocket, GsoState
from mcrelay._core.policer import PolicerState
from mcrelay._core.traffic import Receiver, Sender

pytestmark = [pytest.mark.core, pytest.mark.net]


@pytest.fixture(params=[False, True], ids=["blocks", "slots"])
def wire(namespaces, request):
    made = Wire(namespaces, latency=request.param)
    yield made
    made.close()


def test_every_kind_of_frame_is_counted_once_under_its_own_verdict(wire):
    sink = wire.sink()
    output = To(wire.output_to(sink))
    entry = From([output])
    ring = wire.ring(ACCEPT_ALL)
    wrong_sum = ethernet(ipv4(udp(b"123", checksum=0x1111)))
    kinds = {
        "relayed": [frame(b"a"), frame(b"bb", padding=30), tagged(frame(b"c"), 0x0000), tagged(frame(b"d"), 0xE000)],
        "no_match": [frame(port=9), frame(group="226.2.2.3")],
        "not_udp": [frame(protocol=6), ethernet(bytes(46), ethertype=0x88B5)],
        "vlan": [tagged(frame(), 100), tagged(frame(), 0xE064), tagged(frame(port=9), 4094)],
        "fragment": [frame(fragment=0x2000), frame(fragment=3)],
        "malformed": [frame(checksum=1), frame(version=5), wrong_sum, ethernet(bytes(10))],
    }
    todo = [(verdict, each) for verdict, frames in kinds.items() for each in frames] * 20
    random.Random(5).shuffle(todo)
    expected = {verdict: 20 * len(frames) for verdict, frames in kinds.items()}
    with Running(plan_of(1, [ring], [entry])):
        for _, each in todo:
            wire.raw.send(each)
        assert settle(ring, len(todo)) == (len(todo), 0)
    assert verdicts(ring) == expected
    assert entry.counted == (80, 20 * 5, {})
    assert output.counted == (80, 20 * 5, {})
    known = {kinds["relayed"][i]: payload for i, payload in enumerate([b"a", b"bb", b"c", b"d"])}
    assert take(sink, 80) == [known[each] for verdict, each in todo if verdict == "relayed"]
    assert quiet(sink)


def test_the_group_of_the_last_frame_that_was_lost_is_remembered(wire):
    groups = {"fragment": "226.2.2.9", "malformed": "226.2.2.8"}
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [From([])])):
        for each in (frame(), frame(fragment=0x2000), frame(checksum=1)):
            wire.raw.send(each)
        wire.raw.send(frame(fragment=0x2000, group=groups["fragment"]))
        wire.raw.send(frame(checksum=1, group=groups["malformed"]))
        settle(ring, 5)
    named = {name: group for name, group in zip(VERDICTS, ring.lost_groups(), strict=True) if group}
    assert named == {verdict: number(group) for verdict, group in groups.items()}


def test_what_no_rule_takes_is_remembered_with_what_differs(wire):
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [From([])])):
        for _ in range(3):
            wire.raw.send(frame(port=2086))
        wire.raw.send(frame(port=2086, source="192.0.2.77"))
        wire.raw.send(frame(fragment=0x2000))
        wire.raw.send(frame())  # taken
        settle(ring, 6)
    (missed,) = [each for each in ring.misses() if VERDICTS[each[4]] == "no_match"]
    group, source, port, vlan, _, frames, stamp = missed
    assert (group, source, port, vlan, frames) == (number("226.2.2.2"), number("192.0.2.77"), 2086, 0, 4)
    assert abs(stamp / 1e9 - time.time()) < 60
    (fragment,) = [each for each in ring.misses() if VERDICTS[each[4]] == "fragment"]
    assert (fragment[2], fragment[5]) == (0, 1)
    assert len(ring.misses()) == 2


def test_a_flood_of_near_misses_has_bounded_room_and_leaves_other_groups_alone(wire):
    """Room is by group; a flood of one group's ports or sources gives up only what shares its room."""
    ring = wire.ring(ACCEPT_ALL)
    others = [f"226.2.{i}.1" for i in range(12)]
    with Running(plan_of(1, [ring], [From([])])):
        for group in others:
            wire.raw.send(frame(port=1, group=group))
        settle(ring, len(others))
        before = {each[0] for each in ring.misses()}
        for port in range(3000, 3400):
            wire.raw.send(frame(port=port, source=f"198.51.100.{port % 250}"))
        settle(ring, len(others) + 400)
    held = ring.misses()
    flooded = [each for each in held if each[0] == number("226.2.2.2")]
    assert {each[2] for each in flooded} == set(range(3396, 3400))
    assert len(held) <= 16
    assert len(before - {each[0] for each in held}) <= 4


def test_a_frame_the_filter_cuts_short_is_truncated_and_not_relayed(wire):
    sink = wire.sink()
    entry = From([To(wire.output_to(sink))])
    ring = wire.ring(ACCEPT_ALL[:4] + (60).to_bytes(4, "little"))
    with Running(plan_of(1, [ring], [entry])):
        wire.raw.send(frame(bytes(100)))
        wire.raw.send(frame(bytes(18)))
        settle(ring, 2)
    assert verdicts(ring) == {"truncated": 1, "relayed": 1}
    assert take(sink, 1) == [bytes(18)]
    assert quiet(sink)


@pytest.mark.parametrize(("segment", "size"), [(1316, 40 * 1316 + 500), (1316, 20 * 1316), (1, 64), (1472, 1472 + 1)])
def test_a_superframe_is_split_into_the_datagrams_it_was_made_of(wire, segment, size):
    sink = wire.sink()
    output = To(wire.output_to(sink))
    entry = From([output])
    ring = wire.ring(ACCEPT_ALL)
    payload = random.Random(size).randbytes(size)
    parts = [payload[at : at + segment] for at in range(0, size, segment)]
    with Running(plan_of(1, [ring], [entry])):
        wire.sender(segment).send(payload)
        settle(ring, 1)
    assert verdicts(ring) == {"relayed": 1}, "the veth passes it on in one piece"
    assert entry.counted == output.counted == (len(parts), size, {})
    assert take(sink, len(parts)) == parts
    assert quiet(sink)


def test_superframes_among_single_datagrams_keep_their_place(wire):
    """They are larger than a slot, and waited while no worker ran; the turn reads them where they stand."""
    sink = wire.sink()
    entry = From([To(wire.output_to(sink))])
    ring = wire.ring(ACCEPT_ALL)
    parts = [i.to_bytes(2, "big") * 600 for i in range(60)]
    many, single = wire.sender(1200), wire.sender()
    for at in range(0, 60, 20):
        single.send(parts[at])
        single.send(parts[at + 1])
        many.send(b"".join(parts[at + 2 : at + 19]))
        single.send(parts[at + 19])
    with Running(plan_of(1, [ring], [entry])):
        settle(ring, 12)
    assert verdicts(ring) == {"relayed": 12}
    assert take(sink, 60) == parts
    assert quiet(sink)


def test_more_superframes_in_a_turn_than_there_is_room_for_are_sent_in_between(wire):
    sink = wire.sink()
    entry = From([To(wire.output_to(sink))])
    ring = wire.ring(ACCEPT_ALL)
    sender = wire.sender(1000)
    parts = [i.to_bytes(2, "big") * 500 for i in range(80)]
    for at in range(0, 80, 2):
        sender.send(parts[at] + parts[at + 1])
    with Running(plan_of(1, [ring], [entry])):
        settle(ring, 40)
    assert verdicts(ring) == {"relayed": 40}
    assert take(sink, 80) == parts
    assert quiet(sink)


# What a tunnel's end leaves to its device: csum_start lies inside our payload.

TUNNEL_HEADER = b"\x08\x00\x00\x00\x00\x00\x07\x00"  # VXLAN, RFC 7348
INNER_AT = 14 + 20 + 8 + len(TUNNEL_HEADER) + 14 + 20  # of UDP or TCP, from the outer MAC header on


def inner(transport):
    return TUNNEL_HEADER + ethernet(ipv4(transport))


def send_offloaded(wire, whole, *, start, offset):
    """Send a frame as a tunnel's end does: with a struct virtio_net_hdr that asks the device for the rest."""
    with wire.far.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        raw.bind(("s0", 0))
        raw.send(struct.pack("=BBHHHH", 1, 0, 0, 0, start, offset) + whole)


@pytest.mark.parametrize("size", [0, 1, 500, 1200])
@pytest.mark.parametrize(("kind", "offset"), [("udp", 6), ("tcp", 16)])
def test_a_checksum_inside_the_payload_is_filled_in(wire, kind, offset, size):
    sink = wire.sink()
    output = To(wire.output_to(sink))
    ring = wire.ring(ACCEPT_ALL)
    body = random.Random(size).randbytes(size)
    head = bytes(range(1, 9)) if kind == "udp" else bytes(range(1, 21))
    transport = head[:offset] + b"\x12\x34" + head[offset + 2 :] + body  # 0x1234: the sum of the pseudo header
    right = 0xFFFF - ones_sum(transport)
    with Running(plan_of(1, [ring], [From([output])])):
        send_offloaded(wire, frame(inner(transport)), start=INNER_AT, offset=offset)
        settle(ring, 1)
    assert verdicts(ring) == {"relayed": 1}
    assert take(sink, 1) == [inner(head[:offset] + right.to_bytes(2, "big") + head[offset + 2 :] + body)]
    assert quiet(sink)


def test_a_checksum_inside_that_comes_to_nothing_is_written_as_all_ones(wire):
    sink = wire.sink()
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [From([To(wire.output_to(sink))])])):
        send_offloaded(wire, frame(inner(b"\0\0\0\0\0\0\xff\xff")), start=INNER_AT, offset=6)
        settle(ring, 1)
    assert take(sink, 1) == [inner(b"\0\0\0\0\0\0\xff\xff")]


def test_a_sum_of_another_kind_inside_is_not_relayed_and_counted(wire):
    """SCTP has a CRC at offset 8: to write a sum there would make a packet that nobody sent."""
    sink = wire.sink()
    entry = From([To(wire.output_to(sink))])
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [entry])):
        send_offloaded(wire, frame(inner(bytes(1000))), start=INNER_AT, offset=8)
        wire.raw.send(frame(b"plain"))
        settle(ring, 2)
    assert verdicts(ring) == {"relayed": 1, "tunnel": 1}
    assert entry.counted == (1, 5, {})
    assert take(sink, 1) == [b"plain"]
    assert quiet(sink)


@pytest.mark.parametrize("segment", [0, 1000])
@pytest.mark.parametrize("whole", [False, True], ids=["left-to-the-device", "cut-by-the-sender"])
def test_the_datagrams_of_a_vxlan_device_arrive_as_they_were_meant_or_not_at_all(wire, whole, segment):
    sink = wire.sink()
    ring = wire.ring(only_groups(GROUP))
    wire.far.ip(
        f"link add vx type vxlan id 7 group {GROUP} dev s0 dstport {PORT}", "link set vx addrgenmode none",
        "addr add 172.31.0.1/24 dev vx", "link set vx up",
        "neigh add 172.31.0.2 lladdr 02:00:00:00:00:02 dev vx",
    )  # fmt: skip
    if whole:
        wire.far.run("ethtool", "-K", "vx", "tx-udp-segmentation", "off")
    payload = bytes(range(250)) * (40 if segment else 4)
    relayed = 0 if segment and not whole else len(payload) // 1000
    with wire.far.socket() as sender, Running(plan_of(1, [ring], [From([To(wire.output_to(sink))])])):
        sender.connect(("172.31.0.2", 9))
        if segment:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        sender.send(payload)
        settle(ring, relayed or 1)
    assert verdicts(ring) == ({"relayed": relayed} if relayed else {"tunnel": 1})
    for got in take(sink, relayed):
        ip = got[8 + 14 :]
        assert ip[20 + 8 :] == payload[:1000]
        assert ones_sum(ip[12:20] + struct.pack("!2H", 17, len(ip) - 20) + ip[20:]) == 0xFFFF
    assert quiet(sink)


def test_a_block_of_more_datagrams_than_the_queue_holds_is_relayed_in_order(wire, probe):
    """Superframes of 64 tiny datagrams pile up in one block while no worker runs."""
    sink = wire.sink()
    output = To(wire.output_to(sink))
    entry = From([output])
    ring = wire.ring(ACCEPT_ALL)
    count = 64 * 100
    assert count > probe.QUEUE_ENTRIES
    if sink.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < count * 1024:
        pytest.skip("the sink needs SO_RCVBUFFORCE, which a user namespace does not give")
    sender = wire.sender(4)
    parts = [i.to_bytes(4, "big") for i in range(count)]
    for at in range(0, count, 64):
        sender.send(b"".join(parts[at : at + 64]))
    with Running(plan_of(1, [ring], [entry])):
        settle(ring, 100)
    assert entry.counted == output.counted == (count, 4 * count, {})
    assert take(sink, count) == parts


def test_every_output_gets_every_datagram_and_a_parked_one_counts_them(wire):
    sinks = [wire.sink(), wire.sink()]
    outputs = [To(wire.output_to(sinks[0])), To(None), To(wire.output_to(sinks[1]), burst=1)]
    entry = From(outputs)
    ring = wire.ring(ACCEPT_ALL)
    payloads = [bytes([i]) * (i % 5 * 100) for i in range(50)]
    size = sum(map(len, payloads))
    with Running(plan_of(1, [ring], [entry])):
        for payload in payloads:
            wire.raw.send(frame(payload))
        settle(ring, 50)
    assert entry.counted == (50, size, {})
    assert [each.counted for each in outputs] == [(50, size, {}), (0, 0, {"parked": 50}), (50, size, {})]
    for sink in sinks:
        assert take(sink, 50) == payloads
        assert quiet(sink)


def test_sources_that_are_not_allowed_are_dropped_and_counted(wire):
    sink = wire.sink()
    allow = [(number("192.168.168.0"), number("255.255.255.0")), (number("10.0.0.1"), number("255.255.255.255"))]
    entry = From([To(wire.output_to(sink))], allow=allow)
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [entry])):
        for source in (SOURCE, "192.168.169.1", "10.0.0.1", "10.0.0.2", "0.0.0.0"):
            wire.raw.send(frame(source.encode(), source=source))
        settle(ring, 5)
    assert verdicts(ring) == {"relayed": 2, "dropped": 3}
    packets, _, drops = entry.counted
    assert (packets, drops) == (5, {"source": 3})
    assert take(sink, 2) == [SOURCE.encode(), b"10.0.0.1"]
    assert quiet(sink)


def test_what_exceeds_the_limit_is_dropped_and_counted(wire):
    sink = wire.sink()
    entry = From([To(wire.output_to(sink))], policer=PolicerState(1, bits=False))
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [entry])):
        for i in range(200):
            wire.raw.send(frame(bytes([i])))
        settle(ring, 200)
    assert verdicts(ring) == {"relayed": 128, "dropped": 72}
    assert entry.counted == (200, 200, {"policer": 72})
    assert take(sink, 128) == [bytes([i]) for i in range(128)]
    assert quiet(sink)


def test_our_own_datagrams_are_dropped_when_they_come_back_and_nobody_elses(wire):
    """One end that is the same (address, MAC, port) makes nobody one of us: appliances may have any of them."""
    sink = wire.sink()
    entry = From([To(wire.output_to(sink))])
    ring = wire.ring(ACCEPT_ALL)
    ours = number("198.51.100.1")
    with Running(plan_of(1, [ring], [entry], own=[(ours, SOURCE_PORT, number(GROUP), PORT)])):
        for each in (
            frame(b"back", source="198.51.100.1"),
            frame(b"a mac of ours"),
            frame(b"an address of ours", source="198.51.100.1", source_port=SOURCE_PORT + 1),
            frame(b"a port of ours", source="198.51.100.2"),
        ):
            wire.raw.send(each)
        settle(ring, 4)
    assert verdicts(ring) == {"relayed": 3, "dropped": 1}
    assert entry.counted[2] == {"echo": 1}
    assert take(sink, 3) == [b"a mac of ours", b"an address of ours", b"a port of ours"]
    assert quiet(sink)


def test_the_rule_for_one_source_goes_before_the_rule_for_all(wire):
    sinks = [wire.sink(), wire.sink()]
    everyone = From([To(wire.output_to(sinks[0]))])
    chosen = From([To(wire.output_to(sinks[1]))], source=SOURCE)
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [everyone, chosen])):
        wire.raw.send(frame(b"chosen"))
        wire.raw.send(frame(b"other", source="192.0.2.77"))
        settle(ring, 2)
    assert take(sinks[0], 1) == [b"other"]
    assert take(sinks[1], 1) == [b"chosen"]
    assert quiet(sinks[0])
    assert quiet(sinks[1])


def test_the_last_packet_has_its_time(wire):
    entry = From([])
    ring = wire.ring(ACCEPT_ALL)
    assert entry.last_packet_ns == 0
    before = time.time_ns()
    with Running(plan_of(1, [ring], [entry])):
        wire.raw.send(frame())
        settle(ring, 1)
    assert before <= entry.last_packet_ns <= time.time_ns()


def test_two_inputs_with_one_key_and_a_ring_that_is_not_there_are_refused(wire):
    ring = wire.ring()
    with pytest.raises(ValueError, match="two inputs with one key"):
        plan_of(1, [ring], [From([]), From([])])
    with pytest.raises(ValueError, match="ring 1 of 1"):
        plan_of(1, [ring], [From([], ring=1)])


def test_an_output_that_is_too_slow_loses_alone_and_counts_what_it_loses(wire):
    """r0 sends 1 Mbit/s: far below what comes in. The output on lo gets everything."""
    sink = wire.sink()
    shaper = ("tbf", "rate", "1mbit", "burst", "5kb", "limit", "100kb")
    wire.near.run("tc", "qdisc", "add", "dev", "r0", "root", *shaper)
    slow = wire.near.call(
        lambda: EgressSocket(number("226.7.7.7"), 7000, GsoState(), ifindex=wire.ifindex, link="r0", payload_max=1472)
    )
    with socket.socket(fileno=socket.dup(slow.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
    outputs = [To(slow), To(wire.output_to(sink))]
    entry = From(outputs)
    ring = wire.ring(ACCEPT_ALL)
    payloads = [i.to_bytes(4, "big") * 250 for i in range(300)]
    with Running(plan_of(1, [ring], [entry])) as running:
        for at in range(0, 300, 50):
            for payload in payloads[at : at + 50]:
                wire.raw.send(frame(payload))
            assert take(sink, 50) == payloads[at : at + 50]
        settle(ring, 300)
        wait_until(lambda: outputs[0].counted[0] + sum(outputs[0].counted[2].values()) == 300, "the slow one's sum")
        assert running.stop() < 0.2
    packets, _, errors = outputs[0].counted
    assert set(errors) == {"nobufs"}
    assert packets + errors["nobufs"] == 300
    assert packets > 20, "a full buffer is waited for"
    assert outputs[1].counted == (300, 300000, {})
    slow.close()


# The thread


def test_an_idle_worker_stops_at_once_and_hardly_turns(wire):
    with Running(plan_of(1, [wire.ring(ACCEPT_ALL)], [])) as running:
        wait_until(lambda: running.worker.turns > 0, "the first turn")
        time.sleep(0.3)
        assert running.worker.turns < 5
        assert running.stop() < 0.2


def test_an_idle_worker_shows_that_it_lives(wire):
    with Running(plan_of(1, [wire.ring(ACCEPT_ALL)], [])) as running:
        wait_until(lambda: running.worker.turns > 0, "the first turn")
        seen = running.worker.turns
        wait_until(lambda: running.worker.turns > seen, "a turn without any event", seconds=2)


def test_a_worker_under_flood_stops_at_once_and_every_frame_it_took_is_counted(wire):
    entry = From([])
    ring = wire.ring(ACCEPT_ALL)
    sender = Sender([wire.sender().fileno()], [64], rate=200000, duration=10)
    with Running(plan_of(1, [ring], [entry])) as running, on_a_thread(sender):
        wait_until(lambda: entry.counted[0] > 1000, "the flood")
        assert running.stop() < 0.2
    assert set(verdicts(ring)) == {"relayed"}
    assert entry.counted[0] == sum(ring.frames.read()) <= ring.statistics()[0]


def test_a_link_that_goes_down_and_up_neither_spins_nor_ends_the_loop(wire):
    sink = wire.sink()
    entry = From([To(wire.output_to(sink))])
    ring = wire.ring(ACCEPT_ALL)
    with Running(plan_of(1, [ring], [entry])) as running:
        wire.near.ip("link set r0 down")
        time.sleep(0.05)
        before = running.worker.turns
        time.sleep(0.3)
        assert running.worker.turns - before < 5
        wire.near.ip("link set r0 up")
        wait_until(lambda: _arrives(wire, sink), "relaying after the link came back")


def _arrives(wire, sink):
    sink.settimeout(0.1)
    wire.raw.send(frame(b"back"))
    try:
        return sink.recv(100) == b"back"
    except TimeoutError:
        return False


def test_a_link_that_is_deleted_does_not_spin_the_loop(wire):
    with Running(plan_of(1, [wire.ring(ACCEPT_ALL)], [From([])])) as running:
        wire.near.ip("link delete r0")
        time.sleep(0.05)
        before = running.worker.turns
        time.sleep(0.3)
        assert running.worker.turns - before < 5
        assert running.stop() < 0.2


def test_a_thousand_plans_under_traffic_lose_nothing_and_old_ones_are_freed(wire):
    sink = wire.sink()
    out = wire.output_to(sink)
    ring = wire.ring(ACCEPT_ALL)
    inputs, outputs = CounterBlock(INPUT_FIELDS), CounterBlock(OUTPUT_FIELDS)
    alive = weakref.WeakSet()

    def plan(generation):
        mine = From([To(out, block=outputs)], block=inputs)
        made = plan_of(generation, [ring], [*(From([], port=PORT + 1 + i) for i in range(generation % 50)), mine])
        alive.add(made)
        return made

    sender = Sender([wire.sender().fileno()], [200], rate=10000, duration=30)
    with on_a_thread(Receiver([sink.fileno()])) as receiver, Running(plan(1)) as running:
        with on_a_thread(sender):
            for generation in itertools.count(2):
                running.publish(plan(generation))
                assert len(alive) <= 2
                if generation >= 1000 and read(inputs)["rx_packets"] > 500:
                    break
        assert settle(ring, sender.sent) == (sender.sent, 0)
        wait_until(lambda: receiver.received >= sender.sent, "the sink")
        assert len(alive) == 1
        account = receiver.stream(0)
    assert sender.errors == 0
    assert read(inputs)["rx_packets"] == read(outputs)["tx_packets"] == account["received"] == sender.sent > 500
    assert [account[key] for key in ("lost", "duplicated", "reordered", "corrupted")] == [0, 0, 0, 0]
    del running
    assert not alive


def test_a_new_plan_takes_over_from_the_next_block(wire):
    sinks = [wire.sink(), wire.sink()]
    ring = wire.ring(ACCEPT_ALL)
    to = [From([To(wire.output_to(sink))]) for sink in sinks]
    with Running(plan_of(1, [ring], [to[0]])) as running:
        wire.raw.send(frame(b"old"))
        settle(ring, 1)
        running.publish(plan_of(2, [ring], [to[1]]))
        wire.raw.send(frame(b"new"))
        settle(ring, 2)
    assert take(sinks[0], 1) == [b"old"]
    assert take(sinks[1], 1) == [b"new"]
    assert quiet(sinks[0])


def test_a_worker_serves_two_rings_with_tables_of_their_own(wire, namespaces):
    namespaces.veth((wire.far, "s1", wire.near, "r1"))
    wire.far.ip("link set s1 up")
    wire.near.ip("link set r1 up")
    sinks = [wire.sink(), wire.sink()]
    rings = [wire.ring(ACCEPT_ALL)]
    wire.ifindex = wire.near.ifindex("r1")
    rings.append(wire.ring(ACCEPT_ALL))
    inputs = [From([To(wire.output_to(sink))], ring=i) for i, sink in enumerate(sinks)]
    with wire.far.socket(socket.AF_PACKET, socket.SOCK_RAW) as second, Running(plan_of(1, rings, inputs)):
        second.bind(("s1", 0))
        for i in range(20):
            wire.raw.send(frame(b"zero" * i))
            second.send(frame(b"one" * i))
        for ring in rings:
            settle(ring, 20)
    assert take(sinks[0], 20) == [b"zero" * i for i in range(20)]
    assert take(sinks[1], 20) == [b"one" * i for i in range(20)]


@pytest.mark.parametrize("stalled", [False, True], ids=["all-take", "one-stalled"])
@pytest.mark.parametrize("flooded", [0, 1])
def test_a_ring_gets_its_share_beside_a_flooded_one(wire, namespaces, flooded, stalled):
    """Whichever comes first in the plan, and while an output of the flood takes next to nothing: the quiet link loses
    nothing. The flood alone, to 20 outputs, is more than a worker can do."""
    namespaces.veth((wire.far, "s1", wire.near, "r1"))
    wire.far.ip("addr add 192.0.3.9/24 dev s1", "link set s1 up")
    wire.near.ip("link set r1 up")
    flood = Sender([wire.sender().fileno()], [200], rate=150000, duration=30)
    noise, sink = wire.sink(), wire.sink()
    outputs = [To(wire.output_to(noise)) for _ in range(20)]
    if stalled:
        wire.near.run("tc", "qdisc", "add", "dev", "r0", "root", "tbf", "rate", "8kbit", "burst", "2kb", "limit", "1mb")
        slow = wire.near.call(
            lambda: EgressSocket(number("226.7.7.7"), 7, GsoState(), ifindex=wire.ifindex, link="r0", payload_max=1472)
        )
        with socket.socket(fileno=socket.dup(slow.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
        outputs.append(To(slow))
    inputs = [From(outputs, ring=flooded), From([To(wire.output_to(sink))], ring=1 - flooded)]
    rings = [wire.ring(ACCEPT_ALL)]
    wire.ifindex = wire.near.ifindex("r1")
    rings.insert(1 - flooded, wire.ring(ACCEPT_ALL))
    wire.far.ip("route add 226.2.2.2/32 dev s1")
    quiet = Sender([wire.sender().fileno()], [200], rate=1000, count=1500)
    with on_a_thread(Receiver([sink.fileno()])) as receiver, Running(plan_of(1, rings, inputs)) as running:
        with on_a_thread(flood):
            wait_until(lambda: inputs[0].counted[0] > 20000, "the flood", seconds=20)
            quiet.run()
            wait_until(lambda: inputs[1].counted[0] >= quiet.sent or rings[1 - flooded].statistics()[1], "its end")
            assert rings[1 - flooded].statistics() == (quiet.sent, 0)
        wait_until(lambda: receiver.received >= quiet.sent, "the sink")
        account = receiver.stream(0)
        assert running.stop() < 1
    assert inputs[1].counted == (1500, 1500 * 200, {})
    assert [account[key] for key in ("lost", "duplicated", "reordered", "corrupted")] == [0, 0, 0, 0]
    if stalled:
        slow.close()
