"""Links come and go; only the rules that name them notice."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import signal
import time

import pytest
from support.relay import GROUP, INPUT, SOURCE, assert_adds_up, both_engines, carries, every_way, relaying, ring_ways
from support.traffic import assert_exact, heard, receiver, report, send, sender
from support.ways import way

from mcrelay.links import watch as watch_module

pytestmark = pytest.mark.net

BYSTANDER = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'


@every_way
def test_a_rule_whose_link_appears_late_becomes_active_within_a_second():
    config = BYSTANDER + '[rules.late]\ninput = "239.1.1.1:5000%late0"\noutputs = ["239.10.0.2:5004%out0"]\n'
    with relaying(config) as relay:
        (late,) = [each for each in relay.show("rules") if each["name"] == "late"]
        assert late["state"] == "pending"
        assert "late0 does not exist" in late["reason"]
        assert relay.state("x") == "active"
        relay.lab.relay.ip("link add late0 type veth peer name late1", "link set late0 up", "link set late1 up")
        assert relay.wait_for(lambda: relay.state("late") == "active", "active rule") < 1
        assert next(each for each in relay.show("groups") if each["ifname"] == "late0")["state"] == "joined"


@every_way
def test_a_link_made_again_under_its_name_relays_again_and_a_bystander_loses_nothing():
    config = BYSTANDER + '[rules.gone]\ninput = "239.1.1.1:5000%in1"\noutputs = ["239.10.0.2:5004%out0"]\n'
    with relaying(config) as relay:
        source, host = relay.lab.source, relay.lab.relay
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        steady = sender(source, f"{GROUP}:2068%eth0", "--rate", 10_000)
        for _ in range(3):
            relay.lab.lab.veth((host, "in1", source, "extra0"))
            host.ip("link set in1 up", "addr add 203.0.113.1/24 dev in1")
            source.ip("link set extra0 up", "addr add 203.0.113.2/24 dev extra0")
            relay.wait_for(lambda: carries(host, "in1"), "carrier")
            assert relay.wait_for(lambda: relay.state("gone") == "active", "active rule") < 1
            late = receiver(relay.lab.sink, "239.10.0.2:5004%eth0", "--count", 500)
            send(source, "239.1.1.1:5000%extra0", "--rate", 1_000, "--count", 500)
            assert_exact(report(late), 500)
            host.ip("link del in1")
            assert relay.wait_for(lambda: relay.state("gone") == "pending", "pending rule") < 1
        steady.send_signal(signal.SIGINT)
        sent = report(steady)["sent"]
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), sent)
        assert_adds_up(stats)


@every_way
def test_an_output_is_parked_while_its_link_cannot_send_and_says_why():
    config = BYSTANDER + '[rules.p]\ninput = "239.1.1.1:5000%in0"\noutputs = ["239.10.0.2:5004%out1"]\n'
    with relaying(config, sinks=2) as relay:
        host, six = relay.lab.relay, way().sent == 6
        if six:  # else it makes itself a link-local address, which is one to send from
            host.ip("link set out1 addrgenmode none")
        for change, reason in (
            ("link set out1 down", "is down"),
            ("addr flush dev out1", "is down"),
            ("link set out1 up", f"no IPv{way().sent} address"),
        ):
            host.ip(change)
            relay.wait_for(lambda: relay.state("p") == "parked", "parked rule")
            relay.wait_for(
                lambda r=reason: r in next(e for e in relay.show("rules") if e["name"] == "p")["reason"], reason
            )
        send(relay.lab.source, "239.1.1.1:5000%eth0", "--count", 100)
        stats = relay.at_rest()
        assert relay.rule("p")["outputs"][0]["tx_errors"]["parked"] == 100
        assert_adds_up(stats)
        host.ip(f"addr add {way().sink('198.18.1.9')}/{64 if six else 24} dev out1")
        relay.wait_for(lambda: relay.state("p") == "active", "active rule")
        sink = receiver(relay.lab.sinks[1], "239.10.0.2:5004%eth0", "--count", 100)
        send(relay.lab.source, "239.1.1.1:5000%eth0", "--count", 100)
        got = report(sink)
        assert_exact(got, 100)
        assert next(iter(got["sources"])).rpartition(":")[0].strip("[]") == way().sink("198.18.1.9")


@ring_ways
def test_an_output_without_a_link_name_goes_by_the_routes():
    with relaying(f'[rules.x]\ninput = "{INPUT}"\noutputs = ["198.51.100.2:7000", "203.0.113.5:7000"]\n') as relay:
        assert relay.state() == "active"
        (rule,) = relay.show("rules")
        assert rule["outputs"][1]["state"] == "error"
        assert f"no route to {way().sink('203.0.113.5')}" in rule["outputs"][1]["reason"]
        sink = receiver(relay.lab.sink, "198.51.100.2:7000", "--count", 1_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 1_000)
        got = report(sink)
        assert_exact(got, 1_000)
        assert got["ttl"] == {"64": 1_000}
        assert_adds_up(relay.at_rest())


@both_engines
def test_the_querier_of_a_link_is_known():
    with relaying(BYSTANDER, igmp_version=2) as relay:
        querier = lambda: next(each for each in relay.show("links") if each["ifname"] == "in0")["querier"]  # noqa: E731
        relay.lab.switch.ip("link set br0 type bridge mcast_querier 0", "link set br0 type bridge mcast_querier 1")
        relay.wait_for(lambda: querier() is not None, "querier")
        assert querier()["version"] == 2
        assert time.time() - querier()["last_seen_time"] < 20
        assert relay.show("groups")[0]["version"] == 2
        assert relay.show("groups")[0]["source"] == SOURCE


class CountingWatch(watch_module.LinkWatch):
    """Says how often all links were asked for, and which were asked for by themselves."""

    def __init__(self, changed):
        super().__init__(changed)
        self.dumps, self.asked = 0, []

    async def _dump(self):
        self.dumps += 1
        return await super()._dump()

    async def _ask_for(self, ifindex, **how):
        self.asked.append(ifindex)
        return await super()._ask_for(ifindex, **how)


def test_links_are_read_again_once_netlink_has_said_anything(namespaces, monkeypatch):
    monkeypatch.setattr(watch_module, "DUMP_LASTS_SECONDS", float("inf"))
    (here,) = namespaces.add("here")

    async def look() -> None:
        async with CountingWatch(lambda: None) as watch:
            assert await watch.dump() is await watch.dump()
            assert (watch.dumps, watch.asked) == (1, [])
            here.ip("addr add 192.0.2.1/32 dev lo")  # this loop has had no time to hear of it
            assert "192.0.2.1/32" in map(str, (await watch.dump())["lo"].addresses)
            here.ip("link add here0 type veth peer name here1")
            assert {"here0", "here1"} <= (await watch.dump()).keys()
            assert (watch.dumps, len(watch.asked)) == (1, 3)
            before = await watch.dump()
            assert await watch.dump(fresh=True) is not before
            assert watch.dumps == 2
            monkeypatch.setattr(watch_module, "DUMP_LASTS_SECONDS", 0)
            before = await watch.dump()
            assert await watch.dump() is not before
            assert watch.dumps == 4

    here.call(lambda: asyncio.run(look()))


OTHERS = {
    "a link comes and goes": ("link add pod type veth peer name pod1", "link set pod up", "link del pod"),
    "an address": ("addr add 198.18.7.7/32 dev other0",),
    "a port of another bridge": ("link add br9 type bridge", "link set other0 master br9", "link del br9"),
}
OTHER_QUEUES = {
    "a queue": ("qdisc add dev other0 root tbf rate 1mbit burst 5kb limit 15kb", "qdisc del dev other0 root"),
    "a filter": (
        "qdisc add dev other0 clsact", "filter add dev other0 ingress protocol ip prio 1 u32 match u32 0 0 flowid 1:1",
        "filter del dev other0 ingress", "qdisc del dev other0 clsact",
    ),
    "a filter of ours, which is no fact of a link": (
        "filter add dev here0 ingress protocol ip prio 1 u32 match u32 0 0 flowid 1:1", "filter del dev here0 ingress",
        "chain add dev here0 ingress chain 7", "chain del dev here0 ingress chain 7",
    ),
}  # fmt: skip
OURS = {
    "down": "link set here0 down",
    "an address": "addr add 192.0.2.7/32 dev here0",
    "renamed": "link set here0 name gone0",
    "a link that takes the name": "link add there0 type veth peer name there1",
    "a macvlan on top": "link add mv0 link here0 type macvlan mode bridge",
    "a port of a bridge": "link set here0 master br0",
    "a port of a bridge that was made meanwhile": "link set here0 master br7",
    "deleted": "link del here0",
}


def tc(namespace, *lines):
    for line in lines:
        namespace.run("tc", *line.split())


@pytest.mark.parametrize("what", OURS)
def test_what_happens_to_a_followed_link_is_heard_and_what_happens_to_others_is_not(namespaces, what):
    (here,) = namespaces.add("here")
    here.ip(
        "link add here0 type veth peer name here1", "link set here0 up", "link add other0 type veth peer name other1",
        "link add br0 type bridge",
    )  # fmt: skip
    tc(here, "qdisc add dev here0 clsact")
    heard = []

    async def look() -> None:
        async with CountingWatch(lambda: heard.append(1)) as watch:
            watch.follow({"here0", "there0"})
            first = await watch.dump()
            await asyncio.sleep(0.1)
            heard.clear()
            for lines in OTHERS.values():
                here.ip(*lines)
            for lines in OTHER_QUEUES.values():
                tc(here, *lines)
            here.ip("link add br7 type bridge")
            await asyncio.sleep(0.1)
            assert not heard
            assert await watch.dump() is first
            here.ip(OURS[what])
            await asyncio.sleep(0.1)
            assert heard
            now = await watch.dump()
            assert now != first
            assert watch.dumps == 1, "all links were asked for again"
            assert 0 < len(watch.asked) <= 4
            anew = await watch.dump(fresh=True)
            followed = {"here0", "there0"}
            assert {name: now.get(name) for name in followed} == {name: anew.get(name) for name in followed}
            assert "198.18.7.7/32" in map(str, (await watch.dump(complete=True))["other0"].addresses)

    here.call(lambda: asyncio.run(look()))


def whatever(rng):
    """Something that a person or a container engine does to links; it may well be refused."""
    link, other = rng.sample(["w0", "w1", "w2", "w3", "br0", "top", "top.5"], 2)
    return rng.choice(
        [
            f"ip link set {link} {rng.choice(['up', 'down'])}", f"ip link set {link} mtu {rng.choice([1400, 1500])}",
            f"ip link set {link} name {other}", f"ip link add {link} type veth peer name {other}",
            f"ip link del {link}", f"ip link add top link {link} type macvlan mode bridge",
            f"ip link add link {link} name top.5 type vlan id 5", f"ip link add {link} type bridge",
            f"ip link set {link} master {other}", f"ip link set {link} nomaster",
            f"ip addr add 198.18.{rng.randrange(9)}.1/24 dev {link}", f"ip addr flush dev {link}",
            # Of the altnames of a link that is down the kernel says nothing (netdev_state_change in net/core/dev.c).
            f"ip link set {link} up && ip link property add dev {link} altname {other}",
            f"ip link set {link} up && ip link property del dev {link} altname {other}",
            f"tc qdisc add dev {link} root tbf rate 1mbit burst 5kb limit 15kb", f"tc qdisc del dev {link} root",
            f"tc qdisc add dev {link} root handle 1: htb default 1",
            f"tc qdisc add dev {link} parent 1:1 tbf rate 1mbit burst 5kb limit 15kb",
        ]
    )  # fmt: skip


def told(links, names):
    """Links by name, less what the kernel counts before it says so, and never says of a link that is set down."""
    found = {name: links.get(name) for name in names}
    return {name: link and dataclasses.replace(link, carrier_losses=0) for name, link in found.items()}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("names", [{"w0", "w2", "top.5"}, {"br0"}, None])
def test_links_asked_for_by_themselves_come_to_the_same_as_all_of_them(namespaces, names, seed):
    (here,) = namespaces.add("here")
    here.ip(
        "link add w0 type veth peer name w1", "link add w2 type veth peer name w3", "link set w0 up", "link set w1 up"
    )  # fmt: skip
    rng = random.Random(seed)

    async def look() -> None:
        async with CountingWatch(lambda: None) as watch, watch_module.LinkWatch(lambda: None) as all_anew:
            watch.follow(names)
            await watch.dump()
            for _ in range(15):
                done = [whatever(rng) for _ in range(3)]
                here.run("sh", "-c", "; ".join(done), check=False)
                now, anew = await watch.dump(), await all_anew.dump(fresh=True)
                followed = anew.keys() | now.keys() if names is None else names
                assert told(now, followed) == told(anew, followed), done
            assert watch.dumps <= 3, "all links were asked for again and again"

    here.call(lambda: asyncio.run(look()))


@every_way
def test_a_rule_a_sender_and_a_receiver_find_a_link_by_its_altname():
    taken, sent = way().input(INPUT.replace("in0", "lobby")), way().output("239.10.0.1:5004%studio")
    config = f'[rules.x]\ninput = "{taken}"\noutputs = ["{sent}"]\n'
    with relaying(config) as relay:
        assert relay.state() == "pending"
        relay.lab.relay.ip("link property add dev in0 altname lobby", "link property add dev out0 altname studio")
        relay.lab.source.ip("link property add dev eth0 altname from-the-lobby")
        relay.lab.sink.ip("link property add dev eth0 altname in-the-studio")
        relay.wait_for(lambda: relay.state() == "active", "active rule")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%in-the-studio")
        send(relay.lab.source, f"{GROUP}:2068%from-the-lobby", "--count", 500)
        stats = relay.at_rest()
        assert_exact(heard(sink, relay.lab.sink), 500)
        assert_adds_up(stats)
        assert [each["ifname"] for each in stats["links"]] == ["in0", "out0"]
