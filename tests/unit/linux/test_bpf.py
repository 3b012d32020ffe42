"""The capture filters, run by an interpreter of classic BPF (linux/filter.h) that does not know how they are made."""

from __future__ import annotations

import errno
import itertools
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.frames import ethernet, frame, ipv4, number, six, six_part, six_parts, tagged, udp

from mcrelay.engine.captures import Capture
from mcrelay.engine.ring import RingEngine
from mcrelay.linux import bpf
from mcrelay.linux.features import Features
from mcrelay.model.plan import RingSpec
from mcrelay.model.rule import LinkSettings
from mcrelay.model.state import Refusals

LOADS = {0x20: 4, 0x28: 2, 0x30: 1}
BEHIND = {0x40: 4, 0x48: 2, 0x50: 1}  # the same behind the index register
JUMPS = {0x15: int.__eq__, 0x25: int.__gt__, 0x35: int.__ge__, 0x45: int.__and__}
ALU = {
    0x24: lambda a, k: a * k & 0xFFFFFFFF,
    0x74: lambda a, k: a >> k,
    0x94: lambda a, k: a % k,
}
INCOMING, MULTICAST, OUTGOING = 0, 2, 4  # linux/if_packet.h
PACKET_TYPE, VLAN_TAG, VLAN_PRESENT = 0xFFFFF004, 0xFFFFF02C, 0xFFFFF030  # SKF_AD_OFF + SKF_AD_…


def instructions(program):
    return [struct.unpack("=HBBI", program[at : at + 8]) for at in range(0, len(program), 8)]


def check(program):
    """What the kernel insists on (bpf_check_classic): known codes, jumps forward and inside, a return at the end."""
    steps = instructions(program)
    assert 0 < len(steps) <= 4096
    for at, (code, yes, no, value) in enumerate(steps):
        assert code in {*LOADS, *BEHIND, *JUMPS, 0x01, 0x05, 0x06, 0x07, 0x87, 0x24, 0x74, 0x94}
        if code in JUMPS:
            assert at + 1 + max(yes, no) < len(steps)
        if code == 0x05:
            assert at + 1 + value < len(steps)
    assert steps[-1][0] == 0x06


def run(program, packet, kind=MULTICAST, tag=None):
    """(bytes of the packet that are let through, instructions that took)."""
    steps = instructions(program)
    accumulator = index = at = count = 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        count += 1
        if code == 0x06:
            return value, count
        if code == 0x05:
            at += value
        elif code in JUMPS:
            at += yes if JUMPS[code](accumulator, value) else no
        elif code == 0x01:
            index = value
        elif code in ALU:
            accumulator = ALU[code](accumulator, value)
        elif value == PACKET_TYPE:
            accumulator = kind
        elif value in {VLAN_TAG, VLAN_PRESENT}:
            accumulator = (tag or 0) if value == VLAN_TAG else int(tag is not None)
        else:
            size = LOADS[code] if code in LOADS else BEHIND[code]
            begin = value + (index if code in BEHIND else 0)
            if begin + size > len(packet):
                return 0, count
            accumulator = int.from_bytes(packet[begin : begin + size], "big")


def passes(program, packet, kind=MULTICAST, tag=None):
    return run(program, packet, kind, tag)[0] >= 65535 + 14


def addressed(group):
    return frame(group=str(IPv4Address(group)))


def ips(*texts):
    return [IPv4Address(text) for text in texts]


TWO = bpf.group_filter(bpf.ranges_of(ips("226.2.2.2", "239.1.1.1")))


@pytest.mark.parametrize(
    ("what", "packet"),
    [
        ("the group", frame()),
        ("the other group", frame(group="239.1.1.1")),
        ("any port", frame(port=1)),
        ("any source", frame(source="10.0.0.1")),
        ("a later fragment", frame(fragment=185)),
        ("IP options", frame(options=b"\x01" * 40)),
        ("a wrong checksum", frame(checksum=0)),
        ("the group in a unicast MAC", ethernet(ipv4(udp(b"")), to=bytes(6))),
    ],
)
def test_every_ipv4_udp_frame_for_a_group_passes_whole(what, packet):
    assert passes(TWO, packet), what


@pytest.mark.parametrize(
    ("what", "packet"),
    [
        ("a neighbour below", frame(group="226.2.2.1")),
        ("a neighbour above", frame(group="226.2.2.3")),
        ("a group between", frame(group="230.0.0.1")),
        ("TCP", frame(protocol=6)),
        ("IGMP", frame(protocol=2)),
        ("IPv6", frame()[:12] + b"\x86\xdd" + frame()[14:]),
        ("ARP", ethernet(bytes(46), ethertype=0x0806)),
        ("a frame that ends before the destination", frame()[:33]),
        ("an empty frame", b""),
    ],
)
def test_everything_else_is_dropped(what, packet):
    assert run(TWO, packet)[0] == 0, what


def test_what_this_host_sends_is_dropped():
    assert passes(TWO, frame(), INCOMING)
    assert not passes(TWO, frame(), OUTGOING)


def test_no_group_lets_nothing_through():
    program = bpf.group_filter([])
    check(program)
    assert not passes(program, frame())


group_sets = st.one_of(
    st.frozensets(st.integers(number("224.0.0.0"), number("239.255.255.255")), max_size=60),
    st.frozensets(st.integers(number("239.1.0.0"), number("239.1.0.80")), max_size=60),
)


@given(group_sets, st.data())
@settings(max_examples=60)
def test_the_filter_accepts_exactly_its_groups(groups, data):
    program, exact = bpf.fitting_filter(map(IPv4Address, groups))
    assert exact
    check(program)
    edges = {near for group in groups for near in (group - 1, group, group + 1)}
    strange = data.draw(st.lists(st.integers(0, 0xFFFFFFFF), max_size=5))
    for address in [*edges, *strange, 0, 0xFFFFFFFF]:
        assert passes(program, addressed(address)) == (address in groups)


@given(st.frozensets(st.integers(1, 400), max_size=60))
def test_ranges_hold_exactly_the_addresses(addresses):
    ranges = bpf.ranges_of(map(IPv4Address, addresses))
    assert {each for low, high in ranges for each in range(low, high + 1)} == addresses
    for (_, before), (after, _) in itertools.pairwise(ranges):
        assert after > before + 1, "sorted, and no two touch"


@given(st.frozensets(st.integers(0, 200), min_size=1, max_size=9), st.integers(1, 10))
@example(frozenset({0, 10, 11, 50}), 2)
def test_widening_keeps_all_within_the_count_at_the_least_cost(addresses, most):
    exact = bpf.ranges_of(map(IPv4Address, addresses))
    wide = bpf.widen(exact, most)
    assert len(wide) == min(most, len(exact))
    held = {each for low, high in wide for each in range(low, high + 1)}
    assert addresses <= held
    gaps = [after - before - 1 for (_, before), (after, _) in itertools.pairwise(exact)]
    assert len(held) - len(addresses) == sum(sorted(gaps)[: max(0, len(exact) - most)])


def test_a_thousand_groups_fit_exactly_and_are_found_in_a_few_steps():
    groups = [number("239.0.0.0") + 2 * i for i in range(1000)]  # no two touch
    program, exact = bpf.fitting_filter(map(IPv4Address, groups))
    assert exact
    check(program)
    for group in groups[::37]:
        accepted, steps = run(program, addressed(group))
        assert accepted
        assert steps <= 10 + 2 * 10 + bpf.LEAF + 1
        assert not passes(program, addressed(group + 1))


def test_more_groups_than_the_kernel_takes_instructions_for_are_let_through_and_some_beside():
    groups = [number("239.0.0.0") + 3 * i + i * i % 2 for i in range(5000)]
    with pytest.raises(ValueError, match="the kernel takes 4096"):
        bpf.group_filter(bpf.ranges_of(map(IPv4Address, groups)))
    program, exact = bpf.fitting_filter(map(IPv4Address, groups))
    assert not exact
    check(program)
    assert len(program) > 8 * 2048, "no wider than it must be"
    assert all(passes(program, addressed(group)) for group in groups[::7])
    assert not passes(program, addressed(groups[0] - 1))
    assert not passes(program, addressed(groups[-1] + 1))


@given(st.integers(24, 200), group_sets)
@settings(max_examples=60)
def test_a_program_for_less_memory_is_a_wider_one(most, groups):
    program, exact = bpf.fitting_filter(map(IPv4Address, groups), most)
    check(program)
    assert len(program) <= 8 * most
    assert all(passes(program, addressed(group)) for group in groups)
    if not exact:
        full, _ = bpf.fitting_filter(map(IPv4Address, groups))
        assert len(full) > 8 * most


def test_no_program_fits_in_a_handful_of_instructions():
    with pytest.raises(ValueError, match="fits in 10 instructions"):
        bpf.fitting_filter(ips("226.2.2.2"), 10)


@pytest.mark.parametrize("kind", [MULTICAST, OUTGOING])
def test_the_igmp_filter_takes_igmp_in_and_out_and_nothing_else(kind):
    program = bpf.igmp_filter()
    check(program)
    assert passes(program, frame(protocol=2), kind)
    for other in (frame(), frame(protocol=6), ethernet(bytes(46), ethertype=0x0806), b"", frame(protocol=2)[:23]):
        assert not passes(program, other, kind)


@pytest.mark.parametrize(
    ("tag", "passed"), [(None, True), (0, True), (5 << 13, True), (100, False), (5 << 13 | 1, False)]
)
def test_the_igmp_filter_leaves_a_vlan_to_the_link_of_that_vlan(tag, passed):
    assert passes(bpf.igmp_filter(), frame(protocol=2), tag=tag) is passed


# What the engine does when net.core.optmem_max is small


class FakeRing:
    """Takes programs of up to ``most`` instructions, as a kernel with little memory does."""

    ifindex = 7

    def __init__(self, most, code=errno.ENOMEM):
        self.most, self.code = most, code
        self.tries = 0
        self.program = None

    def attach(self, program):
        self.tries += 1
        if len(program) > 8 * self.most:
            raise OSError(self.code, "refused")
        self.program = program


@pytest.fixture
def attach():
    """Let the engine attach a filter for groups to a ring: (capture, troubles)."""
    engine = RingEngine(Features())

    def attached(ring, groups):
        capture, troubles = Capture(RingSpec("in0", LinkSettings()), [ring]), Refusals()
        engine._filter(capture, frozenset(groups), troubles)
        return capture, troubles

    yield attached
    engine.close()


@pytest.mark.parametrize("most", [4096, 2000, 300, 64])
def test_a_kernel_with_less_memory_gets_a_wider_filter(attach, most):
    groups = [IPv4Address("239.0.0.0") + 3 * i for i in range(1000)]
    ring = FakeRing(most)
    capture, troubles = attach(ring, groups)
    assert not troubles.rings
    assert capture.coarse == (most < 2000)
    assert all(passes(ring.program, addressed(int(group))) for group in groups)
    assert capture.groups == frozenset(groups)


@pytest.mark.parametrize(("most", "code"), [(0, errno.ENOMEM), (0, errno.EINVAL)])
def test_a_kernel_that_takes_no_filter_is_trouble_for_that_ring_and_no_endless_loop(attach, most, code):
    ring = FakeRing(most, code)
    capture, troubles = attach(ring, ips("226.2.2.2"))
    assert "in0" in troubles.rings[7]
    assert ring.tries < 20
    assert capture.groups == frozenset()


@pytest.mark.parametrize("tpid", [0x8100, 0x88A8])
def test_a_frame_with_a_second_tag_passes_by_its_group_too(tpid):
    """The kernel has taken the outer tag off; the inner one is still in the frame."""
    assert passes(TWO, tagged(addressed("226.2.2.2"), 7, tpid), tag=100)
    assert not passes(TWO, tagged(addressed("226.2.2.3"), 7, tpid), tag=100)
    assert not passes(TWO, tagged(ethernet(bytes(60), ethertype=0x86DD), 7, tpid), tag=100)
    tcp = addressed("226.2.2.2")
    assert not passes(TWO, tagged(tcp[:23] + bytes([6]) + tcp[24:], 7, tpid), tag=100)


@given(group_sets, st.integers(0xE0000000, 0xEFFFFFFF))
def test_what_this_host_sends_is_counted_by_the_same_groups_and_nothing_that_arrives(groups, other):
    program, _ = bpf.fitting_filter(map(IPv4Address, groups), outgoing=True)
    check(program)
    for group in (*groups, other):
        assert passes(program, addressed(group), OUTGOING) == (group in groups)
        assert not passes(program, addressed(group), MULTICAST)
        assert run(program, addressed(group), MULTICAST)[1] == 3


HOP_BY_HOP = bytes(7)  # an extension header of eight bytes, but for what comes next


@pytest.mark.parametrize(
    ("passed", "packet"),
    [
        (True, frame()),
        (True, frame(group="224.0.0.1")),
        (True, frame(group="239.255.255.255")),
        (True, frame(group="224.0.0.22", protocol=2)),
        (True, tagged(frame(), 7)),
        (True, tagged(frame(group="224.0.0.22", protocol=2), 7, 0x88A8)),
        (False, frame(group="223.255.255.255")),
        (False, frame(group="240.0.0.1")),
        (False, frame(protocol=6)),
        (False, tagged(frame(group="192.0.2.1"), 7)),
        (False, tagged(frame(protocol=6), 7)),
        (False, ethernet(bytes(46), ethertype=0x0806)),
        (False, tagged(ethernet(bytes(46), ethertype=0x0806), 7)),
        (False, frame()[:30]),
        (True, six()),
        (True, six(group="ff02::fb")),
        (True, six(headers=[(0, HOP_BY_HOP)], last=58)),
        (True, six(headers=[(60, HOP_BY_HOP)])),
        (True, six_part(b"x" * 64, 8, 32)),
        (True, tagged(six(), 7)),
        (True, tagged(six(headers=[(43, HOP_BY_HOP)]), 7, 0x88A8)),
        (False, six(group="2001:db8::7")),
        (False, six(last=58)),
        (False, six(last=6)),
        (False, tagged(six(group="2001:db8::7"), 7)),
        (False, tagged(six(last=6), 7)),
    ],
)
@pytest.mark.parametrize("kind", [MULTICAST, OUTGOING])
def test_a_look_at_a_link_sees_udp_to_groups_and_igmp_both_ways(passed, packet, kind):
    program = bpf.multicast_filter()
    check(program)
    assert passes(program, packet, kind) == passed


def test_a_filter_for_links_without_an_ethernet_header_counts_from_the_packet():
    """On every instruction that reads it: SKF_NET_OFF, or what the kernel knows of a packet besides (SKF_AD_OFF)."""
    program = bpf.group_filter(bpf.ranges_of(ips("226.2.2.2")), bare=True)
    loads = [k for code, _, _, k in struct.iter_unpack("=HBBI", program) if code in {0x20, 0x28, 0x30}]
    assert loads == [0xFFFFF004, 0xFFFFF000, 0xFFF00000 + 9, 0xFFF00000 + 16]


# IPv6

GROUP6 = "ff15::1234"
MIXED = [IPv4Address("226.2.2.2"), IPv6Address(GROUP6), IPv6Address("ff3e::8000:1")]
OPTIONS = (b"\x00" + bytes(6),)


@pytest.mark.parametrize(
    ("what", "packet"),
    [
        ("the group", six(group=GROUP6)),
        ("the other group", six(group="ff3e::8000:1")),
        ("that of IPv4", frame()),
        ("options for every hop", six(group=GROUP6, headers=[(0, *OPTIONS)])),
        ("a routing header", six(group=GROUP6, headers=[(43, *OPTIONS)])),
        ("options for the destination", six(group=GROUP6, headers=[(60, *OPTIONS)])),
        ("a first fragment", six_parts(bytes(3000), 1200, group=GROUP6)[0]),
        ("a later fragment", six_parts(bytes(3000), 1200, group=GROUP6)[1]),
    ],
)
def test_ipv6_frames_that_may_be_udp_for_a_group_pass_whole(what, packet):
    program, exact = bpf.fitting_filter(MIXED)
    check(program)
    assert exact
    assert passes(program, packet), what
    for tpid in (0x8100, 0x88A8):
        assert passes(program, tagged(packet, 7, tpid), tag=100), what


@pytest.mark.parametrize(
    ("what", "packet"),
    [
        ("a neighbour", six(group="ff15::1235")),
        ("a group with the same last word", six(group="ff16::1234")),
        ("TCP", six(group=GROUP6, last=6)),
        ("ICMP", six(group=GROUP6, last=58)),
        ("MLD to the group", six(group=GROUP6, headers=[(0, *OPTIONS)], last=58)),
        ("ARP", ethernet(bytes(60), ethertype=0x0806)),
        ("a frame that ends before the destination", six(group=GROUP6)[:53]),
    ],
)
def test_other_ipv6_frames_are_dropped(what, packet):
    assert run(bpf.fitting_filter(MIXED)[0], packet)[0] == 0, what


wide_sets = st.frozensets(
    st.builds(
        lambda high, middle, low: 0xFF15 << 112 | high << 96 | middle << 32 | low,
        st.sampled_from([0, 1, 7, 0xFFFF]),
        st.sampled_from([0, 1, 0xFFFFFFFF_FFFFFFFF, 5 << 32]),
        st.sampled_from([0, 0xFFFFFFFF]) | st.integers(0, 90),
    ),
    max_size=60,
)


@given(wide_sets, st.integers(20, 4096))
@settings(max_examples=60, deadline=None)
def test_the_filter_accepts_exactly_its_ipv6_groups_or_more_where_room_is_short(groups, most):
    try:
        program, exact = bpf.fitting_filter(map(IPv6Address, groups), most)
    except ValueError:
        assert most < 64
        return
    check(program)
    assert len(program) <= 8 * most
    edges = {
        near % (1 << 128) for group in groups for far in (1, 1 << 32, 1 << 96) for near in (group - far, group + far)
    }
    for address in [*groups, *edges, 0, (1 << 128) - 1]:
        passed = passes(program, six(group=str(IPv6Address(address))))
        assert passed == (address in groups) if exact else passed >= (address in groups)


@given(wide_sets, st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_each_ipv6_group_is_one_workers_and_the_dealer_says_the_same(groups, workers):
    filters = [bpf.fitting_filter(map(IPv6Address, groups), share=(i, workers))[0] for i in range(workers)]
    for group in groups:
        packet = six(group=str(IPv6Address(group)))
        (owner,) = (i for i, program in enumerate(filters) if passes(program, packet))
        assert owner == dealt(packet) % workers


def dealt(packet):
    """What the dealer makes of a frame, whose packet it finds by the kernel's marks."""
    steps = instructions(bpf.dealer())
    accumulator = at = 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x16:
            return accumulator
        if code == 0x05:
            at += value
        elif code in JUMPS:
            at += yes if JUMPS[code](accumulator, value) else no
        elif code in ALU:
            accumulator = ALU[code](accumulator, value)
        elif value == 0xFFFFF000:
            accumulator = int.from_bytes(packet[12:14], "big")
        else:
            begin = 14 + value - 0xFFF00000
            accumulator = int.from_bytes(packet[begin : begin + 4], "big")


def test_what_this_host_sends_of_ipv6_is_counted_by_the_same_groups():
    program, _ = bpf.fitting_filter(MIXED, outgoing=True)
    assert passes(program, six(group=GROUP6), OUTGOING)
    assert not passes(program, six(group=GROUP6), MULTICAST)
