"""`mcrelay relay`, the command that everybody types first: what a person sees of it, and how it ends."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import threading
import time

import pytest
from support.relay import GROUP, INPUT, MCRELAY

from mcrelay.commands.lab import standard_lab

pytestmark = pytest.mark.net

OUT = "239.10.0.1:5004%out0"


@pytest.fixture(scope="module")
def lab():
    with standard_lab() as made:
        made.settle()
        yield made


class Command:
    """One that runs, with all that it has said so far."""

    def __init__(self, lab, *words, **options):
        self.child = lab.relay.popen(
            *MCRELAY, "relay", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )  # fmt: skip
        self.said = ""
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        for line in self.child.stderr:
            self.said += line

    def until(self, text, seconds=10):
        end = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < end, f"never said {text!r}:\n{self.said}"
            time.sleep(0.05)

    def end(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
        shown = self.child.stdout.read()
        code = self.child.wait(timeout=10)
        self.thread.join()
        self.child.stdout.close()
        self.child.stderr.close()
        return code, shown


@contextlib.contextmanager
def relay_command(lab, *words, **options):
    command = Command(lab, *words, **options)
    try:
        command.until("rule=relay state=")
        yield command
    finally:
        if command.child.poll() is None:
            command.child.kill()
            command.child.wait()


@contextlib.contextmanager
def sending(lab, *words):
    child = lab.source.popen(*MCRELAY, "send", *words, "--rate", "1000", stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.send_signal(signal.SIGINT)
        child.wait()


def test_the_stream_on_another_port_is_named_and_it_ends_with_1(lab):
    with sending(lab, f"{GROUP}:2068%eth0"), relay_command(lab, INPUT.replace("2068", "2086"), OUT) as command:
        command.until("this rule wants")
        assert "nothing of 192.168.168.55@226.2.2.2:2086%in0 has arrived for 3 s" in command.said
        found = re.search(
            r"226\.2\.2\.2 arrives on in0 from 192\.168\.168\.55 to port 2068, (\d+)/s; this rule wants port 2086",
            command.said,
        )
        assert found
        assert 300 < int(found[1]) < 1100  # the switch takes a moment
        code, shown = command.end()
        assert code == 1
        assert "near miss: 192.168.168.55 sends to 226.2.2.2 port 2068" in shown
        assert "mcrelay: nothing arrived of 192.168.168.55@226.2.2.2:2086%in0" in command.said
        assert "Traceback" not in command.said


def test_the_stream_from_another_source_is_named(lab):
    wanted = f"192.168.168.56@{GROUP}:2068%in0"
    with relay_command(lab, f"{GROUP}:1%in0", OUT), sending(lab, f"{GROUP}:2068%eth0"):  # so that the switch passes it
        with relay_command(lab, wanted, "239.10.0.2:5004%out0") as command:
            command.until("this rule wants source 192.168.168.56")


def test_where_nothing_at_all_arrives_it_says_so(lab):
    with relay_command(lab, "239.77.0.1:5000%in0", OUT) as command:
        command.until("no multicast at all arrives on in0")
        assert command.end()[0] == 1


def test_where_nobody_queries_either_that_is_said_with_the_remedy():
    with standard_lab(querier=False) as silent:
        silent.settle()
        with relay_command(silent, "239.77.0.1:5000%in0", OUT) as command:
            command.until("nor was a querier heard on in0")
            assert "have the switch or the router query there" in command.said
            assert command.end()[0] == 1


def test_a_link_without_carrier_is_named(lab):
    with relay_command(lab, "239.77.0.2:5000%out0", "239.10.0.2:5004%in0") as command:
        pass
    lab.sink.ip("link set eth0 down")
    try:
        with relay_command(lab, "239.77.0.2:5000%out0", "239.10.0.2:5004%in0") as command:
            command.until("nothing of")
            command.until("carrier")
            assert command.end()[0] == 1
    finally:
        lab.sink.ip("link set eth0 up")


@pytest.mark.parametrize("words", [["239.1.1.1:5000%im0", OUT], ["239.1.1.1:5000%in0", "239.10.0.1:5004%ou0"]])
def test_a_link_that_does_not_exist_ends_it_at_once_with_near_names(lab, words):
    begin = time.monotonic()
    done = lab.relay.run(*MCRELAY, "relay", *words, check=False)
    assert time.monotonic() - begin < 5
    assert done.returncode == 1
    assert re.fullmatch(r"mcrelay: no link is called (im0|ou0); did you mean (in0|out0)( or \w+)*\?\n", done.stderr)


def test_what_cannot_be_sent_is_named_and_it_ends_with_1(lab):
    with relay_command(lab, INPUT, "10.99.0.1:7000") as command, sending(lab, f"{GROUP}:2068%eth0"):
        time.sleep(3)
        code, shown = command.end()
    assert code == 1
    assert "mcrelay: nothing could be relayed: no route to 10.99.0.1" in command.said
    assert "sent 0 to 10.99.0.1:7000" in shown


def test_one_output_of_two_that_takes_nothing_is_named_and_it_ends_with_1(lab):
    with relay_command(lab, INPUT, OUT, "10.99.0.1:7000") as command, sending(lab, f"{GROUP}:2068%eth0"):
        time.sleep(3)
        code, shown = command.end()
    assert code == 1
    assert "mcrelay: could not send to 10.99.0.1:7000: no route to 10.99.0.1" in command.said
    assert re.search(r"  not sent \d+: parked", shown)


def test_all_is_well_and_it_ends_with_0_and_says_what_was_relayed(lab):
    with relay_command(lab, INPUT, OUT) as command, sending(lab, f"{GROUP}:2068%eth0"):
        time.sleep(4)
        code, shown = command.end()
    assert code == 0
    assert "has arrived for" not in command.said
    assert re.search(r"received \d{4,} datagrams, \d{6,} bytes", shown)


def test_show_finds_it_and_a_second_one_is_warned_of_the_first(lab):
    with relay_command(lab, INPUT, OUT, "--ttl", "7") as first:
        path = f"/run/mcrelay-relay/{first.child.pid}.sock"
        found = subprocess.run([*MCRELAY, "show"], capture_output=True, text=True, check=False)
        if "several relay commands" not in found.stderr:  # other tests may run some too
            assert f"a relay command runs: mcrelay relay {INPUT} {OUT} --ttl 7" in found.stderr
            assert "active" in found.stdout
        else:
            assert path in found.stderr
        asked = subprocess.run(
            [*MCRELAY, "show", "stats", "--socket", path], capture_output=True, text=True, check=True
        )
        assert "relay" in asked.stdout
        with relay_command(lab, INPUT, "239.10.0.3:5004%out0") as second:
            assert f"another mcrelay (pid {first.child.pid}, --socket {path}) has this input too" in second.said
            second.end()
        with relay_command(lab, INPUT.replace("2068", "2069"), "239.10.0.3:5004%out0") as other:
            assert "another mcrelay" not in other.said
            other.end()
        first.end()
    assert not os.path.exists(path)


def test_a_terminal_sees_a_live_line_that_fits_it(lab):
    master, slave = pty.openpty()
    child = lab.relay.popen(*MCRELAY, "relay", INPUT, OUT, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    with sending(lab, f"{GROUP}:2068%eth0"):
        end = time.monotonic() + 6
        while time.monotonic() < end:
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 65536)
    child.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):
        while piece := os.read(master, 65536):
            shown += piece
    os.close(master)
    assert child.wait(timeout=10) == 0
    text = shown.decode()
    lines = [line for line in re.split(r"\r\x1b\[K|\r\n", text) if line.startswith("in ")]
    assert len(lines) >= 5
    assert all(len(line) < 80 for line in lines)
    found = re.fullmatch(r"in ([\d ]+)  out ([\d ]+)  lost 0  ([\d ]+)/s ([\d.]+) Mbit/s", lines[-1])
    assert found, lines[-1]
    assert 700 < int(found[3].replace(" ", "")) < 1300
    assert "received" in text
