"""Loops built on purpose, and streams that explode: nothing storms, and what is dropped is counted."""

from __future__ import annotations

import socket
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.mirror import mirrored
from support.relay import GROUP, INPUT, RelayUnderTest, assert_adds_up, each_family, every_way, relaying
from support.traffic import assert_exact, heard, receiver, report, send
from support.ways import way

from mcrelay.commands.lab import Lab, bridge, forwarding

pytestmark = pytest.mark.net

COUNT = 500


@each_family
def test_a_group_relayed_back_onto_its_own_switch_does_not_storm():
    group = way().input("239.1.1.1:5000")
    config = f'[rules.x]\ninput = "{group}%l0"\noutputs = ["{group}%l1"]\n'
    with mirrored(config) as relay:
        sink = receiver(relay.lab.host, f"{group}%eth0")
        send(relay.lab.host, f"{group}%eth0", "--count", COUNT)
        stats = relay.at_rest()
        assert heard(sink, relay.lab.host)["received"] == 2 * COUNT  # what the host itself sent, and the relay's copy
        assert relay.rule()["drops"]["echo"] == COUNT
        assert relay.rule()["outputs"][0]["tx_packets"] == COUNT
        assert_adds_up(stats)
        relay.wait_for(lambda: "began rule=x dropping=echo" in relay.log.read_text(), "log line")


@every_way
def test_two_rules_that_feed_each_other_through_the_switch_do_not_storm():
    one, other = way().input("239.1.1.1:5000"), way().output("239.2.2.2:5000")
    config = f"""
        [rules.there]
        input = "{one}%l0"
        outputs = ["{other}%l1"]
        [rules.back]
        input = "{other}%l0"
        outputs = ["{one}%l1"]
    """
    with mirrored(config) as relay:
        send(relay.lab.host, f"{one}%eth0", "--count", COUNT)
        stats = relay.at_rest()
        assert relay.rule("there")["rx_packets"] == COUNT
        assert relay.rule("back")["drops"]["echo"] == COUNT
        assert_adds_up(stats)


@each_family
def test_rules_that_mirror_each_other_are_allowed_to_once_both_say_reflect():
    group = way().input("239.1.1.1:5000")
    rule = f'[rules.{{}}]\ninput = "{group}%{{}}"\noutputs = ["{group}%{{}}"]\nreflect = true\n'
    config = rule.format("a", "l0", "l1") + rule.format("b", "l1", "l0")
    with mirrored(config) as relay:
        send(relay.lab.host, f"{group}%eth0", "--count", COUNT)
        stats = relay.at_rest()
        for name in ("a", "b"):
            assert relay.rule(name)["outputs"][0]["tx_packets"] == COUNT
            assert relay.rule(name)["drops"]["echo"] == COUNT
        assert_adds_up(stats)


THERE_AND_BACK = """
    [rules.there]
    input = "{}%l0"
    outputs = ["{}%l1"]
    [rules.back]
    input = "{}%l0"
    outputs = ["{}%l1"]
"""
KEEPS = {
    "both ends": 'source_address = "keep"\nsource_port = "keep"\n',
    "the address": 'source_address = "keep"\n',
    "the port": 'source_port = "keep"\n',
}


@each_family
@pytest.mark.parametrize("keys", KEEPS.values(), ids=KEEPS)
def test_what_leaves_from_its_senders_address_is_known_when_it_comes_back(keys):
    """It may have the very four ends of what was taken: the originals go on, both ways, and nothing storms."""
    group = way().input("239.1.1.1:5000")
    rule = f'[rules.{{}}]\ninput = "{group}%{{}}"\noutputs = ["{group}%{{}}"]\nreflect = true\n{keys}'
    with mirrored(rule.format("a", "l0", "l1") + rule.format("b", "l1", "l0")) as relay:
        for count in (COUNT, 2 * COUNT):
            send(relay.lab.host, f"{group}%eth0", "--count", COUNT, "--rate", 5_000, "--source-port", 5000)
            stats = relay.at_rest()
            for name in ("a", "b"):
                assert relay.rule(name)["outputs"][0]["tx_packets"] == count
                assert relay.rule(name)["drops"]["echo"] == count
            assert_adds_up(stats)


@each_family
@pytest.mark.parametrize("keys", KEEPS.values(), ids=KEEPS)
def test_another_program_of_this_host_is_no_echo_though_its_frames_have_the_same_mac(keys):
    one, two, three = (way().input(f"239.{n}.{n}.{n}:5000") for n in (1, 2, 3))
    with mirrored(f"[defaults]\n{keys}{THERE_AND_BACK.format(one, two, two, three)}") as relay:
        send(relay.lab.host, f"{one}%eth0", "--count", COUNT, "--rate", 5_000)
        relay.at_rest()
        assert relay.rule("back")["drops"]["echo"] == COUNT
        send(relay.lab.relay, f"{two}%l1", "--count", COUNT, "--rate", 5_000)
        assert_adds_up(relay.at_rest())
        assert relay.rule("back")["outputs"][0]["tx_packets"] == COUNT
        assert relay.rule("back")["drops"]["echo"] == COUNT


@every_way
def test_a_stream_that_explodes_is_held_to_its_limit_and_recovers():
    config = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\nlimit = "2kpps"\n'
    with relaying(config) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 20_000, "--count", 40_000)
        stats = relay.at_rest()
        got = heard(sink, relay.lab.sink)
        assert 4_000 <= got["received"] <= 4_000 * 1.1 + 200  # two seconds, and what the bucket holds
        assert got["duplicated"] == got["reordered"] == got["corrupted"] == 0
        assert relay.rule()["drops"]["policer"] == 40_000 - got["received"]
        assert_adds_up(stats)
        assert "began rule=x dropping=policer" in relay.log.read_text()
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 2_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 1_000, "--count", 2_000)
        assert_exact(report(sink), 2_000)
        relay.wait_for(lambda: "ended rule=x dropping=policer dropped=" in relay.log.read_text(), "end of the drops")


@every_way
def test_a_limit_in_bits_counts_payload_also_of_superframes():
    config = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\nlimit = "80Mbit"\n'
    with relaying(config) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 40_000, "--count", 80_000, "--size", 1000, "--gso", 40)
        stats = relay.at_rest()
        got = heard(sink, relay.lab.sink)
        assert 18_000 <= got["received"] <= 24_000  # 10 000 a second, for two seconds, and the bucket's 1000
        assert_adds_up(stats)


@contextmanager
def two_relays(rules: str, other: str):
    """Two hosts that both join segments 0 and 1, each with a relay; a host on each segment."""
    with Lab() as lab, tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        names = ("segment0", "segment1", "relay", "second", "host", "far")
        segment0, segment1, relay, second, host, far = lab.add(*names, ipv6=way().has_ipv6)
        lab.veth(
            (segment0, "p0", relay, "l0"), (segment0, "p1", second, "l0"), (segment0, "p2", host, "eth0"),
            (segment1, "p0", relay, "l1"), (segment1, "p1", second, "l1"), (segment1, "p2", far, "eth0"),
        )  # fmt: skip
        length = {4: 24, 6: 64}
        for number, each in enumerate((relay, second, host), 1):
            address = f"{way().source(f'192.0.2.{number}')}/{length[way().taken]}"
            each.ip(f"addr add {address} dev {'eth0' if each is host else 'l0'}")
        for number, each in enumerate((relay, second, far), 1):
            address = f"{way().sink(f'198.51.100.{number}')}/{length[way().sent]}"
            each.ip(f"addr add {address} dev {'eth0' if each is far else 'l1'}")
        for each in (relay, second):
            each.ip("link set l0 up", "link set l1 up")
        for each in (host, far):
            each.ip("link set eth0 up")
        for each in (segment0, segment1):
            bridge(each, "br0", ["p0", "p1", "p2"], querier=False)
            while not forwarding(each):
                time.sleep(0.02)
        first = RelayUnderTest(SimpleNamespace(relay=relay, host=host, far=far), rules, Path(one))
        first.start()
        peer = RelayUnderTest(SimpleNamespace(relay=second), other, Path(two))
        peer.start()
        try:
            yield first, peer
        finally:
            first.stop()
            peer.stop()


BOTH_WAYS = """
    [rules.there]
    input = "{near}%l0"
    outputs = ["{same}%l1"]
    reflect = true
    [rules.back]
    input = "{same}%l1"
    outputs = ["{near}%l0"]
    reflect = true
"""
THERE = '[rules.there]\ninput = "{near}%l0"\noutputs = ["{far}%l1"]\n'
BACK = '[rules.back]\ninput = "{far}%l1"\noutputs = ["{near}%l0"]\n'
KEPT = f"[defaults]\n{KEEPS['both ends']}"
same_rules_or_a_ring = pytest.mark.parametrize(
    ("rules", "other"), [(BOTH_WAYS, BOTH_WAYS), (THERE, BACK)], ids=["same rules", "a ring of two"]
)


def written(rules: str) -> str:
    """With the streams of segment 0, which are of the family that is taken, and of segment 1, of the other."""
    return rules.format(near=near(), same=way().output("239.1.1.1:5000"), far=way().output("239.2.2.2:5000"))


def near() -> str:
    """The stream that a host of segment 0 sends."""
    return way().input("239.1.1.1:5000")


@every_way
@same_rules_or_a_ring
@pytest.mark.parametrize("count", [1, 300])
def test_what_a_second_relay_sends_back_ends_and_is_said(rules, other, count):
    comes_to_rest(written(rules), written(other), count)


@each_family
@same_rules_or_a_ring
@pytest.mark.parametrize("count", [1, 300])
def test_what_a_second_relay_sends_back_ends_where_sources_are_kept_too(rules, other, count):
    comes_to_rest(KEPT + written(rules), KEPT + written(other), count)


def comes_to_rest(rules: str, other: str, count: int) -> None:
    with two_relays(rules, other) as (relay, peer):
        send(relay.lab.host, f"{near()}%eth0", "--count", count)
        both = (relay, peer)  # whichever notices first ends it
        relay.wait_for(lambda: any(rule["drops"]["echo"] for each in both for rule in rules_of(each)), "an echo")
        for each in both:
            assert_adds_up(each.at_rest())  # it does come to rest
            assert all(rule["rx_packets"] < 3_000 * count for rule in rules_of(each))  # the rounds of SILENT_NS
        relay.wait_for(lambda: any("dropping=echo" in each.log.read_text() for each in both), "log line")


def rules_of(relay):
    return relay.show("stats")["rules"]


@every_way
@pytest.mark.parametrize("sender", ["one that repeats itself", "two that send the same"])
def test_senders_that_repeat_their_bytes_are_no_loop(sender):
    """A keepalive is the same bytes each second, and a standby sender sends what the first one sends."""
    config = '[rules.x]\ninput = "226.2.2.2:2068%in0"\noutputs = ["239.10.0.1:5004%out0"]\n'
    with relaying(config, querier=False) as relay:
        hosts = (55, 56)[: 1 if sender.startswith("one") else 2]
        another_address(relay.lab.source)
        sockets = [multicast_sender(relay.lab.source, f"192.168.168.{host}") for host in hosts]
        try:
            for _ in range(500):
                for sock in sockets:
                    sock.sendto(b"the same bytes, each time", (way().source(GROUP), 2068))
                time.sleep(0.002)
            stats = relay.at_rest()
            assert_adds_up(stats)
            assert relay.rule()["outputs"][0]["tx_packets"] + relay.rule()["drops"]["echo"] == 500 * len(sockets)
            assert relay.rule()["drops"]["echo"] <= len(sockets) - 1
        finally:
            for sock in sockets:
                sock.close()


def another_address(namespace) -> None:
    """Give a source one more, at once: by default another host might have it."""
    address, length = way().source("192.168.168.56"), 24 if way().taken == 4 else 64
    namespace.ip(f"addr add {address}/{length} dev eth0{'' if way().taken == 4 else ' nodad'}")


def multicast_sender(namespace, address: str, link: str = "eth0") -> socket.socket:
    """A socket of the side that is taken from, which sends from that address by that link."""
    if way().taken == 4:
        made = namespace.socket()
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    else:
        made = namespace.socket(socket.AF_INET6)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, namespace.ifindex(link))
    made.bind((way().source(address), 0))
    return made


@every_way
def test_two_senders_whose_payloads_begin_alike_lose_nothing():
    """As in sACN: a constant preamble, another source, another value behind it; then both pause."""
    config = '[rules.x]\ninput = "226.2.2.2:2068%in0"\noutputs = ["239.10.0.1:5004%out0"]\n'
    with relaying(config, querier=False) as relay:
        another_address(relay.lab.source)
        senders = [multicast_sender(relay.lab.source, f"192.168.168.{host}") for host in (55, 56)]
        try:
            for n in range(100):
                for i, each in enumerate(senders):
                    each.sendto(bytes(40) + bytes([i]) + n.to_bytes(4, "big") + bytes(600), (way().source(GROUP), 2068))
                time.sleep(0.6 if n == 40 else 0.005)
            assert_adds_up(relay.at_rest())
            assert relay.rule()["drops"]["echo"] == 0
            assert relay.rule()["outputs"][0]["tx_packets"] == 200
        finally:
            for each in senders:
                each.close()


@every_way
def test_after_a_loop_was_ended_the_other_host_is_still_heard():
    group = "239.9.9.9:9000"
    own = f'[rules.alive]\ninput = "{way().input(group)}%l0"\noutputs = ["{way().output(group)}%l1"]\n'
    with two_relays(written(BOTH_WAYS) + own, written(BOTH_WAYS)) as (relay, peer):
        send(relay.lab.host, f"{near()}%eth0", "--count", 1)
        relay.wait_for(
            lambda: any(rule["drops"]["echo"] for each in (relay, peer) for rule in rules_of(each)), "an end"
        )
        relay.at_rest()
        keepalive = multicast_sender(peer.lab.relay, "192.0.2.2", "l0")
        try:
            for _ in range(100):
                keepalive.sendto(b"I am alive, I am alive", (way().source("239.9.9.9"), 9000))
                time.sleep(0.01)
            relay.at_rest()
            assert relay.rule("alive")["outputs"][0]["tx_packets"] == 100
        finally:
            keepalive.close()
