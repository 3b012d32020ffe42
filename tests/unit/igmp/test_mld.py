"""MLD as we build it, read back by ourselves, by scapy and by tshark; messages of others, read."""

from __future__ import annotations

import shutil
import subprocess
from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    IPv6,
    IPv6ExtHdrHopByHop,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from mcrelay.igmp.messages import IS_EXCLUDE, IS_INCLUDE, TO_EXCLUDE, TO_INCLUDE, Query, Record, Report
from mcrelay.igmp.mld import build_reports, parse

HOST, QUERIER = IPv6Address("fe80::1"), IPv6Address("fe80::ff")
MAC = bytes.fromhex("02aabbccddee")
ASM, SSM = IPv6Address("ff15::1234"), IPv6Address("ff35::5678")
SOURCES = (IPv6Address("2001:db8::5"), IPv6Address("2001:db8::6"))
JOINED = {ASM: (), SSM: SOURCES}
ALERT = IPv6ExtHdrHopByHop(options=[RouterAlert(value=0), PadN(optdata=b"")])

addresses = st.integers(1, (1 << 127) - 1).map(IPv6Address)
multicast = st.integers(0xFF15 << 112, (0xFF15 << 112) + (1 << 100)).map(IPv6Address)
memberships = st.dictionaries(multicast, st.sets(addresses, max_size=120), max_size=20)


def frame(message, source=QUERIER, group="ff02::1", hop_limit=1, alert=ALERT):
    packet = IPv6(src=str(source), dst=str(group), hlim=hop_limit)
    return bytes(Ether(src="02:00:00:00:00:01", dst="33:33:00:00:00:01") / packet / alert.copy() / message)


def test_a_version_2_report_is_what_scapy_builds():
    (built,) = build_reports(2, HOST, MAC, JOINED, 1500)
    records = [
        ICMPv6MLDMultAddrRec(rtype=2, dst=str(ASM)),
        ICMPv6MLDMultAddrRec(rtype=1, dst=str(SSM), sources=[str(each) for each in SOURCES]),
    ]
    header = IPv6(src=str(HOST), dst="ff02::16", hlim=1) / ALERT.copy()
    expected = Ether(src=MAC, dst="33:33:00:00:00:16") / header / ICMPv6MLReport2(records=records)
    assert built == bytes(expected)


def test_a_version_1_report_is_what_scapy_builds_one_packet_a_group_without_sources():
    for built, group in zip(build_reports(1, HOST, MAC, JOINED, 1500), (ASM, SSM), strict=True):
        header = IPv6(src=str(HOST), dst=str(group), hlim=1) / ALERT.copy()
        mac = "33:33:" + ":".join(f"{each:02x}" for each in group.packed[12:])
        assert built == bytes(Ether(src=MAC, dst=mac) / header / ICMPv6MLReport(mladdr=str(group)))


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
def test_tshark_finds_nothing_wrong_with_any_of_them(tmp_path):
    many = {ASM + i: [SOURCES[0] + j for j in range(i % 90)] for i in range(200)}
    frames = [each for version in (1, 2) for each in build_reports(version, HOST, MAC, {**many, **JOINED}, 1280)]
    wrpcap(str(tmp_path / "reports.pcap"), [Ether(each) for each in frames])
    fields = ("icmpv6.type", "icmpv6.checksum.status", "ipv6.hlim", "ipv6.opt.router_alert", "_ws.malformed")
    options = ["-T", "fields", "-E", "occurrence=f", *(word for field in fields for word in ("-e", field))]
    command = ["tshark", "-r", tmp_path / "reports.pcap", *options]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert len(lines) == len(frames)
    assert {line[0] for line in lines} == {"131", "143"}
    for line in lines:
        assert line[1] in {"Good", "1"}, line
        assert line[2:4] == ["1", "0"]
        assert line[4:] in ([], [""]), line


@settings(max_examples=60, deadline=None)
@given(memberships, st.integers(1280, 9000))
def test_what_is_built_is_read_back_and_fits_the_mtu(joined, mtu):
    read: dict[IPv6Address, list[IPv6Address]] = {}
    for built in build_reports(2, HOST, MAC, joined, mtu):
        assert len(built) - 14 <= mtu
        report = parse(built)
        assert (report.host, report.version) == (HOST, 2)
        for record in report.records:
            assert record.kind == (IS_INCLUDE if joined[record.group] else IS_EXCLUDE)
            read.setdefault(record.group, []).extend(record.sources)
    assert read == {group: sorted(sources) for group, sources in joined.items()}
    assert [each.answers for each in map(parse, build_reports(1, HOST, MAC, joined, mtu))] == [
        {group} for group in sorted(joined)
    ]


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (ICMPv6MLQuery(mrd=2500), Query(QUERIER, 1, None)),
        (ICMPv6MLQuery(mladdr=str(ASM)), Query(QUERIER, 1, ASM)),
        (ICMPv6MLQuery2(), Query(QUERIER, 2, None)),
        (ICMPv6MLQuery2(mladdr=str(SSM), sources=[str(SOURCES[0])]), Query(QUERIER, 2, SSM, source_count=1)),
        (ICMPv6MLReport(mladdr=str(ASM)), Report(QUERIER, 1, (Record(IS_EXCLUDE, ASM),))),
        (ICMPv6MLDone(mladdr=str(ASM)), Report(QUERIER, 1, (Record(TO_INCLUDE, ASM),))),
        (
            ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec(rtype=4, dst=str(ASM), auxdata_len=1, auxdata=b"1234")]),
            Report(QUERIER, 2, (Record(TO_EXCLUDE, ASM),)),
        ),
    ],
)
def test_messages_of_others(message, found):
    assert parse(frame(message)) == found


@pytest.mark.parametrize(
    ("code", "seconds"), [(500, 0.5), (10000, 10), (0x7FFF, 32.767), (0x8000, 32.768), (0xFFFF, 8387.584)]
)
def test_the_time_that_a_query_allows(code, seconds):
    assert parse(frame(ICMPv6MLQuery2(mrd=code))).max_response_seconds == seconds


def test_what_is_no_valid_message_is_none():
    good = frame(ICMPv6MLQuery2())
    assert parse(good) is not None
    assert parse(frame(ICMPv6MLQuery2(), hop_limit=2)) is None  # RFC 3810, 5.1.14
    assert parse(good[:20] + b"\x3a" + good[21:]) is None  # no hop-by-hop header
    assert parse(good[:-1] + bytes([good[-1] ^ 1])) is None  # its checksum
    for end in range(len(good)):
        assert parse(good[:end]) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 100))
def test_no_bytes_make_it_fail(noise, at):
    good = frame(ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec(rtype=4, dst=str(ASM), sources=["2001:db8::5"])]))
    parse(good[:at] + noise)
    parse(good[:at] + noise + good[at + len(noise) :])
