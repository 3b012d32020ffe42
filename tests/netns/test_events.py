"""Whatever happens to a link, only its own rules notice, and they recover within a second.

Beside every event runs a stream of 20 000 datagrams a second on other links, that must lose and double nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from pathlib import Path

import pytest
from support.igmpwire import Listener, joined
from support.relay import GROUP, INPUT, assert_adds_up, carries, relaying
from support.traffic import assert_exact, heard, receiver, report, send, sender

from mcrelay.igmp import messages as igmp_messages

pytestmark = pytest.mark.net

BYSTANDER = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'
IN1 = BYSTANDER + '[rules.e]\ninput = "239.1.1.1:5000%in1"\noutputs = ["239.10.0.2:5004%out1"]\n'
OUT1 = BYSTANDER + '[rules.e]\ninput = "239.1.1.1:5000%in0"\noutputs = ["239.10.0.2:5004%out1"]\n'
SOON = 1.0  # seconds within which a link that is back must relay


@contextlib.contextmanager
def bystander(relay, rate: int = 20_000):
    """The stream beside; at the end every datagram has arrived once, nobody left its group, no line speaks of it."""
    sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
    steady = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", rate, "--size", 200)
    relay.wait_for(lambda: relay.rule("x")["rx_packets"] > rate // 10, "bystander's stream")
    said = len(relay.log.read_text())
    with Listener(relay.lab.switch, "to-relay") as wire:
        yield
        messages = wire.messages()
    steady.send_signal(signal.SIGINT)
    sent = report(steady)["sent"]
    relay.at_rest()
    assert_exact(heard(sink, relay.lab.sink), sent)
    stats = relay.at_rest()
    stats["rules"] = [each for each in stats["rules"] if each["name"] == "x"]  # a test may change an output of e
    assert_adds_up(stats)
    leaving = {igmp_messages.TO_INCLUDE, igmp_messages.BLOCK_SOURCES}
    assert not [each for each in messages for record in getattr(each, "records", ()) if record.kind in leaving]
    about = [line for line in relay.log.read_text()[said:].splitlines() if "rule=x" in line or "=in0 ifindex" in line]
    assert about == []


class Events:
    """A relay with one rule, `e`, whose link things happen to, and what the log says of that link."""

    def __init__(self, relay, link: str, device: str) -> None:
        self.relay, self.link, self.device = relay, link, device
        self._read = len(relay.log.read_text())

    def says(self, *expected: str) -> None:
        """One line a change, and these are the changes."""
        self.relay.wait_for(lambda: len(self.lines()) >= len(expected), f"word of {expected}", SOON)
        lines = self.lines()
        assert len(lines) == len(expected), lines
        for line, part in zip(lines, expected, strict=True):
            assert part in line, lines
        self._read = len(self.relay.log.read_text())

    def lines(self):
        text = self.relay.log.read_text()[self._read :]
        parts = (
            f"link={self.link} ifindex",
            f"lost link={self.link}",
        )
        return [line for line in text.splitlines() if any(part in line for part in parts)]

    def becomes(self, state: str, reason: str = "") -> None:
        """The rule reaches that state within a second."""

        def there() -> bool:
            rule = next(each for each in self.relay.show("rules") if each["name"] == "e")
            return rule["state"] == state and reason in (rule["reason"] or "")

        assert self.relay.wait_for(there, f"{state} rule") < SOON

    def flows(self) -> None:
        """A datagram sent into the rule comes out of it within a second from when the kernel counts the carrier."""
        self.relay.wait_for(lambda: carries(self.relay.lab.relay, self.link), "carrier")
        begin = time.monotonic()
        before = self.sent()
        choice = struct.pack("=4s4si", b"", b"", self.relay.lab.source.ifindex(self.device))
        with self.relay.lab.source.socket() as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, choice)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
            while self.sent() == before:
                assert time.monotonic() - begin < SOON, self.relay.log.read_text()
                with contextlib.suppress(OSError):
                    sock.sendto(b"event", ("239.1.1.1", 5000))
                time.sleep(0.01)

    def sent(self) -> int:
        return self.relay.rule("e")["outputs"][0]["tx_packets"]


def make_in1(relay, index: int) -> tuple[str, ...]:
    """What makes in1 of the relay and extra0 of the source, for one run of ip in the relay's namespace."""
    peer = f"extra0 index {index + 1} netns {relay.lab.source.name}"
    return (f"link add in1 index {index} type veth peer name {peer}", "link set in1 up")


def raise_extra0(relay) -> None:
    relay.lab.source.ip("link set extra0 up", "addr add 203.0.113.2/24 dev extra0")


def test_an_input_link_that_appears_goes_down_loses_carrier_and_is_renamed():
    with relaying(IN1, sinks=2) as relay, bystander(relay):
        host, source = relay.lab.relay, relay.lab.source
        events = Events(relay, "in1", "extra0")
        host.ip(*make_in1(relay, 801))
        events.becomes("parked", "no carrier")
        events.says("ifindex=801")
        raise_extra0(relay)
        events.flows()
        events.says("carrier=yes")

        host.ip("link set in1 down")
        events.becomes("parked", "is down")
        events.says("up=no")
        host.ip("link set in1 up")
        events.flows()
        events.says("up=yes carrier=yes")

        source.ip("link set extra0 down")
        events.becomes("parked", "no carrier")
        events.says("up=yes carrier=no")
        source.ip("link set extra0 up")
        events.flows()
        events.says("carrier=yes")

        host.ip("link set in1 down", "link set in1 name away1", "link set away1 up")
        events.becomes("pending", "does not exist")
        assert "239.1.1.1" not in joined(host, "away1")
        events.says("is now called away1")
        host.ip("link set away1 down", "link set away1 name in1", "link set in1 up")
        events.flows()
        assert "239.1.1.1" in joined(host, "in1")
        events.says("ifindex=801 up=yes carrier=yes")


def test_an_input_link_that_changes_mtu_and_addresses():
    with relaying(IN1, sinks=2) as relay, bystander(relay):
        host = relay.lab.relay
        events = Events(relay, "in1", "extra0")
        host.ip(*make_in1(relay, 801))
        raise_extra0(relay)
        events.flows()
        assert 1 <= len(events.lines()) <= 2  # with or without the moment before its carrier
        events = Events(relay, "in1", "extra0")
        for command, said in (
            ("link set in1 mtu 9000", "mtu=9000"),
            ("addr add 203.0.113.1/24 dev in1", "addresses=203.0.113.1/24"),
            ("addr add 203.0.113.9/24 dev in1", "addresses=203.0.113.1/24,203.0.113.9/24"),
            ("addr flush dev in1", "addresses=none"),
        ):
            host.ip(command)
            relay.wait_for(events.lines, said)
            events.flows()
            events.says(said)


def test_a_link_whose_mtu_leaves_no_room_for_ipv4_is_joined_again_when_it_does():
    """Linux then takes addresses and memberships off the link; veth does not go as low, lo does."""
    config = BYSTANDER + '[rules.e]\ninput = "239.1.1.1:5000%lo"\noutputs = ["239.10.0.2:5004%out0"]\n'
    with relaying(config) as relay:
        host = relay.lab.relay
        events = Events(relay, "lo", "")
        events.becomes("active")
        assert "239.1.1.1" in joined(host, "lo")
        host.ip("link set lo mtu 67")
        events.becomes("parked", "MTU is below 68")
        assert "239.1.1.1" not in joined(host, "lo")
        host.ip("link set lo mtu 1500")
        events.becomes("active")
        assert "239.1.1.1" in joined(host, "lo")


def test_an_input_link_deleted_and_made_again_with_another_number_and_with_the_same():
    """In IGMP version 2, where the bystander's group could not be left and joined again without a leave on the wire."""
    with relaying(IN1, sinks=2, igmp_version=2) as relay, bystander(relay):
        host = relay.lab.relay
        events = Events(relay, "in1", "extra0")
        host.ip(*make_in1(relay, 801))
        raise_extra0(relay)
        events.flows()
        events.becomes("active")
        time.sleep(0.2)
        descriptors = open_files(relay)
        for number in (811, 811, 821, 821):
            events = Events(relay, "in1", "extra0")
            host.ip("link del in1", *make_in1(relay, number))  # too fast for a look in between
            raise_extra0(relay)
            events.flows()
            assert joined(host, "in1") >= {"239.1.1.1"}
            assert any("it is another one" in line or "lost link" in line for line in events.lines())
            sink = receiver(relay.lab.sinks[1], "239.10.0.2:5004%eth0", "--count", 200)
            send(relay.lab.source, "239.1.1.1:5000%extra0", "--rate", 10_000, "--count", 200)
            assert_exact(report(sink), 200)
        assert relay.wait_for(lambda: open_files(relay) <= descriptors, "closed sockets") < SOON
        host.ip("link del in1")
        events.becomes("pending", "does not exist")


def test_an_output_link_that_goes_down_loses_carrier_and_is_renamed():
    with relaying(OUT1, sinks=2) as relay, bystander(relay):
        host, far = relay.lab.relay, relay.lab.sinks[1]
        events = Events(relay, "out1", "eth0")
        events.flows()
        for away, back, reason, said in (
            (lambda: host.ip("link set out1 down"), lambda: host.ip("link set out1 up"), "is down", "up=no"),
            (lambda: far.ip("link set eth0 down"), lambda: far.ip("link set eth0 up"), "no carrier", "carrier=no"),
        ):
            away()
            events.becomes("parked", reason)
            events.says(said)
            back()
            events.flows()
            events.says("up=yes carrier=yes")
        host.ip("link set out1 down", "link set out1 name away1", "link set away1 up")
        events.becomes("parked", "does not exist")
        events.says("is now called away1")
        host.ip("link set away1 down", "link set away1 name out1", "link set out1 up")
        events.flows()
        events.says("up=yes carrier=yes")


def test_an_output_link_that_changes_mtu_and_addresses_or_is_made_again():
    with relaying(OUT1, sinks=2) as relay, bystander(relay):
        host, far = relay.lab.relay, relay.lab.sinks[1]
        events = Events(relay, "out1", "eth0")

        def arrives(source: str) -> None:
            sink = receiver(far, "239.10.0.2:5004%eth0", "--count", 200)
            send(relay.lab.source, "239.1.1.1:5000%eth0", "--rate", 10_000, "--count", 200, "--size", 500)
            got = report(sink)
            assert_exact(got, 200)
            assert {each.partition(":")[0] for each in got["sources"]} == {source}

        for commands, said, source in (
            (["link set out1 mtu 600"], "mtu=600", "198.18.1.1"),
            (["addr flush dev out1", "addr add 198.18.1.7/24 dev out1"], "198.18.1.7", "198.18.1.7"),
            (["addr add 198.18.1.8/24 dev out1"], "198.18.1.8", "198.18.1.7"),
        ):
            host.ip(*commands)
            relay.wait_for(lambda said=said: any(said in line for line in events.lines()), said)
            events.flows()
            arrives(source)
        host.ip("addr flush dev out1")
        events.becomes("parked", "no IPv4 address")
        host.ip("addr add 198.18.1.9/24 dev out1")
        events.flows()
        arrives("198.18.1.9")
        for number in (901, 901):
            host.ip(
                "link del out1",
                f"link add out1 index {number} type veth peer name eth0 index {number + 1} netns {far.name}",
                "addr add 198.18.1.1/24 dev out1",
                "link set out1 up",
            )
            far.ip("addr add 198.18.1.2/24 dev eth0", "link set eth0 up")
            events.flows()
            arrives("198.18.1.1")


def test_a_routed_output_follows_its_route():
    config = BYSTANDER + '[rules.e]\ninput = "239.1.1.1:5000%in0"\noutputs = ["198.18.1.2:5004"]\n'
    with relaying(config, sinks=2) as relay, bystander(relay):
        host = relay.lab.relay
        events = Events(relay, "out1", "eth0")
        source = lambda: next(e for e in relay.show("rules") if e["name"] == "e")["outputs"][0]["source_address"]  # noqa: E731
        events.flows()
        assert source() == "198.18.1.1"
        host.ip("addr flush dev out1", "addr add 198.18.1.7/24 dev out1")
        assert relay.wait_for(lambda: source() == "198.18.1.7", "new source address") < SOON
        events.flows()
        host.ip("link set out1 down")
        relay.reload(config.replace("198.18.1.2:5004", "198.18.1.2:5005"))
        events.becomes("error", "no route to 198.18.1.2")
        host.ip("link set out1 up")
        events.becomes("active")
        events.flows()


@contextlib.contextmanager
def stopped(relay):
    """The relay stands still, and for no longer than what is done meanwhile takes: other load does not delay that.

    The ring holds a quarter of a second at a low rate (256 blocks, each handed over after a millisecond).
    """
    with contextlib.suppress(PermissionError):  # as an ordinary user in a namespace
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # of this thread and of what it starts
    relay.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        relay.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, 0)


def test_more_events_than_netlink_can_hold_are_as_good_as_one():
    """The relay is stopped meanwhile, as a host under load may do to it; its ring holds what arrives."""
    with relaying(IN1, sinks=2) as relay, bystander(relay):
        host = relay.lab.relay
        events = Events(relay, "in1", "extra0")
        changes = [f"addr {what} 203.0.113.{i}/32 dev lo" for what in ("add", "del") for i in range(1, 251)]
        with stopped(relay):
            host.ip(*changes, *make_in1(relay, 801))
            raise_extra0(relay)
        assert overflows(relay) > 0
        events.flows()
        for _ in range(4):  # and while it runs
            host.ip(*changes)
        events.flows()
        relay.lab.source.ip("link set extra0 down")
        events.becomes("parked", "no carrier")


def open_files(relay) -> int:
    return len(list(Path(f"/proc/{relay.process.pid}/fd").iterdir()))


def overflows(relay) -> int:
    """Messages that the relay's netlink sockets had no room for (/proc/net/netlink: Drops)."""
    lines = Path(f"/proc/{relay.process.pid}/net/netlink").read_text().splitlines()
    return sum(int(line.split()[8]) for line in lines[1:])
