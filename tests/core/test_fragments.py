"""Fragments put together: against a plain model, in every order, and what attackers send refused and bounded."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import (
    GROUP,
    PORT,
    SOURCE,
    SOURCE_PORT,
    ethernet,
    ipv4,
    number,
    part,
    parts,
    udp,
)

pytestmark = pytest.mark.core

ENDS = {"source": number(SOURCE), "group": number(GROUP), "source_port": SOURCE_PORT, "port": PORT}
BODY = udp(bytes(range(100)))  # 108 bytes: parts of 40, 40 and 28


def datagram(payload, **changed):
    return {**ENDS, "tos": 0, "ttl": 16, "payload": payload, **changed}


@pytest.fixture
def store(probe):
    made = probe.Reassembler()
    yield made
    assert made.sound()


def take_all(store, frames, **where):
    """The answers to each."""
    return [store.take(each, **where) for each in frames]


def verdicts(store, frames, **where):
    return [verdict for verdict, _ in take_all(store, frames, **where)]


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_a_datagram_is_whole_with_its_last_part_in_whatever_order_they_come(store, order):
    payload = random.Random(1).randbytes(4000)
    cut = parts(payload, 1480)
    assert len(cut) == 3
    cut.insert(1, part(udp(payload), 1480, 2000, more=True))
    cut[2] = part(udp(payload), 2000, 2960, more=True)
    *before, last = [cut[i] for i in order]
    assert verdicts(store, before) == ["waiting"] * 3
    assert store.take(last) == ("relayed", datagram(payload))
    assert store.waiting == (0, 0)
    assert store.counted() == ({"relayed": 4}, {})


@pytest.mark.parametrize("size", [0, 1, 1472, 1473, 2952, 9000, 65507])
@pytest.mark.parametrize("mtu", [68, 576, 1500, 9000])
def test_what_scapy_cuts_is_put_together(probe, size, mtu):
    from scapy.layers.inet import IP, UDP, fragment
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    payload = random.Random(size).randbytes(size)
    packet = IP(src=SOURCE, dst=GROUP, ttl=16, id=999) / UDP(sport=SOURCE_PORT, dport=PORT) / Raw(payload)
    frames = [bytes(Ether() / each) for each in fragment(packet, mtu - 20)]
    store = probe.Reassembler()
    if len(frames) == 1:
        assert probe.parse_frame(frames[0])[0] == "relayed"
    elif len(frames) > probe.MOST_PARTS:
        assert set(verdicts(store, frames)) == {"waiting", "fragment"}
        assert store.counted() == ({"fragment": len(frames)}, {"many": len(frames)})
    else:
        random.Random(mtu).shuffle(frames)
        *before, last = take_all(store, frames)
        assert before == [("waiting", None)] * (len(frames) - 1)
        assert last == ("relayed", datagram(payload))


def test_the_first_part_names_the_dscp_and_the_ttl(store):
    cut = [part(BODY, 40, 108, tos=0x10, ttl=9), part(BODY, 0, 40, tos=0xB8, ttl=5)]
    assert take_all(store, cut)[1] == ("relayed", datagram(BODY[8:], tos=0xB8, ttl=5))


def test_parts_with_ip_options_are_put_together_without_them(store):
    cut = [part(BODY, 0, 40, options=b"\x94\x04\0\0"), part(BODY, 40, 108, options=b"\x01" * 40)]
    assert take_all(store, cut)[1] == ("relayed", datagram(BODY[8:]))


OTHERS = [
    ("identification", {"identification": 8}, {}),
    ("source", {"source": "192.168.168.56"}, {}),
    ("group", {"group": "226.2.2.3"}, {}),
    ("link", {}, {"ring": 1}),
    ("VLAN", {}, {"vlan": 5}),
]


@pytest.mark.parametrize(("fields", "where"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_parts_of_different_datagrams_are_never_put_together(store, fields, where):
    assert store.take(part(BODY, 0, 40))[0] == "waiting"
    assert store.take(part(BODY, 40, 108, **fields), **where)[0] == "waiting"
    assert store.waiting == (2, 2)
    ends = {key: fields[key] for key in ("source", "group") if key in fields}
    other = udp(BODY[8:], **ends)
    assert store.take(part(other, 0, 40, **fields), **where)[0] == "relayed"
    assert store.take(part(BODY, 40, 108)) == ("relayed", datagram(BODY[8:]))


def test_the_sum_over_the_whole_is_verified(store):
    wrong = parts(b"x" * 3000, 1480, checksum=0x1234)
    assert verdicts(store, wrong) == ["waiting", "waiting", "malformed"]
    assert store.counted() == ({"malformed": 3}, {})
    assert verdicts(store, parts(b"x" * 3000, 1480, checksum=0)) == ["waiting", "waiting", "relayed"]


@pytest.mark.parametrize(
    ("length", "verdict"), [(108, "relayed"), (60, "relayed"), (109, "malformed"), (7, "malformed")]
)
def test_the_udp_length_is_held_against_what_is_there(store, length, verdict):
    body = udp(bytes(100), length=length, checksum=0)
    found, read = take_all(store, [part(body, 0, 64), part(body, 64, 108)])[1]
    assert found == verdict
    if read:
        assert len(read["payload"]) == length - 8


def test_an_exact_repetition_is_refused_alone(store):
    cut = [part(BODY, 0, 40), part(BODY, 80, 108), part(BODY, 0, 40), part(BODY, 80, 108), part(BODY, 40, 80)]
    assert verdicts(store, cut) == ["waiting", "waiting", "fragment", "fragment", "relayed"]
    assert store.counted() == ({"relayed": 3, "fragment": 2}, {"repeated": 2})


OTHER_BODY = BODY[:8] + bytes(100)
CONTRADICTIONS = [
    ("teardrop: inside another", [(0, 80), (24, 48)]),
    ("begins inside another", [(0, 40), (32, 80)]),
    ("ends inside another", [(40, 80), (0, 48)]),
    ("around another", [(40, 48), (0, 80)]),
    ("the same place, shorter", [(0, 40), (0, 32)]),
    ("the same place, longer", [(0, 40), (0, 48)]),
    ("two ends", [(80, 108), (40, 72, False)]),
    ("an end before what is there", [(40, 80), (8, 40, False)]),
    ("beyond the end", [(40, 80, False), (80, 88, True)]),
    ("the last is not the last", [(80, 104, False), (80, 104, True)]),
    ("not the last is the last", [(80, 104, True), (80, 104, False)]),
    ("ends further behind", [(40, 80, False), (80, 108, False)]),
    ("over the last and beyond", [(40, 80, False), (72, 88, True)]),
]


@pytest.mark.parametrize("cut", [row[1] for row in CONTRADICTIONS], ids=[row[0] for row in CONTRADICTIONS])
def test_a_contradiction_gives_the_datagram_up_with_what_is_still_to_come(store, cut):
    frames = [part(BODY, start, end, more=rest[0] if rest else None) for start, end, *rest in cut]
    assert verdicts(store, frames) == ["waiting", "fragment"]
    assert store.counted() == ({"fragment": 2}, {"overlap": 2})
    assert verdicts(store, [part(BODY, *each) for each in ((0, 40), (40, 80), (80, 108))]) == ["fragment"] * 3
    assert store.counted() == ({"fragment": 5}, {"overlap": 5})
    assert store.lost_group() == number(GROUP)
    store.expire(10**9)
    assert store.counted() == ({"fragment": 5}, {"overlap": 5})
    assert verdicts(store, [part(BODY, 0, 40), part(BODY, 40, 108)])[1] == "relayed"


def test_the_same_place_with_other_bytes_is_an_overlap(store):
    assert verdicts(store, [part(BODY, 40, 80), part(OTHER_BODY, 40, 80)]) == ["waiting", "fragment"]
    assert store.counted() == ({"fragment": 2}, {"overlap": 2})


BROKEN = [
    ("not the last, and no multiple of 8", ethernet(ipv4(b"1234567", fragment=0x2000))),
    ("empty, and more to come", ethernet(ipv4(b"", fragment=0x2001))),
    ("empty, the last", ethernet(ipv4(b"", fragment=0x0001))),
    ("ping of death: ends beyond 65535", ethernet(ipv4(b"x" * 16, fragment=0x1FFE))),
    ("65535 with its header, and one more", ethernet(ipv4(b"x" * 4, fragment=0x1FFD))),
    ("so only by its options", ethernet(ipv4(b"x", fragment=0x1FFD, options=b"\x01" * 4))),
]


@pytest.mark.parametrize("frame", [row[1] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_what_no_datagram_has_is_broken(store, frame):
    assert store.take(frame) == ("fragment", None)
    assert store.counted() == ({"fragment": 1}, {"broken": 1})
    assert store.waiting == (0, 0)


def test_the_furthest_byte_there_is_fits(store):
    assert store.take(ethernet(ipv4(b"x" * 3, fragment=0x1FFD))) == ("waiting", None)


def test_what_does_not_come_in_time_is_given_up(probe, store):
    assert store.take(part(BODY, 0, 40), now=5)[0] == "waiting"
    assert store.take(part(BODY, 0, 40, identification=8), now=6)[0] == "waiting"
    store.expire(5 + probe.PATIENCE - 1)
    assert store.waiting == (2, 2)
    assert store.take(part(BODY, 40, 80), now=7)[0] == "waiting"  # the first counts
    store.expire(5 + probe.PATIENCE)
    assert store.waiting == (1, 1)
    assert store.counted() == ({"fragment": 2}, {"incomplete": 2})
    store.expire(6 + probe.PATIENCE)
    assert store.waiting == (0, 0)
    assert store.take(part(BODY, 80, 108), now=8)[0] == "waiting"  # too late: it waits for nobody


def test_more_parts_than_a_datagram_may_have_give_it_up(probe, store):
    body = udp(bytes(8 * (probe.MOST_PARTS + 1) - 8))
    cut = [part(body, at, at + 8) for at in range(0, len(body), 8)]
    assert len(cut) == probe.MOST_PARTS + 1
    assert verdicts(store, cut) == ["waiting"] * probe.MOST_PARTS + ["fragment"]
    assert store.counted() == ({"fragment": len(cut)}, {"many": len(cut)})
    assert verdicts(store, cut[::2])[0] == "fragment"


def firsts(count, **fields):
    """First fragments, each of another datagram; ``source`` may be a function of its number."""
    source = fields.pop("source", lambda i: SOURCE)
    for i in range(count):
        yield part(BODY, 0, 40, identification=1000 + i, source=source(i), **fields)


def spoofed(i):
    return f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}"


FLOODS = [
    ("from one source", {"source": lambda i: "192.0.2.99"}, "MOST_OF_A_FLOW"),
    ("from many, to one group", {"source": spoofed, "group": "226.2.2.99"}, "MOST_OF_A_GROUP"),
]


@pytest.mark.parametrize(("how", "bound"), [row[1:] for row in FLOODS], ids=[row[0] for row in FLOODS])
def test_a_flood_of_first_fragments_is_bounded_and_takes_nobody_elses_room(probe, store, how, bound):
    theirs = [parts(b"y" * 3000, 1480, identification=i) for i in range(20)]
    assert verdicts(store, [each[0] for each in theirs]) == ["waiting"] * 20
    for frame in firsts(5000, **how):
        assert store.take(frame)[0] == "waiting"
        assert store.waiting[0] <= 20 + getattr(probe, bound)
    assert verdicts(store, [each[1] for each in theirs]) == ["waiting"] * 20
    assert verdicts(store, [each[2] for each in theirs]) == ["relayed"] * 20
    given_up = 5000 - getattr(probe, bound)
    assert store.counted() == ({"relayed": 60, "fragment": given_up}, {"room": given_up})


def test_a_flood_from_everywhere_to_everywhere_is_bounded_and_the_newest_stay(probe, store):
    for i in range(3000):
        group = f"226.9.{i >> 8}.{i & 255}"
        assert store.take(part(BODY, 0, 40, source=spoofed(i), group=group))[0] == "waiting"
        assert store.waiting[0] <= probe.MOST_ASSEMBLIES
    assert store.waiting[0] == probe.MOST_ASSEMBLIES
    assert verdicts(store, parts(b"y" * 3000, 1480)) == ["waiting", "waiting", "relayed"]


def test_what_is_whole_keeps_its_room_until_it_is_let_go(probe, store):
    for i in range(probe.MOST_ASSEMBLIES):
        assert store.take(part(BODY, 0, 40, identification=i))[0] == "waiting"
        assert store.take(part(BODY, 40, 108, identification=i))[0] == "relayed"
        assert store.sound()
    assert store.take(part(BODY, 0, 40))[0] == "waiting"  # as the loop: it sends what is whole first
    store.let_go()
    assert store.waiting == (1, 1)


class Model:
    """What waits, without bounds, as lists that anybody can read."""

    def __init__(self):
        self.waiting = {}
        self.frames = {}
        self.reasons = {}

    def count(self, verdict, many=1, reason=None):
        self.frames[verdict] = self.frames.get(verdict, 0) + many
        if reason:
            self.reasons[reason] = self.reasons.get(reason, 0) + many

    def give_up(self, held, reason):
        if held["parts"]:
            self.count("fragment", len(held["parts"]), reason)
        held["parts"] = []
        held["reason"] = reason

    def take(self, key, start, body, more, now):
        """The verdict, and the body of what is whole."""
        held = self.waiting.setdefault(key, {"parts": [], "reason": None, "since": now})
        new = (start, start + len(body), more, body)
        reason = held["reason"] or self.objection(held["parts"], new)
        if reason:
            if not held["reason"] and reason != "repeated":
                self.give_up(held, reason)
            self.count("fragment", 1, reason)
            return "fragment", None
        held["parts"].append(new)
        ends = [end for _, end, more, _ in held["parts"] if not more]
        if not ends or sum(len(each[3]) for each in held["parts"]) != ends[0]:
            return "waiting", None
        del self.waiting[key]
        return "whole", (b"".join(each[3] for each in sorted(held["parts"])), len(held["parts"]))

    @staticmethod
    def objection(there, new):
        if new in there:
            return "repeated"
        if any(new[0] < end and start < new[1] for start, end, _, _ in there):
            return "overlap"
        ends = [end for _, end, more, _ in [*there, new] if not more]
        if len(ends) > 1 or (ends and max(end for _, end, _, _ in [*there, new]) > ends[0]):
            return "overlap"
        return None

    def expire(self, now, patience):
        for key, held in list(self.waiting.items()):
            if now - held["since"] >= patience:
                self.give_up(held, "incomplete" if held["parts"] else held["reason"])
                del self.waiting[key]


KEYS = [(SOURCE, 7, 0), (SOURCE, 8, 0), ("192.168.168.56", 7, 0), (SOURCE, 7, 1)]
BODIES = [udp(bytes(range(payload)), source=source) for payload in (9, 24, 61) for source, _, _ in KEYS[1:3]]


@st.composite
def fragment_of_a_body(draw):
    body = draw(st.sampled_from(BODIES))
    start = draw(st.integers(0, (len(body) - 1) // 8)) * 8
    end = min(len(body), start + 8 * draw(st.integers(1, 5)))
    more = end < len(body)
    if end % 8 == 0 and draw(st.integers(0, 9)) == 0:
        more = not more
    return draw(st.sampled_from(KEYS)), start, body[start:end], more, draw(st.sampled_from([0, 0, 0, 1, 400_000_000]))


@st.composite
def a_whole_body(draw):
    body, key = draw(st.sampled_from(BODIES)), draw(st.sampled_from(KEYS))
    cuts = sorted(draw(st.sets(st.integers(1, (len(body) - 1) // 8)))) if len(body) > 8 else []
    edges = [0, *(8 * each for each in cuts), len(body)]
    cut = [(key, start, body[start:end], end < len(body), 0) for start, end in itertools.pairwise(edges)]
    cut += draw(st.lists(st.sampled_from(cut), max_size=2))
    return draw(st.permutations(cut))


@given(st.lists(st.one_of(fragment_of_a_body().map(lambda each: [each]), a_whole_body()), max_size=30))
def test_any_mix_of_fragments_is_treated_as_a_plain_model_does(probe, groups):
    store, model, now = probe.Reassembler(), Model(), 0
    for key, start, body, more, step in itertools.chain.from_iterable(groups):
        source, identification, ring = key
        now += step
        model.expire(now, probe.PATIENCE)
        store.expire(now)
        if start == 0 and not more:
            continue  # whole already
        place = more << 13 | start // 8
        frame = ethernet(ipv4(body, source=source, identification=identification, fragment=place))
        expected, whole = model.take(key, start, body, more, now)
        if whole is not None:
            body, count = whole
            expected, read = probe.parse_frame(ethernet(ipv4(body, source=source)))
            model.count(expected, count)
            if read:
                del read["at"]
            whole = read
        assert store.take(frame, now, ring) == (expected, whole)
        assert store.waiting == (len(model.waiting), sum(len(each["parts"]) for each in model.waiting.values()))
    store.expire(now + probe.PATIENCE)
    model.expire(now + probe.PATIENCE, probe.PATIENCE)
    assert store.sound()
    counted = [store.counted(ring) for ring in range(2)]
    for which, expected in enumerate((model.frames, model.reasons)):
        names = {*counted[0][which], *counted[1][which]}
        assert {name: sum(each[which].get(name, 0) for each in counted) for name in names} == expected


@given(st.binary(max_size=80), st.integers(1, 0x3FFF), st.integers(0, 10))
def test_random_fragments_are_read_inside_their_frames(probe, body, place, words):
    """What lies behind a frame is poisoned under AddressSanitizer."""
    store = probe.Reassembler()
    verdict, _ = store.take(ethernet(ipv4(body, fragment=place, options=b"\x01" * 4 * words)))
    assert verdict in {"waiting", "fragment"}
    store.expire(probe.PATIENCE)
    assert sum(store.counted()[0].values()) == 1
