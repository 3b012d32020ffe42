"""parse, of IPv6: a table of (description, frame, verdict, datagram), every truncation, and headers at random."""

from __future__ import annotations

import os
import struct
from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frames import PORT, SIX_GROUP, SIX_SOURCE, SOURCE_PORT, ethernet, ipv6, six, six_part, tagged, udp

pytestmark = pytest.mark.core

PAYLOAD = b"0123456789"
ENDS = {
    "source": IPv6Address(SIX_SOURCE).packed, "group": IPv6Address(SIX_GROUP).packed,
    "source_port": SOURCE_PORT, "port": PORT,
}  # fmt: skip
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
OPTIONS = b"\0" + b"\1\4" + bytes(4)  # 8 bytes with the kind of the next header: one PadN
LONG = b"\2" + b"\1\x14" + bytes(20)  # 24 of them
NO_SEGMENTS, SEGMENTS = bytes([0, 4, 0, 0, 0, 0, 0]), bytes([0, 4, 1, 0, 0, 0, 0])
WHOLE, FIRST, LAST = (bytes([0]) + struct.pack("!HI", word, 9) for word in (0, 1, 8))


def datagram(payload=PAYLOAD, *, at=62, **changed):
    return {**ENDS, "tos": 0, "ttl": 16, "at": at, "payload": payload, **changed}


def raw(body, **fields):
    return ethernet(ipv6(body, **fields), ethertype=0x86DD)


def plain(**ends):
    return udp(PAYLOAD, source=SIX_SOURCE, group=SIX_GROUP, **ends)


TABLE = [
    ("a plain datagram", six(PAYLOAD), "relayed", datagram()),
    ("an empty payload, padded", six(b"", padding=20), "relayed", datagram(b"")),
    ("the longest payload", six(b"z" * 65527), "relayed", datagram(b"z" * 65527)),
    ("class, label and hops", six(PAYLOAD, traffic_class=0xB9, label=0xFFFFF, hops=1), "relayed",
     datagram(tos=0xB9, ttl=1)),
    ("hop-by-hop options", six(PAYLOAD, headers=[(HOP_BY_HOP, OPTIONS)]), "relayed", datagram(at=70)),
    ("destination options of 24 bytes", six(PAYLOAD, headers=[(DESTINATION, LONG)]), "relayed", datagram(at=86)),
    ("a routing header without segments left", six(PAYLOAD, headers=[(ROUTING, NO_SEGMENTS)]), "relayed",
     datagram(at=70)),
    ("a routing header with segments left", six(PAYLOAD, headers=[(ROUTING, SEGMENTS)]), "malformed", None),
    ("all of them in the order of RFC 8200", six(PAYLOAD, headers=[
        (HOP_BY_HOP, OPTIONS), (DESTINATION, OPTIONS), (ROUTING, NO_SEGMENTS), (FRAGMENT, WHOLE), (DESTINATION, LONG),
    ]), "relayed", datagram(at=62 + 8 + 8 + 8 + 8 + 24)),
    ("eight headers", six(PAYLOAD, headers=[(DESTINATION, OPTIONS)] * 8), "relayed", datagram(at=126)),
    ("nine headers", six(PAYLOAD, headers=[(DESTINATION, OPTIONS)] * 9), "malformed", None),
    ("hop-by-hop options behind another header", six(PAYLOAD, headers=[
        (DESTINATION, OPTIONS), (HOP_BY_HOP, OPTIONS),
    ]), "malformed", None),
    ("a fragment header of a whole datagram", six(PAYLOAD, headers=[(FRAGMENT, WHOLE)]), "relayed", datagram(at=70)),
    ("a first fragment", six(PAYLOAD, headers=[(FRAGMENT, FIRST)]), "fragment", None),
    ("a last fragment", six(PAYLOAD, headers=[(FRAGMENT, LAST)]), "fragment", None),
    ("a fragment behind options", six(PAYLOAD, headers=[(HOP_BY_HOP, OPTIONS), (FRAGMENT, LAST)]), "fragment", None),
    ("a fragment of ICMPv6", six_part(bytes(64), 0, 8, first=58), "fragment", None),
    ("no checksum, which UDP over IPv6 has", six(PAYLOAD, checksum=0), "malformed", None),
    ("a wrong checksum", six(PAYLOAD, checksum=1), "malformed", None),
    ("a wrong checksum of IPv4's pseudo header", raw(udp(PAYLOAD)), "malformed", None),
    ("ICMPv6", raw(bytes(8), last=58), "not_udp", None),
    ("MLD, behind hop-by-hop options", raw(bytes(28), headers=[(HOP_BY_HOP, OPTIONS)], last=58), "not_udp", None),
    ("nothing behind the header", raw(b"", last=59), "not_udp", None),
    ("an authentication header", raw(bytes(24) + plain(), last=AUTHENTICATION), "not_udp", None),
    ("a jumbogram: a length of 0", raw(plain(), headers=[(HOP_BY_HOP, b"\0\xc2\4" + struct.pack("!I", 70000))],
     length=0), "malformed", None),
    ("a length beyond the frame", raw(plain(), length=100), "malformed", None),
    ("a length that cuts the UDP header", raw(plain(), length=7), "malformed", None),
    ("a UDP length beyond the packet", raw(plain(length=100)), "malformed", None),
    ("options beyond the packet", raw(b"\x11\xff" + bytes(6), last=DESTINATION), "malformed", None),
    ("options that end the packet", raw(b"\x11\0" + bytes(6), last=DESTINATION), "malformed", None),
    ("IP version 4 under the IPv6 EtherType", raw(plain(), version=4), "malformed", None),
    ("a second VLAN tag", tagged(six(PAYLOAD), 100), "vlan", None),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "verdict", "read"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_table(probe, frame, verdict, read):
    assert probe.parse_frame(frame) == (verdict, read)


HEADERS = [[], [(HOP_BY_HOP, OPTIONS)], [(DESTINATION, LONG), (FRAGMENT, WHOLE)]]


@pytest.mark.parametrize("headers", HEADERS)
def test_a_frame_cut_anywhere_is_truncated_or_malformed(probe, headers):
    whole = six(PAYLOAD, headers=headers)
    for size in range(len(whole)):
        assert probe.parse_frame(whole[:size], len(whole)) == ("truncated", None), size
        assert probe.parse_frame(whole[:size]) == ("malformed", None), size


@pytest.mark.parametrize("size", [*range(20), 1315, 1452])
def test_checksums_agree_with_scapy(probe, size):
    from scapy.layers.inet import UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    payload = bytes(range(256)) * 6
    whole = bytes(Ether() / IPv6(src=SIX_SOURCE, dst=SIX_GROUP) / UDP(sport=1, dport=2) / Raw(payload[:size]))
    verdict, read = probe.parse_frame(whole)
    assert verdict == "relayed"
    assert read["payload"] == payload[:size]


KINDS = st.sampled_from([HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, AUTHENTICATION])
WILD = st.builds(
    lambda body, headers, last, length: raw(body, headers=headers, last=last, length=length),
    st.binary(max_size=40),
    st.lists(st.tuples(KINDS, st.binary(max_size=30)), max_size=10),
    st.integers(0, 255),
    st.one_of(st.none(), st.integers(0, 200)),
)


@given(WILD, st.integers(0, 60))
def test_headers_at_random_get_a_verdict_and_a_payload_inside_the_frame(probe, whole, cut):
    # parse_frame insists on the place of the payload.
    verdict, _ = probe.parse_frame(whole[: len(whole) - cut], verify=False)
    assert verdict in {"relayed", "not_udp", "fragment", "malformed"}


WORDS, FILLING = st.sampled_from([0, 0, 1, 2, 3, 31, 255]), st.binary(min_size=30, max_size=30)
HONEST = st.builds(
    lambda first, rest: first + rest,
    st.lists(st.tuples(st.just(HOP_BY_HOP), WORDS, FILLING, st.just(True)), max_size=1),
    st.lists(st.tuples(st.sampled_from([ROUTING, FRAGMENT, DESTINATION]), WORDS, FILLING, st.just(True)), max_size=10),
)
EXTENSIONS = st.one_of(
    HONEST, st.lists(st.tuples(KINDS, WORDS, FILLING, st.sampled_from([True, True, True, False])), max_size=12)
)


def modelled(packet):
    """What RFC 8200 and RFC 768 make of an IPv6 packet: the verdict and, of a datagram, where its payload begins and
    ends."""
    verdict, at = walked(packet)
    if verdict != "relayed":
        return verdict, None
    end = 40 + int.from_bytes(packet[4:6], "big")
    length = int.from_bytes(packet[at + 4 : at + 6], "big")
    if at + 8 > end or not 8 <= length <= end - at:
        return "malformed", None
    checked = packet[8:40] + struct.pack("!II", length, 17) + packet[at : at + length] + bytes(length % 2)
    total = sum(struct.unpack(f"!{len(checked) // 2}H", checked))
    if packet[at + 6 : at + 8] == bytes(2) or total % 0xFFFF or not total:  # all ones is a multiple of it, as 0 is
        return "malformed", None
    return "relayed", (at + 8, at + length)


def walked(packet):
    """What RFC 8200 (4) makes of an IPv6 packet's chain of headers: the verdict, and where what follows begins."""
    end, kind, at, count = 40 + int.from_bytes(packet[4:6], "big"), packet[6], 40, 0
    while kind != 17:
        if kind not in {HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION}:
            return "not_udp", at
        if count == 8 or at + 8 > end:
            return "malformed", at
        after, length, segments = packet[at], packet[at + 1], packet[at + 3]
        if kind == FRAGMENT and int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF9:
            return "fragment", at
        if (kind == HOP_BY_HOP and count) or (kind == ROUTING and segments):
            return "malformed", at
        at += 8 if kind == FRAGMENT else 8 + 8 * length
        kind, count = after, count + 1
        if at > end:
            return "malformed", at
    return "relayed", at


@given(
    EXTENSIONS, st.sampled_from([17, 17, 17, 6, 58]), st.binary(max_size=60),
    st.sampled_from([(0, 0), (0, 0), (0, 0), (0, 1), (0, 20), (1, 0), (8, 0), (30, 0), (30, 20)]),
)  # fmt: skip
@settings(max_examples=int(os.environ.get("FRAMES", "300")), deadline=None)
def test_any_chain_of_headers_is_what_rfc_8200_makes_of_it(probe, chain, last, payload, ends):
    """FRAMES says how many to try: 300, or millions under a sanitizer. Some chains lie about a length.

    A chain that lies may lead into the middle of something that can be read as a datagram: the model reads it, too.
    """
    (less, padding), headers = ends, []
    for kind, words, rest, honest in chain:
        size = 6 if kind == FRAGMENT else 6 + 8 * words
        filling = (rest * 70)[:size]
        if honest and kind == FRAGMENT:
            filling = bytes([0, 0]) + rest[:4]
        elif honest and kind == ROUTING:
            filling = rest[:1] + bytes([0]) + filling[2:]
        headers.append((kind, bytes([words if honest else rest[29]]) + filling))
    packet = ipv6(udp(payload, source=SIX_SOURCE, group=SIX_GROUP), headers=headers, last=last)
    packet = packet[:4] + max(0, len(packet) - 40 - less).to_bytes(2, "big") + packet[6:] + bytes(padding)
    verdict, place = modelled(packet)
    found, read = probe.parse_frame(ethernet(packet, ethertype=0x86DD))
    assert found == verdict
    if verdict == "relayed":
        start, end = place
        assert (read["at"], read["payload"]) == (14 + start, packet[start:end])
