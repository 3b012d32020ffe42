"""`recv` where the relay stands: sources that this host has no route to, and what it says where it may not capture."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time

import pytest
from support.relay import GROUP, MCRELAY
from support.traffic import memberships, receiver, wait_for

from mcrelay.cli import COMMANDS
from mcrelay.commands.lab import standard_lab

pytestmark = pytest.mark.net

STREAM = f"{GROUP}:2068%in0"


@pytest.fixture(scope="module")
def lab():
    with standard_lab() as made:
        made.settle()
        yield made


def start(lab, *words, prefix=(), stream=STREAM):
    already = memberships(lab.relay, "in0")[GROUP]
    child = lab.relay.popen(
        *prefix, *MCRELAY, "recv", stream, *map(str, words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(lambda: memberships(lab.relay, "in0")[GROUP] > already, "recv to join", 20)
    time.sleep(1)  # the tap is opened after the join, and the switch has to hear of that
    return child


def send(lab, *words):
    done = lab.source.run(*MCRELAY, "send", f"{GROUP}:2068%eth0", *map(str, words), "-j")
    return json.loads(done.stdout)


@pytest.mark.parametrize("gso", [1, 10])
def test_a_source_without_a_route_back_is_captured_to_the_last_datagram(lab, gso):
    child = start(lab, "--count", 5000, "--idle", 2, "-j")
    send(lab, "--count", 5000, "--rate", 5000, "--ttl", 9, "--gso", gso)
    shown, said = child.communicate(timeout=30)
    got = json.loads(shown)
    assert child.returncode == 0, said
    assert (got["unique"], got["lost"], got["duplicated"], got["corrupted"]) == (5000, 0, 0, 0)
    assert got["captured"] is True
    assert got["ttl"] == {"9": 5000}
    assert [source.split(":")[0] for source in got["sources"]] == ["192.168.168.55"]
    assert got["rp_filter_drops"] > 0


def test_a_source_of_the_stream_is_minded_in_capture_too(lab):
    child = start(lab, "--timeout", 3, stream=f"192.168.168.56@{STREAM}")
    send(lab, "--count", 100)
    shown, _ = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "received 0 datagrams" in shown


def test_a_routable_source_is_received_by_a_socket_as_before(lab):
    child = receiver(lab.sink, "239.10.0.5:5004%eth0", "--count", 100)
    lab.relay.run(*MCRELAY, "send", "239.10.0.5:5004%out0", "--count", "100")
    got = json.loads(child.communicate(timeout=20)[0])
    assert (got["unique"], got["captured"], got["rp_filter_drops"]) == (100, False, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give it up")
def test_who_may_not_capture_is_told_of_rp_filter_and_how_much_it_refused(lab):
    child = start(lab, "--timeout", 4, prefix=["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    send(lab, "--count", 200)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "rp_filter" in said
    assert "refused 200 " in said
    assert "as root" in said
    assert "is it sent there" not in said


def test_what_the_kernel_refused_of_another_stream_is_not_said_to_be_the_cause(lab):
    child = start(lab, "--timeout", 3, stream=STREAM.replace("2068", "2069"))
    send(lab, "--count", 200)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "is it sent there, and on that link?" in said
    assert "rp_filter" not in said


def test_where_nothing_is_sent_nothing_is_said_of_rp_filter(lab):
    child = start(lab, "--timeout", 0.5)
    begin = time.monotonic()
    _, said = child.communicate(timeout=30)
    assert time.monotonic() - begin < 5
    assert child.returncode == 1
    assert "is it sent there, and on that link?" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_in_plain_words(command):
    text = subprocess.run([*MCRELAY, command, "--help"], capture_output=True, text=True, check=True).stdout
    assert not re.search("RANGE|<=|>=|x[<>]", text)
    if command in {"send", "recv"}:
        assert "--timeout" in text
        assert "--json" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--count", "0"], "0 is not 1 or more"),
        (["--ttl", "900"], "900 is not from 1 to 255"),
        (["--duration", "nan"], "nan is not above 0"),
        (["--count", "many"], "'many' is no whole number; wanted is 1 or more"),
    ],
)
def test_a_number_that_cannot_be_is_refused_in_plain_words(words, said):
    done = subprocess.run([*MCRELAY, "send", "239.1.1.1:5000%lo", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
