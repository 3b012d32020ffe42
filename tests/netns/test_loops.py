"""Loops built on purpose, and streams that explode: nothing storms, and what is dropped is counted."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import GROUP, INPUT, RelayUnderTest, assert_adds_up, assert_exact, heard, receiver, relaying, report, send

from mcrelay.netns import Lab, bridge, forwarding

pytestmark = pytest.mark.net

COUNT = 500


@contextmanager
def mirrored(config: str):
    """A relay whose two links, l0 and l1, hang on one switch that floods: all it sends by one arrives by the other."""
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        switch, relay, host = lab.add("switch", "relay", "host")
        lab.veth((switch, "p0", relay, "l0"), (switch, "p1", relay, "l1"), (switch, "p2", host, "eth0"))
        relay.ip("addr add 192.0.2.1/24 dev l0", "addr add 198.51.100.1/24 dev l1", "link set l0 up", "link set l1 up")
        host.ip("addr add 192.0.2.9/24 dev eth0", "link set eth0 up")
        bridge(switch, "br0", ["p0", "p1", "p2"], querier=False)
        while not forwarding(switch):
            time.sleep(0.02)
        under_test = RelayUnderTest(SimpleNamespace(relay=relay, host=host), config, Path(folder))
        under_test.start()
        yield under_test
        under_test.stop()


def test_a_group_relayed_back_onto_its_own_switch_does_not_storm():
    config = '[rules.x]\ninput = "239.1.1.1:5000%l0"\noutputs = ["239.1.1.1:5000%l1"]\n'
    with mirrored(config) as relay:
        sink = receiver(relay.lab.host, "239.1.1.1:5000%eth0")
        send(relay.lab.host, "239.1.1.1:5000%eth0", "--count", COUNT)
        stats = relay.at_rest()
        assert heard(sink, relay.lab.host)["received"] == 2 * COUNT  # what the host itself sent, and the relay's copy
        assert relay.rule()["drops"]["echo"] == COUNT
        assert relay.rule()["outputs"][0]["tx_packets"] == COUNT
        assert_adds_up(stats)
        relay.wait_for(lambda: "rule=x dropping=echo" in relay.log.read_text(), "log line")


def test_two_rules_that_feed_each_other_through_the_switch_do_not_storm():
    config = """
        [rules.there]
        input = "239.1.1.1:5000%l0"
        outputs = ["239.2.2.2:5000%l1"]
        [rules.back]
        input = "239.2.2.2:5000%l0"
        outputs = ["239.1.1.1:5000%l1"]
    """
    with mirrored(config) as relay:
        send(relay.lab.host, "239.1.1.1:5000%eth0", "--count", COUNT)
        stats = relay.at_rest()
        assert relay.rule("there")["rx_packets"] == COUNT
        assert relay.rule("back")["drops"]["echo"] == COUNT
        assert_adds_up(stats)


def test_rules_that_mirror_each_other_are_allowed_to_once_both_say_reflect():
    rule = '[rules.{}]\ninput = "239.1.1.1:5000%{}"\noutputs = ["239.1.1.1:5000%{}"]\nreflect = true\n'
    config = rule.format("a", "l0", "l1") + rule.format("b", "l1", "l0")
    with mirrored(config) as relay:
        send(relay.lab.host, "239.1.1.1:5000%eth0", "--count", COUNT)
        stats = relay.at_rest()
        for name in ("a", "b"):
            assert relay.rule(name)["outputs"][0]["tx_packets"] == COUNT
            assert relay.rule(name)["drops"]["echo"] == COUNT
        assert_adds_up(stats)


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
        assert "rule=x dropping=policer" in relay.log.read_text()
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 2_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 1_000, "--count", 2_000)
        assert_exact(report(sink), 2_000)
        relay.wait_for(lambda: "dropping=policer ended" in relay.log.read_text(), "end of the drops")


def test_a_limit_in_bits_counts_payload_also_of_superframes():
    config = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\nlimit = "80Mbit"\n'
    with relaying(config) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 40_000, "--count", 80_000, "--size", 1000, "--gso", 40)
        stats = relay.at_rest()
        got = heard(sink, relay.lab.sink)
        assert 18_000 <= got["received"] <= 24_000  # 10 000 a second, for two seconds, and the bucket's 1000
        assert_adds_up(stats)
