"""Nothing leaks: after many changes everything is where it was."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from pathlib import Path

import pytest
from support.relay import GROUP, INPUT, assert_adds_up, relaying
from support.traffic import assert_exact, heard, receiver, report, sender

from mcrelay.control.client import ask

pytestmark = [pytest.mark.net, pytest.mark.alone]

RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'
OTHER = {"input": "239.7.7.7:5000%in0", "outputs": ["239.10.0.9:5004%out0", "198.51.100.2:7000"]}
ROUNDS = 4
GROWTH_KIB = 1 << 10  # of resident memory in a round: what allocators round to, far below one object a turn


def held(relay) -> dict[str, object]:
    """What a process could leak, but for memory."""
    pid = relay.process.pid
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "rings": sum("socket:" in line for line in Path(f"/proc/{pid}/maps").read_text().splitlines()),
        "groups": [each["group"] for each in relay.show("groups")],
        "kernel": relay.lab.relay.run("ip", "maddr", "show", "dev", "in0").stdout,
    }


def resident_kib(relay) -> int:
    with open(f"/proc/{relay.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def assert_where_it_was(relay, before: dict[str, object]) -> None:
    relay.wait_for(lambda: held(relay) == before, f"state as before: {before}, now {held(relay)}", 5)


def assert_no_leak(kib: list[int]) -> None:
    """Memory that is not given back grows in every round.

    A heap keeps what it once needed at most, and on a busy machine it needs more once in a while: plans wait for the
    loop, answers for their client. That is growth in one round.
    """
    grown = [after - before for before, after in itertools.pairwise(kib)]
    assert min(grown) < GROWTH_KIB, grown


def reloads(relay, count: int) -> None:
    for i in range(count):
        relay.config.write_text(RULE.replace("[rules.x]", '[rules.y]\ninput = "239.8.8.8:5000%in0"\n'
                                'outputs = ["239.10.0.8:5004%out0"]\n[rules.x]') if i % 2 == 0 else RULE)  # fmt: skip
        ask(relay.socket, "reload")


def changes(relay, count: int) -> None:
    for _ in range(count):
        ask(relay.socket, "add", name="y", rule=OTHER)
        ask(relay.socket, "delete", name="y")


def recreations(relay, count: int) -> None:
    source, host = relay.lab.source, relay.lab.relay
    ask(relay.socket, "add", name="z", rule={"input": "239.9.9.9:5000%in1", "outputs": ["239.10.0.7:5004%out0"]})
    state = lambda: relay.state("z")  # noqa: E731
    for _ in range(count):
        pair = f"link add in1 type veth peer name extra0 netns {source.name}"
        host.ip(pair, "link set in1 up", "addr add 203.0.113.1/24 dev in1")
        relay.wait_for(lambda: state() != "pending", "rule on its link")
        host.ip("link del in1")
        relay.wait_for(lambda: state() == "pending", "pending rule")
    ask(relay.socket, "delete", name="z")


@contextlib.contextmanager
def stream(relay, rate: int):
    """A steady stream through the rule that nothing happens to, of which every datagram has to arrive."""
    sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
    steady = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", rate)
    yield
    steady.send_signal(signal.SIGINT)
    sent = report(steady)["sent"]
    stats = relay.at_rest()
    assert_exact(heard(sink, relay.lab.sink), sent)
    assert_adds_up(stats)


@pytest.mark.timeout(400)
def test_after_a_thousand_reloads_ten_thousand_changes_and_two_hundred_links_everything_is_where_it_was():
    with relaying(RULE) as relay:
        for what, count in ((reloads, 10), (recreations, 60), (changes, 500)):
            what(relay, count)  # caches, pools and the heap's free lists reach their size: that is no leak
        time.sleep(0.5)
        before, kib = held(relay), [resident_kib(relay)]
        assert before["groups"] == [GROUP]
        for _ in range(ROUNDS):
            generation = relay.show("stats")["workers"][0]["generation"]
            with stream(relay, 20_000):
                reloads(relay, 1_000 // ROUNDS)
            assert relay.show("stats")["workers"][0]["generation"] >= generation + 1_000 // ROUNDS
            with stream(relay, 2_000):
                changes(relay, 5_000 // ROUNDS)  # each adds and deletes
                recreations(relay, 200 // ROUNDS)
            assert_where_it_was(relay, before)
            kib.append(resident_kib(relay))
        assert_no_leak(kib)


def test_a_leak_is_growth_in_every_round_and_a_peak_is_none():
    assert_no_leak([50_000, 54_200, 54_300, 54_310, 54_310])
    with pytest.raises(AssertionError):
        assert_no_leak([50_000, 51_100, 52_200, 53_300, 54_400])
