"""Floods and stops: what does not concern a rule does not reach it."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from support.frames import part, udp
from support.relay import GROUP, INPUT, SOURCE, assert_adds_up, both_engines, each_family, every_way, relaying
from support.traffic import MCRELAY, assert_exact, heard, receiver, report, send, sender
from support.ways import way

pytestmark = [pytest.mark.net, pytest.mark.alone]

RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'
# A shaper's timer goes off on the CPU that last sent, and the end of a veth pair has a queue a CPU: who moves to
# another CPU meanwhile can overtake himself there. So he stays on one.
PINNED = f"[relay]\ncpus = [{max(os.sched_getaffinity(0))}]\n"


def switches(pid: int) -> int:
    """Context switches of every thread of a process."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as status:
            total += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
    return total


def raw_frames(namespace, link: str, count: int) -> None:
    """IPv6 multicast and ARP, as fast as Python makes them."""
    source = b"\x02\x00\x00\x00\x00\x01"
    ipv6 = b"\x33\x33\x00\x00\x00\x01" + source + b"\x86\xdd" + bytes(60)
    arp = b"\xff" * 6 + source + b"\x08\x06" + bytes(46)
    with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        for i in range(count):
            raw.sendto(ipv6 if i % 2 else arp, (link, 0))


@both_engines
def test_frames_of_no_rule_cost_the_worker_nothing():
    with relaying(RULE, querier=False) as relay:
        time.sleep(1)
        before, begin = switches(relay.process.pid), time.monotonic()
        flood = sender(relay.lab.source, "239.99.0.1:5000%eth0", "--rate", 500_000, "--size", 18, "--count", 500_000)
        raw_frames(relay.lab.source, "eth0", 100_000)
        assert report(flood)["sent"] == 500_000
        per_second = (switches(relay.process.pid) - before) / (time.monotonic() - begin)
        assert relay.link()["rx_frames"] == 0
        assert relay.link()["ring_dropped_frames"] == 0
        assert per_second < 50


@each_family
def test_near_misses_are_counted_where_they_were_lost():
    allowed = way().network("192.0.2.0/24")
    config = (
        RULE + f'[rules.any]\ninput = "239.5.5.5:5000%in0"\noutputs = ["239.10.0.2:5004%out0"]\nallow = ["{allowed}"]\n'
    )
    with relaying(config, querier=False) as relay:
        send(relay.lab.source, f"{GROUP}:2069%eth0", "--count", 100)  # another port
        send(relay.lab.source, "239.5.5.5:5000%eth0", "--count", 50)  # a source not let in
        send(relay.lab.source, f"{GROUP}:2069%eth0", "--count", 30, "--size", 4000)  # in three fragments each
        stats = relay.at_rest()
        frames = relay.link()["frames"]
        assert frames["no_match"] == 190
        assert frames["dropped"] == 50
        assert relay.rule("any")["drops"]["source"] == 50
        assert relay.rule("any")["rx_packets"] == 50
        missed = {(each["verdict"], each["port"]): each for each in relay.link()["near_misses"]}
        other_port = missed["no_match", 2069]
        source, group = way().source(SOURCE), way().source(GROUP)
        assert (other_port["packets"], other_port["source"], other_port["vlan"]) == (190, source, "none")
        assert (other_port["group"], other_port["rule"]) == (group, "x")
        assert abs(other_port["last_time"] - time.time()) < 60
        shown = relay.lab.relay.run(*MCRELAY, "show", "stats", "--socket", relay.socket).stdout
        assert f"near miss: {source} sends to {group} port 2069: no_match: 190 frames" in shown
        assert "almost rule x" in shown
        assert_adds_up(stats)


@both_engines
def test_a_flood_does_not_delay_the_stop_and_nothing_is_left():
    with relaying(RULE) as relay:
        flood = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 500_000, "--size", 64, "--duration", 4)
        relay.wait_for(lambda: relay.rule()["rx_packets"] > 10_000, "a flood")
        assert relay.stop() < 1
        report(flood)
        assert not os.path.exists(relay.socket)
        assert f"inet  {GROUP}" not in relay.lab.relay.run("ip", "maddr", "show", "dev", "in0").stdout


@every_way
def test_a_slow_output_holds_back_nobody_and_every_datagram_is_accounted_for():
    """Who sends stays on one CPU: the worker, or the sender by whose CPU the kernel engine works. See PINNED."""
    config = f'{PINNED}[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0", "239.10.0.2:5004%out1"]\n'
    with relaying(config, sinks=2) as relay:
        relay.lab.relay.run(
            "tc", "qdisc", "add", "dev", "out1", "root", "tbf", "rate", "20mbit", "burst", "64kb", "latency", "50ms"
        )
        fast = receiver(relay.lab.sinks[0], "239.10.0.1:5004%eth0", "--count", 50_000)
        slow = receiver(relay.lab.sinks[1], "239.10.0.2:5004%eth0")
        child = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 10_000, "--count", 50_000)
        os.sched_setaffinity(child.pid, {min(os.sched_getaffinity(0))})
        assert report(child)["sent"] == 50_000
        assert_exact(report(fast), 50_000)
        stats = relay.at_rest()
        got = heard(slow, relay.lab.sinks[1])
        assert got["duplicated"] == got["reordered"] == got["corrupted"] == 0
        assert 5_000 < got["received"] < 40_000
        assert_adds_up(stats)
        errors = stats["rules"][0]["outputs"][1]["tx_errors"]
        assert errors["nobufs"] > 10_000
        assert sum(errors.values()) == errors["nobufs"]


@each_family
def test_a_burst_larger_than_the_shaper_is_back_pressure_and_not_loss():
    with relaying(PINNED + RULE) as relay:
        relay.lab.relay.run(
            "tc", "qdisc", "add", "dev", "out0", "root", "tbf", "rate", "1gbit", "burst", "128kb", "limit", "32mb"
        )
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 37_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 45_000, "--count", 37_000, "--gso", 37)
        assert_exact(report(sink), 37_000)
        assert_adds_up(relay.at_rest())


@both_engines
@pytest.mark.parametrize("queue", ["tbf", "tbf below a htb", "tbf of the link below"])
def test_a_queue_that_cuts_runs_and_drops_pieces_is_counted_by_the_piece(queue):
    """What a shaper drops is counted under nobufs, and what it takes reaches the sink: also where it cuts runs."""
    shaper = ("tbf", "rate", "20mbit", "burst", "5kb", "limit", "15kb")
    out = "mv0" if queue == "tbf of the link below" else "out0"
    with relaying(f'{PINNED}[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%{out}"]\n') as relay:
        above = ("root",)
        if queue == "tbf below a htb":
            relay.lab.relay.run("tc", "qdisc", "add", "dev", "out0", "root", "handle", "1:", "htb", "default", "1")
            relay.lab.relay.run(
                "tc", "class", "add", "dev", "out0", "parent", "1:", "classid", "1:1", "htb", "rate", "1gbit"
            )
            above = ("parent", "1:1")
        relay.lab.relay.run("tc", "qdisc", "add", "dev", "out0", *above, *shaper)
        if out == "mv0":
            relay.lab.relay.ip(
                "link add mv0 link out0 type macvlan mode bridge", "addr add 198.51.100.7/24 dev mv0", "link set mv0 up"
            )
        relay.wait_for(lambda: relay.state() == "active", "active rule")
        relay.wait_for(lambda: "cuts runs" in relay.log.read_text(), "word of it")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 16_000, "--count", 16_000, "--gso", 16)
        stats = relay.at_rest()
        time.sleep(0.2)
        got = heard(sink, relay.lab.sink)
        assert_adds_up(stats)
        output = stats["rules"][0]["outputs"][0]
        assert output["tx_errors"]["nobufs"] > 1_000
        assert got["received"] == output["tx_packets"]


@both_engines
def test_runs_form_again_when_the_queue_that_cut_them_is_gone():
    with relaying(RULE) as relay:
        relay.lab.relay.run(
            "tc", "qdisc", "add", "dev", "out0", "root", "tbf", "rate", "1gbit", "burst", "1mb", "limit", "9mb"
        )
        relay.wait_for(lambda: "cuts runs" in relay.log.read_text(), "word of it")
        for runs in (False, True):
            if runs:
                relay.lab.relay.run("tc", "qdisc", "del", "dev", "out0", "root")
                time.sleep(0.5)
            before = frames_received(relay.lab.sink)
            send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 1_600, "--gso", 16, "--rate", 20_000)
            assert_adds_up(relay.at_rest())
            assert (frames_received(relay.lab.sink) - before < 400) == runs


@both_engines
def test_a_queue_that_cuts_runs_concerns_no_other_link_and_is_said_of_routed_outputs_too():
    config = RULE + f'[rules.y]\ninput = "{INPUT.replace("2068", "2070")}"\noutputs = ["198.51.100.2:7000"]\n'
    with relaying(config) as relay:
        relay.lab.relay.ip("link add v0 type veth peer name v1", "link set v0 up", "link set v1 up")
        shaper = ("tbf", "rate", "1gbit", "burst", "1mb", "limit", "9mb")
        relay.lab.relay.run("tc", "qdisc", "add", "dev", "v0", "root", *shaper)
        relay.wait_for(lambda: "sends datagram by datagram link=v0:" in relay.log.read_text(), "word of it")
        assert "datagram by datagram link=v1" not in relay.log.read_text()
        assert "datagram by datagram link=out0" not in relay.log.read_text()
        before = frames_received(relay.lab.sink)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 1_600, "--gso", 16, "--rate", 20_000)
        assert_adds_up(relay.at_rest())
        assert frames_received(relay.lab.sink) - before < 400  # still in runs


def frames_received(namespace) -> int:
    return int(namespace.call(Path("/proc/thread-self/net/dev").read_text).split("eth0:")[1].split()[1])


@both_engines
def test_fragments_and_refused_datagrams_are_said_and_the_rule_is_losing():
    rule = f'[rules.x]\ninput = "{INPUT}"\noutputs = [{{ to = "239.10.0.1:5004%out0", df = true }}]\n'
    with relaying(rule) as relay:
        assert relay.show("rules")[0]["losing"] is False
        with relay.lab.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for i in range(60):  # first fragments whose others never come
                raw.send(part(udp(bytes(100)), 0, 40, identification=i))
        relay.wait_for(
            lambda: f"began link=in0 losing=fragment group={GROUP} rule=x: " in relay.log.read_text(), "a line"
        )
        assert relay.show("rules")[0]["losing"] is True
        relay.wait_for(
            lambda: (
                [(each["verdict"], each["port"], each["packets"]) for each in relay.link()["near_misses"]]
                == [("fragment", None, 60)]
            ),
            "what waited to be given up",
        )
        relay.wait_for(lambda: "ended link=in0 losing=fragment lost=60" in relay.log.read_text(), "the end")
        assert relay.show("rules")[0]["losing"] is False
        relay.lab.relay.ip("link set out0 mtu 1000")
        relay.wait_for(lambda: "the MTU of out0 is 1000, that of the input 1500" in relay.log.read_text(), "a warning")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 20, "--size", 1300)
        relay.wait_for(
            lambda: "began rule=x output=239.10.0.1:5004%out0 losing=mtu: " in relay.log.read_text(), "a line"
        )
        assert relay.show("rules")[0]["losing"] is True
        relay.wait_for(lambda: "losing=mtu lost=20" in relay.log.read_text(), "the end")


@both_engines
@pytest.mark.parametrize("profile", ["latency", "throughput"])
def test_near_misses_and_fragments_of_its_group_cost_a_relayed_stream_nothing(profile):
    with relaying(f'[links.in0]\nprofile = "{profile}"\n' + RULE) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 1_500)
        others = sender(relay.lab.source, f"{GROUP}:2069%eth0", "--rate", 1_000_000, "--count", 15_000)
        with relay.lab.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for i in range(480):  # first fragments whose others never come
                raw.send(part(udp(bytes(1400)), 0, 1400, identification=i))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 1_000_000, "--count", 1_500, "--size", 1316)
        assert_exact(report(sink), 1_500)
        assert report(others)["sent"] == 15_000
        assert_adds_up(relay.at_rest())
        assert relay.link()["ring_dropped_frames"] == 0
        missed = {(each["verdict"], each["port"]): each["packets"] for each in relay.link()["near_misses"]}
        assert missed["no_match", 2069] == 15_000


@both_engines
@pytest.mark.parametrize("profile", ["latency", "throughput"])
def test_twenty_thousand_datagrams_back_to_back_lose_nothing_in_either_profile(profile):
    with relaying(f'[links.in0]\nprofile = "{profile}"\n' + RULE) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 20_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 1_000_000, "--count", 20_000, "--size", 1316)
        assert_exact(report(sink), 20_000)
        stats = relay.at_rest()
        assert relay.link()["ring_dropped_frames"] == 0
        assert_adds_up(stats)
