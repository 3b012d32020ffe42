"""Inputs on links of other kinds: tun, a macvlan and what is below it, a bridge and its port; what this host sends."""

from __future__ import annotations

import fcntl
import os
import struct

import pytest
from support.frames import ipv4, udp
from support.relay import GROUP, INPUT, assert_adds_up, relaying
from support.traffic import assert_exact, heard, receiver, send, wait_for

pytestmark = pytest.mark.net

# linux/if_tun.h, linux/virtio_net.h
TUNSETIFF, IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x1, 0x1000, 0x4000
NEEDS_CSUM, GSO_UDP_L4 = 1, 5
ENDS = {"source": "203.0.113.9", "group": "239.9.9.9"}
TUN = '[rules.x]\ninput = "239.9.9.9:5000%tun0"\noutputs = ["239.10.0.1:5004%out0"]\n'
COUNT = 400


class Tun:
    """The far end of tun0 of a namespace: what is written to it arrives there."""

    def __init__(self, namespace) -> None:
        self._fd = namespace.call(self._open)
        namespace.ip("addr add 203.0.113.1/24 dev tun0", "link set tun0 up")

    @staticmethod
    def _open() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
        return fd

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._fd)

    def write(self, packet: bytes, *, segment: int = 0) -> None:
        """Let a packet arrive; with *segment*, one that holds datagrams of so many bytes each."""
        left = struct.pack("=BB4H", NEEDS_CSUM, GSO_UDP_L4, 28, segment, 20, 6) if segment else bytes(10)
        os.write(self._fd, left + packet)


def packet(payload: bytes, *, port: int = 5000, **fields) -> bytes:
    return ipv4(udp(payload, port=port, **ENDS), **ENDS, **fields)


def superframe(payloads: list[bytes]) -> bytes:
    """As a sender leaves it to its device: the checksum field has the sum of the pseudo header alone."""
    whole = b"".join(payloads)
    body = udp(whole, port=5000, checksum=0, **ENDS)
    pseudo = struct.pack("!4s4sHH", bytes([203, 0, 113, 9]), bytes([239, 9, 9, 9]), 17, len(body))
    total = sum(struct.unpack("!6H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    return ipv4(body[:6] + struct.pack("!H", total) + body[8:], **ENDS)


@pytest.mark.parametrize("profile", ["throughput", "latency"])
def test_a_tun_brings_packets_without_an_ethernet_header(profile):
    body = udp(b"in parts" * 200, port=5000, **ENDS)
    with relaying(f'[links.tun0]\nprofile = "{profile}"\n' + TUN) as relay:
        assert relay.state() == "pending"
        sink = relay.lab.sink.socket()
        with Tun(relay.lab.relay) as tun, sink:
            relay.wait_for(lambda: relay.state() == "active", "active rule")
            joined = struct.pack("4s4si", bytes([239, 10, 0, 1]), bytes(4), relay.lab.sink.ifindex("eth0"))
            sink.setsockopt(0, 35, joined)  # IPPROTO_IP, IP_ADD_MEMBERSHIP
            sink.bind(("239.10.0.1", 5004))
            sink.settimeout(5)
            tun.write(packet(b"plain"))
            tun.write(packet(b"another port", port=5001))
            tun.write(packet(b"spoilt", checksum=1))
            tun.write(ipv4(body[:800], fragment=0x2000, **ENDS))
            tun.write(ipv4(body[800:], fragment=100, **ENDS))
            tun.write(superframe([bytes([i]) * 1200 for i in range(20)] + [b"end"]), segment=1200)
            tun.write(b"\x60" + bytes(59))  # IPv6
            expected = [b"plain", b"in parts" * 200, *(bytes([i]) * 1200 for i in range(20)), b"end"]
            assert [sink.recv(9000) for _ in expected] == expected
            relay.wait_for(lambda: relay.link("tun0")["frames"]["no_match"], "the other port")
            stats = relay.at_rest()
            frames = {verdict: count for verdict, count in relay.link("tun0")["frames"].items() if count}
            assert frames == {"relayed": 4, "no_match": 1, "malformed": 1}
            missed = {each["verdict"]: each for each in relay.link("tun0")["near_misses"]}["no_match"]
            assert (missed["group"], missed["port"], missed["source"]) == ("239.9.9.9", 5001, "203.0.113.9")
            assert_adds_up(stats)
            show = relay.lab.relay.run(*relay.program, "check", "-c", str(relay.config), check=False)
            assert show.returncode == 0, show.stderr


def test_a_macvlan_and_the_link_below_it_both_bring_the_stream():
    config = (
        f'[rules.below]\ninput = "{GROUP}:2068%in0"\noutputs = ["239.10.0.1:5004%out0"]\n'
        f'[rules.above]\ninput = "{GROUP}:2068%mv0"\noutputs = ["239.10.0.2:5004%out0"]\n'
    )
    with relaying(config) as relay:
        relay.lab.relay.ip("link add mv0 link in0 type macvlan mode bridge", "addr add 192.0.2.77/24 dev mv0")
        relay.lab.relay.ip("link set mv0 up")
        relay.wait_for(lambda: relay.state("above") == "active", "active rule")
        sinks = [receiver(relay.lab.sink, f"239.10.0.{i}:5004%eth0") for i in (1, 2)]
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", COUNT, "--rate", 1000)
        stats = relay.at_rest()
        for sink in sinks:
            assert_exact(heard(sink, relay.lab.sink), COUNT)
        assert_adds_up(stats)


REFUSED = (
    f"in0 is a port of br9, where this host hears no query, so the stream would end; take the input from br9: "
    f"{GROUP}:2069%br9"
)
PORT = f'[rules.port]\ninput = "{GROUP}:2069%in0"\noutputs = ["239.10.0.2:5004%out0"]\n'
BRIDGE = f'[rules.bridge]\ninput = "{GROUP}:2068%br9"\noutputs = ["239.10.0.1:5004%out0"]\n'


def test_a_bridge_brings_the_stream_and_its_port_says_whose_it_is():
    with relaying(BRIDGE + PORT) as relay:
        relay.lab.relay.ip("link add br9 type bridge stp_state 0 forward_delay 0", "link set in0 master br9")
        relay.lab.relay.ip("addr add 192.0.2.77/24 dev br9", "link set br9 up")
        relay.wait_for(lambda: relay.state("bridge") == "active", "active rule")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", COUNT, "--rate", 1000)
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), COUNT)
        assert_adds_up(stats)
        reasons = {each["name"]: each["reason"] for each in relay.show("rules")}
        assert reasons == {"bridge": None, "port": "in0 is a port of br9: take the input from br9"}
        told = relay.lab.relay.run(*relay.program, "check", "-c", str(relay.config), check=False)
        assert told.returncode == 2
        assert REFUSED in told.stderr


CHANGES = {
    "add": ("add", "new", f"{GROUP}:2069%in0", "239.10.0.2:5004%out0"),
    "replace": ("replace", "bridge", f"{GROUP}:2069%in0", "239.10.0.2:5004%out0"),
    "add by an altname": ("add", "new", f"{GROUP}:2069%camera", "239.10.0.2:5004%out0"),
    "enable": ("enable", "off"),
    "reload": ("reload",),
    "reload, dry": ("reload", "--dry-run"),
    "relay": ("relay", f"{GROUP}:2069%in0", "239.10.0.2:5004%out0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_input_on_a_port_is_refused_and_what_runs_goes_on(change):
    off = PORT.replace("rules.port", "rules.off").replace("2069", "2070").replace("0.2:", "0.3:") + "enabled = false\n"
    with relaying(BRIDGE + off) as relay:
        host = relay.lab.relay
        host.ip("link add br9 type bridge stp_state 0 forward_delay 0", "link property add dev in0 altname camera")
        host.ip("link set in0 master br9", "addr add 192.0.2.77/24 dev br9", "link set br9 up")
        relay.wait_for(lambda: relay.state("bridge") == "active", "active rule")
        relay.config.write_text(BRIDGE + off + (PORT if "reload" in change else ""))
        socket = () if change == "relay" else ("--socket", relay.socket)
        told = host.run(*relay.program, *CHANGES[change], *socket, check=False)
        assert (told.returncode, told.stdout) == (2, "")
        assert (REFUSED.replace("2069", "2070") if change == "enable" else REFUSED) in told.stderr
        assert [each["name"] for each in relay.show("rules") if each["state"] == "active"] == ["bridge"]
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", COUNT, "--rate", 1000)
        relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), COUNT)
        host.ip("link set in0 nomaster")
        if change != "relay":
            assert host.run(*relay.program, *CHANGES[change], *socket).returncode == 0


def test_a_rule_whose_link_becomes_a_port_while_it_runs_goes_on():
    with relaying(PORT) as relay:
        host = relay.lab.relay
        host.ip("link add br9 type bridge stp_state 0 forward_delay 0", "link set in0 master br9", "link set br9 up")
        relay.wait_for(lambda: relay.show("rules")[0]["reason"], "reason")
        assert relay.state("port") == "active"
        sink = receiver(relay.lab.sink, "239.10.0.2:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2069%eth0", "--count", COUNT, "--rate", 1000)
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), COUNT)
        assert_adds_up(stats)
        relay.config.write_text(PORT + BRIDGE)
        host.run(*relay.program, "reload", "--socket", relay.socket)
        assert [each["state"] for each in relay.show("rules")] == ["active", "active"]


OWN = '[rules.x]\ninput = { from = "239.7.7.7:5000%in0", own = true }\noutputs = ["239.10.0.1:5004%out0"]\n'


@pytest.mark.parametrize("options", [("--rate", 1000), ("--gso", 16)], ids=["singles", "superframes"])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_program_of_this_host_sends_is_taken_where_the_rule_asks_for_it(options, workers):
    with relaying(f"[relay]\nworkers = {workers}\n" + OWN) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.relay, "239.7.7.7:5000%in0", "--count", COUNT, *options)
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), COUNT)
        assert relay.rule()["rx_packets"] == COUNT
        assert_adds_up(stats)
        assert relay.link()["outgoing_frames"] == 0
        assert "itself sends" not in relay.log.read_text()


def test_what_arrives_is_taken_beside_it_and_a_rule_that_does_not_ask_gets_that_alone():
    beside = f'[rules.y]\ninput = "{INPUT}"\noutputs = ["239.10.0.2:5004%out0"]\n'
    with relaying(beside) as relay:
        others = receiver(relay.lab.sink, "239.10.0.2:5004%eth0")
        send(relay.lab.relay, f"{GROUP}:2068%in0", "--count", 10, "--rate", 1000)
        frames = relay.link()["rx_frames"]
        relay.reload(beside + OWN)
        wait_for(lambda: relay.state() == "active", "active rule")
        assert relay.link()["rx_frames"] >= frames
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.relay, f"{GROUP}:2068%in0", "--count", 10, "--rate", 1000)
        send(relay.lab.source, "239.7.7.7:5000%eth0", "--count", COUNT, "--rate", 1000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", COUNT, "--rate", 1000)
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), COUNT)
        assert_exact(heard(others, relay.lab.sink), COUNT)
        assert_adds_up(stats)
