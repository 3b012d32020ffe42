"""parse: a table of (description, frame, verdict, datagram), every truncation, and random bytes."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.frames import GROUP, PORT, SOURCE, SOURCE_PORT, ethernet, frame, ipv4, number, ones_sum, tagged, udp

pytestmark = pytest.mark.core

ENDS = {"source": number(SOURCE), "group": number(GROUP), "source_port": SOURCE_PORT, "port": PORT}
PAYLOAD = b"0123456789"
PLAIN = frame(PAYLOAD)


def datagram(payload=PAYLOAD, **changed):
    return {**ENDS, "tos": 0, "ttl": 16, "at": 42, "payload": payload, **changed}


def broken_udp_sum():
    good = udp(PAYLOAD)
    return good[:6] + struct.pack("!H", struct.unpack("!H", good[6:8])[0] ^ 0x0100) + good[8:]


TABLE = [
    ("a plain datagram", PLAIN, "relayed", datagram()),
    ("an empty payload", frame(b""), "relayed", datagram(b"")),
    ("one byte, padded to the shortest Ethernet frame", frame(b"x", padding=17), "relayed", datagram(b"x")),
    ("the longest payload", frame(b"z" * 65507), "relayed", datagram(b"z" * 65507)),
    ("DSCP, ECN and TTL", frame(PAYLOAD, tos=0xB9, ttl=1), "relayed", datagram(tos=0xB9, ttl=1)),
    (
        "port 0 and port 65535",
        frame(PAYLOAD, source_port=0, port=65535),
        "relayed",
        datagram(source_port=0, port=65535),
    ),
    ("a multicast group in a unicast MAC", ethernet(ipv4(udp(PAYLOAD)), to=bytes(6)), "relayed", datagram()),
    ("4 bytes of IP options", frame(PAYLOAD, options=b"\x94\x04\0\0"), "relayed", datagram(at=46)),
    ("40 bytes of IP options", frame(PAYLOAD, options=b"\x01" * 40), "relayed", datagram(at=82)),
    ("may be fragmented, is not", frame(PAYLOAD, fragment=0), "relayed", datagram()),
    ("must not be fragmented", frame(PAYLOAD, fragment=0x4000), "relayed", datagram()),
    ("the reserved flag alone", frame(PAYLOAD, fragment=0x8000), "relayed", datagram()),
    ("no UDP checksum", ethernet(ipv4(udp(PAYLOAD, checksum=0))), "relayed", datagram()),
    (
        "a UDP length shorter than the IP payload cuts the rest off",
        ethernet(ipv4(udp(b"0123", length=12) + b"456789")),
        "relayed",
        datagram(b"0123"),
    ),
    ("a UDP length of 8 is an empty datagram", ethernet(ipv4(udp(b"", length=8) + b"456")), "relayed", datagram(b"")),
    ("a first fragment", frame(PAYLOAD, fragment=0x2000), "fragment", None),
    ("a middle fragment", frame(PAYLOAD, fragment=0x2001), "fragment", None),
    ("a last fragment", frame(PAYLOAD, fragment=0x0001), "fragment", None),
    ("a last fragment far behind", frame(PAYLOAD, fragment=0x1FFF), "fragment", None),
    ("a fragment too short for a UDP header", ethernet(ipv4(b"123", fragment=0x0001)), "fragment", None),
    ("TCP", ethernet(ipv4(udp(PAYLOAD), protocol=6)), "not_udp", None),
    ("IGMP", ethernet(ipv4(b"\x11" + bytes(7), protocol=2)), "not_udp", None),
    ("UDP-Lite", ethernet(ipv4(udp(PAYLOAD), protocol=136)), "not_udp", None),
    ("ARP", ethernet(bytes(28), ethertype=0x0806, padding=18), "not_udp", None),
    ("IPv4 under the IPv6 EtherType", ethernet(ipv4(udp(PAYLOAD)), ethertype=0x86DD), "malformed", None),
    ("a second VLAN tag, as of QinQ", tagged(PLAIN, 100), "vlan", None),
    ("a second VLAN tag of a provider", tagged(PLAIN, 100, 0x88A8), "vlan", None),
    ("802.3 with a length for an EtherType", ethernet(ipv4(udp(PAYLOAD)), ethertype=0x0026), "not_udp", None),
    ("IP version 6 under the IPv4 EtherType", frame(PAYLOAD, version=6), "malformed", None),
    ("IP version 0", frame(PAYLOAD, version=0), "malformed", None),
    ("an IP header of 16 bytes", frame(PAYLOAD, header_words=4), "malformed", None),
    ("an IP header of 0 bytes", frame(PAYLOAD, header_words=0), "malformed", None),
    ("an IP header longer than the frame", ethernet(ipv4(b"", header_words=15)), "malformed", None),
    ("an IP header longer than the packet", frame(b"", header_words=15, total=30), "malformed", None),
    ("a total length beyond the frame", frame(PAYLOAD, total=39), "malformed", None),
    ("a total length far beyond the frame", frame(PAYLOAD, total=65535), "malformed", None),
    ("a total length of 0", frame(PAYLOAD, total=0), "malformed", None),
    ("a total length shorter than the IP header", frame(PAYLOAD, total=19), "malformed", None),
    ("a total length that cuts the UDP header", frame(PAYLOAD, total=27), "malformed", None),
    ("a total length that cuts the payload", frame(PAYLOAD, total=37), "malformed", None),
    ("a wrong IP checksum", frame(PAYLOAD, checksum=0x1234), "malformed", None),
    ("an IP checksum of 0", frame(PAYLOAD, checksum=0), "malformed", None),
    ("a UDP length of 0", ethernet(ipv4(udp(PAYLOAD, length=0))), "malformed", None),
    ("a UDP length of 7", ethernet(ipv4(udp(PAYLOAD, length=7))), "malformed", None),
    ("a UDP length longer than the IP payload", ethernet(ipv4(udp(PAYLOAD, length=19)), padding=8), "malformed", None),
    ("a UDP length of 65535", ethernet(ipv4(udp(PAYLOAD, length=65535))), "malformed", None),
    ("a wrong UDP checksum", ethernet(ipv4(broken_udp_sum())), "malformed", None),
    ("nothing", b"", "malformed", None),
    ("an Ethernet header and nothing else", PLAIN[:14], "malformed", None),
]


@pytest.mark.parametrize(("packet", "verdict", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_every_frame_has_its_verdict(probe, packet, verdict, expected):
    assert probe.parse_frame(packet) == (verdict, expected)


def test_the_helpers_build_what_scapy_builds():
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    for payload in (b"", b"x", PAYLOAD, b"\xff" * 1316):
        layers = Ether(dst="01:00:5e:02:02:02", src="02:00:00:00:00:01") / IP(
            src=SOURCE, dst=GROUP, ttl=16, flags="DF", id=7
        )
        theirs = bytes(layers / UDP(sport=SOURCE_PORT, dport=PORT) / Raw(payload))
        assert frame(payload) == theirs


def test_a_checksum_nobody_asks_for_is_not_looked_at(probe):
    wrong = ethernet(ipv4(broken_udp_sum()))
    assert probe.parse_frame(wrong, verify=True) == ("malformed", None)
    assert probe.parse_frame(wrong, verify=False) == ("relayed", datagram())


@pytest.mark.parametrize("options", [b"", b"\x01" * 12, b"\x01" * 40])
@pytest.mark.parametrize("padding", [0, 6])
def test_a_frame_cut_in_the_capture_is_truncated_at_every_length(probe, options, padding):
    whole = frame(PAYLOAD, options=options, padding=padding)
    for size in range(len(whole)):
        assert probe.parse_frame(whole[:size], len(whole)) == ("truncated", None), size


@pytest.mark.parametrize("options", [b"", b"\x01" * 12, b"\x01" * 40])
def test_a_frame_cut_on_the_wire_is_malformed_at_every_length(probe, options):
    whole = frame(PAYLOAD, options=options)
    for size in range(len(whole)):
        assert probe.parse_frame(whole[:size]) == ("malformed", None), size
    assert probe.parse_frame(whole) == ("relayed", datagram(at=42 + len(options)))


def test_padding_is_never_payload_at_any_length(probe):
    for size in range(64):
        payload = bytes(range(size))
        for padding in (0, 1, 18, 100):
            assert probe.parse_frame(frame(payload, padding=padding)) == ("relayed", datagram(payload))


@pytest.mark.parametrize("size", [*range(64), 65, 127, 128, 563, 564, 1315, 1316, 1471, 1472])
def test_checksums_agree_with_scapy_and_one_wrong_bit_is_found(probe, size):
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    chance = random.Random(size)  # the same bytes every time
    payload = chance.randbytes(size)
    whole = bytes(Ether() / IP(src=SOURCE, dst=GROUP) / UDP(sport=1, dport=2) / Raw(payload))
    verdict, read = probe.parse_frame(whole)
    assert verdict == "relayed"
    assert read["payload"] == payload
    for _ in range(8):
        at = chance.randrange(34 * 8, len(whole) * 8)
        wrong = bytearray(whole)
        wrong[at // 8] ^= 1 << at % 8
        if wrong[40:42] == b"\0\0":
            continue  # the flip made it "no checksum"
        assert probe.parse_frame(bytes(wrong)) == ("malformed", None), at


def test_a_sum_of_zero_travels_as_all_ones(probe):
    """RFC 768: a computed checksum of 0 is sent as 0xffff."""
    for filling in range(65536):
        payload = struct.pack("!H", filling)
        if udp(payload)[6:8] == b"\xff\xff":
            break
    else:
        pytest.fail("no payload has this sum")
    assert probe.parse_frame(frame(payload)) == ("relayed", datagram(payload))


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff" * 65535)
@example(b"\xff" * 65534)
@example(b"\xff" * 7)
def test_ones_sum_is_rfc_1071(probe, data):
    assert probe.sum_of(data) == ones_sum(data)


def test_ones_sum_holds_at_every_size(probe):
    data = random.Random(1).randbytes(1500)
    for size in range(len(data)):
        assert probe.sum_of(data[:size]) == ones_sum(data[:size])


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 300))
def test_random_bytes_get_a_verdict(probe, data, verify, beyond):
    verdict, read = probe.parse_frame(data, len(data) + beyond, verify)
    assert verdict in {"relayed", "not_udp", "fragment", "truncated", "malformed"}
    assert (verdict == "relayed") == (read is not None)
    assert (verdict == "truncated") == (beyond > 0)


@given(
    st.builds(
        lambda payload, words: frame(payload, options=b"\x01" * (4 * words)), st.binary(max_size=80), st.integers(0, 10)
    ),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4),
    st.integers(0, 60),
    st.booleans(),
)
def test_a_mutated_frame_gets_a_verdict_and_a_payload_inside_it(probe, whole, changes, cut, mend):
    """``mend`` repairs the IP checksum, so that mutations reach what lies behind it."""
    mutated = bytearray(whole)
    for at, value in changes:
        mutated[at % len(mutated)] = value
    if mend:
        end = 14 + (mutated[14] & 15) * 4
        mutated[24:26] = b"\0\0"
        mutated[24:26] = struct.pack("!H", 0xFFFF - ones_sum(bytes(mutated[14:end])))
    data = bytes(mutated[: len(mutated) - cut])
    verdict, _ = probe.parse_frame(data, verify=False)  # which insists that the payload lies inside
    assert verdict in {"relayed", "not_udp", "fragment", "malformed"}
    if not changes and not cut:
        assert verdict == "relayed"
