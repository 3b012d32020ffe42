"""Datagrams leave with an address that their link has now, and that is the one shown, whatever is renumbered."""

from __future__ import annotations

import pytest
from support.relay import GROUP, INPUT, assert_adds_up, both_engines, relaying
from support.traffic import assert_exact, receiver, report, send

pytestmark = [pytest.mark.net, both_engines]

SOON = 1.0
OUT0 = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'
LOCAL = f'[rules.x]\ninput = "{INPUT}"\noutputs = [{{ to = "224.0.0.200:5004%out0", ttl = 1 }}]\n'
BOUND = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["10.30.1.7:5004%out0"]\n'
ROUTED = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["10.30.1.7:5004"]\n'


def shown(relay) -> str:
    (rule,) = relay.show("rules")
    return rule["outputs"][0]["source_address"]


def arrives(relay, source: str, stream: str = "239.10.0.1:5004%eth0") -> None:
    """The source that is shown within a second, and that of every one of 50 datagrams."""
    relay.wait_for(lambda: shown(relay) == source, f"source {source}", SOON)
    sink = receiver(relay.lab.sink, stream, "--count", 50, "--duration", 10)
    send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 50)
    got = report(sink)
    assert_exact(got, 50)
    assert {each.partition(":")[0] for each in got["sources"]} == {source}


def test_a_group_leaves_with_the_address_of_the_widest_scope_and_follows_it():
    with relaying(OUT0) as relay:
        host = relay.lab.relay
        host.ip("addr add 169.254.7.7/16 dev out0 scope link")
        arrives(relay, "198.51.100.1")
        host.ip("addr del 198.51.100.1/24 dev out0", "addr add 198.51.100.9/24 dev out0")
        arrives(relay, "198.51.100.9")
        host.ip("addr del 198.51.100.9/24 dev out0")  # the kernel would now take that of in0
        arrives(relay, "169.254.7.7")
        host.ip("addr add 198.51.100.4/24 dev out0")
        arrives(relay, "198.51.100.4")
        host.ip("addr add 10.40.0.1/16 dev out0 scope site", "addr del 198.51.100.4/24 dev out0")
        arrives(relay, "169.254.7.7")
        assert_adds_up(relay.at_rest())


def test_a_group_that_stays_on_the_link_leaves_with_the_address_for_the_link():
    with relaying(LOCAL) as relay:
        arrives(relay, "198.51.100.1", "224.0.0.200:5004%eth0")
        relay.lab.relay.ip("addr add 169.254.7.7/16 dev out0 scope link")
        arrives(relay, "169.254.7.7", "224.0.0.200:5004%eth0")


def test_test_traffic_leaves_with_the_same_address_as_the_relays():
    with relaying(OUT0) as relay:
        host = relay.lab.relay
        for change, source in (
            (["addr add 169.254.7.7/16 dev out0 scope link"], "198.51.100.1"),
            (["addr del 198.51.100.1/24 dev out0"], "169.254.7.7"),
        ):
            host.ip(*change)
            sink = receiver(relay.lab.sink, "239.10.0.3:5004%eth0", "--count", 10, "--duration", 10)
            send(host, "239.10.0.3:5004%out0", "--count", 10)
            assert {each.partition(":")[0] for each in report(sink)["sources"]} == {source}


@pytest.mark.parametrize("config", [BOUND, ROUTED], ids=["by its link", "routed"])
def test_a_host_in_the_second_subnet_of_a_link_is_reached_from_there_also_when_that_is_renumbered(config):
    with relaying(config) as relay:
        host = relay.lab.relay
        relay.lab.sink.ip("addr add 10.30.1.7/24 dev eth0")
        host.ip("addr add 10.30.1.1/24 dev out0")
        arrives(relay, "10.30.1.1", "10.30.1.7:5004%eth0")
        host.ip("addr del 10.30.1.1/24 dev out0", "addr add 10.30.1.2/24 dev out0")
        arrives(relay, "10.30.1.2", "10.30.1.7:5004%eth0")
        host.ip("addr add 198.51.100.8/32 dev out0", "route change 10.30.1.0/24 dev out0 src 198.51.100.8")
        relay.lab.sink.ip("route add 198.51.100.8/32 dev eth0")
        arrives(relay, "198.51.100.8", "10.30.1.7:5004%eth0")
        assert_adds_up(relay.at_rest())
