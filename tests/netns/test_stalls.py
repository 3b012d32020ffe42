"""Others that stop: a manager, a file, a log reader, a client, a limit. The relay goes on, answers, can be stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.relay import GROUP, INPUT, RelayUnderTest, relaying
from support.traffic import MCRELAY, assert_exact, heard, receiver, send

from mcrelay.commands.lab import standard_lab
from mcrelay.control.client import ask
from mcrelay.errors import ControlError, McrelayError

pytestmark = pytest.mark.net

RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'
COUNT = 500


def relays(relay) -> None:
    """A stream passes whole, and a client is answered at once."""
    sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
    send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", COUNT, "--rate", 2_000)
    begin = time.monotonic()
    assert relay.state() == "active"
    assert time.monotonic() - begin < 2
    relay.at_rest()
    assert_exact(heard(sink, relay.lab.sink), COUNT)


@contextmanager
def unread_manager(folder: Path):
    """A notify socket that nobody reads: after about ten messages it takes no more (net.unix.max_dgram_qlen)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify.sock"))
        os.chmod(folder / "notify.sock", 0o777)
        yield {"NOTIFY_SOCKET": str(folder / "notify.sock")}


def test_a_manager_that_reads_nothing_stalls_neither_the_relay_nor_its_end(tmp_path):
    tmp_path.chmod(0o755)
    rules = RULE + "".join(
        f'[rules.r{i}]\ninput = "239.5.{i}.1:5000%in0"\noutputs = ["239.6.0.{i}:5000%out0"]\n' for i in range(1, 60)
    )
    with unread_manager(tmp_path) as environment, standard_lab() as lab, tempfile.TemporaryDirectory() as folder:
        lab.settle()
        relay = RelayUnderTest(lab, rules, Path(folder), environment=environment)
        relay.start()
        for _ in range(10):  # each change of state is said to the manager
            for command, state in (("down", "parked"), ("up", "active")):
                lab.relay.ip(f"link set out0 {command}")
                relay.wait_for(lambda s=state: relay.state() == s, f"{state} rule")
        relays(relay)
        assert relay.stop() < 3


def fifo_in_the_folder(relay) -> None:
    os.mkfifo(relay.config.parent / "more.toml", 0o644)


@pytest.mark.parametrize("what", ["the file itself", "one beside it"])
def test_a_configuration_file_that_does_not_answer_stalls_nothing(what):
    with relaying(RULE) as relay:
        if what == "the file itself":
            relay.config.unlink()
            os.mkfifo(relay.config, 0o644)
        else:
            os.unlink(relay.config)
            relay.config.symlink_to(relay.config.parent / "pipe")
            os.mkfifo(relay.config.parent / "pipe", 0o644)
        begin = time.monotonic()
        for _ in range(2):
            with pytest.raises(McrelayError, match="did not end within"):
                ask(relay.socket, "reload")
        assert time.monotonic() - begin < 12
        relay.process.send_signal(signal.SIGHUP)
        relays(relay)
        assert relay.stop() < 3


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_that_nobody_reads_stalls_nothing(log_format):
    with standard_lab() as lab, tempfile.TemporaryDirectory() as folder:
        lab.settle()
        relay = RelayUnderTest(lab, RULE, Path(folder))
        reading, writing = os.pipe()
        arguments = ["run", "-c", str(relay.config), "--socket", relay.socket, "--log-format", log_format]
        relay.process = lab.relay.popen(*MCRELAY, *arguments, stderr=writing)
        os.close(writing)
        relay.log.write_text("")
        relay.wait_for(lambda: relay.show("rules") and relay.state() == "active", "active rule")
        for _ in range(200):  # a status dump each: far more than a pipe holds
            relay.process.send_signal(signal.SIGUSR1)
            time.sleep(0.005)
        relays(relay)
        assert relay.stop() < 4
        os.close(reading)


def test_a_name_service_that_does_not_answer_stalls_no_change():
    """The log names who changed something; a lookup that hangs (LDAP) must not hold the change up."""
    slow = (
        "import time, types\nfrom mcrelay.control import handlers as changer\n"
        "changer.pwd = types.SimpleNamespace(getpwuid=lambda uid: time.sleep(30))\nfrom mcrelay.cli import main; main()"
    )
    with relaying(RULE, program=[sys.executable, "-c", slow]) as relay:
        begin = time.monotonic()
        ask(relay.socket, "disable", name="x")
        ask(relay.socket, "enable", name="x")
        assert time.monotonic() - begin < 4
        relays(relay)


def test_out_of_descriptors_the_rules_that_fit_work_and_the_others_say_what_to_raise():
    rules = RULE + "".join(
        f'[rules.r{i}]\ninput = "239.5.{i}.1:5000%in0"\noutputs = ["239.6.0.{i}:5000%out0"]\n' for i in range(1, 200)
    )
    program = ["prlimit", "--nofile=100:100", *MCRELAY]
    with relaying(rules, program=program) as relay:
        states = {each["name"]: each for each in relay.show("rules")}
        active = [name for name, each in states.items() if each["state"] == "active"]
        refused = [each for each in states.values() if each["state"] == "error"]
        assert "x" in active
        assert len(active) >= 10
        assert len(active) + len(refused) == 200
        assert all("LimitNOFILE" in each["reason"] for each in refused)
        assert all(each["state"] == "joined" for each in relay.show("groups"))
        relays(relay)
        held = []
        try:
            for _ in range(150):  # more clients than there are descriptors
                client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                client.setblocking(False)
                held.append(client)
                try:
                    client.connect(relay.socket)
                except BlockingIOError:
                    break
            time.sleep(3)
            size = relay.log.stat().st_size
            time.sleep(2)
            assert relay.log.stat().st_size - size < 4_000
            assert "Traceback" not in relay.log.read_text()
        finally:
            for client in held:
                client.close()
        relay.wait_for(lambda: relay.state() == "active", "an answer")
        relays(relay)


def test_without_a_thread_to_be_had_the_relay_says_so_and_ends():
    with standard_lab() as lab, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.toml"
        path.write_text(RULE)
        Path(folder).chmod(0o755)
        code = (
            "import threading\n"
            'def refuse(self): raise RuntimeError("can\'t start new thread")\n'
            "threading.Thread.start = refuse\n"
            "from mcrelay.cli import main; main()"
        )
        done = subprocess.run(
            lab.relay.command(sys.executable, "-c", code, "run", "-c", str(path), "--socket", f"{folder}/run/x.sock"),
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert done.returncode == 1
        assert "raise the limit of processes" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_client_that_says_nothing_stalls_nobody():
    with relaying(RULE) as relay:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
            silent.connect(relay.socket)
            relays(relay)
            assert relay.stop() < 3
        with pytest.raises(ControlError):
            ask(relay.socket, "version")
