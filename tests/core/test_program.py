"""The kernel engine's program, by BPF_PROG_TEST_RUN: the ring's own table of frames, two engines, one answer.

Whatever does not depend on the family is tested for both, and from each to the other.
"""

from __future__ import annotations

import errno
import os
import random
import struct
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from support import testrun
from support.frames import (
    GROUP,
    PORT,
    SIX_GROUP,
    SIX_SOURCE,
    SOURCE,
    SOURCE_PORT,
    ethernet,
    frame,
    group_mac,
    ipv4,
    ipv6,
    ones_sum,
    six,
    tagged,
    udp,
)

from mcrelay.engine import program
from mcrelay.engine.captures import in_core

from .test_wire import TABLE as FOUR_TABLE
from .test_wire_six import DESTINATION, OPTIONS
from .test_wire_six import TABLE as SIX_TABLE

pytestmark = pytest.mark.core

RING, KERNEL, NOBODY = "ring", "kernel", "nobody"
LINK = testrun.LOOPBACK
NO_LINK = 0x7FFFFFF0  # an output that rewrites, and whose copies go nowhere
PAYLOAD = b"0123456789"
OUT_PORT, OUT_SOURCE_PORT, HOPS = 5004, 20001, 9
MAC = bytes.fromhex("02aabbccddee")
MAPS = (
    "rules", "rules_six", "outputs", "sent", "received", "groups", "groups_six", "flows", "own", "own_six", "frames",
)  # fmt: skip


def core(address):
    return in_core(ip_address(address))


@dataclass(frozen=True)
class Family:
    """What tests need of one: ``stranger`` is another source, the other two an output's ends."""

    version: int
    make: Any
    headers: int  # before the payload, Ethernet's among them
    group: str
    source: str
    stranger: str
    other_group: str
    out_group: str
    out_source: str

    @property
    def sum_at(self):
        return self.headers - 2

    def payload(self, whole):
        """That of a frame without options or extension headers."""
        return whole[
            self.headers : self.headers - 8 + int.from_bytes(whole[self.headers - 4 : self.headers - 2], "big")
        ]

    def tail(self, whole):
        """What follows the packet."""
        total = whole[16:18] if self.version == 4 else whole[18:20]
        return whole[14 + int.from_bytes(total, "big") + (0 if self.version == 4 else 40) :]

    def service(self, whole):
        """The type of service, or the traffic class."""
        return whole[15] if self.version == 4 else int.from_bytes(whole[14:16], "big") >> 4 & 0xFF

    def pseudo(self, whole):
        """The sum of the pseudo header."""
        ends = whole[26:34] if self.version == 4 else whole[22:54]
        return ones_sum(ends + b"\0\x11" + whole[self.headers - 4 : self.headers - 2])


FOUR = Family(4, frame, 42, GROUP, SOURCE, "192.168.168.56", "226.2.2.3", "239.10.0.1", "198.51.100.1")
SIX = Family(6, six, 62, SIX_GROUP, SIX_SOURCE, "2001:db8:168::56", "ff3e::3", "ff15::1", "2001:db8:100::1")


class Engine:
    """The program with one rule, and one packet at a time."""

    def __init__(self, way, **changed):
        self.taken, self.sent = way
        self.program = program.load(dict.fromkeys(MAPS, 64))
        self.program.add_group(LINK, core(self.taken.group))
        self.rule = {
            "ifindex": LINK, "group": core(self.taken.group), "source": 0, "port": PORT, "kernel": True,
            "exclusive": True, "whole": True, "crosses": self.taken is not self.sent, "counters": 0, "first_output": 0,
            "output_count": 1, "payload_max": 65507, "flow": 0, "link": 0,
        }  # fmt: skip
        self.set(**changed)
        self.output(0)

    def set(self, **changed):
        self.rule |= changed
        self.program.set_rule(**self.rule)

    def output(self, index, family=None, **changed):
        family = family or self.sent
        fields = {
            "ifindex": NO_LINK, "group": core(family.out_group), "source": core(family.out_source), "port": OUT_PORT,
            "source_port": OUT_SOURCE_PORT, "ttl": HOPS, "dscp": 0, "df": False,
            "macs": group_mac(family.out_group) + MAC, "counters": index,
        }  # fmt: skip
        self.program.set_output(index, **fields | changed)

    def frame(self, payload=PAYLOAD, **fields):
        """A frame of the rule's stream."""
        return self.taken.make(payload, **fields)

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

    def readdressed(self, whole, number=0):
        """What the output sends: the payload in a frame made from nothing.

        An identification stays as it came; *number* is it where none came.
        """
        payload, service = self.taken.payload(whole), self.taken.service(whole) & ~3
        ends = {"source": self.sent.out_source, "group": self.sent.out_group}
        without = self.taken is self.sent is FOUR and whole[40:42] == b"\0\0"
        body = udp(payload, **ends, source_port=OUT_SOURCE_PORT, port=OUT_PORT, checksum=0 if without else None)
        if self.sent is SIX:
            packet, ethertype = ipv6(body, **ends, traffic_class=service, hops=HOPS), 0x86DD
        else:
            fields = {"fragment": 0, "identification": number}
            if self.taken is FOUR:
                word = int.from_bytes(whole[20:22], "big")
                fields = {"fragment": word, "identification": int.from_bytes(whole[18:20], "big")}
            packet, ethertype = ipv4(body, **ends, tos=service, ttl=HOPS, **fields), 0x0800
        made = ethernet(packet, to=group_mac(self.sent.out_group), ethertype=ethertype)
        return made[:6] + MAC + made[12:] + self.taken.tail(whole)


WAYS = {"IPv4": (FOUR, FOUR), "IPv6": (SIX, SIX), "IPv4 to IPv6": (FOUR, SIX), "IPv6 to IPv4": (SIX, FOUR)}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request):
    return request.param


@pytest.fixture
def engine(way):
    return Engine(way)


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


# What the ring relays and the program leaves to it.
NOT_TREATED = {
    "4 bytes of IP options", "40 bytes of IP options", "a UDP length shorter than the IP payload cuts the rest off",
    "a UDP length of 8 is an empty datagram", "hop-by-hop options", "destination options of 24 bytes",
    "a routing header without segments left", "all of them in the order of RFC 8200", "eight headers",
    "a fragment header of a whole datagram",
}  # fmt: skip
WRONG_SUMS = {"a wrong UDP checksum", "a wrong checksum", "a wrong checksum of IPv4's pseudo header"}
ROWS = [  # those that BPF_PROG_TEST_RUN takes: none that is shorter than the header of its EtherType
    (FOUR if table is FOUR_TABLE else SIX, name, packet, verdict)
    for table in (FOUR_TABLE, SIX_TABLE)
    for name, packet, verdict, _ in table
    if (14 if packet[12:14] != b"\x86\xdd" else 53) < len(packet) < 3000
]


@pytest.mark.parametrize("sent", [FOUR, SIX], ids=["to IPv4", "to IPv6"])
@pytest.mark.parametrize(
    ("taken", "name", "packet", "verdict"), ROWS, ids=[f"IPv{row[0].version}: {row[1]}" for row in ROWS]
)
def test_the_program_takes_what_the_ring_relays_and_sends_the_same(taken, sent, name, packet, verdict):
    port = PORT if verdict != "relayed" or name in NOT_TREATED else int.from_bytes(
        packet[taken.headers - 6 : taken.headers - 4], "big"
    )  # fmt: skip
    engine = Engine((taken, sent), port=port)
    engine.output(0, dscp=None)
    who, after = engine.meet(packet)
    treated = name not in NOT_TREATED and not (name == "no UDP checksum" and sent is SIX)
    if verdict == "relayed" and treated:
        assert who == KERNEL
        assert after == engine.readdressed(packet)
        assert engine.program.read_input(0)[:2] == (1, len(taken.payload(packet)))
        return
    assert who in {RING, NOBODY}
    if verdict in {"relayed", "fragment"} and name != "a fragment of ICMPv6":
        assert who == RING
    assert after == packet
    assert engine.program.read_input(0) == (0, 0, 0)
    assert engine.program.read_malformed(0) == (name in WRONG_SUMS)


@pytest.mark.parametrize("family", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_the_ring_is_told_of_every_frame_to_a_group_of_a_rule_and_of_no_other(family):
    engine = Engine((family, family))
    plain, elsewhere = engine.frame(), engine.frame(group=family.other_group)
    frames = [
        (engine.frame(port=PORT + 1), True),  # a near miss
        (tagged(plain, 100), True),
        (tagged(plain, 100, 0x88A8), True),
        (elsewhere, False),
        (tagged(elsewhere, 100), False),
        (ethernet(bytes(28), ethertype=0x0806, padding=18), False),
    ]
    if family is FOUR:
        frames += [(frame(fragment=0x2000), True), (ethernet(ipv4(udp(PAYLOAD), protocol=6)), False)]
    else:
        mld = six_of(bytes(28), headers=[(0, OPTIONS)], last=58)
        frames += [
            (six(headers=[(44, bytes(1) + struct.pack("!HI", 1, 9))]), True),
            (six(headers=[(DESTINATION, OPTIONS)]), True),
            (tagged(six(headers=[(DESTINATION, OPTIONS)]), 100), True),
            (six_of(b"1234"), True),  # malformed, which is counted
            (six_of(bytes(28), last=58), False),
            (mld, False),
            (tagged(mld, 100), False),
            (six_of(udp(PAYLOAD), last=6), False),
        ]
    for packet, passed in frames:
        assert bool(engine.see(packet)) == passed, packet.hex()


def six_of(body, **fields):
    return ethernet(ipv6(body, **fields), ethertype=0x86DD)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 503, 504, 505, 1015, 1016, 1017, 1472, 9000])
def test_a_wrong_checksum_is_not_relayed_and_counted_as_the_ring_counts_it(way, size):
    engine = Engine(way, exclusive=False)
    chance = random.Random(size)
    packet = engine.frame(chance.randbytes(min(size, 2900)))  # BPF_PROG_TEST_RUN takes no more
    assert engine.meet(packet) == (NOBODY, packet)
    assert (engine.program.read_frames(0), engine.program.read_malformed(0)) == (1, 0)
    udp_at, source_at = engine.taken.headers - 8, 26 if engine.taken is FOUR else 37
    for place in {len(packet) - 1, udp_at, udp_at + 2, udp_at + 6, source_at}:
        wrong = bytearray(packet)
        wrong[place] ^= 1
        if engine.taken is FOUR:
            wrong[24:26] = b"\0\0"
            wrong[24:26] = struct.pack("!H", 0xFFFF - ones_sum(bytes(wrong[14:34])))
        engine.program.clear_flow(0)
        engine.program.clear_frames(0)
        who, after = engine.meet(bytes(wrong))
        assert who in {NOBODY, RING}  # the port is another's in one of them
        assert after == wrong
        assert engine.program.read_frames(0) == 0
        assert engine.program.read_malformed(0) == (place != udp_at + 2)
        assert engine.program.read_input(0)[0] == 1


def test_checksums_are_right_whatever_the_payload(engine):
    chance = random.Random(1)
    hops = "ttl" if engine.taken is FOUR else "hops"
    for count, size in enumerate([*range(40), 63, 64, 570, 1316, 1400]):
        packet = engine.frame(
            chance.randbytes(size), source_port=chance.randrange(65536), **{hops: chance.randrange(1, 256)}
        )
        assert engine.meet(packet) == (KERNEL, engine.readdressed(packet, count)), size


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_kernels_sum_of_a_packet_follows_what_becomes_of_it(way, exclusive):
    """Of a device that adds up whole packets (CHECKSUM_COMPLETE): the next receiver believes it."""
    engine = Engine(way, exclusive=exclusive, output_count=3)
    for number, family in enumerate((engine.sent, engine.taken, engine.sent)):
        engine.output(number, family, ttl=77)
    chance = random.Random(5)
    try:
        for size in (0, 1, 7, 600, 1316):
            packet = engine.frame(chance.randbytes(size))
            verdict, after = testrun.run(engine.program.program("relay"), packet, summed=True)
            assert (verdict == 2) == exclusive
            assert (after == packet) != exclusive
            wrong = packet[:-1] + bytes([packet[-1] ^ 1])
            assert testrun.run(engine.program.program("relay"), wrong, summed=True) == (0xFFFFFFFF, wrong)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("BPF_PROG_TEST_RUN knows such packets since Linux 6.16")
    assert all(sum(engine.program.read_output(i)) == 5 for i in range(3))


def test_a_checksum_that_looks_like_one_left_to_the_device_is_still_right(engine):
    """Once in 65536 the whole sum is what the pseudo header comes to, and only the kernel knows which it is."""
    at = engine.taken.sum_at
    pseudo = struct.pack("!H", engine.taken.pseudo(engine.frame(b"12")))
    for filling in range(65536):
        packet = engine.frame(struct.pack("!H", filling))
        if packet[at : at + 2] == pseudo:
            break
    else:
        pytest.fail("no payload has this sum")
    assert engine.meet(packet) == (KERNEL, engine.readdressed(packet))


@pytest.mark.parametrize("outputs", [1, 2, 50])
def test_the_original_goes_on_as_it_came_unless_the_rule_is_exclusive(way, outputs):
    engine = Engine(way, exclusive=False, output_count=outputs)
    for i in range(outputs):
        engine.output(i, port=6000 + i)
    service = "tos" if engine.taken is FOUR else "traffic_class"
    for payload in (b"", b"x", PAYLOAD, bytes(1400)):
        packet = engine.frame(payload, **{service: 0xB9})
        assert engine.meet(packet) == (NOBODY, packet)
    for i in range(outputs):
        assert sum(engine.program.read_output(i)) == 4
    assert engine.program.read_input(0)[0] == 4
    assert engine.program.read_frames(0) == 4


@pytest.mark.parametrize("taken", [FOUR, SIX], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_outputs_of_both_families_have_their_own_whatever_their_order(taken, exclusive):
    """The packet crosses, and crosses back, as often as the order asks."""
    engine = Engine((taken, SIX), exclusive=exclusive, crosses=True)
    for last in (FOUR, SIX):
        other = SIX if last is FOUR else FOUR
        for number, family in enumerate([last, other, other, last, last, other, last]):
            engine.output(number, family)
        engine.set(output_count=7)
        engine.sent = last
        packet = engine.frame(b"to all", source_port=3)
        engine.program.clear_flow(0)
        who, after = engine.meet(packet)
        assert (who, after) == ((KERNEL, engine.readdressed(packet)) if exclusive else (NOBODY, packet))
    assert all(sum(engine.program.read_output(i)) == 2 for i in range(7))


def test_header_fields_of_an_output(engine):
    service = "tos" if engine.taken is FOUR else "traffic_class"
    packet = engine.frame(**{service: 0xB9}, **({"fragment": 0} if engine.taken is FOUR else {"label": 0x12345}))
    for settings, tos, fragment in [
        ({"dscp": 46}, 46 << 2, 0),
        ({"dscp": None}, 0xB8, 0),
        ({"dscp": 0}, 0, 0),
        ({"df": True}, 0, 0x4000),
    ]:
        engine.output(0, **settings)
        _, after = engine.meet(packet)
        if engine.sent is SIX:
            assert after[14:18] == struct.pack("!I", 6 << 28 | tos << 20)
            assert after[21] == HOPS
            continue
        assert (after[15], struct.unpack("!H", after[20:22])[0], after[22]) == (tos, fragment, HOPS)
        assert ones_sum(after[14:34]) == 0xFFFF


def test_each_datagram_that_becomes_one_of_ipv4_has_an_identification_of_its_own():
    """It may be cut on its way (RFC 791). A superframe becomes as many packets as it has datagrams."""
    engine = Engine((SIX, FOUR))
    found = []
    for segments in (1, 1, 3, 1):
        whole = left_to_the_device(SIX, six(bytes(1000 * segments)))
        fields = {"gso_size": 1000, "gso_segs": segments} if segments > 1 else {}
        who, after = engine.meet(whole, **fields) if fields else engine.meet(six())
        assert who == KERNEL
        found.append(int.from_bytes(after[18:20], "big"))
    assert found == [0, 1, 2, 5]


def test_a_parked_output_counts_and_rewrites_nothing(engine):
    engine.output(0, ifindex=0)
    plain = engine.frame()
    assert engine.meet(plain) == (KERNEL, plain)
    assert engine.program.read_output(0) == (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)


def test_a_named_source_comes_before_any(engine):
    taken = engine.taken
    engine.program.set_rule(**engine.rule | {"source": core(taken.source), "counters": 1, "flow": 1})
    engine.meet(engine.frame())
    engine.meet(engine.frame(source=taken.stranger))
    assert [engine.program.read_input(i)[0] for i in range(2)] == [1, 1]


def test_rules_of_both_families_stand_side_by_side():
    """A packet of one between the filter's and the program's look at one of the other changes nothing."""
    engine = Engine((FOUR, FOUR))
    engine.program.add_group(LINK, core(SIX_GROUP))
    engine.program.set_rule(**engine.rule | {"group": core(SIX_GROUP), "counters": 1, "flow": 1, "first_output": 1})
    engine.output(1, SIX)
    four, other = frame(), six()
    for packet in (four, other, four):
        assert engine.meet(packet)[0] == KERNEL
    engine.see(four)
    assert testrun.run(engine.program.program("relay"), other)[0] == 2
    assert [engine.program.read_input(i)[0] for i in range(2)] == [2, 2]


def test_a_rule_of_the_ring_is_the_rings(way):
    engine = Engine(way, kernel=False)
    plain = engine.frame()
    assert engine.meet(plain) == (RING, plain)


def test_without_a_rings_filter_the_program_decides_by_itself(engine):
    plain = engine.frame()
    verdict, after = testrun.run(engine.program.program("relay"), plain)
    assert (verdict, after) == (2, engine.readdressed(plain))
    engine.set(kernel=False)
    assert testrun.run(engine.program.program("relay"), plain) == (0xFFFFFFFF, plain)


def test_the_program_takes_a_rule_whose_group_no_ring_lets_in_yet_and_only_the_ring_waits_for_that(engine):
    plain, group = engine.frame(), core(engine.taken.group)
    engine.program.remove_group(LINK, group)
    assert engine.meet(plain)[0] == KERNEL
    engine.set(kernel=False)
    assert engine.meet(plain)[0] == NOBODY
    engine.program.add_group(LINK, group)
    assert engine.meet(plain)[0] == RING
    engine.set(kernel=True)
    assert engine.meet(plain)[0] == KERNEL


def test_a_rule_that_moves_between_filter_and_program_is_forwarded_once(engine):
    relay, plain = engine.program.program("relay"), engine.frame()
    for before in (True, False):
        engine.set(kernel=before)
        passed = engine.see(plain)
        engine.set(kernel=not before)
        verdict, _ = testrun.run(relay, plain)
        assert bool(passed) != (verdict == 2)


def test_what_was_decided_is_for_one_packet_alone(engine):
    """One that never came to the program (somebody else dropped it) says nothing of the next."""
    relay, plain, other = engine.program.program("relay"), engine.frame(), engine.frame(port=PORT + 1)
    engine.see(other)
    assert testrun.run(relay, plain)[0] == 2
    engine.see(plain)
    assert testrun.run(relay, other)[0] == 0xFFFFFFFF
    assert testrun.run(relay, plain)[0] == 2


def test_what_our_outputs_send_is_left_to_the_ring_which_counts_it(engine):
    plain = engine.frame()
    own = (core(engine.taken.source), SOURCE_PORT, core(engine.taken.group), PORT)
    engine.program.add_own(*own)
    assert engine.meet(plain) == (RING, plain)
    assert engine.meet(engine.frame(source_port=1))[0] == KERNEL
    engine.program.remove_own(*own)
    assert engine.meet(plain)[0] == KERNEL


@pytest.mark.parametrize(
    ("taken", "odd"),
    [
        (FOUR, frame(PAYLOAD, source=FOUR.stranger)),
        (FOUR, frame(PAYLOAD, options=b"\x94\x04\0\0")),
        (FOUR, frame(bytes(1300))),
        (FOUR, ethernet(ipv4(udp(b"0123", length=12) + b"456789"))),
        (SIX, six(PAYLOAD, source=SIX.stranger)),
        (SIX, six(PAYLOAD, source="2001:db8:169::55")),
        (SIX, six(PAYLOAD, headers=[(DESTINATION, OPTIONS)])),
        (SIX, six(bytes(1300))),
        (SIX, six_of(udp(b"0123", source=SIX_SOURCE, group=SIX_GROUP) + b"456789")),
    ],
    ids=[
        "another source", "IP options", "larger than an output's MTU", "a tail", "another source of IPv6",
        "another network's", "an extension header", "larger than an output's MTU, of IPv6", "a tail, of IPv6",
    ],
)  # fmt: skip
def test_what_the_program_cannot_treat_takes_the_rule_to_the_ring_until_it_is_silent(taken, odd):
    """Else datagrams of one stream would overtake each other, and loops by another host would never end."""
    engine = Engine((taken, taken), payload_max=972)
    plain = engine.frame()
    assert engine.meet(plain)[0] == KERNEL
    assert not engine.program.held(0)
    assert engine.meet(odd) == (RING, odd)
    assert engine.program.held(0)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        assert engine.meet(plain) == (RING, plain)
        time.sleep(0.01)
    time.sleep(0.15)
    assert engine.meet(plain)[0] == KERNEL
    assert not engine.program.held(0)


def test_what_has_no_checksum_takes_a_rule_to_the_ring_that_sends_it_with_one():
    """IPv6 has to have it, and the program would have to add the payload up."""
    bare = ethernet(ipv4(udp(PAYLOAD, checksum=0)))
    assert Engine((FOUR, FOUR)).meet(bare)[0] == KERNEL
    engine = Engine((FOUR, SIX))
    assert engine.meet(bare) == (RING, bare)
    assert engine.program.held(0)


def test_what_the_ring_drops_or_does_not_know_takes_no_rule_with_it():
    for family, strange in [
        (FOUR, [frame(fragment=0x2000), frame(checksum=1), frame(total=27), tagged(frame(), 5)]),
        (
            SIX,
            [
                six(headers=[(44, bytes(1) + struct.pack("!HI", 1, 9))]), six(checksum=0), six(length=12),
                tagged(six(), 5), six(headers=[(DESTINATION, OPTIONS)] * 9), six(headers=[(44, bytes(7))], checksum=0),
            ],
        ),
    ]:  # fmt: skip
        engine = Engine((family, family))
        engine.meet(engine.frame())
        for packet in strange:
            assert engine.meet(packet)[0] == RING
            assert engine.meet(engine.frame())[0] == KERNEL


def test_a_named_source_needs_no_watching(way):
    engine = Engine(way, source=core(way[0].source))
    assert engine.meet(engine.frame())[0] == KERNEL
    other = engine.frame(source=engine.taken.stranger)
    assert engine.meet(other) == (RING, other)
    assert engine.meet(engine.frame())[0] == KERNEL


def left_to_the_device(family, whole):
    """As a sender leaves it: the sum of the pseudo header where the checksum will be."""
    at = family.sum_at
    return whole[:at] + struct.pack("!H", family.pseudo(whole)) + whole[at + 2 :]


def test_a_superframe_counts_all_of_its_datagrams(engine):
    whole = left_to_the_device(engine.taken, engine.frame(bytes(2550)))
    who, after = engine.meet(whole, gso_size=1000, gso_segs=3)
    assert who == KERNEL
    sent = engine.readdressed(engine.frame(bytes(2550)))
    assert after == left_to_the_device(engine.sent, sent)
    assert engine.program.read_input(0)[:2] == (3, 2550)
    assert sum(engine.program.read_output(0)) == 3
    assert engine.meet(whole, gso_size=1000)[0] == KERNEL  # a sender need not say how many
    assert engine.program.read_input(0)[:2] == (6, 5100)


@pytest.mark.parametrize(
    ("changed", "device"),
    [
        ({"whole": False}, True),
        ({"payload_max": 999}, True),
        ({}, False),  # each of its datagrams has headers of its own
    ],
    ids=["the output's queue cuts it", "its datagrams exceed an MTU", "a list of datagrams"],
)
def test_superframes_that_are_the_rings(way, changed, device):
    engine = Engine(way, **changed)
    whole = engine.frame(bytes(2550))
    if device:
        whole = left_to_the_device(engine.taken, whole)
    assert engine.meet(whole, gso_size=1000, gso_segs=3) == (RING, whole)


def some_frame(chance, family):
    """A frame that may be a rule's, with what is said beside it: (bytes, fields of the packet)."""
    payload, odd = chance.randbytes(chance.choice((0, 1, 40, 59, 600))), chance.random() < 0.2
    if family is FOUR:
        mutated = bytearray(frame(payload, options=b"\1" * 8 if odd else b""))
    else:
        headers = [(chance.choice((0, 43, 60)), OPTIONS), (44, bytes(7))][: chance.choice((1, 2))]
        mutated = bytearray(six(payload, headers=headers if odd else ()))
    if chance.random() < 0.1:
        mutated += chance.randbytes(chance.randrange(1, 20))  # as Ethernet pads what is short
    for _ in range(chance.choice((0, 1, 1, 2))):
        mutated[chance.randrange(min(len(mutated), family.headers + 18))] = chance.randrange(256)
    if family is FOUR and chance.random() < 0.7:  # so that changes reach what lies behind the header's checksum
        end = 14 + max(5, mutated[14] & 15) * 4
        mutated[24:26] = b"\0\0"
        mutated[24:26] = struct.pack("!H", 0xFFFF - ones_sum(bytes(mutated[14:end])))
    packet = bytes(mutated)
    kind = chance.random()
    if kind < 0.05:
        return tagged(packet, chance.choice((0, 5, 4095)), chance.choice((0x8100, 0x88A8))), {}
    if kind < 0.1:
        superframe = left_to_the_device(family, family.make(chance.randbytes(1500)))
        return superframe, {"gso_size": chance.choice((500, 700, 1500))}
    return packet, {}


def without_id(family, whole):
    """All but the identification of an IPv4 packet, and its header checksum."""
    return whole[:18] + whole[20:24] + whole[26:] if family is FOUR else whole


def is_plain(family, packet):
    """Whether there is nothing but IP and UDP: no options, no extension headers, no tail."""
    length = int.from_bytes(packet[family.headers - 4 : family.headers - 2], "big")
    if family is FOUR:
        return packet[14] == 0x45 and length + 20 == int.from_bytes(packet[16:18], "big")
    return packet[20] == 17 and length == int.from_bytes(packet[18:20], "big")


def test_two_engines_agree_about_frames_changed_at_random(probe, engine):
    """Never both, and what either would relay is relayed, with the same bytes. FRAMES says how many to try."""
    chance = random.Random(2)
    family, sent_to = engine.taken, engine.sent
    engine.output(0, dscp=None)
    taken = {RING: 0, KERNEL: 0, NOBODY: 0}
    datagrams = sent_bytes = malformed = 0
    for _ in range(int(os.environ.get("FRAMES", "5000"))):
        packet, fields = some_frame(chance, family)
        engine.program.clear_flow(0)
        who, after = engine.meet(packet, **fields)
        taken[who] += 1
        verdict, read = probe.parse_frame(packet, verify=not fields)
        ours = read is not None and (read["group"], read["port"]) == (core(family.group), PORT)
        if who == KERNEL:
            assert verdict == "relayed"
            assert ours
            again, sent = probe.parse_frame(after, verify=not fields)
            assert again == "relayed"
            ends = (sent["payload"], sent["source"], sent["port"])
            assert ends == (read["payload"], core(sent_to.out_source), OUT_PORT)
            assert fields or without_id(sent_to, after) == without_id(sent_to, engine.readdressed(packet))
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
            bare = packet[family.sum_at : family.sum_at + 2] == b"\0\0" and sent_to is SIX
            assert bare or not is_plain(family, packet)
    assert engine.program.read_input(0)[:2] == (datagrams, sent_bytes)
    assert engine.program.read_output(0)[-1] == datagrams
    assert min(taken.values()) > 0.05 * sum(taken.values())
    assert malformed
