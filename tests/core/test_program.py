"""The kernel engine's program, by BPF_PROG_TEST_RUN: the ring's own table of frames, two engines, one answer."""

from __future__ import annotations

import errno
import os
import random
import struct
import time
from types import SimpleNamespace

import pytest
from support import testrun
from support.frames import GROUP, PORT, SOURCE, SOURCE_PORT, ethernet, frame, ipv4, number, ones_sum, tagged, udp

from mcrelay.engine import program

from .test_wire import PAYLOAD, PLAIN, TABLE

pytestmark = pytest.mark.core

RING, KERNEL, NOBODY = "ring", "kernel", "nobody"
LINK = testrun.LOOPBACK
NO_LINK = 0x7FFFFFF0  # an output that rewrites, and whose copies go nowhere
OUT = SimpleNamespace(group="239.10.0.1", source="198.51.100.1", port=5004, source_port=20001, ttl=9)
MACS = bytes.fromhex("01005e0a0001 02aabbccddee")
SIZES = dict.fromkeys(("rules", "outputs", "sent", "received", "groups", "flows", "own", "frames"), 64)


class Engine:
    """The program with one rule, and one packet at a time."""

    def __init__(self, **changed):
        self.program = program.load(SIZES)
        self.program.add_group(LINK, number(GROUP))
        self.rule = {
            "ifindex": LINK, "group": number(GROUP), "source": 0, "port": PORT, "kernel": True, "exclusive": True,
            "whole": True, "counters": 0, "first_output": 0, "output_count": 1, "size_max": 65535, "flow": 0, "link": 0,
        }  # fmt: skip
        self.set(**changed)
        self.output(0)

    def set(self, **changed):
        self.rule |= changed
        self.program.set_rule(**self.rule)

    def output(self, index, **changed):
        fields = {
            "ifindex": NO_LINK, "group": number(OUT.group), "source": number(OUT.source), "port": OUT.port,
            "source_port": OUT.source_port, "ttl": OUT.ttl, "dscp": 0, "df": False, "macs": MACS, "counters": index,
        }  # fmt: skip
        self.program.set_output(index, **fields | changed)

    def see(self, packet, **fields):
        """The ring's filter, as the tap would run it: Ethernet is the first thing that a socket's filter sees."""
        passed, _ = testrun.run(self.program.program("filter"), packet[:14].ljust(14, b"\0") + packet, **fields)
        return passed

    def meet(self, packet, **fields):
        """Both, in the kernel's order: who took it, and what the packet is when the program is done."""
        passed = self.see(packet, **fields)
        verdict, after = testrun.run(self.program.program("relay"), packet, **fields)
        assert verdict in {2, 0xFFFFFFFF}  # TCX_DROP, TCX_NEXT
        assert not (passed and verdict == 2), "both took it"
        return RING if passed else KERNEL if verdict == 2 else NOBODY, after


@pytest.fixture(autouse=True, scope="module")
def _may():
    if not program.BUILT:
        pytest.skip("made without the kernel engine")
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})  # what the filter decides is for the same CPU
    try:
        program.load({})
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        pytest.skip("needs CAP_BPF outside of any user namespace")
    yield
    os.sched_setaffinity(0, cpus)


def readdressed(whole):
    """What the output sends: the payload in a frame made from nothing."""
    fields = {"source": OUT.source, "group": OUT.group}
    payload = whole[42 : 14 + struct.unpack("!H", whole[16:18])[0]]
    body = udp(payload, **fields, source_port=OUT.source_port, port=OUT.port)
    if whole[40:42] == b"\0\0":
        body = body[:6] + b"\0\0" + body[8:]
    tos = whole[15] & ~3
    head = ipv4(body, **fields, tos=tos, ttl=OUT.ttl, fragment=struct.unpack("!H", whole[20:22])[0])
    return MACS + b"\x08\0" + head + whole[14 + len(head) :]


# What the ring relays and the program leaves to it.
NOT_TREATED = {
    "4 bytes of IP options", "40 bytes of IP options", "a UDP length shorter than the IP payload cuts the rest off",
    "a UDP length of 8 is an empty datagram",
}  # fmt: skip
WRONG_SUM = "a wrong UDP checksum"
SHORT_IPV6 = "IPv4 under the IPv6 EtherType"  # BPF_PROG_TEST_RUN refuses what is shorter than an IPv6 header
ROWS = [row for row in TABLE if 14 < len(row[1]) < 3000 and row[0] != SHORT_IPV6]  # what BPF_PROG_TEST_RUN takes


@pytest.mark.parametrize(("packet", "verdict"), [row[1:3] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_program_takes_what_the_ring_relays_and_sends_the_same(request, packet, verdict):
    name = request.node.callspec.id
    port = PORT if verdict != "relayed" else struct.unpack_from("!H", packet, 14 + (packet[14] & 15) * 4 + 2)[0]
    engine = Engine(port=port)
    engine.output(0, dscp=None)
    taken, after = engine.meet(packet)
    if verdict == "relayed" and name not in NOT_TREATED:
        assert taken == KERNEL
        assert after == readdressed(packet)
        assert engine.program.read_input(0)[:2] == (1, len(packet) - 42 - len(trailing(packet)))
        return
    assert taken in {RING, NOBODY}
    if verdict in {"relayed", "fragment"}:
        assert taken == RING
    assert after == packet
    assert engine.program.read_input(0) == (0, 0, 0)
    assert engine.program.read_malformed(0) == (name == WRONG_SUM)


def trailing(packet):
    return packet[14 + struct.unpack_from("!H", packet, 16)[0] :]


def test_the_ring_is_told_of_every_frame_to_a_group_of_a_rule_and_of_no_other():
    engine = Engine()
    for packet, passed in [
        (frame(PAYLOAD, port=PORT + 1), True),  # a near miss
        (frame(PAYLOAD, fragment=0x2000), True),
        (tagged(PLAIN, 100), True),
        (tagged(PLAIN, 100, 0x88A8), True),
        (frame(PAYLOAD, group="226.2.2.3"), False),
        (tagged(frame(PAYLOAD, group="226.2.2.3"), 100), False),
        (ethernet(ipv4(udp(PAYLOAD), protocol=6)), False),
        (ethernet(bytes(28), ethertype=0x0806, padding=18), False),
    ]:
        assert bool(engine.see(packet)) == passed, packet.hex()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 503, 504, 505, 1015, 1016, 1017, 1472, 9000])
def test_a_wrong_checksum_is_not_relayed_and_counted_as_the_ring_counts_it(size):
    engine = Engine(exclusive=False)
    chance = random.Random(size)
    packet = frame(chance.randbytes(size))
    if len(packet) > 3000:  # more than BPF_PROG_TEST_RUN takes
        packet = frame(chance.randbytes(2900))
    assert engine.meet(packet) == (NOBODY, packet)
    assert (engine.program.read_frames(0), engine.program.read_malformed(0)) == (1, 0)
    for place in {len(packet) - 1, 34, 36, 40, 26}:
        wrong = bytearray(packet)
        wrong[place] ^= 1
        wrong[24:26] = b"\0\0"
        wrong[24:26] = struct.pack("!H", 0xFFFF - ones_sum(bytes(wrong[14:34])))
        engine.program.clear_flow(0)
        engine.program.clear_frames(0)
        assert engine.meet(bytes(wrong))[0] in {NOBODY, RING}  # the port is another's in one of them
        assert engine.program.read_frames(0) == 0
        assert engine.program.read_input(0)[0] == 1


def test_checksums_are_right_whatever_the_payload():
    engine = Engine()
    chance = random.Random(1)
    for size in [*range(40), 63, 64, 570, 1316, 1400]:
        packet = frame(chance.randbytes(size), source_port=chance.randrange(65536), ttl=chance.randrange(1, 256))
        assert engine.meet(packet) == (KERNEL, readdressed(packet)), size


def test_a_checksum_that_looks_like_one_left_to_the_device_is_still_right():
    """Once in 65536 the whole sum is what the pseudo header comes to, and only the kernel knows which it is."""
    engine = Engine()
    pseudo = ones_sum(PLAIN[26:34] + struct.pack("!2H", 17, 10))
    for filling in range(65536):
        packet = frame(struct.pack("!H", filling))
        if packet[40:42] == struct.pack("!H", pseudo):
            break
    else:
        pytest.fail("no payload has this sum")
    assert engine.meet(packet) == (KERNEL, readdressed(packet))


@pytest.mark.parametrize("outputs", [1, 2, 50])
def test_the_original_goes_on_as_it_came_unless_the_rule_is_exclusive(outputs):
    engine = Engine(exclusive=False, output_count=outputs)
    for i in range(outputs):
        engine.output(i, port=6000 + i)
    for payload in (b"", b"x", PAYLOAD, bytes(1400)):
        packet = frame(payload, tos=0xB9)
        assert engine.meet(packet) == (NOBODY, packet)
    for i in range(outputs):
        assert sum(engine.program.read_output(i)) == 4
    assert engine.program.read_input(0)[0] == 4
    assert engine.program.read_frames(0) == 4


def test_header_fields_of_an_output():
    engine = Engine()
    packet = frame(PAYLOAD, tos=0xB9, fragment=0)
    for settings, tos, fragment in [
        ({"dscp": 46}, 46 << 2, 0),
        ({"dscp": None}, 0xB8, 0),
        ({"dscp": 0}, 0, 0),
        ({"df": True}, 0, 0x4000),
    ]:
        engine.output(0, **settings)
        _, after = engine.meet(packet)
        assert (after[15], struct.unpack("!H", after[20:22])[0], after[22]) == (tos, fragment, OUT.ttl)
        assert ones_sum(after[14:34]) == 0xFFFF


def test_a_parked_output_counts_and_rewrites_nothing():
    engine = Engine()
    engine.output(0, ifindex=0)
    assert engine.meet(PLAIN) == (KERNEL, PLAIN)
    assert engine.program.read_output(0) == (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)


def test_a_named_source_comes_before_any():
    engine = Engine()
    engine.program.set_rule(**engine.rule | {"source": number(SOURCE), "counters": 1, "flow": 1})
    engine.meet(PLAIN)
    engine.meet(frame(PAYLOAD, source="192.168.168.56"))
    assert [engine.program.read_input(i)[0] for i in range(2)] == [1, 1]


def test_a_rule_of_the_ring_is_the_rings():
    engine = Engine(kernel=False)
    assert engine.meet(PLAIN) == (RING, PLAIN)


def test_without_a_rings_filter_the_program_decides_by_itself():
    engine = Engine()
    verdict, after = testrun.run(engine.program.program("relay"), PLAIN)
    assert (verdict, after) == (2, readdressed(PLAIN))
    engine.set(kernel=False)
    assert testrun.run(engine.program.program("relay"), PLAIN) == (0xFFFFFFFF, PLAIN)


def test_the_program_takes_a_rule_whose_group_no_ring_lets_in_yet_and_only_the_ring_waits_for_that():
    engine = Engine()
    engine.program.remove_group(LINK, number(GROUP))
    assert engine.meet(PLAIN)[0] == KERNEL
    engine.set(kernel=False)
    assert engine.meet(PLAIN)[0] == NOBODY
    engine.program.add_group(LINK, number(GROUP))
    assert engine.meet(PLAIN)[0] == RING
    engine.set(kernel=True)
    assert engine.meet(PLAIN)[0] == KERNEL


def test_a_rule_that_moves_between_filter_and_program_is_forwarded_once():
    engine = Engine()
    relay = engine.program.program("relay")
    for before in (True, False):
        engine.set(kernel=before)
        passed = engine.see(PLAIN)
        engine.set(kernel=not before)
        verdict, _ = testrun.run(relay, PLAIN)
        assert bool(passed) != (verdict == 2)


def test_what_was_decided_is_for_one_packet_alone():
    """One that never came to the program (somebody else dropped it) says nothing of the next."""
    engine = Engine()
    relay = engine.program.program("relay")
    engine.see(frame(PAYLOAD, port=PORT + 1))
    assert testrun.run(relay, PLAIN)[0] == 2
    engine.see(PLAIN)
    assert testrun.run(relay, frame(PAYLOAD, port=PORT + 1))[0] == 0xFFFFFFFF
    assert testrun.run(relay, PLAIN)[0] == 2


def test_what_our_outputs_send_is_left_to_the_ring_which_counts_it():
    engine = Engine()
    own = (number(SOURCE), SOURCE_PORT, number(GROUP), PORT)
    engine.program.add_own(*own)
    assert engine.meet(PLAIN) == (RING, PLAIN)
    assert engine.meet(frame(PAYLOAD, source_port=1))[0] == KERNEL
    engine.program.remove_own(*own)
    assert engine.meet(PLAIN)[0] == KERNEL


@pytest.mark.parametrize(
    "odd",
    [
        frame(PAYLOAD, source="192.168.168.56"),
        frame(PAYLOAD, options=b"\x94\x04\0\0"),
        frame(bytes(1300)),
        ethernet(ipv4(udp(b"0123", length=12) + b"456789")),
    ],
    ids=["another source", "IP options", "larger than an output's MTU", "a tail"],
)
def test_what_the_program_cannot_treat_takes_the_rule_to_the_ring_until_it_is_silent(odd):
    """Else datagrams of one stream would overtake each other, and loops by another host would never end."""
    engine = Engine(size_max=1000)
    assert engine.meet(PLAIN)[0] == KERNEL
    assert not engine.program.held(0)
    assert engine.meet(odd) == (RING, odd)
    assert engine.program.held(0)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        assert engine.meet(PLAIN) == (RING, PLAIN)
        time.sleep(0.01)
    time.sleep(0.15)
    assert engine.meet(PLAIN)[0] == KERNEL
    assert not engine.program.held(0)


def test_what_the_ring_drops_or_does_not_know_takes_no_rule_with_it():
    engine = Engine()
    engine.meet(PLAIN)
    for packet in (
        frame(PAYLOAD, fragment=0x2000),
        frame(PAYLOAD, checksum=1),
        frame(PAYLOAD, total=27),
        tagged(PLAIN, 5),
    ):
        assert engine.meet(packet)[0] == RING
        assert engine.meet(PLAIN)[0] == KERNEL


def test_a_named_source_needs_no_watching():
    engine = Engine(source=number(SOURCE))
    assert engine.meet(PLAIN)[0] == KERNEL
    assert engine.meet(frame(PAYLOAD, source="192.168.168.56")) == (RING, frame(PAYLOAD, source="192.168.168.56"))
    assert engine.meet(PLAIN)[0] == KERNEL


def left_to_the_device(whole):
    """As a sender leaves it: the sum of the pseudo header where the checksum will be."""
    length = whole[38:40]
    return whole[:40] + struct.pack("!H", ones_sum(whole[26:34] + b"\0\x11" + length)) + whole[42:]


def test_a_superframe_counts_all_of_its_datagrams():
    engine = Engine()
    whole = left_to_the_device(frame(bytes(2550)))
    assert engine.meet(whole, gso_size=1000, gso_segs=3)[0] == KERNEL
    assert engine.program.read_input(0)[:2] == (3, 2550)
    assert sum(engine.program.read_output(0)) == 3
    assert engine.meet(whole, gso_size=1000)[0] == KERNEL  # a sender need not say how many
    assert engine.program.read_input(0)[:2] == (6, 5100)


@pytest.mark.parametrize(
    ("changed", "whole"),
    [
        ({"whole": False}, left_to_the_device(frame(bytes(2550)))),
        ({"size_max": 1027}, left_to_the_device(frame(bytes(2550)))),
        ({}, frame(bytes(2550))),  # each of its datagrams has headers of its own
    ],
    ids=["the output's queue cuts it", "its datagrams exceed an MTU", "a list of datagrams"],
)
def test_superframes_that_are_the_rings(changed, whole):
    assert Engine(**changed).meet(whole, gso_size=1000, gso_segs=3) == (RING, whole)


def some_frame(chance):
    """A frame that may be a rule's, with what is said beside it: (bytes, fields of the packet)."""
    options = b"\1" * 4 * chance.choice((0, 0, 0, 0, 2))
    mutated = bytearray(frame(chance.randbytes(chance.choice((0, 1, 40, 59, 600))), options=options))
    if chance.random() < 0.1:
        mutated += chance.randbytes(chance.randrange(1, 20))  # as Ethernet pads what is short
    for _ in range(chance.choice((0, 1, 1, 2))):
        mutated[chance.randrange(min(len(mutated), 60))] = chance.randrange(256)
    if chance.random() < 0.7:  # so that changes reach what lies behind the header's checksum
        end = 14 + max(5, mutated[14] & 15) * 4
        mutated[24:26] = b"\0\0"
        mutated[24:26] = struct.pack("!H", 0xFFFF - ones_sum(bytes(mutated[14:end])))
    packet = bytes(mutated)
    kind = chance.random()
    if kind < 0.05:
        return tagged(packet, chance.choice((0, 5, 4095)), chance.choice((0x8100, 0x88A8))), {}
    if kind < 0.1:
        return left_to_the_device(frame(chance.randbytes(1500))), {"gso_size": chance.choice((500, 700, 1500))}
    return packet, {}


def without_id(whole):
    """All but the identification of the IPv4 packet, which stays the sender's, and its header checksum."""
    return whole[:18] + whole[20:24] + whole[26:]


def test_two_engines_agree_about_frames_changed_at_random(probe):
    """Never both, and what either would relay is relayed, with the same bytes. FRAMES says how many to try."""
    chance = random.Random(2)
    engine = Engine()
    engine.output(0, dscp=None)
    taken = {RING: 0, KERNEL: 0, NOBODY: 0}
    datagrams = sent_bytes = malformed = 0
    for _ in range(int(os.environ.get("FRAMES", "5000"))):
        packet, fields = some_frame(chance)
        engine.program.clear_flow(0)
        who, after = engine.meet(packet, **fields)
        taken[who] += 1
        verdict, read = probe.parse_frame(packet, verify=not fields)
        ours = read is not None and (read["group"], read["port"]) == (number(GROUP), PORT)
        if who == KERNEL:
            assert verdict == "relayed"
            assert ours
            again, sent = probe.parse_frame(after, verify=not fields)
            assert again == "relayed"
            assert (sent["payload"], sent["source"], sent["port"]) == (read["payload"], number(OUT.source), OUT.port)
            assert fields or without_id(after) == without_id(readdressed(packet))
            datagrams += -(-len(read["payload"]) // fields["gso_size"]) if fields else 1
            sent_bytes += len(read["payload"])
            continue
        assert after == packet
        if who == NOBODY:
            assert not ours
            now = engine.program.read_malformed(0)
            assert now == malformed or verdict == "malformed"
            malformed = now
        elif ours:
            assert packet[14] != 0x45 or int.from_bytes(packet[38:40]) + 20 != int.from_bytes(packet[16:18])
    assert engine.program.read_input(0)[:2] == (datagrams, sent_bytes)
    assert engine.program.read_output(0)[-1] == datagrams
    assert min(taken.values()) > 0.05 * sum(taken.values())
    assert malformed
