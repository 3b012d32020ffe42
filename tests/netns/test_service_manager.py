"""What systemd sees: READY, a watchdog fed by the loop, and sockets that outlive a restart so that no leave is sent."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from pathlib import Path

import pytest
from support.manager import Manager, start_again
from support.relay import GROUP, INPUT, SOURCE, assert_adds_up, relaying
from support.traffic import MCRELAY, heard, receiver, report, sender

pytestmark = [pytest.mark.net, pytest.mark.alone]

RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'
RATE = 5_000


class IgmpCapture:
    """Every IGMP record that the relay's host sends towards the switch."""

    def __init__(self, namespace, link: str) -> None:
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        namespace.call(lambda: self._socket.bind((link, 3)))
        self._socket.setblocking(False)

    def leaves(self) -> int:
        """Records that take a group or a source away: IGMPv2 leave, or IGMPv3 TO_IN{} / BLOCK (RFC 3376, 4.2.12)."""
        found = 0
        while True:
            try:
                frame = self._socket.recv(2048)
            except BlockingIOError:
                return found
            if frame[12:14] != b"\x08\x00" or frame[23] != 2:
                continue
            message = frame[14 + (frame[14] & 15) * 4 :]
            found += message[0] == 0x17
            if message[0] == 0x22:
                (records,) = struct.unpack("!H", message[6:8])
                at = 8
                for _ in range(records):
                    kind, auxiliary, sources = struct.unpack("!BBH", message[at : at + 4])
                    found += (kind == 3 and sources == 0) or kind == 6
                    at += 8 + 4 * sources + 4 * auxiliary

    def close(self) -> None:
        self._socket.close()


def starved_seconds(process) -> float:
    """How long the main thread of a process was ready to run and had no CPU, since others had them all.

    The second field of /proc/PID/schedstat (linux/Documentation/scheduler/sched-stats.rst). The promise is about what
    the relay does; on a machine that gives it no CPU this comes on top.
    """
    return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_sends_no_leave_and_costs_less_than_a_second(tmp_path, end):
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.path}
        with relaying(RULE, environment=environment) as relay:
            relay.wait_for(lambda: len(manager.kept) == 1, "a stored helper socket")
            sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
            source = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", RATE)
            capture = IgmpCapture(relay.lab.switch, "to-relay")
            time.sleep(1)
            first = set(manager.kept)
            starved = -starved_seconds(relay.process)
            relay.process.send_signal(end)
            os.waitid(os.P_PID, relay.process.pid, os.WEXITED | os.WNOWAIT)
            starved += starved_seconds(relay.process)
            relay.process.wait(timeout=5)
            assert f"{SOURCE}@{GROUP}" in relay.lab.mdb()["to-relay"]
            start_again(relay, manager, environment)
            relay.wait_for(
                lambda: len(manager.kept) == 1 and set(manager.kept) != first,
                "the store's change of guard",
            )
            starved += starved_seconds(relay.process)
            relay.wait_for(lambda: relay.rule()["rx_packets"] > 2 * RATE, "stream through the next process")
            source.send_signal(signal.SIGINT)
            sent = report(source)["sent"]
            stats = relay.at_rest()
            got = heard(sink, relay.lab.sink)
            assert capture.leaves() == 0
            capture.close()
            assert got["duplicated"] == got["reordered"] == got["corrupted"] == 0
            gap_seconds = (sent - got["received"]) / RATE
            assert 0 < gap_seconds < 1 + starved
            assert f"{SOURCE}@{GROUP}" in relay.lab.mdb()["to-relay"]
            assert_adds_up(stats)
            relay.stop()
            manager.drop()
            relay.wait_for(lambda: f"{SOURCE}@{GROUP}" not in relay.lab.mdb().get("to-relay", ()), "leave after a stop")


def test_a_rule_that_goes_leaves_also_when_its_socket_is_stored(tmp_path):
    with Manager(tmp_path) as manager, relaying(RULE, environment={"NOTIFY_SOCKET": manager.path}) as relay:
        relay.wait_for(lambda: f"{SOURCE}@{GROUP}" in relay.lab.mdb().get("to-relay", ()), "join")
        relay.reload("")
        relay.wait_for(lambda: f"{SOURCE}@{GROUP}" not in relay.lab.mdb().get("to-relay", ()), "leave")
        relay.wait_for(lambda: not manager.kept, "an empty store")


def test_the_watchdog_of_an_idle_relay_is_fed_more_than_twice_an_interval(tmp_path):
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000"}
        with relaying(RULE, environment=environment):
            before = manager.told.count("WATCHDOG=1")
            time.sleep(2)
            assert manager.told.count("WATCHDOG=1") - before >= 4


def test_states_are_told_and_a_reload_says_when_it_began(tmp_path):
    with Manager(tmp_path) as manager, relaying(RULE, environment={"NOTIFY_SOCKET": manager.path}) as relay:
        relay.wait_for(lambda: any(m.startswith("READY=1\nSTATUS=1 rule: 1 active") for m in manager.told), "READY")
        relay.reload(RULE)
        relay.wait_for(lambda: any(m.startswith("RELOADING=1\nMONOTONIC_USEC=") for m in manager.told), "RELOADING")
        relay.stop()
        relay.wait_for(lambda: "STOPPING=1" in manager.told, "STOPPING")


def test_logs_are_json_when_asked_and_carry_priorities_under_the_journal(tmp_path):
    with relaying(RULE, environment={"JOURNAL_STREAM": "1:2"}) as relay:
        assert all(line.startswith(("<6>", "<4>")) for line in relay.log.read_text().splitlines())
        relay.stop()
        with relay.log.open("w") as log:
            relay.process = relay.lab.relay.popen(
                *MCRELAY, "run", "-c", str(relay.config), "--socket", relay.socket, "--log-format", "json", stderr=log
            )  # fmt: skip
        relay.wait_for(lambda: "ready" in relay.log.read_text(), "READY")
        lines = [json.loads(line) for line in relay.log.read_text().splitlines()]
        assert {"rule": "x", "state": "active"} in [line["fields"] for line in lines]
        assert all(line["level"] == "info" and abs(line["time"] - time.time()) < 60 for line in lines)
