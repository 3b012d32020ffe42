"""The guarantee: byte for byte, at most once, in order, and every datagram accounted for. Counted at the sink."""

from __future__ import annotations

import json

import pytest
from support.relay import GROUP, INPUT, SOURCE, assert_adds_up, every_way, relaying
from support.traffic import assert_exact, receiver, report, send, sender
from support.ways import way

pytestmark = [pytest.mark.net, pytest.mark.alone, every_way]

OUT = "239.10.0.1:5004%out0"
RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUT}"]\n'


def test_an_unroutable_source_arrives_exactly_and_the_switch_sees_join_and_leave():
    config = f'[rules.x]\ninput = "{INPUT}"\noutputs = [{{ to = "{OUT}", ttl = 9 }}]\n'
    with relaying(config) as relay:
        joined = f"{way().source(SOURCE)}@{way().source(GROUP)}"
        relay.wait_for(lambda: joined in relay.lab.mdb().get("to-relay", ()), "join on the switch")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 100_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 20_000, "--count", 100_000)
        got = report(sink)
        assert_exact(got, 100_000)
        assert got["ttl"] == {"9": 100_000}
        (source,) = got["sources"]
        (shown,) = relay.show("rules")
        address = way().output("198.51.100.1")
        assert source == f"{address}:{shown['outputs'][0]['source_port']}"
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert stats["rules"][0]["rx_packets"] == stats["rules"][0]["outputs"][0]["tx_packets"] == 100_000
        assert relay.link()["frames"]["relayed"] == relay.link()["rx_frames"]
        assert relay.stop() < 1
        gone = lambda: joined not in relay.lab.mdb().get("to-relay", ())  # noqa: E731
        relay.wait_for(gone, "leave on the switch")


def test_no_more_is_ever_said_to_be_sent_than_came():
    with relaying(RULE) as relay:
        child = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 60_000, "--count", 200_000)
        looks = 0
        while child.poll() is None:
            rule = relay.rule()
            (output,) = rule["outputs"]
            passed = rule["rx_packets"] - sum(rule["drops"].values())
            assert output["since_packets"] + output["tx_packets"] + sum(output["tx_errors"].values()) <= passed
            looks += passed > 0
        assert looks > 20
        report(child)


@pytest.mark.parametrize("size", ["0", "1", "17", "64", "1472", "64,570,1400", "80-400"])
def test_every_payload_size_arrives_exactly(size):
    with relaying(RULE) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 20_000, "--idle", 1)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 20_000, "--count", 20_000, "--size", size)
        assert_exact(report(sink), 20_000)
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert stats["rules"][0]["outputs"][0]["tx_packets"] == 20_000


def test_a_dead_host_and_a_closed_port_take_nothing_from_fifty_other_outputs():
    outputs = [*(f"239.10.1.{i}:5004%out0" for i in range(1, 51)), "198.51.100.77:7000", "198.51.100.2:9"]
    # What a busy machine does to a worker that gets no CPU for a quarter of a second is not the question here.
    roomy = '[links.in0]\nring = "128MiB"\n'
    with relaying(f'{roomy}[rules.x]\ninput = "{INPUT}"\noutputs = {json.dumps(outputs)}\n') as relay:
        sink = receiver(relay.lab.sink, "239.10.1.1:5004%eth0", "--streams", 50, "--count", 10_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 2_000, "--count", 10_000)
        assert_exact(report(sink), 500_000)
        stats = relay.at_rest()
        assert_adds_up(stats)
        closed = next(each for each in stats["rules"][0]["outputs"] if each["to"] == way().output("198.51.100.2:9"))
        assert closed["tx_errors"]["unreachable"] > 0
        others = [each for each in stats["rules"][0]["outputs"] if each["to"].startswith(("239.", "[ff"))]
        assert all(sum(each["tx_errors"].values()) == 0 for each in others)


def test_a_port_that_opens_gets_everything_from_then_on():
    config = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["198.51.100.2:7000"]\n'
    with relaying(config) as relay:
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", 5_000)
        sink = receiver(relay.lab.sink, "198.51.100.2:7000", "--count", 5_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", 5_000)
        assert_exact(report(sink), 5_000)
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert stats["rules"][0]["outputs"][0]["tx_errors"]["unreachable"] > 0


def test_one_daemon_joins_five_hundred_groups_and_every_one_delivers():
    rules = "".join(
        f'[rules.r{i}]\ninput = "239.1.{i // 250}.{i % 250}:5000%in0"\n'
        f'outputs = ["239.20.{i // 250}.{i % 250}:5000%out0"]\n'
        for i in range(500)
    )
    with relaying(rules) as relay:
        joined = lambda: len(relay.lab.mdb().get("to-relay", ())) >= 500  # noqa: E731
        relay.wait_for(joined, "500 groups on the switch")
        groups = relay.show("groups")
        assert len(groups) == 500
        assert {each["state"] for each in groups} == {"joined"}
        for block in range(2):
            sink = receiver(relay.lab.sink, f"239.20.{block}.0:5000%eth0", "--streams", 250, "--count", 100)
            send(
                relay.lab.source, f"239.1.{block}.0:5000%eth0", "--streams", 250, "--rate", 20_000, "--count", 100,
                "--size", 200,
            )  # fmt: skip
            assert_exact(report(sink), 25_000)
        assert_adds_up(relay.at_rest())


def test_groups_that_share_a_mac_address_are_told_apart():
    config = """
        [rules.a]
        input = "239.1.1.1:5000%in0"
        outputs = ["239.10.0.1:5000%out0"]
        [rules.b]
        input = "224.129.1.1:5000%in0"
        outputs = ["239.10.0.2:5000%out0"]
    """
    with relaying(config) as relay:
        first = receiver(relay.lab.sink, "239.10.0.1:5000%eth0", "--count", 5_000)
        second = receiver(relay.lab.sink, "239.10.0.2:5000%eth0", "--count", 3_000)
        one = sender(relay.lab.source, "239.1.1.1:5000%eth0", "--rate", 5_000, "--count", 5_000)
        other = sender(relay.lab.source, "224.129.1.1:5000%eth0", "--rate", 3_000, "--count", 3_000)
        sent = {report(one)["sent"], report(other)["sent"]}
        assert sent == {5_000, 3_000}
        assert_exact(report(first), 5_000)
        assert_exact(report(second), 3_000)


@pytest.mark.parametrize("size", [17, 1200, 1472])
def test_superframes_are_split_into_the_datagrams_they_hold(size):
    size = min(size, way().largest)
    with relaying(RULE) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 40_000)
        send(
            relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 40_000, "--count", 40_000, "--size", size, "--gso", 40
        )  # fmt: skip
        got = report(sink)
        stats = relay.at_rest()
        assert_exact(got, 40_000)
        assert_adds_up(stats)
        assert stats["rules"][0]["rx_packets"] == 40_000
        assert relay.link()["rx_frames"] < 20_000, "no superframe reached the ring: this test shows nothing"
