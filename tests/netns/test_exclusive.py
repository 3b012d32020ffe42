"""Exclusive rules: the kernel drops exactly what is relayed, as long as nobody else on the host listens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from support import frames, igmpwire
from support.manager import Manager
from support.relay import assert_adds_up, every_way, relaying
from support.traffic import MCRELAY, assert_exact, receiver, report, send, sender
from support.ways import way

from mcrelay.exclusive.droptable import table_name

pytestmark = pytest.mark.net

GROUP, PORT = "239.1.1.1", 5000
STREAM = f"{GROUP}:{PORT}%in0"
SOURCE = "192.0.2.55"  # the relay has a route back to it: the stack gets as far as looking for a socket
RULE = f'[rules.x]\ninput = "{STREAM}"\noutputs = ["239.10.0.1:5004%out0"]\n'
EXCLUSIVE = RULE + "exclusive = true\n"


@contextlib.contextmanager
def exclusive_relay(config: str = EXCLUSIVE, **options):
    with relaying(config, **options) as relay:
        if way().taken == 4:  # of IPv6 no filter asks for a way back
            relay.lab.source.ip(
                "addr flush dev eth0", f"addr add {SOURCE}/24 dev eth0", "route add 224.0.0.0/4 dev eth0"
            )
        yield relay


def rule_of(relay, name: str = "x"):
    return next(each for each in relay.show("rules") if each["name"] == name)


def is_on(relay, name: str = "x") -> bool:
    return rule_of(relay, name)["exclusive"] == {"state": "on", "reason": None}


def refused(relay, name: str = "x") -> str:
    standing = rule_of(relay, name)["exclusive"]
    return standing["reason"] if standing["state"] == "refused" else ""


def rules_of_nft(relay) -> str:
    return relay.lab.relay.run("nft", "list", "ruleset").stdout


def table_of(relay) -> str:
    return f"table netdev {table_name(relay.socket)} "


def climbed(relay) -> int:
    """Datagrams of a joined group that got up to UDP and found no socket (UdpIgnoredMulti)."""

    def read() -> int:
        if way().taken == 6:
            words = Path("/proc/thread-self/net/snmp6").read_text().split()
            return int(words[words.index("Udp6IgnoredMulti") + 1])
        with open("/proc/thread-self/net/snmp") as snmp:
            names, values = [line.split() for line in snmp if line.startswith("Udp:")]
        return int(values[names.index("IgnoredMulti")])

    return relay.lab.relay.call(read)


def relays_exactly(relay, count: int = 500) -> int:
    """Relay that many, and return how many of them climbed the stack."""
    before = climbed(relay)
    sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", count)
    send(relay.lab.source, f"{GROUP}:{PORT}%eth0", "--rate", 5_000, "--count", count)
    assert_exact(report(sink), count)
    assert_adds_up(relay.at_rest())
    return climbed(relay) - before


class Passed:
    """What passes the ingress hook of in0 behind the relay's table: a chain of the test's own, farther back."""

    def __init__(self, relay) -> None:
        self._relay = relay
        self._source = relay.lab.source.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._source.bind(("eth0", 0))
        chain = f"type filter hook ingress device in0 priority 0; ip daddr {GROUP} counter name passed;"
        relay.lab.relay.run("nft", f"table netdev test {{ counter passed {{ }}; chain c {{ {chain} }}; }}")

    def __enter__(self) -> Passed:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def of(self, *frames: bytes, times: int = 50) -> int:
        """Send each frame so many times; how many passed, once the ring has seen all of them."""
        passed, seen = self._count(), self._relay.link()["rx_frames"]
        for _ in range(times):
            for each in frames:
                self._source.send(each)
        seen += times * len(frames)
        self._relay.wait_for(lambda: self._relay.link()["rx_frames"] == seen, "frames in the ring")
        return self._count() - passed

    def _count(self) -> int:
        shown = self._relay.lab.relay.run("nft", "-j", "list", "counter", "netdev", "test", "passed").stdout
        return next(each["counter"]["packets"] for each in json.loads(shown)["nftables"] if "counter" in each)


def frame(source: str = SOURCE, port: int = PORT, **fields) -> bytes:
    return frames.frame(source=source, group=GROUP, port=port, **fields)


def test_exactly_the_relayed_datagrams_do_not_climb_the_stack():
    with exclusive_relay() as relay:
        assert is_on(relay)
        assert table_of(relay) in rules_of_nft(relay)
        assert "capabilities=cap_net_admin,cap_net_raw cap_net_admin_for=exclusive\n" in relay.log.read_text()
        shown = subprocess.run([*MCRELAY, "show", "--socket", relay.socket], capture_output=True, text=True, check=True)
        assert f"x     active  {STREAM} exclusive  239.10.0.1:5004%out0" in shown.stdout
        assert relays_exactly(relay) == 0
        with Passed(relay) as passed:
            assert passed.of(frame()) == 0
            assert passed.of(frame(source="10.99.99.9")) == 0
            assert relay.rule()["rx_packets"] == 600
            assert passed.of(frame(port=PORT + 1)) == 50
            assert passed.of(frames.tagged(frame(), 10)) == 50
            assert passed.of(frames.tagged(frame(), 0xA000)) == 50  # a priority tag: relayed, and not dropped
            assert passed.of(frame(fragment=0x2000), frame(fragment=0x0002)) == 100
            assert relay.rule()["rx_packets"] == 650
            assert relays_exactly(relay) == 0
        relay.lab.relay.run("nft", "delete", "table", "netdev", "test")
        relay.reload(RULE)
        assert rule_of(relay)["exclusive"] is None
        assert rules_of_nft(relay) == ""
        assert relays_exactly(relay) == 500  # the control


@every_way
def test_what_is_dropped_is_relayed_all_the_same_and_climbs_again_without_exclusive():
    with exclusive_relay() as relay:
        assert is_on(relay)
        assert relays_exactly(relay) == 0
        relay.reload(RULE)
        assert relays_exactly(relay) == 500  # the control


def test_igmp_to_the_group_still_reaches_the_host():
    with exclusive_relay() as relay:
        assert is_on(relay)
        query = struct.pack("!BBH4sBBH", 0x11, 5, 0, socket.inet_aton(GROUP), 2, 125, 0)  # answered within 0.5 s
        query = query[:2] + struct.pack("!H", 0xFFFF - frames.ones_sum(query)) + query[4:]
        packet = frames.ipv4(query, source=igmpwire.QUERIER, group=GROUP, ttl=1, protocol=2, options=b"\x94\x04\0\0")
        with igmpwire.Listener(relay.lab.switch, "to-relay") as listener:
            igmpwire.send_frame(relay.lab.switch, "to-relay", frames.ethernet(packet, to=frames.group_mac(GROUP)))
            relay.wait_for(lambda: igmpwire.answers(listener.messages(), GROUP), "answer", seconds=2)


def test_of_two_sources_only_that_of_the_exclusive_rule_is_dropped():
    other = f'[rules.y]\ninput = "192.0.2.56@{STREAM}"\noutputs = ["239.10.0.2:5004%out0"]\n'
    with exclusive_relay(EXCLUSIVE.replace(STREAM, f"{SOURCE}@{STREAM}") + other) as relay:
        assert is_on(relay)
        with Passed(relay) as passed:
            assert passed.of(frame()) == 0
            assert passed.of(frame(source="192.0.2.56")) == 50
            assert (relay.rule("x")["rx_packets"], relay.rule("y")["rx_packets"]) == (50, 50)


def test_the_drop_goes_while_another_program_listens_and_comes_back():
    with exclusive_relay(EXCLUSIVE + f"source_port = {PORT}\n") as relay:  # our own socket on that port is no listener
        assert is_on(relay)
        with relay.lab.relay.socket() as listener:
            request = socket.inet_aton(GROUP) + struct.pack("@4xi", relay.lab.relay.ifindex("in0"))
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            relay.wait_for(lambda: f"has joined {GROUP} on in0" in refused(relay), "refusal")  # seen within 5 s
            assert rules_of_nft(relay) == ""
            assert "changed rule=x exclusive=refused reason='another program" in relay.log.read_text()
            assert relay.state() == "active"
        relay.reload(EXCLUSIVE)  # looks at once
        assert is_on(relay)
        with relay.lab.relay.socket() as listener:
            listener.bind(("", PORT))
            listener.settimeout(5)
            relay.reload(EXCLUSIVE)
            assert f"bound to port {PORT}" in refused(relay)
            send(relay.lab.source, f"{GROUP}:{PORT}%eth0", "--count", 1)
            assert listener.recv(2048)
        relay.reload(EXCLUSIVE)
        assert is_on(relay)
        assert relay.log.read_text().count("changed rule=x exclusive=on") == 3
        assert relays_exactly(relay) == 0


def children(pid: int) -> set[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as found:
        return {int(each) for each in found.read().split()}


def test_no_table_outlives_the_relay_or_its_nft():
    with exclusive_relay() as relay:
        (first,) = children(relay.process.pid)
        os.kill(first, signal.SIGKILL)
        relay.wait_for(lambda: children(relay.process.pid) - {first} and rules_of_nft(relay), "another nft")
        assert "nft has ended: nothing is dropped" in relay.log.read_text()
        (second,) = children(relay.process.pid)
        os.kill(second, signal.SIGKILL)
        relay.wait_for(lambda: "nft has ended; it is started again within a minute" in refused(relay), "refusal")
        assert rules_of_nft(relay) == ""
        assert relays_exactly(relay) == 500
        relay.stop()
        relay.start()
        assert is_on(relay)
        relay.stop()
        assert rules_of_nft(relay) == ""
        relay.start()
        assert table_of(relay) in rules_of_nft(relay)
        relay.process.kill()
        relay.process.wait()
        relay.wait_for(lambda: rules_of_nft(relay) == "", "an end of the table")


def test_a_bridge_port_keeps_its_frames_and_a_link_made_again_gets_its_drop_again():
    more = '[rules.y]\ninput = "239.1.1.2:5000%in1"\noutputs = ["239.10.0.2:5004%out0"]\nexclusive = true\n'
    with exclusive_relay(EXCLUSIVE + more) as relay:
        host = relay.lab.relay
        assert rule_of(relay, "y")["exclusive"] == {"state": "off", "reason": None}
        for number in (71, 72):
            host.ip(f"link add in1 index {number} type veth peer name in2", "link set in1 up", "link set in2 up")
            relay.wait_for(lambda: is_on(relay, "y"), "drop")
            assert f"chain link{number} " in rules_of_nft(relay)
            host.ip("link del in1")
            relay.wait_for(lambda: rule_of(relay, "y")["exclusive"]["state"] == "off", "off")
            assert "in1" not in rules_of_nft(relay)
            assert is_on(relay)
        host.ip("link add br9 type bridge", "link set in0 master br9")
        relay.wait_for(lambda: "in0 is a port of br9" in refused(relay), "refusal")
        assert rules_of_nft(relay) == ""
        host.ip("link set in0 nomaster", "link add upper link in0 type macvlan")
        relay.wait_for(lambda: "upper takes its frames from in0" in refused(relay), "refusal")
        host.ip("link del upper")
        relay.wait_for(lambda: is_on(relay), "drop")
        assert relays_exactly(relay) == 0


def test_an_exclusive_rule_added_without_the_capability_relays_and_says_why_not():
    with exclusive_relay(RULE) as relay:
        command = [*MCRELAY, "add", "y", "239.1.1.2:5000%in0", "239.10.0.2:5004%out0", "--exclusive"]
        done = subprocess.run([*command, "--socket", relay.socket], capture_output=True, text=True, check=True)
        assert done.stderr.startswith("warning: not exclusive: CAP_NET_ADMIN is missing")
        assert done.stdout.startswith("y: active")
        shown = subprocess.run([*MCRELAY, "show", "--socket", relay.socket], capture_output=True, text=True, check=True)
        assert "y: not exclusive: CAP_NET_ADMIN is missing" in shown.stdout
        assert relays_exactly(relay) == 500


# What stands in for nft, or for /proc, in the relay's own mount namespace.
NFT = "$(command -v nft || echo /usr/sbin/nft)"
OLD = "#!/bin/sh\\nwhile read -r line; do echo Error: syntax error; echo $line; done >&2\\n"
LACKING = {
    "nft is not installed": f"mount --bind /dev/null {NFT}",
    "nftables 0.9.9 or newer": f"printf '{OLD}' >/run/nft && chmod +x /run/nft && mount --bind /run/nft {NFT}",
    "/proc is not mounted": "mount -t tmpfs tmpfs /sys && mount -t tmpfs tmpfs /proc",
}


@pytest.mark.parametrize("reason", LACKING)
def test_where_there_can_be_no_drop_the_rule_relays_without(reason):
    prepare = f"mount -t tmpfs tmpfs /run && {LACKING[reason]}"
    program = ["unshare", "-m", "sh", "-c", f'{prepare} && exec "$@"', "sh", *MCRELAY]
    with exclusive_relay(program=program) as relay:
        assert reason in refused(relay)
        assert reason in relay.log.read_text()
        assert relays_exactly(relay) == 500
        assert "Traceback" not in relay.log.read_text()


def test_after_a_restart_the_sockets_that_waited_are_no_listeners(tmp_path):
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.path}
        with exclusive_relay(environment=environment) as relay:
            relay.wait_for(lambda: len(manager.kept) == 1, "a stored helper socket")
            relay.stop()
            run = [*MCRELAY, "run", "-c", str(relay.config), "--socket", relay.socket]
            command, fds = manager.command("env", *(f"{key}={value}" for key, value in environment.items()), *run)
            with relay.log.open("w") as log:
                relay.process = relay.lab.relay.popen(*command, stderr=log, pass_fds=fds)
            relay.wait_for(lambda: "ready" in relay.log.read_text(), "READY")
            relay.wait_for(lambda: is_on(relay), "drop")
            assert "exclusive=refused" not in relay.log.read_text()


def test_relay_without_a_file_can_be_exclusive():
    with exclusive_relay(RULE) as relay:
        with sender(relay.lab.source, "239.1.1.2:5000%eth0", "--duration", 100) as steady:
            one = relay.lab.relay.popen(
                *MCRELAY, "relay", "239.1.1.2:5000%in0", "239.10.0.2:5004%out0", "--exclusive", stderr=subprocess.PIPE
            )
            while "state=active" not in one.stderr.readline():
                pass
            assert f"table netdev mcrelay-relay-{one.pid} " in rules_of_nft(relay)
            steady.send_signal(signal.SIGINT)
            assert '"sent"' in steady.communicate()[0]
        one.send_signal(signal.SIGINT)
        assert one.wait(timeout=5) == 0
        assert rules_of_nft(relay) == ""
