"""What is taken for our own datagram coming back, and what only looks like it: counted at the sink."""

from __future__ import annotations

import pytest
from support.relay import INPUT, assert_adds_up, both_engines, relaying
from support.traffic import assert_exact, heard, receiver, send

pytestmark = [pytest.mark.net, both_engines]

COUNT = 50
OUT_ADDRESS = "198.51.100.1"


def out_mac(relay) -> str:
    return relay.lab.relay.run("cat", "/sys/class/net/out0/address").stdout.strip()


def own_address(lab, _mac) -> None:
    lab.source.ip(f"addr add {OUT_ADDRESS}/32 dev eth0")


def cloned_mac(lab, mac) -> None:
    lab.source.ip("link set eth0 down", f"link set eth0 address {mac}", "link set eth0 up")


@pytest.mark.parametrize("alike", [own_address, cloned_mac])
@pytest.mark.parametrize("when", ["from the start", "after another rule is added"])
def test_a_sender_that_shares_an_address_or_a_mac_with_an_output_is_relayed(alike, when):
    config = '[rules.x]\ninput = "226.2.2.2:2068%in0"\noutputs = ["{}"]\n'
    later = '[rules.y]\ninput = "239.5.5.5:5000%in0"\noutputs = ["239.6.6.6:5000%out0"]\n'
    first = "239.10.0.1:5004%out0"
    with relaying(config.format(first), querier=False) as relay:
        alike(relay.lab, out_mac(relay))
        relay.lab.source.wait_until_up()
        if when != "from the start":
            relay.reload(config.format(first) + later)
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        source = f"{OUT_ADDRESS}@" if alike is own_address else ""
        relay.lab.source.ip("route replace 224.0.0.0/4 dev eth0")
        send(relay.lab.source, f"{source}226.2.2.2:2068%eth0", "--count", COUNT, "--rate", 1000)
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), COUNT)
        assert relay.rule()["drops"]["echo"] == 0
        assert_adds_up(stats)
        assert "dropping=echo" not in relay.log.read_text()


@pytest.mark.parametrize("first", ["lo", "out0"])
def test_a_publisher_on_this_host_is_relayed_from_lo_whichever_address_it_sends_with(first):
    config = '[rules.x]\ninput = "239.7.7.7:5000%lo"\noutputs = ["239.10.0.1:5004%out0"]\n'
    config += f'[rules.y]\ninput = "{INPUT}"\noutputs = ["239.8.8.8:1%out0"]\n'
    with relaying(config) as relay:
        relay.lab.relay.ip("link set lo multicast on", "route add 239.0.0.0/8 dev lo")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        source = "127.0.0.1" if first == "lo" else OUT_ADDRESS
        send(relay.lab.relay, f"{source}@239.7.7.7:5000%lo", "--count", COUNT, "--rate", 1000)
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), COUNT)
        assert_adds_up(stats)
