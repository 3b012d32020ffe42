"""IPv6 fragments put together by the same store as IPv4's: RFC 8200, 4.5, and RFC 5722."""

from __future__ import annotations

import itertools
import random
from ipaddress import IPv6Address

import pytest
from support.frames import PORT, SIX_GROUP, SIX_SOURCE, SOURCE_PORT, part, six_part, six_parts, udp

pytestmark = pytest.mark.core

PAYLOAD = random.Random(6).randbytes(3000)
BODY = udp(PAYLOAD, source=SIX_SOURCE, group=SIX_GROUP)
OPTIONS = (60, bytes([0, 1, 4, 0, 0, 0, 0]))  # destination options, 8 bytes with the kind of the next header
DATAGRAM = {
    "source": IPv6Address(SIX_SOURCE).packed, "group": IPv6Address(SIX_GROUP).packed,
    "source_port": SOURCE_PORT, "port": PORT, "tos": 0, "ttl": 16, "payload": PAYLOAD,
}  # fmt: skip


@pytest.fixture
def store(probe):
    made = probe.Reassembler()
    yield made
    assert made.sound()


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_a_datagram_is_whole_with_its_last_part_in_whatever_order_they_come(store, order):
    cut = six_parts(PAYLOAD, 1232)
    *before, last = [cut[i] for i in order]
    assert [store.take(each) for each in before] == [("waiting", None)] * 2
    assert store.take(last) == ("relayed", DATAGRAM)


def test_headers_before_and_behind_the_fragment_header_are_passed_over(store):
    cut = six_parts(PAYLOAD, 1232, before=[OPTIONS], behind=bytes([17]) + OPTIONS[1], first=60)
    assert [store.take(each) for each in cut][-1] == ("relayed", DATAGRAM)


def test_what_is_no_udp_is_told_once_it_is_whole(store):
    assert store.take(six_part(bytes(64), 0, 32, first=58)) == ("waiting", None)
    assert store.take(six_part(bytes(64), 32, 64, first=58)) == ("not_udp", None)


@pytest.mark.parametrize("checksum", [0, 1])
def test_a_checksum_that_is_wrong_or_missing_is_malformed(store, checksum):
    assert [store.take(each) for each in six_parts(PAYLOAD, 1232, checksum=checksum)][-1] == ("malformed", None)


def test_parts_that_overlap_give_the_datagram_up(store):
    first, second, third = six_parts(PAYLOAD, 1232)
    store.take(first)
    assert store.take(six_part(BODY, 1224, 2000)) == ("fragment", None)
    assert [store.take(each) for each in (second, third)] == [("fragment", None)] * 2
    assert store.counted() == ({"fragment": 4}, {"overlap": 4})


def test_a_part_that_no_datagram_has_is_broken(store):
    assert store.take(six_part(BODY, 0, 100)) == ("fragment", None)  # more follows, and it is no multiple of 8
    assert store.take(six_part(bytes(65535), 64328, 65535, before=[OPTIONS])) == ("fragment", None)  # too long
    assert store.counted() == ({"fragment": 2}, {"broken": 2})


def test_identifications_of_32_bits_and_of_two_families_are_kept_apart(store):
    for frame in (
        six_part(BODY, 0, 1232, identification=7),
        six_part(BODY, 0, 1232, identification=7 + (1 << 16)),
        part(BODY, 0, 1232, identification=7),
    ):
        assert store.take(frame) == ("waiting", None)
    assert store.waiting == (3, 3)
    assert store.lost_group() == bytes(16)
