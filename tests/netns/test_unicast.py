"""A unicast input beside the rest of the host: who sends is not refused, and other programs lose nothing."""

from __future__ import annotations

import socket

import pytest
from support.relay import relaying, ring_ways
from support.traffic import end, udp_socket
from support.ways import way

pytestmark = [pytest.mark.net, ring_ways]


@pytest.fixture
def bench(ring_way):
    with relaying("") as relay:
        yield relay


def rule(name: str) -> str:
    return f'[rules.{name}]\ninput = "192.0.2.1:7000%in0"\noutputs = ["239.10.0.1:5004%out0"]\n'


def hears(namespace, port: int, *, reuse: bool = False) -> socket.socket:
    """A program that listens, at any address of the family."""
    listening = udp_socket(namespace, way().source("192.0.2.1"))
    if reuse:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("", port))
    listening.settimeout(5)
    return listening


def asks(relay, port: int) -> socket.socket:
    """A program on the source's host, which the relay's host has a route to: it is told of a closed port."""
    source, relays = relay.lab.source, way().source("192.0.2.1")
    source.ip(f"addr replace {way().source('192.0.2.9')}/{64 if way().taken == 6 else 24} dev eth0")
    asking = udp_socket(source, relays)
    asking.connect(end(source, relays, port))
    asking.settimeout(5)
    return asking


def is_refused(asking: socket.socket) -> bool:
    """Whether an ICMP port unreachable has come for what was sent."""
    asking.send(b"are you there")
    asking.settimeout(0.5)
    try:
        asking.recv(1)
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    raise AssertionError("nobody here answers")


def test_who_sends_to_a_unicast_input_is_not_told_that_its_port_is_closed(bench):
    bench.reload(rule("open"))
    bench.wait_for(lambda: bench.state("open") == "active", "active rule")
    with asks(bench, 7001) as elsewhere, asks(bench, 7000) as asking:
        assert is_refused(elsewhere)
        assert not is_refused(asking)
        bench.wait_for(lambda: bench.rule("open")["rx_packets"] == 1, "what was sent")
        bench.reload("")
        assert is_refused(asking)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_program_that_has_the_port_of_a_unicast_input_loses_nothing(bench, when):
    name = f"beside-{when}"
    said = bench.log.read_text().count("left to another program")
    if when == "after":
        bench.reload(rule(name))
        bench.wait_for(lambda: bench.state(name) == "active", "active rule")
    with hears(bench.lab.relay, 7000, reuse=when == "after") as program, asks(bench, 7000) as asking:
        if when == "before":
            bench.reload(rule(name))
            bench.wait_for(lambda: bench.state(name) == "active", "active rule")
        bench.wait_for(lambda: bench.log.read_text().count("left to another program") > said, "the port to be left")
        asking.send(b"for both")
        assert program.recv(100) == b"for both"
        bench.wait_for(lambda: bench.rule(name)["rx_packets"] == 1, "what was sent")
    bench.wait_for(lambda: bench.state(name) == "active", "active rule")
    with asks(bench, 7000) as asking:
        bench.wait_for(lambda: not is_refused(asking), "the port to be held again", 15)
