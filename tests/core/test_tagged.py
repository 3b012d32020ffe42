"""Frames with a VLAN tag that an output makes itself: what the kernel is given, and what becomes of it."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import group_mac, ones_sum

from mcrelay._core.egress import EgressSocket, GsoState
from mcrelay.engine.captures import in_core

pytestmark = pytest.mark.core

MAC, LOOPBACK = 0x02_00_00_00_00_A1, 1
MESSAGES = 128
LINK, UDP = 18, 8  # bytes of Ethernet and tag, and of UDP


@dataclass(frozen=True)
class Family:
    """What an output of it sends. ``cuts``: what is larger than the MTU leaves in parts."""

    group: str
    source: str
    other: str
    nobody: tuple[str, ...]
    header: int
    cuts: bool

    @property
    def headers(self) -> int:
        """Bytes before a payload."""
        return LINK + self.header + UDP


IPV4 = Family("239.138.0.1", "192.0.2.1", "10.0.0.9", ("0.0.0.0", "239.1.1.1", "255.255.255.255"), 20, True)
IPV6 = Family("ff15::ef8a:1", "2001:db8::1", "2001:db8:9::9", ("::", "ff15::1"), 40, False)
both = pytest.mark.parametrize("family", [IPV4, IPV6], ids=["IPv4", "IPv6"])


def of_core(address: str) -> int | bytes:
    """An address as the core is given it."""
    return in_core(ip_address(address))


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


def output(family=IPV4, payload_max=1472, **fields):
    return EgressSocket(
        of_core(family.group), 5004, GsoState(), ifindex=LOOPBACK, source_address=of_core(family.source),
        source_port=20000, payload_max=payload_max, vlan=100, mac=MAC, **{"df": not family.cuts, **fields},
    )  # fmt: skip


def whole(frame, more=False, offset=0, flags=0):
    """What IP carries in a frame whose headers are right; of IPv6 the ``flags`` are not there."""
    six = frame[16:18] == b"\x86\xdd"
    family = IPV6 if six else IPV4
    kind = struct.pack("!3H", 0x8100, 100, 0x86DD if six else 0x0800)
    assert frame[:LINK] == group_mac(family.group) + MAC.to_bytes(6, "big") + kind
    if six:
        assert (more, offset) == (False, 0)
        assert struct.unpack_from("!IHBB", frame, LINK) == (6 << 28, len(frame) - LINK - 40, socket.IPPROTO_UDP, 16)
        assert frame[LINK + 24 : LINK + 40] == ip_address(family.group).packed
        return frame[LINK + 40 :]
    assert ones_sum(frame[18:38]) == 0xFFFF
    length, word = struct.unpack_from("!H2xH", frame, 20)
    assert (length, word) == (len(frame) - 18, more << 13 | flags | offset // 8)
    return frame[38:]


def source_of(frame):
    """The source address, as it stands there."""
    return frame[26:42] if frame[16:18] == b"\x86\xdd" else frame[30:34]


def assert_datagram_holds(body, source, family):
    """Ports, length and the checksum over the pseudo header of its family; it is never 0."""
    assert struct.unpack_from("!3H", body) == (20000, 5004, len(body))
    assert body[6:8] != b"\0\0"
    pseudo = source + ip_address(family.group).packed + struct.pack("!HH", socket.IPPROTO_UDP, len(body))
    assert ones_sum(pseudo + body) == 0xFFFF


def reassembled(sent, unit, family=IPV4):
    """The UDP datagrams of frames, each cut at ``unit`` bytes; (payload, identification)."""
    found, parts = [], b""
    for frame in sent:
        more = family.cuts and bool(frame[24] & 0x20)
        parts += whole(frame, more, len(parts))
        assert not more or len(frame) == 38 + unit // 8 * 8
        if not more:
            assert_datagram_holds(parts, source_of(frame), family)
            found.append((parts[8:], frame[22:24]))
            parts = b""
    assert not parts
    return found


@both
@given(st.lists(st.integers(0, 5000), max_size=60), st.sampled_from([40, 548, 1472, 4000]))
def test_every_datagram_leaves_whole_or_in_parts_that_make_it_again(probe, family, sizes, payload_max):
    """Of IPv6 it is whole: lo takes what is larger than such an output's own link would."""
    payloads = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    probe.script([])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        tap.bind(("lo", 3))
        tap.setblocking(False)
        chains = probe.Chains(output(family, payload_max))
        chains.queue_up([(payload, 0) for payload in payloads])
        assert chains.send() is None
        found = reassembled(frames(tap), payload_max + 8, family)
    fits = [payload for payload in payloads if -(-(len(payload) + 8) // ((payload_max + 8) // 8 * 8)) <= MESSAGES]
    assert [payload for payload, _ in found] == fits, "lo takes whole what would be more than 128 parts"
    if family.cuts:
        assert len({identification for _, identification in found}) == len(found)
    assert chains.counted == (len(payloads), sum(sizes), {})


@both
def test_what_may_not_be_cut_is_the_mtus_error_and_the_rest_leaves(probe, heard, family):
    probe.script([-1, errno.EMSGSIZE])
    chains = probe.Chains(output(family, df=True))
    chains.queue_up([(b"a", 0), (bytes(2000), 0), (b"b", 0)])
    assert chains.send() is None
    assert [whole(frame, flags=0x4000)[8:] for frame in frames(heard)] == [b"a", b"b"]
    assert chains.counted == (2, 2, {"mtu": 1})


def test_a_datagram_with_a_part_refused_is_lost_as_a_whole_and_counted_once(probe, heard):
    probe.script([-2, errno.ENOBUFS])
    chains = probe.Chains(output(payload_max=548))
    chains.queue_up([(b"a", 0), (bytes(1500), 0), (b"b", 0)])
    assert chains.send() is None
    assert [len(frame) for frame in frames(heard)] == [IPV4.headers + 1, 38 + 552, IPV4.headers + 1]
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


@pytest.mark.parametrize(("size", "errors"), [(65507, {}), (65509, {"mtu": 1})])
def test_what_is_larger_than_any_datagram_of_ipv4_is_not_cut_into_parts_of_none(probe, heard, size, errors):
    """IPv6 brings 20 bytes more: together such parts would be more than 65535 bytes, and mean nothing."""
    probe.script([])
    chains = probe.Chains(output())
    chains.queue_up([(bytes(size), 0)])
    assert chains.send() is None
    assert len(reassembled(frames(heard), 1480)) == 1 - len(errors)
    assert chains.counted == (1 - len(errors), 0 if errors else size, errors)


@both
def test_a_checksum_of_0_is_sent_as_all_ones(probe, heard, family):
    """0 would say that there is none, which IPv6 does not allow: RFC 768, and RFC 8200, 8.1."""
    probe.script([])
    chains = probe.Chains(output(family))
    chains.queue_up([(bytes(2), 0)])
    chains.send()
    (sent,) = frames(heard)
    checksum = whole(sent)[6:8]
    chains.queue_up([(checksum, 0)])  # with it the words sum to all ones
    chains.send()
    (sent,) = frames(heard)
    assert whole(sent)[6:] == b"\xff\xff" + checksum
    assert_datagram_holds(whole(sent), source_of(sent), family)


@both
def test_a_source_that_no_host_has_is_not_sent_from(probe, heard, family):
    probe.script([])
    chains = probe.Chains(output(family, keep_address=True, keep_port=True))
    chains.queue_up_from([(b"x", of_core(each), 7001) for each in (*family.nobody, family.other)])
    assert chains.send() is None
    (sent,) = frames(heard)
    assert (source_of(sent), whole(sent)[:2]) == (ip_address(family.other).packed, struct.pack("!H", 7001))
    assert chains.counted == (1, 1, {"noaddr": len(family.nobody)})


@pytest.mark.parametrize(
    ("group", "payload_max", "df"),
    [
        (IPV4.group, 0, False), (IPV4.group, 39, False), ("192.0.2.7", 1472, False), (IPV6.group, 39, True),
        ("2001:db8::7", 1452, True), (IPV6.group, 1452, False),
    ],
)  # fmt: skip
def test_frames_need_the_mtu_and_a_group_and_of_ipv6_not_to_be_cut(group, payload_max, df):
    with pytest.raises(ValueError, match="frames to"):
        EgressSocket(
            of_core(group), 5004, GsoState(), ifindex=LOOPBACK, payload_max=payload_max, vlan=100, mac=MAC, df=df
        )
