"""What a rule's keys do to what leaves: header fields are read at the sink."""

from __future__ import annotations

import pytest
from support.relay import GROUP, INPUT, assert_adds_up, relaying, ring_ways
from support.traffic import assert_exact, receiver, report, send
from support.ways import way

pytestmark = [pytest.mark.net, ring_ways]

COUNT = 1_000


def one_output(keys: str, *, stream: str = "239.10.0.1:5004%out0", rule: str = "") -> str:
    return f'[rules.x]\ninput = "{INPUT}"\noutputs = [{{ to = "{stream}"{keys} }}]\n{rule}'


def pass_through(config: str, *options: object, **lab_options):
    """What the sink saw of COUNT datagrams, and the statistics at rest."""
    with relaying(config, **lab_options) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", COUNT)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", COUNT, *options)
        got = report(sink)
        stats = relay.at_rest()
        assert_exact(got, COUNT)
        assert_adds_up(stats)
        return got, stats


def test_dscp_is_kept_and_ecn_is_not():
    got, _ = pass_through(one_output(""), "--dscp", 46)
    assert got["tos"] == {str(46 << 2): COUNT}


def test_a_set_dscp_replaces_the_input_s():
    got, _ = pass_through(one_output(", dscp = 10"), "--dscp", 46)
    assert got["tos"] == {str(10 << 2): COUNT}


def test_source_port_and_address_are_what_was_asked_for():
    address = way().sink("198.51.100.9")
    config = one_output(f', source_port = 4321, source_address = "{address}"')
    with relaying(config) as relay:
        assert relay.state() == "parked"
        relay.lab.relay.ip(f"addr add {address}/{64 if way().sent == 6 else 24} dev out0")
        relay.wait_for(lambda: relay.state() == "active", "active rule")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", COUNT)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", COUNT)
        got = report(sink)
        assert_exact(got, COUNT)
        assert got["sources"] == {way().output("198.51.100.9:4321"): COUNT}


def test_the_automatic_source_port_survives_a_restart():
    ports = set()
    for _ in range(2):
        got, _ = pass_through(one_output(""))
        ports |= got["sources"].keys()
    assert len(ports) == 1


def test_ttl_is_sixteen_unless_set():
    got, _ = pass_through(one_output(""))
    assert got["ttl"] == {"16": COUNT}
    got, _ = pass_through(one_output(", ttl = 3"))
    assert got["ttl"] == {"3": COUNT}


@pytest.mark.parametrize("options", [(), ("--gso", 8), ("--size", "100,4000")], ids=["singles", "runs", "fragments"])
@pytest.mark.parametrize(("key", "arrives"), [("keep", "9"), ("decrement", "8")])
def test_a_ttl_is_kept_or_one_less(key, arrives, options):
    got, stats = pass_through(one_output(f', ttl = "{key}"'), "--ttl", 9, *options)
    assert got["ttl"] == {arrives: COUNT}
    assert stats["rules"][0]["outputs"][0]["tx_packets"] == COUNT


def test_what_has_no_ttl_left_is_counted_and_other_outputs_of_the_rule_send_it():
    outputs = """[
        { to = "239.10.0.1:5004%out0", ttl = "keep" }, { to = "239.10.0.2:5004%out0", ttl = "decrement" },
        { to = "198.51.100.2:5004", ttl = "decrement" },
    ]"""
    with relaying(f'[rules.x]\ninput = "{INPUT}"\noutputs = {outputs}') as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", COUNT)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", COUNT, "--ttl", 1)
        got = report(sink)
        assert_exact(got, COUNT)
        assert got["ttl"] == {"1": COUNT}
        stats = relay.at_rest()
        assert_adds_up(stats)
        kept, *ended = stats["rules"][0]["outputs"]
        assert (kept["tx_packets"], kept["tx_errors"]["ttl"]) == (COUNT, 0)
        assert [(each["tx_packets"], each["tx_errors"]["ttl"]) for each in ended] == [(0, COUNT)] * 2
        assert [each["ttl"] for each in relay.show("rules")[0]["outputs"]] == ["keep", "decrement", "decrement"]


@pytest.mark.parametrize("burst", [1, 2, 64])
def test_every_burst_length_is_exact_also_when_the_device_does_not_segment(burst):
    pass_through(one_output(f", burst = {burst}"), segmentation=False)


def test_datagrams_larger_than_the_output_s_mtu_arrive_whole():
    with relaying(one_output(""), mtu=9000) as relay:
        relay.lab.relay.ip("link set out0 mtu 1500")
        relay.lab.sink.ip("link set eth0 mtu 1500")
        relay.wait_for(lambda: next(e for e in relay.show("links") if e["ifname"] == "out0")["mtu"] == 1500, "new MTU")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", COUNT)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 2_000, "--count", COUNT, "--size", "4000,1400,8000")
        assert_exact(report(sink), COUNT)
        assert_adds_up(relay.at_rest())


def test_a_firewall_that_refuses_the_output_is_counted_as_blocked():
    with relaying(one_output("")) as relay:
        chain = "add table inet t; add chain inet t o { type filter hook output priority 0; }"
        relay.lab.relay.run("nft", f"{chain}; add rule inet t o udp dport 5004 drop")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", COUNT)
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert stats["rules"][0]["outputs"][0]["tx_errors"]["blocked"] == COUNT


def test_tools_on_the_relay_host_hear_the_output():
    with relaying(one_output("")) as relay:
        local = receiver(relay.lab.relay, way().output("239.10.0.1:5004%out0"), "--count", COUNT)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", COUNT)
        assert_exact(report(local), COUNT)
