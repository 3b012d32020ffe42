"""What payloads are taken for: one real example a protocol, and what only looks like one."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrelay.model.content import guess, printable, read_rtp, sessions
from mcrelay.model.transport import Services, is_transport

GROUP = IPv4Address("239.1.1.1")
TS_PACKET = b"\x47\x1f\xff\x10" + bytes(184)
SDP = b"""v=0\r
o=- 1 1 IN IP4 192.0.2.5\r
s=Studio 1\r
c=IN IP4 239.69.1.2/32\r
t=0 0\r
a=source-filter: incl IN IP4 239.69.1.2 192.0.2.5\r
m=audio 5004 RTP/AVP 98\r
a=rtpmap:98 L24/48000/8\r
"""
SAP = b"\x20\x00\x12\x34" + bytes([192, 0, 2, 5]) + b"application/sdp\0" + SDP


def rtp(sequence=1, payload_type=96, ssrc=7, payload=b"x" * 40, first=0x80):
    return struct.pack("!BBHII", first, payload_type, sequence, 1000, ssrc) + payload


def mold(session=b"SESSION001", sequence=42, messages=(b"abc", b"defg"), count=None):
    body = b"".join(struct.pack("!H", len(each)) + each for each in messages)
    return session + struct.pack("!QH", sequence, len(messages) if count is None else count) + body


def sacn(universe=7, name=b"Desk"):
    payload = bytearray(126)
    payload[:16] = b"\x00\x10\x00\x00ASC-E1.17\0\0\0"
    payload[44 : 44 + len(name)] = name
    payload[113:115] = struct.pack("!H", universe)
    return bytes(payload)


PTP = bytes([0x0B, 0x02, 0, 64, 3]) + bytes(15) + bytes.fromhex("001122fffe334455") + bytes(36)
MDNS = struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0) + b"\x05_http\x04_tcp\x05local\0" + bytes(10)
EXAMPLES = [
    (TS_PACKET * 7, GROUP, 5000, "MPEG-TS", ""),
    (rtp(), GROUP, 5004, "RTP", "payload type 96"),
    (rtp(payload_type=0x80 | 33, payload=TS_PACKET), GROUP, 5004, "RTP", "payload type 33, MPEG-TS"),
    (rtp(payload_type=0), GROUP, 5004, "RTP", "payload type 0, PCMU"),
    (MDNS, IPv4Address("224.0.0.251"), 5353, "mDNS", "answer _http._tcp.local"),
    (
        b"NOTIFY * HTTP/1.1\r\nHOST: x\r\nNT: upnp:rootdevice\r\n\r\n", IPv4Address("239.255.255.250"), 1900,
        "SSDP", "NOTIFY upnp:rootdevice",
    ),
    (PTP, IPv4Address("224.0.1.129"), 320, "PTP", "Announce, domain 3, clock 001122fffe334455"),
    (SAP, IPv4Address("224.2.127.254"), 9875, "SAP", "Studio 1 at 239.69.1.2:5004 L24/48000/8"),
    (mold(), GROUP, 26400, "MoldUDP64", "session SESSION001"),
    (mold(messages=(), count=0), GROUP, 26400, "MoldUDP64", "session SESSION001"),
    (bytes.fromhex("80c80006") + bytes(24) + bytes.fromhex("81ca0001") + bytes(4), GROUP, 5005, "RTCP", ""),
    (sacn(), IPv4Address("239.255.0.7"), 5568, "sACN", "universe 7 Desk"),
    (b"Art-Net\0\x00\x50\x00\x0e\x00\x00\x09\x00" + bytes(20), GROUP, 6454, "Art-Net", "universe 9"),
    (b"?", IPv4Address("224.0.1.1"), 123, "NTP", ""),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "group", "port", "kind", "detail"), EXAMPLES)
def test_a_payload_is_told_by_its_form(payload, group, port, kind, detail):
    found = guess(payload, group, port)
    assert (found.kind, found.detail) == (kind, detail)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"hello world, this is nothing", TS_PACKET * 2 + b"x", b"\x47" * 100, mold() + b"x",
        mold(count=3), rtp(payload_type=200), rtp(first=0x40), rtp(first=0x8F)[:30],
    ],
)  # fmt: skip
def test_what_only_looks_alike_is_not_taken_for_it(payload):
    assert guess(payload, GROUP, 5000) is None


@given(st.binary(max_size=300), st.sampled_from([5004, 9875, 320, 5353, 1900, 5568]))
def test_no_payload_is_too_strange(payload, port):
    guess(payload, IPv4Address("224.0.0.251"), port)
    read_rtp(payload)
    sessions(payload, port)
    Services().feed(payload)
    for cut in (SAP, MDNS, PTP, sacn(), mold()):
        guess(cut[: len(payload)] + payload[:20], IPv4Address("224.0.0.251"), port)


def test_only_three_rtp_headers_that_follow_each_other_are_one_stream():
    first, after = read_rtp(rtp(65535)), read_rtp(rtp(0))
    assert after.follows(first)
    assert not first.follows(after)
    assert not read_rtp(rtp(3, ssrc=8)).follows(read_rtp(rtp(2)))
    assert not read_rtp(rtp(40)).follows(read_rtp(rtp(2)))


def test_sessions_that_are_announced():
    (found,) = sessions(SAP, 9875)
    assert (found.name, str(found.group), found.port, str(found.source), found.media) == (
        "Studio 1", "239.69.1.2", 5004, "192.0.2.5", "L24/48000/8",
    )  # fmt: skip
    assert sessions(bytes([SAP[0] | 4]) + SAP[1:], 9875) == []  # a deletion
    assert sessions(SAP.replace(b"239.69.1.2/32", b"192.0.2.77"), 9875) == []
    assert sessions(SAP.replace(b"audio 5004", b"audio 99999"), 9875) == []


def test_text_of_strangers_stays_on_a_line():
    assert printable("a\n[rules.x]\x1b[2J\u202e") == "a [rules.x] [2J"
    assert len(printable("x" * 500)) == 48


def section(table: int, body: bytes) -> bytes:
    """A whole section behind its pointer, in one packet; nobody looks at the checksum."""
    length = 5 + len(body) + 4
    return b"\0" + bytes([table]) + struct.pack("!H", 0xB000 | length) + b"\0\x01\xc1\0\0" + body + bytes(4)


def packet(pid: int, body: bytes, *, first=True) -> bytes:
    head = struct.pack("!BHB", 0x47, pid | (0x4000 if first else 0), 0x10)
    return (head + body).ljust(188, b"\xff")


def service(number: int, name: bytes) -> bytes:
    descriptor = bytes([0x48, 5 + len(name), 1, 2]) + b"us" + bytes([len(name)]) + name
    return struct.pack("!HBH", number, 0xFC, 0x8000 | len(descriptor)) + descriptor


PAT = packet(0, section(0, struct.pack("!HHHHHH", 0, 0xE010, 1, 0xE100, 2, 0xE200)))


def test_services_are_named_and_programs_stand_in_for_them():
    found = Services()
    found.feed(TS_PACKET + PAT)
    assert str(found) == "program 1, program 2"
    found.feed(packet(0x11, section(0x42, b"\0\x01\xff" + service(1, b"\x15Caf\xc3\xa9") + service(2, b"News\n"))))
    assert str(found) == "Café, News"


def test_a_section_may_span_packets():
    whole = section(0x42, b"\0\x01\xff" + b"".join(service(n, b"Service %d" % n) for n in range(1, 12)))
    found = Services()
    found.feed(packet(0x11, whole[:184]) + packet(0x11, whole[184:], first=False))
    assert str(found) == "Service 1, Service 2, Service 3, Service 4 and 7 more"


def test_a_transport_stream_has_a_sync_byte_in_each_packet():
    assert is_transport(TS_PACKET * 7)
    assert not is_transport(TS_PACKET + bytes(188))
