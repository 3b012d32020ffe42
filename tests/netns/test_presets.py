"""Presets between three segments, with programs nobody here wrote: Avahi finds names and services across the relay."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from support.relay import assert_adds_up, relaying
from support.traffic import wait_for

pytestmark = pytest.mark.net

SEARCH = b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 5\r\nST: ssdp:all\r\n\r\n'
PROGRAMS = ("avahi-daemon", "avahi-browse", "avahi-resolve", "dbus-daemon", "unshare", "nsenter")
MDNS = '[rules.names]\npreset = "{preset}"\nlinks = ["in0", "out0", "out1"]\n'
# A message bus and a daemon of its own for each host: /run is theirs alone.
HOST = """
mount -t tmpfs tmpfs /run && mkdir -p /run/dbus /run/avahi-daemon
dbus-daemon --system --nofork --nopidfile & while [ ! -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
printf '[server]\nhost-name={name}\nuse-ipv4={ipv4}\nuse-ipv6={ipv6}\nallow-interfaces=eth0\n' > /run/avahi.conf
exec avahi-daemon --no-chroot --no-drop-root --no-rlimits --file /run/avahi.conf
"""


@dataclass(frozen=True)
class Protocol:
    """A preset that brings answers back. ``relay`` is where the relay asks from on out0 and out1."""

    preset: str
    group: str
    port: int = 1900
    relay: tuple[str, str] = ("198.51.100.1", "198.18.1.1")

    @property
    def ipv6(self) -> bool:
        return ":" in self.group

    @property
    def config(self) -> str:
        return f'[rules.found]\npreset = "{self.preset}"\nlinks = ["in0", "out0", "out1"]\n'

    def socket(self, namespace) -> socket.socket:
        return namespace.socket(socket.AF_INET6 if self.ipv6 else socket.AF_INET)

    def listens(self, namespace) -> socket.socket:
        """A device that hears searches."""
        device, link = self.socket(namespace), namespace.ifindex("eth0")
        device.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.ipv6:
            device.bind((self.group, self.port, 0, link))
            membership = struct.pack("16si", ip_address(self.group).packed, link)
            device.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        else:
            device.bind((self.group, self.port))
            membership = struct.pack("4s4si", socket.inet_aton(self.group), bytes(4), link)
            device.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        device.settimeout(10)
        return device

    def asks(self, namespace) -> socket.socket:
        """A client that searches, from a port of its own."""
        client, link = self.socket(namespace), namespace.ifindex("eth0")
        if self.ipv6:
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link)
        else:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), link))
        client.settimeout(10)
        return client

    @property
    def everybody(self) -> tuple[str, int]:
        return self.group, self.port


SSDP = Protocol("ssdp", "239.255.255.250")  # UPnP Device Architecture 2.0
SSDP6 = Protocol("ssdp6", "ff02::c", relay=("fe80::", "fe80::"))
SITE = Protocol("ssdp6-site", "ff05::c", relay=("2001:db8:100::1", "2001:db8:101::1"))
WSD6 = Protocol("wsd6", "ff02::c", 3702, relay=("fe80::", "fe80::"))
each_protocol = pytest.mark.parametrize("protocol", [SSDP, SSDP6, SITE, WSD6], ids=lambda each: each.preset)
either_family = pytest.mark.parametrize("protocol", [SSDP, SSDP6], ids=lambda each: each.preset)


@contextlib.contextmanager
def searching(protocol):
    with relaying(protocol.config, sinks=2, ipv6=protocol.ipv6) as relay:
        relay.wait_for(lambda: all(each["state"] == "active" for each in relay.show("rules")), "active rules")
        if protocol.ipv6:  # the lab's source is in no network of in0; IPv4 sends there all the same, by its link
            relay.lab.relay.ip("route add 2001:db8:168::/64 dev in0")
        yield relay


@pytest.fixture
def installed():
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: make test installs it")


class Host:
    """A host with Avahi: ``ask`` runs a program beside the daemon."""

    def __init__(self, namespace, name: str, *, ipv6: bool) -> None:
        uses = {"{name}": name, "{ipv4}": "no" if ipv6 else "yes", "{ipv6}": "yes" if ipv6 else "no"}
        script = HOST
        for word, value in uses.items():
            script = script.replace(word, value)
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
        self._namespace = namespace
        self._process = namespace.popen(*command, stderr=subprocess.DEVNULL)
        self.name = name
        wait_for(lambda: f"{name}.local" in self.ask("avahi-resolve", "-n", f"{name}.local"), f"Avahi of {name}", 20)

    def ask(self, *command: str) -> str:
        inside = ["nsenter", "-t", str(self._process.pid), "-m", *command]
        return self._namespace.run(*inside, check=False).stdout

    def publish(self, kind: str, port: int) -> None:
        self._namespace.popen(
            "nsenter", "-t", str(self._process.pid), "-m", "avahi-publish-service", self.name, kind, str(port),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("preset", ["mdns", "mdns6"])
def test_avahi_finds_names_and_services_of_every_other_segment(preset):
    """With mdns6 over IPv6 alone: the daemons do not speak IPv4."""
    ipv6 = preset == "mdns6"
    family = "-6" if ipv6 else "-4"
    with relaying(MDNS.format(preset=preset), sinks=2, ipv6=ipv6) as relay:
        assert {each["name"] for each in relay.show("rules")} == {"names-in0", "names-out0", "names-out1"}
        relay.wait_for(lambda: all(each["state"] == "active" for each in relay.show("rules")), "active rules")
        lab = relay.lab
        hosts = [
            Host(lab.source, "camera", ipv6=ipv6),
            *(Host(sink, f"desk{i}", ipv6=ipv6) for i, sink in enumerate(lab.sinks)),
        ]
        for port, host in enumerate(hosts, 4000):
            host.publish("_mcrelay._udp", port)
        for asking in hosts:
            for asked in hosts:
                assert f"{asked.name}.local" in asking.ask("avahi-resolve", family, "-n", f"{asked.name}.local")
            wait_for(
                lambda asking=asking: all(
                    f";{asked.name};_mcrelay._udp;local;{asked.name}.local;" in found
                    for found in [asking.ask("avahi-browse", "-prt", "_mcrelay._udp")]
                    for asked in hosts
                ),
                f"{asking.name} to find every service",
                20,
            )
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert all(rule["rx_packets"] for rule in stats["rules"])
        assert not any(rule["drops"]["policer"] for rule in stats["rules"])


def row(relay, name: str):
    return next(each for each in relay.show("stats")["rules"] if each["name"] == f"found-{name}")


@each_protocol
def test_answers_to_a_search_go_back_to_who_asked_and_to_nobody_else(protocol):
    with searching(protocol) as relay:
        source, *sinks = relay.lab.source, *relay.lab.sinks
        with (
            protocol.asks(source) as one,
            protocol.asks(source) as two,
            protocol.listens(sinks[0]) as near,
            protocol.listens(sinks[1]) as far,
        ):
            one.sendto(SEARCH + b"one", protocol.everybody)
            two.sendto(SEARCH + b"two", protocol.everybody)
            answers = []
            for device, name in ((near, b"near"), (far, b"far")):
                for _ in range(2):
                    question, asker = device.recvfrom(2000)
                    assert asker[0].startswith(protocol.relay[name == b"far"])
                    answer = name + b" answers " + question[-3:]
                    with protocol.socket(sinks[0] if device is near else sinks[1]) as from_another_port:
                        from_another_port.sendto(answer, asker)
                    answers.append(answer)
            for client, mine in ((one, b"one"), (two, b"two")):
                got = {client.recv(2000) for _ in range(2)}
                assert got == {each for each in answers if each.endswith(mine)}
        found = row(relay, "in0")
        assert (found["rx_packets"], found["answers"]) == (2, {"passed": 4, "failed": 0, "late": 0, "waiting": 4})
        assert [each["tx_packets"] for each in found["outputs"]] == [2, 2]
        assert found["last_packet_time"] is not None
        assert_adds_up(relay.at_rest())
        relay.wait_for(lambda: row(relay, "in0")["answers"]["waiting"] == 0, "their time to be over", 20)


@either_family
def test_answers_come_within_the_time_that_the_search_allows(protocol):
    with searching(protocol) as relay:
        device = relay.lab.sinks[0]
        with (
            protocol.asks(relay.lab.source) as one,
            protocol.asks(relay.lab.source) as two,
            protocol.listens(device) as heard,
        ):
            askers = {}
            for client, mx in ((one, b"1"), (two, b"120")):
                client.sendto(SEARCH.replace(b"MX: 5", b"MX: " + mx), protocol.everybody)
                question, askers[client] = heard.recvfrom(2000)
                assert b"MX: " + mx in question
            relay.wait_for(lambda: row(relay, "in0")["answers"]["waiting"] == 2, "the sockets of the first to close", 6)
            for client in (one, two):
                heard.sendto(b"after three seconds", askers[client])
            assert two.recv(2000) == b"after three seconds"
            assert not readable(one)
        assert row(relay, "in0")["answers"]["passed"] == 1


def readable(client) -> bool:
    return bool(select.select([client], [], [], 0)[0])


@each_protocol
def test_announcements_go_every_way_and_what_a_second_relay_sends_back_ends(protocol):
    with searching(protocol) as relay:
        near, far = relay.lab.sinks
        with protocol.asks(near) as device, protocol.listens(far) as other, protocol.asks(far) as second:
            device.sendto(b"NOTIFY * HTTP/1.1", protocol.everybody)
            assert other.recv(2000) == b"NOTIFY * HTTP/1.1"
            second.sendto(b"NOTIFY * HTTP/1.1", protocol.everybody)
            relay.wait_for(lambda: row(relay, "out1")["drops"]["echo"] == 1, "what came back to be dropped")
            time.sleep(1.1)  # BACK_SECONDS
            second.sendto(b"NOTIFY * HTTP/1.1", protocol.everybody)
            relay.wait_for(lambda: row(relay, "out1")["outputs"][0]["tx_packets"] == 1, "what is new to be sent")
        assert_adds_up(relay.at_rest())


@either_family
def test_askers_beyond_the_bound_are_counted(protocol):
    with searching(protocol) as relay:
        with contextlib.ExitStack() as opened:
            # All are open before the first asks, and ask for the longest time: nobody's is over before the last asks.
            for client in [opened.enter_context(protocol.asks(relay.lab.sinks[0])) for _ in range(70)]:
                client.sendto(SEARCH.replace(b"MX: 5", b"MX: 120"), protocol.everybody)
            relay.wait_for(lambda: row(relay, "out0")["rx_packets"] == 70, "every search")
            found = row(relay, "out0")
        assert found["answers"]["waiting"] == 128
        assert [each["tx_errors"]["nobufs"] for each in found["outputs"]] == [6, 6]
        assert_adds_up(relay.at_rest())


# A media server whose files are its own.
DEVICE = """
mount -t tmpfs tmpfs /run && mkdir -p /run/media /run/db
cat > /run/dlna.conf <<.
media_dir=/run/media
db_dir=/run/db
log_dir=/run
uuid=4d696e69-444c-164e-9d41-02000000000a
network_interface=eth0
port=8200
.
exec minidlnad -S -f /run/dlna.conf -P /run/dlna.pid -u root
"""
SSDP_PROGRAMS = ("upnpc", "minidlnad", "unshare")


def test_a_real_client_finds_a_real_device_of_another_segment():
    missing = [name for name in SSDP_PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: make test installs it")
    with searching(SSDP) as relay:
        relay.lab.sinks[0].popen(
            "unshare", "-m", "--propagation", "private", "sh", "-c", DEVICE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(
            lambda: " desc: http://198.51.100.2:8200/rootDesc.xml" in upnpc(relay.lab.source), "upnpc to find it", 40
        )
        assert row(relay, "in0")["answers"]["passed"] > 0
        assert_adds_up(relay.at_rest())


def upnpc(namespace) -> str:
    return namespace.run("upnpc", "-m", "eth0", "-s", check=False).stdout
