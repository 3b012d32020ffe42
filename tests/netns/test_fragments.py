"""Datagrams that arrive in fragments, by the real command: whole at the sink, out as the output's MTU allows."""

from __future__ import annotations

import contextlib
import socket
import struct
from types import SimpleNamespace

import pytest
from support.frames import part, six_part, udp
from support.relay import GROUP, INPUT, SOURCE, RelayUnderTest, assert_adds_up, relaying, ring_ways
from support.traffic import assert_exact, heard, receiver, report, send, sender
from support.ways import way

from mcrelay.commands.receivers import open_receiver
from mcrelay.model.notation import parse_stream

pytestmark = pytest.mark.net

SIZES = (1316, 4000, 1473, 20_000, 60_000, 65_507, 64)
RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'


def frames_of(size: int, family: int, mtu: int = 1500) -> int:
    """How many a datagram is on a link of that MTU: each part but the last is a multiple of 8 bytes.

    A part of IPv6 has a header of 8 bytes behind that of the packet.
    """
    header, more = (40, 8) if family == 6 else (20, 0)
    return -(-(size + 8) // ((mtu - header - more) // 8 * 8)) if size + 8 + header > mtu else 1


def body_of(payload: bytes) -> bytes:
    """The UDP datagram of the rule's stream."""
    return udp(payload, source=way().source(SOURCE), group=way().source(GROUP))


def cut(body: bytes, start: int, end: int, identification: int) -> bytes:
    """The frame with that part of it."""
    make = six_part if way().taken == 6 else part
    ends = {"source": way().source(SOURCE), "group": way().source(GROUP)}
    return make(body, start, end, identification=identification, **ends)


@ring_ways
@pytest.mark.parametrize("profile", ["throughput", "latency"])
def test_datagrams_of_every_size_arrive_whole_and_their_frames_are_counted(profile):
    with relaying(f'[links.in0]\nprofile = "{profile}"\n' + RULE) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 350)
        sizes = ",".join(map(str, SIZES))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 350, "--rate", 400, "--size", sizes)
        assert_exact(report(sink), 350)
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert relay.rule()["rx_packets"] == 350
        assert relay.rule()["outputs"][0]["tx_packets"] == 350
        frames = {name: count for name, count in relay.link()["frames"].items() if count}
        assert frames == {"relayed": 50 * sum(frames_of(size, way().taken) for size in SIZES)}
        assert not any(relay.link()["refused_fragments"].values())


@ring_ways
def test_two_workers_with_superframes_beside_lose_reorder_and_double_nothing():
    groups = 8
    config = '[relay]\nworkers = 2\n[links.in0]\nring = "64MiB"\n' + "".join(
        f'[rules.r{i}]\ninput = "226.2.2.{2 + i}:2068%in0"\noutputs = ["239.10.0.{1 + i}:5004%out0"]\n'
        for i in range(2 * groups)
    )
    with relaying(config) as relay:
        large = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--streams", groups, "--count", 100)
        small = receiver(relay.lab.sink, "239.10.0.9:5004%eth0", "--streams", groups, "--count", 2000)
        options = ("--streams", groups, "--count")
        beside = sender(relay.lab.source, "226.2.2.10:2068%eth0", *options, 2000, "--rate", 2000, "--gso", 8)
        send(relay.lab.source, f"{GROUP}:2068%eth0", *options, 100, "--rate", 100, "--size", "5000,20000")
        report(beside)
        assert_exact(report(large), 100 * groups)
        assert_exact(report(small), 2000 * groups)
        assert_adds_up(relay.at_rest())


@ring_ways
@pytest.mark.parametrize("df", [False, True])
def test_they_leave_in_fragments_of_the_outputs_mtu_or_are_counted_where_df_forbids_it(df):
    rule = RULE.replace('["239.10.0.1:5004%out0"]', f'[{{ to = "239.10.0.1:5004%out0", df = {str(df).lower()} }}]')
    with relaying(rule) as relay:
        relay.lab.relay.ip("link set out0 mtu 1450")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 90, "--rate", 300, "--size", "1400,1430,4000")
        stats = relay.at_rest()
        got = heard(sink, relay.lab.sink)
        assert_adds_up(stats)
        output = stats["rules"][0]["outputs"][0]
        assert output["tx_errors"]["mtu"] == (60 if df else 0)
        assert got["received"] == output["tx_packets"] == (30 if df else 90)
        assert got["corrupted"] == 0


# What is sent of 96 datagrams to an output whose link has an MTU of 1450, and how many of them that cuts.
CUT = {
    "singles": (("--rate", 300, "--size", "1400,1430,4000"), 64),
    "superframes": (("--gso", 8, "--size", 1430), 96),
    "runs that fit": (("--gso", 8, "--size", 1400), 0),
}


def begins_fragments(frame: bytes) -> bool:
    """Whether a frame is the first fragment of a datagram, of either family."""
    if frame[12:14] == b"\x08\x00":
        return frame[23] == 17 and struct.unpack_from("!H", frame, 20)[0] & 0x3FFF == 0x2000
    return frame[12:14] == b"\x86\xdd" and frame[20] == 44 and struct.unpack_from("!H", frame, 56)[0] == 1


@pytest.mark.parametrize("to", ["239.10.0.1:5004%out0", "198.51.100.2:5004"], ids=["multicast", "host"])
@pytest.mark.parametrize("how", CUT)
def test_datagrams_that_leave_in_fragments_are_counted_as_a_capture_at_the_sink_counts_them(way, to, how):
    rule = RULE.replace("239.10.0.1:5004%out0", to)
    with relaying(rule) as relay, relay.lab.sink.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        relay.lab.relay.ip("link set out0 mtu 1450")
        relay.wait_for(lambda: {e["ifname"]: e["mtu"] for e in relay.show("links")}["out0"] == 1450, "new MTU")
        wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        wire.bind(("eth0", 3))
        wire.setblocking(False)
        sink = receiver(relay.lab.sink, to.replace("%out0", "%eth0"))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 96, *CUT[how][0])
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), 96)
        assert_adds_up(stats)
        begun = 0
        with contextlib.suppress(BlockingIOError):
            while frame := wire.recv(65600):
                begun += begins_fragments(frame)
        output = stats["rules"][0]["outputs"][0]
        assert (begun, output["tx_packets"]) == (CUT[how][1], 96)
        assert output["tx_fragmented"] == begun


@ring_ways
def test_a_relay_behind_a_relay_over_a_link_with_a_smaller_mtu_delivers_everything(tmp_path):
    with relaying(RULE) as relay:
        (far,) = relay.lab.lab.add("far", ipv6=way().has_ipv6)
        relay.lab.lab.veth((relay.lab.sink, "far0", far, "eth0"))
        relay.lab.relay.ip("link set out0 mtu 1450")
        length = 64 if way().sent == 6 else 24
        relay.lab.sink.ip(
            "link set eth0 mtu 1450", f"addr add {way().sink('203.0.113.1')}/{length} dev far0", "link set far0 up"
        )
        far.ip(f"addr add {way().sink('203.0.113.2')}/{length} dev eth0", "link set eth0 up")
        far.wait_until_up()
        taken, sent = way().output("239.10.0.1:5004%eth0"), way().output("239.20.0.1:5004%far0")
        rule = f'[rules.y]\ninput = "{taken}"\noutputs = ["{sent}"]\n'
        second = RelayUnderTest(SimpleNamespace(relay=relay.lab.sink), rule, tmp_path)
        second.start()
        sink = receiver(far, way().output("239.20.0.1:5004%eth0"), "--count", 280)
        sizes = ",".join(map(str, (1400, *SIZES[1:])))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 280, "--rate", 400, "--size", sizes)
        assert_exact(report(sink), 280)
        assert_adds_up(relay.at_rest())
        assert_adds_up(second.at_rest())
        assert second.link("eth0")["frames"]["relayed"] == 40 * sum(
            frames_of(size, way().sent, 1450) for size in (1400, *SIZES[1:])
        )
        second.stop()


@ring_ways
def test_fragments_that_are_not_relayed_are_counted_by_reason():
    with relaying(RULE) as relay, relay.lab.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        body = body_of(bytes(100))
        for i, cuts in enumerate([[(0, 40)], [(0, 80), (24, 48), (80, 108)], [(0, 40), (0, 40), (40, 108)], [(0, 44)]]):
            for start, end in cuts:
                raw.send(cut(body, start, end, i))
        relay.wait_for(lambda: relay.link()["refused_fragments"]["incomplete"] == 1, "what waited to be given up")
        stats = relay.at_rest()
        refused = {name: count for name, count in relay.link()["refused_fragments"].items() if count}
        assert refused == {"incomplete": 1, "overlap": 3, "repeated": 1, "broken": 1}
        frames = {name: count for name, count in relay.link()["frames"].items() if count}
        assert frames == {"fragment": 6, "relayed": 2}
        assert relay.rule()["rx_packets"] == 1
        assert_adds_up(stats)
        said = relay.lab.relay.run(*relay.program, "show", "stats", "--socket", relay.socket).stdout
        assert "fragments not relayed" in said


@ring_ways
def test_what_a_sender_loses_of_a_datagram_is_not_relayed_and_the_next_is():
    """A real host's fragments, one of the second datagram taken out."""
    with relaying(RULE) as relay:
        stream = parse_stream(way().output("239.10.0.1:5004%eth0"))
        sink = relay.lab.sink.call(lambda: open_receiver(stream, 1))
        sink.settimeout(5)
        with sink, relay.lab.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for i in range(3):
                body = body_of(bytes([i]) * 4000)
                for start in (0, 1440, 2880):
                    if (i, start) != (1, 1440):
                        raw.send(cut(body, start, min(start + 1440, len(body)), i))
            assert [sink.recv(9000) for _ in range(2)] == [bytes([0]) * 4000, bytes([2]) * 4000]
        relay.wait_for(lambda: relay.link()["frames"]["fragment"] == 2, "what waited to be given up")
        assert_adds_up(relay.at_rest())
