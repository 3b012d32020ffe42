"""Membership queries, read from frames."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import ethernet, frame, ipv4, ones_sum

from mcrelay.igmp.messages import Query
from mcrelay.igmp.wire import parse
from mcrelay.linux.procfs import igmp_versions

QUERIER = IPv4Address("192.0.2.254")


def parse_query(frame: bytes) -> Query | None:
    found = parse(frame)
    return found if isinstance(found, Query) else None


def message(kind=0x11, code=100, group="0.0.0.0", tail=b""):
    body = struct.pack("!BBH", kind, code, 0) + IPv4Address(group).packed + tail
    return body[:2] + struct.pack("!H", 0xFFFF - ones_sum(body)) + body[4:]


def query(body=None, **fields):
    options = fields.pop("options", b"\x94\x04\0\0")  # router alert
    packet = ipv4(body or message(), source=str(QUERIER), group="224.0.0.1", protocol=2, options=options, **fields)
    return ethernet(packet, padding=max(0, 46 - len(packet)))


V3_TAIL = struct.pack("!BBH", 2, 125, 0)
V3_SOURCE = struct.pack("!BBHI", 2, 125, 1, 9)


@pytest.mark.parametrize(
    ("what", "packet", "version", "group"),
    [
        ("version 1", query(message(code=0), options=b""), 1, None),
        ("version 2", query(message()), 2, None),
        ("version 2 without router alert", query(message(), options=b""), 2, None),
        ("version 3", query(message(tail=V3_TAIL)), 3, None),
        ("version 3 with code 0", query(message(code=0, tail=V3_TAIL)), 3, None),
        ("version 3 with sources", query(message(group="232.1.1.1", tail=V3_SOURCE)), 3, "232.1.1.1"),
        ("a group query of version 2", query(message(group="239.1.1.1")), 2, "239.1.1.1"),
        ("a group query of version 3", query(message(group="239.1.1.1", tail=V3_TAIL)), 3, "239.1.1.1"),
    ],
)  # fmt: skip
def test_a_query_names_querier_version_and_group(what, packet, version, group):
    assert parse_query(packet) == Query(QUERIER, version, IPv4Address(group) if group else None), what


@pytest.mark.parametrize(
    ("what", "packet"),
    [
        ("a version 2 report", query(message(kind=0x16, group="239.1.1.1"))),
        ("a version 3 report", query(message(kind=0x22, tail=bytes(8)))),
        ("a leave", query(message(kind=0x17, group="239.1.1.1"))),
        ("UDP that looks like a query", frame(message())),
        ("IPv6", ethernet(b"\x60" + bytes(60), ethertype=0x86DD)),
        ("IP version 6 under the IPv4 EtherType", query(version=6)),
        ("an IP header of 16 bytes", query(header_words=4)),
        ("an IP header that covers the message", query(header_words=15)),
        ("a total length beyond the frame", query(total=200)),
        ("a total length that cuts the message", query(total=31)),
        ("a total length of 0", query(total=0)),
        ("nothing", b""),
    ],
)
def test_anything_else_is_no_query(what, packet):
    assert parse_query(packet) is None, what


@pytest.mark.parametrize("tail", [b"", V3_TAIL])
@pytest.mark.parametrize("options", [b"", b"\x94\x04\0\0"])
def test_a_query_cut_short_at_any_length_is_none(tail, options):
    packet = ipv4(message(tail=tail), source=str(QUERIER), group="224.0.0.1", protocol=2, options=options)
    whole = ethernet(packet)
    assert parse_query(whole) is not None
    for size in range(len(whole)):
        assert parse_query(whole[:size]) is None, size


def test_padding_does_not_make_a_version_2_query_version_3():
    packet = ipv4(message(), source=str(QUERIER), group="224.0.0.1", protocol=2)
    assert parse_query(ethernet(packet, padding=18)).version == 2


def test_one_wrong_bit_anywhere_in_the_message_is_found():
    packet = ipv4(message(tail=V3_TAIL), source=str(QUERIER), group="224.0.0.1", protocol=2)
    for bit in range(8 * 34, 8 * (14 + len(packet))):
        wrong = bytearray(ethernet(packet))
        wrong[bit // 8] ^= 1 << bit % 8
        assert parse_query(bytes(wrong)) is None, bit


@given(st.binary(max_size=100))
def test_random_bytes_never_fail(data):
    assert parse_query(data) is None or data[14 + 9] == 2


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=5), st.integers(0, 60))
def test_mutated_queries_never_fail(changes, size):
    mutated = bytearray(query())
    for at, value in changes:
        mutated[at % len(mutated)] = value
    found = parse_query(bytes(mutated[:size]))
    assert found is None or found.version in {1, 2, 3}


def test_the_versions_the_kernel_speaks_are_read_by_link(tmp_path):
    listing = tmp_path / "igmp"
    listing.write_text(
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
        "1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
        "12\teth0.100  :     2      V2\n\t\t\t\t0100EFEF     1 0:00000000\t\t1\n"
        "\t\t\t\t010000E0     1 0:00000000\t\t0\n"
    )
    assert igmp_versions(listing) == {"lo": 3, "eth0.100": 2}
    assert igmp_versions(tmp_path / "absent") == {}
