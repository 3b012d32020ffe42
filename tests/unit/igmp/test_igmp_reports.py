"""IGMP reports as we build them, read back by ourselves, by scapy and by tshark; reports of others, read."""

from __future__ import annotations

import shutil
import struct
import subprocess
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.igmp import IGMP, IGMPv3_MR, IGMPv3_MR_Group
from scapy.layers.inet import IP, IPOption_Router_Alert
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap
from support.frames import ethernet, ipv4, ones_sum

from mcrelay.igmp import messages
from mcrelay.igmp.messages import Query, Record, Report
from mcrelay.igmp.wire import build_reports, parse

HOST = IPv4Address("192.0.2.1")
MAC = bytes.fromhex("02aabbccddee")
ASM, SSM = IPv4Address("239.1.1.1"), IPv4Address("232.128.2.2")
SOURCES = (IPv4Address("192.168.168.55"), IPv4Address("192.168.168.56"))
JOINED = {ASM: (), SSM: SOURCES}

addresses = st.integers(1, 0xDFFFFFFF).map(IPv4Address)
multicast = st.integers(0xE0000100, 0xEFFFFFFF).map(IPv4Address)
memberships = st.dictionaries(multicast, st.sets(addresses, max_size=100), max_size=30)


def test_a_version_3_report_is_what_scapy_builds():
    (frame,) = build_reports(3, HOST, MAC, JOINED, 1500)
    records = [
        IGMPv3_MR_Group(rtype=1, maddr=str(SSM), srcaddrs=[str(each) for each in SOURCES]),
        IGMPv3_MR_Group(rtype=2, maddr=str(ASM)),
    ]
    header = IP(
        src=str(HOST), dst="224.0.0.22", tos=0xC0, ttl=1, id=0, flags="DF", proto=2, options=[IPOption_Router_Alert()]
    )
    expected = Ether(src=MAC, dst="01:00:5e:00:00:16") / header / IGMPv3_MR(records=records)
    assert frame == bytes(expected)


@pytest.mark.parametrize(("version", "kind"), [(1, 0x12), (2, 0x16)])
def test_older_reports_are_what_scapy_builds_one_packet_a_group_without_sources(version, kind):
    frames = build_reports(version, HOST, MAC, JOINED, 1500)
    for frame, group, mac in zip(frames, (SSM, ASM), ("01:00:5e:00:02:02", "01:00:5e:01:01:01"), strict=True):
        header = IP(
            src=str(HOST), dst=str(group), tos=0xC0, ttl=1, id=0, flags="DF", proto=2, options=[IPOption_Router_Alert()]
        )
        assert frame == bytes(Ether(src=MAC, dst=mac) / header / IGMP(type=kind, mrcode=0, gaddr=str(group)))


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
def test_tshark_finds_nothing_wrong_with_any_of_them(tmp_path):
    many = {IPv4Address(0xEF000000 + i): [IPv4Address(0xC0000200 + j) for j in range(i % 40)] for i in range(300)}
    frames = [frame for version in (1, 2, 3) for frame in build_reports(version, HOST, MAC, {**many, **JOINED}, 576)]
    wrpcap(str(tmp_path / "reports.pcap"), [Ether(frame) for frame in frames])
    options = ["-o", "ip.check_checksum:TRUE", "-T", "fields", "-E", "occurrence=f"]
    fields = (
        "igmp.type",
        "igmp.checksum.status",
        "ip.checksum.status",
        "ip.ttl",
        "ip.dsfield",
        "ip.opt.type",
        "_ws.malformed",
    )
    for field in fields:
        options += ["-e", field]
    command = ["tshark", "-r", tmp_path / "reports.pcap", *options]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert len(lines) == len(frames)
    assert {line[0] for line in lines} == {"0x12", "0x16", "0x22"}
    good = {"Good", "1"}  # its name changed between versions
    for line in lines:
        assert line[1] in good, line
        assert line[2] in good, line
        assert line[3:] == ["1", "0xc0", "148", ""] or line[3:] == ["1", "0xc0", "148"], line


@settings(max_examples=60, deadline=None)
@given(memberships, st.sampled_from([68, 576, 1500, 9000]), st.sampled_from(["0.0.0.0", "192.0.2.1"]))
def test_everything_joined_is_told_once_within_the_mtu(joined, mtu, source):
    told = {}
    for frame in build_reports(3, IPv4Address(source), MAC, joined, mtu):
        assert len(frame) - 14 <= mtu
        found = parse(frame)
        assert isinstance(found, Report)
        assert (found.host, found.version) == (IPv4Address(source), 3)
        for record in found.records:
            assert record.kind == (messages.IS_INCLUDE if joined[record.group] else messages.IS_EXCLUDE)
            seen = told.setdefault(record.group, [])
            assert not set(seen) & set(record.sources)
            seen += record.sources
    assert {group: set(sources) for group, sources in told.items()} == joined


@given(memberships, st.sampled_from([1, 2]))
def test_older_reports_read_back_as_any_source(joined, version):
    found = [parse(frame) for frame in build_reports(version, HOST, MAC, joined, 1500)]
    assert found == [Report(HOST, version, (Record(messages.IS_EXCLUDE, group),)) for group in sorted(joined)]
    assert {group for each in found for group in each.answers} == set(joined)


def from_scapy(message, group="224.0.0.22"):
    return bytes(Ether() / IP(src=str(HOST), dst=group, ttl=1, proto=2) / message)


def test_a_leave_and_changes_are_no_answers():
    leave = parse(from_scapy(IGMP(type=0x17, mrcode=0, gaddr=str(ASM)), "224.0.0.2"))
    assert leave == Report(HOST, 2, (Record(messages.TO_INCLUDE, ASM),))
    assert leave.answers == frozenset()
    for kind in (messages.TO_INCLUDE, messages.TO_EXCLUDE, messages.ALLOW_SOURCES, messages.BLOCK_SOURCES):
        record = IGMPv3_MR_Group(rtype=kind, maddr=str(SSM), srcaddrs=[str(each) for each in SOURCES])
        change = parse(from_scapy(IGMPv3_MR(records=[record])))
        assert change == Report(HOST, 3, (Record(kind, SSM, SOURCES),))
        assert change.answers == frozenset()


def hand_made(body):
    body = body[:2] + struct.pack("!H", 0xFFFF - ones_sum(body[:2] + b"\0\0" + body[4:])) + body[4:]
    return ethernet(ipv4(body, source=str(HOST), group="224.0.0.22", protocol=2))


def record(kind=2, auxiliary=0, count=0, group=ASM, tail=b""):
    return struct.pack("!BBH", kind, auxiliary, count) + group.packed + tail


@pytest.mark.parametrize(
    ("what", "count", "records"),
    [
        ("a record that is not there", 1, b""),
        ("a second record that is not there", 2, record()),
        ("sources that are not there", 1, record(count=1)),
        ("more sources than there are", 1, record(count=65535, tail=bytes(40))),
        ("auxiliary data that is not there", 1, record(auxiliary=1)),
        ("half a record", 1, record()[:7] + b""),
    ],
)
def test_a_report_that_promises_more_than_it_holds_is_none(what, count, records):
    assert parse(hand_made(struct.pack("!BBHHH", 0x22, 0, 0, 0, count) + records)) is None, what


def test_auxiliary_data_is_passed_over():
    first = record(auxiliary=2, count=1, tail=SOURCES[0].packed + bytes(8))
    found = parse(hand_made(struct.pack("!BBHHH", 0x22, 0, 0, 0, 2) + first + record(group=SSM)))
    assert [each.group for each in found.records] == [ASM, SSM]


@pytest.mark.parametrize("kind", [0x12, 0x16, 0x17])
def test_a_report_of_a_host_address_is_none(kind):
    assert parse(hand_made(struct.pack("!BBH", kind, 0, 0) + HOST.packed)) is None


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_report_cut_short_at_any_length_or_with_one_wrong_bit_is_none(version):
    frame = build_reports(version, HOST, MAC, {SSM: SOURCES}, 1500)[0]
    for size in range(len(frame)):
        assert parse(frame[:size]) is None, size
    for bit in range(8 * 38, 8 * len(frame)):
        wrong = bytearray(frame)
        wrong[bit // 8] ^= 1 << bit % 8
        assert parse(bytes(wrong)) is None, bit


@pytest.mark.parametrize(
    ("code", "version", "seconds"),
    [
        (0, 1, 10.0),
        (100, 2, 10.0),
        (1, 2, 0.1),
        (255, 2, 25.5),
        (0, 3, 0.0),
        (127, 3, 12.7),
        (0x80, 3, 12.8),
        (0xFF, 3, 3174.4),
    ],
)
def test_the_time_a_query_allows(code, version, seconds):
    """RFC 3376, 4.1.1: tenths of a second, from 128 on a floating point number in version 3; 10 s in version 1."""
    found = parse(hand_made(struct.pack("!BBHI", 0x11, code, 0, 0) + (bytes(4) if version == 3 else b"")))
    assert isinstance(found, Query)
    assert (found.version, found.max_response_seconds) == (version, pytest.approx(seconds))


def test_a_query_for_sources_says_how_many():
    found = parse(hand_made(struct.pack("!BBH4sBBH", 0x11, 10, 0, SSM.packed, 2, 125, 2) + bytes(8)))
    assert (found.group, found.source_count) == (SSM, 2)


@given(st.binary(max_size=120))
def test_random_messages_never_fail(data):
    parse(hand_made(bytes([0x22]) + data.ljust(7, b"\0")))
    parse(data)
