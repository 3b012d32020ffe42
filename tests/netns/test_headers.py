"""Header fields of what leaves, read on the wire: what is replaced, what is kept, and that singles and runs agree."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from support.frames import group_mac
from support.relay import GROUP, INPUT, assert_adds_up, every_way, relaying
from support.traffic import assert_exact, heard, receiver, send, wait_for
from support.ways import way

pytestmark = [pytest.mark.net, every_way]

DONT_FRAGMENT = 0x4000
HOST = "198.51.100.2"
OUTPUTS = {"multicast": "239.10.0.1:5004%out0", "host": f"{HOST}:5004", "host by link": f"{HOST}:5004%out0"}


class Wire:
    """Every frame with UDP of either family that arrives on a link of a namespace."""

    def __init__(self, namespace, link: str) -> None:
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.bind((link, 3))
        self._socket.setblocking(False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def frames(self):
        found = []
        while True:
            try:
                frame = self._socket.recv(65600)
            except BlockingIOError:
                return found
            if (frame[12:14], frame[23]) == (b"\x08\x00", 17) or (frame[12:14], frame[20]) == (b"\x86\xdd", 17):
                found.append(frame)


def flags_of(frame: bytes) -> int:
    """The word of flags and offset; of IPv6, which has none before it is cut, the flow label."""
    if frame[12:14] == b"\x86\xdd":
        return struct.unpack_from("!I", frame, 14)[0] & 0xFFFFF
    return struct.unpack_from("!H", frame, 20)[0]


def rule(to: str, keys: str = "") -> str:
    return f'[rules.x]\ninput = "{INPUT}"\noutputs = [{{ to = "{to}"{keys} }}]\n'


@pytest.mark.parametrize("df", [False, True])
@pytest.mark.parametrize("to", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("how", ["singles", "runs"])
def test_dont_fragment_is_what_the_rule_says_on_singles_and_on_runs(df, to, how):
    """IPv6 has no such flag, and its flow label is 0.

    But for the kernel engine's datagrams, which keep the sender's: it set it, and their IP ID is worth nothing."""
    keys = ", df = true" if df else ""
    with relaying(rule(to, keys), segmentation=False) as relay, Wire(relay.lab.sink, "eth0") as wire:
        sink = receiver(relay.lab.sink, to.partition("%")[0] + ("%eth0" if to.startswith("239") else ""))
        options = ("--gso", 16) if how == "runs" else ("--rate", 400)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 160, *options)
        relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), 160)
        flags = {flags_of(frame) for frame in wire.frames()}
        by_kernel = relay.engine == "kernel" and to.startswith("239")
        kept = by_kernel and way().taken == 4 and how == "singles"  # a run is sent without it
        assert flags == {DONT_FRAGMENT if way().sent == 4 and (df or kept) else 0}


def behind_a_router(relay):
    """A host behind the sink, which forwards, on a link whose MTU is 1400."""
    (far,) = relay.lab.lab.add("far", ipv6=way().has_ipv6)
    length, version = (64, 6) if way().sent == 6 else (24, 4)
    near, host, beyond = (way().sink(each) for each in ("203.0.113.1", "203.0.113.2", "203.0.113.0"))
    relay.lab.lab.veth((relay.lab.sink, "far0", far, "eth0"))
    relay.lab.sink.ip(f"addr add {near}/{length} dev far0", "link set far0 mtu 1400 up")
    far.ip(f"addr add {host}/{length} dev eth0", "link set eth0 mtu 1400 up", f"route add default via {near}")
    far.wait_until_up()
    relay.lab.sink.sysctl({"ipv6.conf.all.forwarding" if version == 6 else "ipv4.ip_forward": 1})
    relay.lab.relay.ip(f"route add {beyond}/{length} via {way().sink('198.51.100.2')}")
    return far


@pytest.mark.parametrize("rate", [200, 50_000])
def test_what_is_larger_than_a_link_behind_the_next_router_arrives_in_fragments(rate):
    """A router with a 1400 byte link: a datagram that the source let be fragmented must not be lost there.

    A router of IPv6 cuts nothing: it refuses the first datagram, and this host cuts those that follow.
    """
    with relaying(rule("203.0.113.2:5004"), sinks=1) as relay:
        far = behind_a_router(relay)
        relay.reload(rule("203.0.113.2:5004", ", ttl = 8"))
        relay.wait_for(lambda: relay.state() == "active", "active rule")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 1, "--size", 1450)
        relay.at_rest()
        sink = receiver(far, way().output("203.0.113.2:5004"))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 50, "--size", 1450, "--rate", rate)
        stats = relay.at_rest()
        assert_exact(heard(sink, far), 50)
        assert_adds_up(stats)


def test_with_df_what_the_path_cannot_take_is_counted_as_mtu():
    with relaying(rule("203.0.113.2:5004", ", df = true, ttl = 8")) as relay:
        far = behind_a_router(relay)
        relay.reload(rule("203.0.113.2:5004", ", df = true, ttl = 9"))
        relay.wait_for(lambda: relay.state() == "active", "active rule")
        sink = receiver(far, way().output("203.0.113.2:5004"))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 50, "--size", 1450, "--rate", 200)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 50, "--size", 1000, "--rate", 200)
        stats = relay.at_rest()
        got = heard(sink, far)
        assert_adds_up(stats)
        output = stats["rules"][0]["outputs"][0]
        assert output["tx_errors"]["unreachable"] == 0
        assert output["tx_errors"]["mtu"] == 50
        assert output["tx_packets"] == got["received"] == 50


@pytest.mark.parametrize("what", ["relay", "send"])
def test_multicast_leaves_on_the_link_whatever_gateway_a_route_for_groups_names(what):
    """A route for all groups by a gateway is for others: its MAC on the frame, or its silence, loses the stream."""
    with relaying(rule(OUTPUTS["multicast"])) as relay, Wire(relay.lab.sink, "eth0") as wire:
        groups = "ff00::/8" if way().sent == 6 else "224.0.0.0/4"
        relay.lab.relay.ip(f"route add {groups} via {way().sink('198.51.100.254')} dev out0")  # nobody is there
        relay.reload(rule(OUTPUTS["multicast"], ", ttl = 7"))  # a new socket, that connects by that route
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        if what == "relay":
            send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 400, "--rate", 4_000)
        else:
            send(relay.lab.relay, way().output("239.10.0.1:5004%out0"), "--count", 400, "--rate", 4_000)
        relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), 400)
        assert {frame[:6] for frame in wire.frames()} == {group_mac(way().sink("239.10.0.1"))}


@pytest.mark.parametrize("to", OUTPUTS.values(), ids=OUTPUTS)
def test_runs_form_again_when_the_mtu_that_stopped_them_is_back(to):
    """What an error taught is asked again: the sink's frames are runs before and after, singles meanwhile."""
    with relaying(rule(to)) as relay, Wire(relay.lab.sink, "eth0") as wire:
        sink = receiver(relay.lab.sink, to.partition("%")[0] + ("%eth0" if to.startswith("239") else ""))

        def frames() -> int:
            wire.frames()
            send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 1600, "--gso", 16, "--rate", 20_000)
            relay.at_rest()
            return len(wire.frames())

        assert frames() < 400
        for end in (1300, 1500):  # IPv6 needs 1280
            relay.lab.relay.ip(f"link set out0 mtu {end}")
            wait_for(lambda end=end: mtu(relay) == end, "the new MTU")
            time.sleep(0.1)
            count = frames()
        assert count < 400
        heard(sink, relay.lab.sink)


def mtu(relay) -> int:
    return next(each for each in relay.show("links") if each["ifname"] == "out0")["mtu"]
