"""Streams that are on the link and are not captured: counted, and said with what to do."""

from __future__ import annotations

import socket

import pytest
from support.frames import frame, tagged
from support.relay import GROUP, INPUT, SOURCE, assert_adds_up, relaying
from support.traffic import assert_exact, heard, receiver, send

pytestmark = pytest.mark.net

COUNT = 50
ANY = f'[rules.x]\ninput = "{GROUP}:2068%{{}}"\noutputs = ["239.10.0.1:5004%out0"]\n'


def macvlan(relay):
    """A child of the input link in a namespace of its own, as a container has one."""
    (box,) = relay.lab.lab.add("box")
    relay.lab.relay.ip(f"link add mv0 link in0 netns {box.name} type macvlan mode bridge")
    box.ip("addr add 192.0.2.77/24 dev mv0", "link set mv0 up")
    return box


@pytest.mark.parametrize("who", ["a program on this host", "a macvlan"])
def test_what_this_host_sends_on_the_input_link_is_counted_and_the_remedy_works(who):
    with relaying(ANY.format("in0"), querier=False) as relay:
        if who == "a macvlan":
            sender, link = macvlan(relay), "mv0"
        else:
            sender, link = relay.lab.relay, "in0"
        sent = send(sender, f"{GROUP}:2068%{link}", "--count", COUNT, "--rate", 500)
        assert sent["sent"] == COUNT
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert relay.rule()["rx_packets"] == 0
        assert relay.link()["outgoing_frames"] == COUNT
        said = f"began link=in0 group={GROUP} rule=x: this host itself sends to it"
        relay.wait_for(lambda: said in relay.log.read_text(), "log line")
        # What it says to do:
        if who == "a macvlan":
            relay.lab.relay.ip("link add beside link in0 type macvlan mode bridge", "link set beside up")
            relay.reload(ANY.format("beside"))
        else:
            relay.lab.relay.ip(f"route add {GROUP}/32 dev lo", "link set lo multicast on")
            relay.reload(ANY.format("lo"))
            link = "lo"
        relay.wait_for(lambda: relay.state() == "active", "active rule")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(sender, f"{GROUP}:2068%{link}", "--count", COUNT, "--rate", 500)
        relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), COUNT)


def test_what_the_relay_itself_sends_is_not_called_a_stranger_s():
    rule = '[rules.{}]\ninput = "239.1.1.1:5000%{}"\noutputs = ["239.1.1.1:5000%{}"]\nreflect = true\nlimit = "9kpps"\n'
    with relaying(rule.format("a", "in0", "out0") + rule.format("b", "out0", "in0"), querier=False) as relay:
        send(relay.lab.source, "239.1.1.1:5000%eth0", "--count", COUNT)
        stats = relay.at_rest()
        assert relay.rule("a")["outputs"][0]["tx_packets"] == COUNT
        assert {each["outgoing_frames"] for each in stats["links"]} == {0}


@pytest.mark.parametrize("outer", [0x8100, 0x88A8])
def test_frames_with_two_tags_are_counted_under_vlan(outer):
    with relaying(f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n', querier=False) as relay:
        plain = frame(b"payload", source=SOURCE, group=GROUP, port=2068)
        with relay.lab.source.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            for _ in range(COUNT):
                raw.sendto(tagged(tagged(plain, 7), 20, outer), ("eth0", 0))
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert relay.link()["frames"]["vlan"] == COUNT
        assert relay.rule()["rx_packets"] == 0
