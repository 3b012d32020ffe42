"""Frames read by eye: addresses, tags, fragments; superframes cut as a device would."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import SIX_GROUP, SIX_SOURCE, ethernet, frame, ipv4, ones_sum, six, six_parts, tagged, udp

from mcrelay.model.frame import Datagram, Frame, build, cut, read_datagram


def read(data, **fields):
    return read_datagram(Frame(data, length=len(data), **fields))


def test_a_datagram_is_read_with_its_addresses_and_payload():
    got = read(frame(b"hello", ttl=3, padding=9))
    assert (str(got.source), got.source_port, str(got.group), got.port) == ("192.168.168.55", 40000, "226.2.2.2", 2068)
    assert (got.vlan, got.ttl, got.payload, got.count, got.fragment) == (None, 3, b"hello", 1, False)


@pytest.mark.parametrize(
    ("tags", "vlan"),
    [([(7, 0x8100)], 7), ([(0x6007, 0x8100)], 7), ([(0x6000, 0x8100)], None), ([(9, 0x8100), (30, 0x88A8)], 30)],
)
def test_a_vlan_is_the_outer_tag_and_priority_alone_is_none(tags, vlan):
    data = frame(b"hello")
    for tci, tpid in tags:
        data = tagged(data, tci, tpid)
    got = read(data)
    assert (got.vlan, got.payload) == (vlan, b"hello")


def test_fragments_are_told():
    first = read(ethernet(ipv4(udp(b"x" * 64), fragment=0x2000)))
    later = read(ethernet(ipv4(b"x" * 64, fragment=0x0004)))
    assert (first.fragment, first.port) == (True, 2068)
    assert (later.fragment, later.port) == (True, 0)


def test_other_protocols_are_none():
    assert read(ethernet(ipv4(b"x" * 32, protocol=6))) is None
    assert read(ethernet(b"x" * 64, ethertype=0x86DD)) is None
    assert read(six(b"x" * 32, last=58)) is None


@given(st.binary(max_size=120) | st.integers(0, 60).map(lambda size: tagged(frame(b"abc"), 7)[:size]))
def test_no_frame_is_too_strange_to_be_looked_at(data):
    read(data)
    assert list(cut(Frame(data, segment_bytes=10)))


@pytest.mark.parametrize("tag", [None, 7])
def test_a_superframe_is_cut_into_correct_datagrams(tag):
    whole = bytes(range(250))
    data = frame(whole)
    data = data if tag is None else tagged(data, tag)
    pieces = list(cut(Frame(data, length=len(data), segment_bytes=100)))
    got = [read(piece.data) for piece in pieces]
    assert [len(each.payload) for each in got] == [100, 100, 50]
    assert b"".join(each.payload for each in got) == whole
    assert {each.vlan for each in got} == {tag}
    for number, piece in enumerate(pieces):
        at = 14 if tag is None else 18
        packet = piece.data[at:]
        assert piece.length == len(piece.data)
        assert ones_sum(packet[:20]) == 0xFFFF
        assert int.from_bytes(packet[4:6], "big") == 7 + number
        pseudo = packet[12:20] + bytes([0, 17]) + packet[24:26]
        assert ones_sum(pseudo + packet[20:]) == 0xFFFF


def test_a_superframe_counts_as_its_datagrams():
    assert read(frame(bytes(250)), segment_bytes=100).count == 3


@pytest.mark.parametrize("group", ["239.129.1.1", "192.0.2.7"])
@pytest.mark.parametrize("payload", [b"", b"odd", b"x" * 1400])
def test_what_is_built_is_read_back_with_right_checksums(group, payload):
    made = Datagram(IPv4Address("192.0.2.1"), 4000, IPv4Address(group), 5000, None, 9, payload)
    data = build(made)
    assert read(data) == made
    assert ones_sum(data[14:34]) == 0xFFFF
    assert ones_sum(data[26:34] + bytes([0, 17]) + data[38:40] + data[34:]) == 0xFFFF
    assert data[:6] == (bytes.fromhex("01005e010101") if group.startswith("239") else bytes.fromhex("020000000000"))


# IPv6

OPTIONS = bytes(7)  # an extension header of eight bytes, but for what comes next


@pytest.mark.parametrize("tags", [[], [7], [7, 30]])
@pytest.mark.parametrize("headers", [[], [(0, OPTIONS)], [(0, OPTIONS), (43, OPTIONS), (60, OPTIONS)]])
def test_a_datagram_of_ipv6_is_read_behind_its_extension_headers(tags, headers):
    data = six(b"hello", hops=3, headers=headers, padding=9)
    for tci in tags:
        data = tagged(data, tci)
    got = read(data)
    assert (str(got.source), str(got.group), got.port) == (SIX_SOURCE, SIX_GROUP, 2068)
    assert (got.vlan, got.ttl, got.payload, got.fragment) == (tags[-1] if tags else None, 3, b"hello", False)


def test_fragments_of_ipv6_are_told():
    first, later = map(read, six_parts(b"x" * 64, 40))
    assert (first.fragment, first.port) == (True, 2068)
    assert (later.fragment, later.port) == (True, 0)


def test_more_extension_headers_than_anybody_sends_are_not_followed():
    assert read(six(b"hello", headers=[(60, OPTIONS)] * 8)) is not None
    assert read(six(b"hello", headers=[(60, OPTIONS)] * 9)) is None


@given(st.integers(0, 80), st.binary(max_size=40))
def test_no_frame_of_ipv6_is_too_strange(end, noise):
    data = six(b"hello", headers=[(0, OPTIONS), (60, OPTIONS)])
    for each in (data[:end], data[:end] + noise, data[:end] + noise + data[end + len(noise) :]):
        read(each)
        assert list(cut(Frame(each, segment_bytes=10)))


@pytest.mark.parametrize("headers", [[], [(0, OPTIONS)]])
def test_a_superframe_of_ipv6_is_cut_into_what_single_datagrams_are(headers):
    payload = bytes(range(250))
    whole = Frame(six(payload, headers=headers), segment_bytes=100)
    assert read_datagram(whole).count == 3
    pieces = [each.data for each in cut(whole)]
    assert pieces == [six(payload[at : at + 100], headers=headers) for at in (0, 100, 200)]


@given(st.binary(max_size=1500))
def test_what_is_built_of_ipv6_is_what_a_host_sends(payload):
    source, group = IPv6Address(SIX_SOURCE), IPv6Address(SIX_GROUP)
    data = build(Datagram(source, 40000, group, 2068, None, 16, payload))
    assert data == six(payload)[:6] + data[6:12] + six(payload)[12:]
