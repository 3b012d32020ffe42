"""An output to a host works as soon as the routes let it, however they change; what does not concern it is cheap."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.relay import GROUP, INPUT, assert_adds_up, relaying
from support.traffic import assert_exact, receiver, report, send

from mcrelay.links.routes import RouteWatch

pytestmark = pytest.mark.net

SOON = 1.5  # a look a second, and the one before may just have been
ROUTED = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["10.9.0.7:5004"]\n'
BOUND = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["10.9.0.7:5004%out0"]\n'
ADDRESS = f'[rules.x]\ninput = "{INPUT}"\noutputs = [{{ to = "10.9.0.7:5004", source_address = "198.51.100.1" }}]\n'
BY_GATEWAY = "10.9.0.0/24 via 198.51.100.2"


def output(relay):
    (rule,) = relay.show("rules")
    return rule["outputs"][0]


def arrives(relay) -> None:
    sink = receiver(relay.lab.sink, "10.9.0.7:5004", "--count", 50, "--duration", 10)
    send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 50)
    assert_exact(report(sink), 50)


def becomes(relay, **wanted: str) -> None:
    relay.wait_for(lambda: {key: output(relay)[key] for key in wanted} == wanted, str(wanted), SOON)


@pytest.mark.parametrize(
    ("config", "before", "changes"),
    [
        (ROUTED, [], [f"route add {BY_GATEWAY}"]),
        (ROUTED, ["route add blackhole 10.9.0.0/24"], [f"route replace {BY_GATEWAY}"]),
        (ADDRESS, ["route add prohibit default"], [f"route add {BY_GATEWAY}"]),
        (ROUTED, [f"route add table 77 {BY_GATEWAY}"], ["rule add to 10.9.0.0/24 lookup 77"]),
        (ADDRESS, [f"route add {BY_GATEWAY}", "rule add to 10.9.0.0/24 unreachable"], ["rule del to 10.9.0.0/24"]),
    ],
    ids=["none", "blackhole", "prohibit", "rule", "unreachable"],
)
def test_an_output_whose_route_comes_after_the_start_is_active_at_once(config, before, changes):
    with relaying(BOUND) as relay:
        relay.lab.sink.ip("addr add 10.9.0.7/32 dev lo")
        relay.lab.relay.ip(*before)
        relay.reload(config)
        assert output(relay)["state"] == "error"
        time.sleep(1.5)  # nothing else happens, and nothing is left of what has happened
        relay.lab.relay.ip(*changes)
        becomes(relay, state="active")
        arrives(relay)
        assert_adds_up(relay.at_rest())


def test_routes_that_are_not_an_outputs_change_nothing_also_where_it_was_refused_or_has_several_paths():
    outputs = ", ".join(f'"10.9.0.{i}:7000"' for i in range(1, 9))
    config = f'[rules.x]\ninput = "{INPUT}"\noutputs = [{outputs}]\n'
    with relaying(config, sinks=2, sysctls={"ipv4.fib_multipath_hash_policy": 1}) as relay:
        assert output(relay)["state"] == "error"
        relay.lab.relay.ip("route add 10.9.0.0/24 nexthop via 198.51.100.2 nexthop via 198.18.1.2")
        becomes(relay, state="active")
        generation = lambda: relay.show("stats")["workers"][0]["generation"]  # noqa: E731
        before = generation()
        for _ in range(3):
            relay.lab.relay.ip("route add 10.8.0.0/24 dev out0", "route del 10.8.0.0/24 dev out0")
            time.sleep(1.2)
        assert generation() == before


@pytest.mark.parametrize("config", [ROUTED, BOUND], ids=["routed", "by its link"])
def test_an_output_follows_the_source_of_its_route_when_nothing_but_a_route_changes(config):
    with relaying(config) as relay:
        host = relay.lab.relay
        relay.lab.sink.ip("addr add 10.9.0.7/32 dev lo")
        host.ip("addr add 198.51.100.8/32 dev out0", f"route add {BY_GATEWAY}")
        becomes(relay, state="active", source_address="198.51.100.1")
        time.sleep(1.5)
        host.ip(f"route replace {BY_GATEWAY} src 198.51.100.8")
        becomes(relay, source_address="198.51.100.8")
        host.ip("route add 10.9.0.7/32 via 198.51.100.2 src 198.51.100.1")
        becomes(relay, source_address="198.51.100.1")
        arrives(relay)
        host.ip("nexthop add id 9 via 198.51.100.2 dev out0", "route replace 10.9.0.7/32 nhid 9 src 198.51.100.8")
        becomes(relay, source_address="198.51.100.8")
        arrives(relay)
        assert_adds_up(relay.at_rest())


@pytest.mark.parametrize("lost", ["down", "carrier", "deleted"])
def test_an_output_follows_its_route_where_it_goes_with_a_link_that_no_rule_names(lost):
    with relaying(ROUTED, sinks=2, sysctls={"ipv4.conf.all.ignore_routes_with_linkdown": 1}) as relay:
        host = relay.lab.relay
        host.ip(f"route add {BY_GATEWAY}", "route add default via 198.18.1.2")
        becomes(relay, state="active", source_address="198.51.100.1")
        time.sleep(1.5)  # nothing else happens, and nothing is left of what has happened
        if lost == "carrier":
            relay.lab.sinks[0].ip("link set dev eth0 down")
        else:
            host.ip("link set dev out0 down" if lost == "down" else "link del dev out0")
        becomes(relay, state="active", source_address="198.18.1.1")
        relay.lab.sinks[1].ip("addr add 10.9.0.7/32 dev lo")
        sink = receiver(relay.lab.sinks[1], "10.9.0.7:5004", "--count", 50, "--duration", 10)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 50)
        assert_exact(report(sink), 50)
        assert_adds_up(relay.at_rest())


def test_thousands_of_changes_are_one_look_a_second_and_the_last_one_is_seen(namespaces):
    (here,) = namespaces.add("here")
    here.ip("link set lo up")
    changes = [f"route {what} 10.{i}.0.0/16 dev lo" for i in range(250) for what in ("add", "del")]

    async def watch() -> None:
        called: list[float] = []
        routes = RouteWatch(lambda: called.append(time.monotonic()))
        routes.watch(wanted=True)
        begin = time.monotonic()
        while time.monotonic() - begin < 3:
            await asyncio.to_thread(here.ip, *changes)
        churned = time.monotonic() - begin
        assert 1 <= len(called) <= churned + 1
        await asyncio.sleep(1.2)
        before = len(called)
        here.ip("route add 10.9.0.0/16 dev lo")
        last = time.monotonic()
        await asyncio.sleep(1.2)
        assert len(called) == before + 1
        assert called[-1] > last
        routes.watch(wanted=False)
        here.ip("route del 10.9.0.0/16 dev lo")
        await asyncio.sleep(0.2)
        assert len(called) == before + 1

    here.call(lambda: asyncio.run(watch()))


@pytest.mark.parametrize("stream", ["198.51.100.255:6454", "198.51.100.255:6454%out0", "10.255.255.255:6454%out0"])
def test_an_output_may_go_to_all_hosts_of_a_subnet(stream):
    with relaying(f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{stream}"]\n') as relay:
        relay.lab.relay.ip("addr add 10.0.0.1/8 dev out0")
        becomes(relay, state="active", source_address="10.0.0.1" if stream.startswith("10.") else "198.51.100.1")
        address, port = stream.partition("%")[0].split(":")
        relay.lab.sink.ip("addr add 10.0.0.2/8 dev eth0")
        sink = receiver(relay.lab.sink, f"{address}:{port}", "--count", 50, "--duration", 10)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 50)
        assert_exact(report(sink), 50)
        assert_adds_up(relay.at_rest())
        sink = receiver(relay.lab.sink, f"{address}:{port}", "--count", 5, "--duration", 10)
        send(relay.lab.relay, stream, "--count", 5)
        assert_exact(report(sink), 5)


@pytest.mark.parametrize("kind", ["prohibit", "blackhole", "unreachable"])
def test_a_route_that_refuses_is_named_with_the_command_that_shows_it(kind):
    with relaying(BOUND) as relay:
        relay.lab.relay.ip(f"route add {kind} 10.9.0.0/24")
        relay.reload(ROUTED)
        assert output(relay)["state"] == "error"
        assert f"type {kind}" in output(relay)["reason"]
        assert "ip route get 10.9.0.7" in output(relay)["reason"]
