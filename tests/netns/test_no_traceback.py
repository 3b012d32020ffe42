"""No traceback, ever: every command with a full disk, a closed pipe, another locale, Ctrl-C at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from support.relay import INPUT, MCRELAY, relaying

from mcrelay.cli import COMMANDS

pytestmark = pytest.mark.net

OUT = "239.10.0.1:5004%out0"
OTHER = ["239.1.1.1:5000%in0", "239.10.0.2:5004%out0"]
# An en dash has no place in latin-1.
RULE = f'[rules.x]\ndescription = "Aula – Süd"\ninput = "{INPUT}"\noutputs = ["{OUT}"]\n'

# How each command is called where it has something to say; SOCKET and FILE are filled in.
CALLS = {
    "run": ["run", "-c", "FILE", "--socket", "SOCKET"],  # the socket is taken
    "relay": ["relay", INPUT, "239.10.0.9:5004%out0"],
    "check": ["check", "-c", "FILE"],
    "show": ["show", "--socket", "SOCKET"],
    "add": ["add", "y", *OTHER, "--description", "Aula – Süd", "--socket", "SOCKET"],
    "replace": ["replace", "x", INPUT, OUT, "--description", "Aula – Süd", "--socket", "SOCKET"],
    "delete": ["delete", "y", "--socket", "SOCKET"],
    "enable": ["enable", "x", "--socket", "SOCKET"],
    "disable": ["disable", "x", "--socket", "SOCKET"],
    "save": ["save", "--to", "/nonexistent/x.toml", "--socket", "SOCKET"],
    "reload": ["reload", "--dry-run", "--socket", "SOCKET"],
    "send": ["send", "239.10.0.3:5004%lo", "--count", "10"],
    "recv": ["recv", "239.10.0.3:5004%lo", "--duration", "0.2"],
    "demo": ["demo"],
    "version": ["version"],
    "doctor": ["doctor", "x", "--socket", "SOCKET"],
    "explain": ["explain", INPUT, "--socket", "SOCKET"],
    "discover": ["discover", "lo", "--duration", "0.2"],
    "capture": ["capture", "x", "-w", "/dev/full", "--duration", "0.2", "--socket", "SOCKET"],
    "top": ["top", "--socket", "SOCKET"],
    "help": ["help"],
}
MORE = [["show", noun, "--socket", "SOCKET"] for noun in ("stats", "links", "groups", "config", "rules")]
MORE += [["--help"], ["--version"], ["frobnicate"], []]
LONG = {"relay", "demo"}  # Ctrl-C ends them
ONCE = {
    "run",
    "capture",
    "add",
    "delete",
    "save",
    "frobnicate",
    "",
}  # refused at the second time at least


@pytest.fixture(scope="module")
def relay():
    with relaying(RULE) as found:
        yield found


def fill(relay, call):
    return [{"SOCKET": relay.socket, "FILE": str(relay.config)}.get(word, word) for word in call]


def end(relay, call, **options):
    """Run it to its end in the relay's namespace; returns the exit code and what stderr got."""
    shell = options.pop("shell", "")
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", *MCRELAY, *fill(relay, call)]
    if call[:1] and call[0] in LONG:
        command = ["timeout", "-s", "INT", "1.5", *command]
    child = relay.lab.relay.popen(*command, stderr=subprocess.PIPE, **options)
    _, said = child.communicate(timeout=30)
    return child.returncode, said


def test_every_command_is_in_the_table():
    assert set(CALLS) == set(COMMANDS)


@pytest.mark.parametrize("call", [*CALLS.values(), *MORE], ids=" ".join)
@pytest.mark.parametrize("shell", [">/dev/full", ">&-", "2>/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_what_cannot_be_printed_is_an_error_in_one_line(relay, call, shell):
    code, said = end(relay, call, shell=shell)
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    if {">/dev/full", ">&-"} & set(shell.split()) and "".join(call[:1]) not in LONG | ONCE:
        assert code == 1
        if "2>" not in shell:
            assert said.startswith("mcrelay: cannot print: ") or call[0] == "recv"
    assert code in {0, 1, 2, 124}


@pytest.mark.parametrize("call", [*CALLS.values(), *MORE], ids=" ".join)
def test_a_locale_without_the_letter_shows_it_otherwise(relay, call):
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    code, said = end(relay, call, env=environment, stdout=subprocess.DEVNULL)
    assert "Traceback" not in said
    assert "fault" not in said
    assert code in {0, 1, 2, 124}


def test_a_config_in_another_locale_is_the_same_config(relay, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    command = [*MCRELAY, "show", "config", "--socket", relay.socket]
    shown = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    assert rb"Aula \u2013 S" in shown


@pytest.mark.parametrize("call", CALLS.values(), ids=" ".join)
def test_ctrl_c_in_the_first_moments_ends_it_quietly(relay, call):
    for milliseconds in (0, 10, 25, 50, 75, 100):
        # What has been imported is said on stderr: our own first line comes right after that of mcrelay.start.
        command = [sys.executable, "-X", "importtime", "-m", "mcrelay", *fill(relay, call)]
        child = relay.lab.relay.popen(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = ""
        while "| mcrelay.start\n" not in said:
            said += child.stderr.readline()
            assert child.poll() is None or "mcrelay.start" in said
        time.sleep(milliseconds / 1000)
        child.send_signal(signal.SIGINT)
        said += child.communicate(timeout=20)[1]
        own = [line for line in said.splitlines() if not line.startswith("import time:")]
        assert "Traceback" not in said, (milliseconds, own)
        assert "Exception ignored" not in said, (milliseconds, own)
        assert child.returncode in {0, 1, 2}, (milliseconds, own)  # 2: it was done before Ctrl-C came the last time


def test_who_reads_no_further_is_not_told(relay):
    child = relay.lab.relay.popen(
        "sh", "-c", '"$@" | true; exit 0', "sh", *MCRELAY, "show", "--socket", relay.socket, stderr=subprocess.PIPE
    )
    _, said = child.communicate(timeout=20)
    assert said == ""
