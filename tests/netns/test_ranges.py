"""Rules of many streams by the real command: ranges of groups and of ports, under load and at their limits."""

from __future__ import annotations

import contextlib
import json

import pytest
from support.relay import RelayUnderTest, assert_adds_up, relaying, ring_ways
from support.traffic import (
    assert_exact,
    end,
    heard,
    memberships,
    receiver,
    report,
    send,
    sender,
    udp_socket,
    wait_for,
)  # fmt: skip
from support.ways import way

from mcrelay.commands.lab import standard_lab

pytestmark = pytest.mark.net

WIDE = '[rules.x]\ninput = "226.2.0.0/20:2068%in0"\noutputs = ["239.10.0.0/20:5004%out0"]\n'


@ring_ways
def test_many_groups_at_once_are_relayed_exactly_and_counted_by_group():
    streams, each = 64, 50
    with relaying(WIDE.replace("/20", "/24")) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--streams", streams, "--count", each)
        send(relay.lab.source, "226.2.0.1:2068%eth0", "--streams", streams, "--count", each, "--rate", 100)
        assert_exact(report(sink), streams * each)
        stats = relay.at_rest()
        assert_adds_up(stats)
        groups = {row["group"]: row for row in relay.rule()["groups"]}
        assert list(groups) == [way().source(f"226.2.0.{1 + i}") for i in range(streams)]
        for i in range(streams):
            row = groups[way().source(f"226.2.0.{1 + i}")]
            assert row["rx_packets"] == each
            assert [(to["to"], to["tx_packets"]) for to in row["outputs"]] == [(way().sink(f"239.10.0.{1 + i}"), each)]


@ring_ways
@pytest.mark.parametrize("workers", [1, 2])
def test_superframes_of_several_groups_and_ports_keep_their_order(workers):
    config = (
        f'[relay]\nworkers = {workers}\n[rules.x]\ninput = "226.2.0.0/24:any%in0"\noutputs = ["239.10.0.0/24%out0"]\n'
    )
    with relaying(config) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:2068%eth0", "--streams", 8, "--count", 800)
        other = receiver(relay.lab.sink, "239.10.0.1:2070%eth0", "--streams", 8, "--count", 800)
        beside = sender(
            relay.lab.source, "226.2.0.1:2070%eth0", "--streams", 8, "--count", 800, "--rate", 800, "--gso", 8
        )
        send(relay.lab.source, "226.2.0.1:2068%eth0", "--streams", 8, "--count", 800, "--rate", 800, "--gso", 8)
        report(beside)
        assert_exact(report(sink), 8 * 800)
        assert_exact(report(other), 8 * 800)
        assert_adds_up(relay.at_rest())


@ring_ways
def test_four_thousand_groups_are_joined_one_by_one_on_sockets_that_take_twenty_each(tmp_path):
    with standard_lab(ipv6=way().has_ipv6) as lab:
        lab.settle()
        lab.relay.sysctl({"ipv4.igmp_max_memberships": 20})
        relay = RelayUnderTest(lab, WIDE, tmp_path)
        relay.start()
        joined = memberships(lab.relay)
        assert sum(1 for group in joined if group.startswith(("226.2.", "ff15::e202:"))) == 4096
        groups = relay.show("groups")
        assert len(groups) == 4096
        assert {each["state"] for each in groups} == {"joined"}
        assert relay.state() == "active"
        assert relay.link()["filter"] == "exact"
        relay.stop()
        wait_for(lambda: not memberships(lab.relay)[way().source("226.2.0.1")], "the groups to be left")


@ring_ways
def test_what_no_port_of_a_host_takes_is_counted_on_the_output():
    """An error that the network sends names a port; it belongs to the output whatever that port is."""
    rule = '[rules.x]\ninput = "226.2.2.2:any%in0"\noutputs = ["198.51.100.2"]\n'
    with relaying(rule) as relay, contextlib.ExitStack() as stack:
        host, group = way().sink("198.51.100.2"), way().source("226.2.2.2")
        listening = stack.enter_context(udp_socket(relay.lab.sink, host))
        listening.bind((host, 7001))
        sending = stack.enter_context(udp_socket(relay.lab.source, group))
        for count in range(1, 4):
            sending.sendto(b"lost", end(relay.lab.source, group, 7000 + 2 * count))
            relay.wait_for(lambda count=count: relay.rule()["rx_packets"] == count, f"{count} datagrams")
        sending.sendto(b"found", end(relay.lab.source, group, 7001))
        relay.wait_for(lambda: relay.rule()["rx_packets"] == 4, "the last datagram")
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert listening.recv(100) == b"found"
        assert relay.rule()["outputs"][0]["tx_errors"]["unreachable"] >= 2


@ring_ways
def test_a_change_of_another_rule_disturbs_no_group_of_a_range():
    with relaying(WIDE.replace("/20", "/24")) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--streams", 16)
        running = sender(relay.lab.source, "226.2.0.1:2068%eth0", "--streams", 16, "--count", 1500, "--rate", 500)
        more = '[rules.y]\ninput = "226.2.0.200:any%in0"\noutputs = ["239.11.0.1%out0"]\n'
        relay.wait_for(lambda: relay.rule()["rx_packets"] > 1000, "the streams to run")
        relay.reload(WIDE.replace("/20", "/24") + more)
        relay.reload(WIDE.replace("/20", "/24"))
        sent = report(running)
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), 16 * 1500)
        assert sent
        assert_adds_up(stats)
        assert len(relay.rule()["groups"]) == 16


@ring_ways
def test_a_packet_of_a_range_is_explained_by_the_rule_that_takes_it():
    more = '[rules.y]\ninput = "226.2.0.9:2068%in0"\noutputs = ["239.11.0.1%out0"]\n'
    with relaying(WIDE.replace("/20", "/24") + more) as relay:

        def explained(stream: str):
            asked = [*relay.program, "explain", way().input(stream), "--socket", relay.socket, "-j"]
            return json.loads(relay.lab.relay.run(*asked, check=False).stdout)

        found = explained("226.2.0.8:2068%in0")
        assert found["rule"] == "x"
        assert [each["destination"] for each in found["outputs"]] == [way().output("239.10.0.8:5004")]
        assert explained("226.2.0.9:2068%in0")["rule"] == "y"
        missed = explained("226.2.0.8:99%in0")
        assert missed["verdict"] == "no_match"
        assert missed["near_misses"][0] == {
            "rule": "x",
            "input": way().input("226.2.0.0/24:2068%in0"),
            "differs": ["takes port 2068"],
        }


@pytest.mark.usefixtures("kernel_engine")
def test_the_ring_has_a_range_that_asks_for_the_kernel_engine_and_says_why():
    """A rule for one of its groups goes by the program all the same, and takes what is its own."""
    config = (
        '[defaults]\nengine = "kernel"\n'
        + WIDE.replace("/20", "/24")
        + '[rules.y]\ninput = "226.2.0.9:2068%in0"\noutputs = ["239.11.0.1:5004%out0"]\n'
    )
    with relaying(config) as relay:
        engines = {each["name"]: (each["engine"], each["engine_reason"]) for each in relay.show("rules")}
        assert engines == {
            "x": ("ring", "a range of groups and several ports are the ring's to map"),
            "y": ("kernel", None),
        }
        sink = receiver(relay.lab.sink, "239.10.0.8:5004%eth0", "--count", 50)
        other = receiver(relay.lab.sink, "239.11.0.1:5004%eth0", "--count", 50)
        send(relay.lab.source, "226.2.0.8:2068%eth0", "--count", 50, "--rate", 500)
        send(relay.lab.source, "226.2.0.9:2068%eth0", "--count", 50, "--rate", 500)
        assert_exact(report(sink), 50)
        assert_exact(report(other), 50)
        assert_adds_up(relay.at_rest())
        assert relay.link()["kernel_frames"] == 50


@ring_ways
def test_test_traffic_may_name_several_ports_and_a_range():
    rule = '[rules.x]\ninput = "226.2.0.0/30:2068,2070%in0"\noutputs = ["239.10.0.0/30:5004-5005%out0"]\n'
    with relaying(rule) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.0/30:5004,5005%eth0", "--count", 20)
        send(relay.lab.source, "226.2.0.0/30:2068,2070%eth0", "--count", 20, "--rate", 200)
        assert_exact(report(sink), 160)
        assert_adds_up(relay.at_rest())


@ring_ways
def test_an_exclusive_range_hides_its_datagrams_from_the_host_and_nothing_else():
    """Of a group that another rule takes, the host goes on hearing."""
    config = (
        WIDE.replace("/20", "/28").replace(":2068", ":2068,2070").replace(":5004", "")
        + "exclusive = true\n"
        + '[rules.y]\ninput = "226.2.0.9:2068%in0"\noutputs = ["239.11.0.1:5004%out0"]\n'
    )
    with relaying(config) as relay:
        (standing,) = [each["exclusive"] for each in relay.show("rules") if each["name"] == "x"]
        assert standing == {"state": "on", "reason": None}
        named = lambda group, port: f"{way().source(group)} . {port}"  # noqa: E731
        table = relay.lab.relay.run("nft", "list", "ruleset").stdout
        assert named("226.2.0.8", 2070) in table
        assert named("226.2.0.9", 2070) in table
        assert named("226.2.0.9", 2068) not in table
