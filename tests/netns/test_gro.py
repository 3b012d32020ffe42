"""GRO on an input link: many datagrams in one frame of the ring, and at the sink what was sent; all is put back."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest
from support.accounts import as_root
from support.relay import GROUP, INPUT, RelayUnderTest, assert_adds_up, relaying
from support.traffic import assert_exact, receiver, report, sender

from mcrelay.links import offload
from mcrelay.links.gro import OURS
from mcrelay.linux.genl import GenericNetlink

pytestmark = [pytest.mark.net, as_root]  # the kernel lets no user namespace set the timers

RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\nexclusive = true\n'
GRO = "[links.in0]\ngro = true\n" + RULE


def state(relay, link: str = "in0"):
    """Which of the two features are on, and the timers of every NAPI instance, as the kernel has them."""

    def ask():
        netlink, ifindex = GenericNetlink(), socket.if_nametoindex(link)
        try:
            on = {name for name in offload.features(netlink, ifindex) if name in {"rx-gro", "rx-udp-gro-forwarding"}}
            return on, set((offload.napis(netlink, ifindex) or {}).values())
        finally:
            netlink.close()

    return relay.lab.relay.call(ask)


def relay_some(relay, count: int, *options: object) -> int:
    """Relay that many exactly; how many frames they came in."""
    frames = relay.link()["rx_frames"]
    sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", count)
    sent = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 50_000, "--count", count, *options)
    assert_exact(report(sink), count)
    report(sent)
    stats = relay.at_rest()
    assert_adds_up(stats)
    return relay.link()["rx_frames"] - frames


def without_checksums(relay, count: int) -> None:
    """What a sender leaves without a UDP checksum is never merged, and has none to be spoiled."""
    sent = [n.to_bytes(4, "big") * 50 for n in range(count)]
    with relay.lab.sink.socket() as sink, relay.lab.source.socket() as source:
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sink.bind(("239.10.0.1", 5004))
        request = socket.inet_aton("239.10.0.1") + socket.inet_aton("198.51.100.2")
        sink.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        sink.settimeout(5)
        source.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        for payload in sent:
            source.sendto(payload, (GROUP, 2068))
        assert [sink.recv(2048) for _ in sent] == sent


def test_datagrams_come_merged_and_leave_exact_and_all_is_put_back():
    with relaying(RULE) as relay:
        # The frames of a bridge have no socket; veth merges those only for a peer that cannot take TCP superframes.
        relay.lab.switch.run("ethtool", "-K", "to-relay", "tso", "off")
        before = state(relay)
        assert before == (set(), set())
        assert relay_some(relay, 10_000) == 10_000  # the control
        relay.stop()
        relay.config.write_text(GRO)
        relay.start()
        assert "cap_net_admin_for=exclusive,gro\n" in relay.log.read_text()
        assert next(each for each in relay.show("links") if each["ifname"] == "in0")["gro"] == {
            "state": "on",
            "reason": None,
        }
        assert state(relay)[0] == {"rx-gro", "rx-udp-gro-forwarding"}
        assert state(relay)[1] <= OURS.keys()
        assert relay_some(relay, 20_000) < 20_000
        assert relay_some(relay, 5_000, "--size", "64,570,1400") > 0
        without_checksums(relay, 200)
        assert relay.show("rules")[0]["exclusive"]["state"] == "on"
        relay.lab.relay.ip("link set in0 down", "link set in0 up")  # its NAPI instance is another one then
        relay.wait_for(lambda: relay.state() == "active" and state(relay)[1] & OURS.keys(), "timers")
        relay.process.kill()
        relay.process.wait()
        assert state(relay)[0] == {"rx-gro", "rx-udp-gro-forwarding"}
        assert state(relay)[1] <= OURS.keys()
        relay.start()
        relay.stop()
        assert state(relay)[0] == before[0]
        assert not state(relay)[1] & OURS.keys()


def test_two_relays_leave_a_link_as_the_first_one_found_it():
    """The one that stops first takes nothing from the other; a third comes after one was killed."""
    with relaying(GRO) as relay, tempfile.TemporaryDirectory() as folder:
        other = RelayUnderTest(relay.lab, GRO.replace("239.10.0.1", "239.10.0.2"), Path(folder))
        other.start()
        relay.stop()
        assert state(other)[0] == {"rx-gro", "rx-udp-gro-forwarding"}
        relay.start()
        other.process.kill()
        other.process.wait()
        relay.stop()
        assert state(relay)[0] == set()
        assert not state(relay)[1] & OURS.keys()
