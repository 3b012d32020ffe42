"""Datagrams that arrive in fragments, by the real command: whole at the sink, out as the output's MTU allows."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace

import pytest
from support.frames import part, udp
from support.relay import GROUP, INPUT, SOURCE, RelayUnderTest, assert_adds_up, relaying
from support.traffic import assert_exact, heard, receiver, report, send, sender

pytestmark = pytest.mark.net

SIZES = (1316, 4000, 1473, 20_000, 60_000, 65_507, 64)
RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'


def frames_of(size: int, mtu: int = 1500) -> int:
    """How many a datagram is on a link of that MTU: each part but the last is a multiple of 8 bytes."""
    return -(-(size + 8) // ((mtu - 20) // 8 * 8)) if size + 28 > mtu else 1


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
        assert frames == {"relayed": 50 * sum(map(frames_of, SIZES))}
        assert not any(relay.link()["refused_fragments"].values())


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


def test_a_relay_behind_a_relay_over_a_link_with_a_smaller_mtu_delivers_everything(tmp_path):
    with relaying(RULE) as relay:
        (far,) = relay.lab.lab.add("far")
        relay.lab.lab.veth((relay.lab.sink, "far0", far, "eth0"))
        relay.lab.relay.ip("link set out0 mtu 1450")
        relay.lab.sink.ip("link set eth0 mtu 1450", "addr add 203.0.113.1/24 dev far0", "link set far0 up")
        far.ip("addr add 203.0.113.2/24 dev eth0", "link set eth0 up")
        far.wait_until_up()
        rule = '[rules.y]\ninput = "239.10.0.1:5004%eth0"\noutputs = ["239.20.0.1:5004%far0"]\n'
        second = RelayUnderTest(SimpleNamespace(relay=relay.lab.sink), rule, tmp_path)
        second.start()
        sink = receiver(far, "239.20.0.1:5004%eth0", "--count", 280)
        sizes = ",".join(map(str, (1440, *SIZES[1:])))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 280, "--rate", 400, "--size", sizes)
        assert_exact(report(sink), 280)
        assert_adds_up(relay.at_rest())
        assert_adds_up(second.at_rest())
        assert second.link("eth0")["frames"]["relayed"] == 40 * sum(
            frames_of(size, 1450) for size in (1440, *SIZES[1:])
        )
        second.stop()


def switched(relay) -> None:
    """What this process sends arrives sooner than the switch has heard of the group."""
    relay.wait_for(lambda: GROUP in relay.lab.switch.run("bridge", "mdb").stdout, "the switch to hear of the group")


def test_fragments_that_are_not_relayed_are_counted_by_reason():
    with relaying(RULE) as relay, relay.lab.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        switched(relay)
        body = udp(bytes(100), source=SOURCE, group=GROUP)
        ends = {"source": SOURCE, "group": GROUP}
        for i, cut in enumerate([[(0, 40)], [(0, 80), (24, 48), (80, 108)], [(0, 40), (0, 40), (40, 108)], [(0, 44)]]):
            for start, end in cut:
                raw.send(part(body, start, end, identification=i, **ends))
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


def test_what_a_sender_loses_of_a_datagram_is_not_relayed_and_the_next_is():
    """A real host's fragments, one of the second datagram taken out."""
    with relaying(RULE) as relay:
        switched(relay)
        sink = relay.lab.sink.socket()
        sink.bind(("239.10.0.1", 5004))
        join = socket.inet_aton("239.10.0.1") + struct.pack("=4si", bytes(4), relay.lab.sink.ifindex("eth0"))
        sink.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
        sink.settimeout(5)
        with sink, relay.lab.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for i in range(3):
                body = udp(bytes([i]) * 4000, source=SOURCE, group=GROUP)
                for start in (0, 1480, 2960):
                    if (i, start) != (1, 1480):
                        end = min(start + 1480, len(body))
                        raw.send(part(body, start, end, identification=i, source=SOURCE, group=GROUP))
            assert [sink.recv(9000) for _ in range(2)] == [bytes([0]) * 4000, bytes([2]) * 4000]
        relay.wait_for(lambda: relay.link()["frames"]["fragment"] == 2, "what waited to be given up")
        assert_adds_up(relay.at_rest())
