"""send and recv over veth: exact when nothing is wrong, and finding all that is."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from support.families import IPV4, IPV6, Family, both_families
from support.traffic import MCRELAY, receiver, report, send, unread_bytes, wait_for

from mcrelay.commands.receivers import open_receiver
from mcrelay.links.watch import links_now
from mcrelay.model.address import parse_address
from mcrelay.model.notation import parse_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.commands.lab import Lab, Namespace

pytestmark = pytest.mark.net
STREAM = "233.252.0.1:5000%eth0"


@pytest.fixture
def ends(namespaces: Lab) -> tuple[Namespace, Namespace]:
    """Two namespaces joined by a veth pair, eth0 on both sides."""
    left, right = namespaces.add("left", "right", ipv6=True)
    namespaces.veth((left, "eth0", right, "eth0"))
    for each in (IPV4, IPV6):
        left.ip(f"addr add {each.left}/{each.length} dev eth0")
        right.ip(f"addr add {each.right}/{each.length} dev eth0")
    left.ip("link set eth0 up")
    right.ip("link set eth0 up")
    return left, right


@pytest.mark.parametrize("size", ["0", "1", "4", "7", "17", "33", "64", "1472", "0,1,4,17,64,1472", "0-1472", "9000"])
@both_families
def test_all_arrive_intact(ends: tuple[Namespace, Namespace], size: str, family: Family) -> None:
    """Every size, also those too small for a header and those that IP fragments, is counted exactly once."""
    left, right = ends
    child = receiver(right, family.stream, "--count", "3000")
    sent = send(left, family.stream, "--count", "3000", "--rate", "30000", "--size", size)
    result = report(child, code=0)
    assert sent["sent"] == result["received"] == result["unique"] + result["unnumbered"] == 3000
    assert sent["bytes"] == result["bytes"]
    assert sent["errors"] == 0
    assert not any(result[key] for key in ("lost", "duplicated", "reordered", "corrupted", "foreign", "socket_dropped"))
    assert result["ttl"] == {"16": 3000}
    assert result["tos"] == {"0": 3000}
    (source,) = result["sources"]
    assert source.startswith(f"{family.written(family.left)}:")
    if size in {"0", "1"}:
        assert result["unnumbered"] == 3000
    if size == "1472":
        latency = result["latency_us"]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]


def test_rate_is_held(ends: tuple[Namespace, Namespace]) -> None:
    """20 000 a second by the sender's own clock, to 2 %."""
    sent = send(ends[0], STREAM, "--rate", "20kpps", "--duration", "1")
    assert sent["sent"] == 20000
    assert 0.98 < sent["seconds"] < 1.02


@both_families
def test_superframes(ends: tuple[Namespace, Namespace], family: Family) -> None:
    """--gso sends runs, the last one shorter, and each datagram still counts."""
    left, right = ends
    child = receiver(right, family.stream, "--count", "10007", "--streams", "2")
    before = tx_packets(left)
    sent = send(left, family.stream, "--count", "10007", "--streams", "2", "--rate", "100000", "--gso", "32")
    assert tx_packets(left) - before < 1000, "veth segments UDP, so superframes count once"
    result = report(child, code=0)
    assert sent["sent"] == result["unique"] == 20014
    assert [stream["unique"] for stream in result["streams"]] == [10007, 10007]


def test_many_datagrams(ends: tuple[Namespace, Namespace]) -> None:
    """200 000 at 100 000 a second: all there."""
    left, right = ends
    child = receiver(right, STREAM, "--count", "200000")
    send(left, STREAM, "--count", "200000", "--rate", "100kpps")
    assert report(child, code=0)["unique"] == 200000


@both_families
def test_streams_have_their_own_accounts(ends: tuple[Namespace, Namespace], family: Family) -> None:
    """More groups than one socket may join, each complete and each with TTL and TOS as sent."""
    left, right = ends
    options = ("--count", "100", "--rate", "50kpps", "--ttl", "3", "--dscp", "46")
    child = receiver(right, family.range_of(6), "--count", "100")
    send(left, family.at(0), "--streams", "64", *options)
    result = report(child, code=0)
    assert [stream["group"] for stream in result["streams"]] == [
        str(parse_address(family.groups) + i) for i in range(64)
    ]
    assert all(stream["unique"] == 100 and not stream["foreign"] for stream in result["streams"])
    assert result["ttl"] == {"3": 6400}
    assert result["tos"] == {"184": 6400}
    assert len(result["sources"]) == 17
    assert result["sources"]["other"] == 4800


@both_families
def test_ssm_join_hears_that_source_alone(ends: tuple[Namespace, Namespace], family: Family) -> None:
    """SOURCE@ is a source-specific join for recv and the address to send from for send."""
    left, right = ends
    left.ip(f"addr add {family.other}/{family.length} dev eth0")
    child = receiver(right, family.from_(family.other), "--count", "50")
    send(left, family.from_(family.left), "--count", "50")
    send(left, family.from_(family.other), "--count", "50", "--source-port", "4444")
    assert report(child, code=0)["sources"] == {f"{family.written(family.other)}:4444": 50}


@both_families
def test_unicast_reaches_an_own_address(ends: tuple[Namespace, Namespace], family: Family) -> None:
    left, right = ends
    to = f"{family.written(family.right)}:7000"
    child = receiver(right, to, "--count", "100")
    send(left, to, "--count", "100")
    result = report(child, code=0)
    assert result["unique"] == 100
    assert result["ttl"] == {"64": 100}


def test_groups_and_hosts_of_a_link_alone_need_its_name(ends: tuple[Namespace, Namespace]) -> None:
    """A link-local group is sent from the link-local address, and a link-local host is one of that link."""
    left, right = ends
    child = receiver(right, "[ff02::1234]:5000%eth0", "--count", "50")
    send(left, "[ff02::1234]:5000%eth0", "--count", "50")
    (source,) = report(child, code=0)["sources"]
    assert source.startswith("[fe80::")
    own = next(str(each.ip) for each in right.call(links_now)["eth0"].addresses6 if each.is_link_local)
    child = receiver(right, f"[{own}]:7000%eth0", "--count", "50")
    send(left, f"[{own}]:7000%eth0", "--count", "50")
    assert report(child, code=0)["unique"] == 50


def test_unicast(ends: tuple[Namespace, Namespace]) -> None:
    """A refused port counts as errors and stops nothing; an open one receives."""
    left, right = ends
    refused = send(left, "192.0.2.2:7000", "--count", "2000", "--rate", "20000")
    assert refused["sent"] == 2000
    assert refused["errors"] > 0
    child = receiver(right, "192.0.2.2:7000", "--count", "2000")
    send(left, "192.0.2.2:7000%eth0", "--count", "2000", "--rate", "20000")
    result = report(child, code=0)
    assert result["unique"] == 2000
    assert result["ttl"] == {"64": 2000}


def test_own_drops_are_told_apart(ends: tuple[Namespace, Namespace]) -> None:
    """What this sink loses for want of buffer is socket_dropped, so that nobody blames the relay for it."""
    left, right = ends
    child = receiver(right, STREAM, "--count", "100000", "--idle", "0.5")
    child.send_signal(signal.SIGSTOP)
    send(left, STREAM, "--count", "100000", "--rate", "10000000")
    child.send_signal(signal.SIGCONT)
    result = report(child, code=1)
    assert result["lost"] == result["socket_dropped"] == 100000 - result["unique"] > 0


def arrived(namespace: Namespace) -> int:
    """Packets that eth0 has received."""
    (link,) = json.loads(namespace.run("ip", "-s", "-j", "link", "show", "dev", "eth0").stdout)
    return int(link["stats64"]["rx"]["packets"])


def test_signal_ends_both_with_a_result(ends: tuple[Namespace, Namespace]) -> None:
    """Ctrl-C and SIGTERM mean: that was all, now say what was seen."""
    left, right = ends
    child = receiver(right, STREAM)
    sender = left.popen(*MCRELAY, "send", STREAM, "-j", stdout=subprocess.PIPE)
    before = arrived(right)
    wait_for(lambda: arrived(right) > before + 200, "datagrams")
    sender.send_signal(signal.SIGINT)
    sent = json.loads(sender.communicate(timeout=5)[0])
    wait_for(lambda: not unread_bytes(right), "recv to read all there is")
    child.send_signal(signal.SIGTERM)
    assert report(child, timeout=5, code=0)["unique"] == sent["sent"] > 100


def test_nothing_received_is_a_failure(ends: tuple[Namespace, Namespace]) -> None:
    """Exit code 1, zeros, and no latency."""
    result = report(receiver(ends[1], STREAM, "--duration", "0.3"), code=1)
    assert result["received"] == 0
    assert result["latency_us"] is None


# What a faulty relay may do to the datagrams of one stream, and what recv must then count. A detector that cannot
# fail proves nothing.
def flip(payload: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << (bit % 8) if i == bit // 8 else 0) for i, byte in enumerate(payload))


def swapped(datagrams: list[bytes]) -> list[bytes]:
    return [*datagrams[:10], datagrams[11], datagrams[10], *datagrams[12:]]


FAULTS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], dict[str, int]]] = {
    "none": (lambda d: d, {}),
    "lost": (lambda d: d[:7] + d[8:], {"lost": 1}),
    "lost first": (lambda d: d[1:], {"lost": 1}),
    "lost last": (lambda d: d[:-3], {"lost": 3}),
    "duplicated": (lambda d: [*d[:50], d[20], *d[50:]], {"duplicated": 1}),
    "duplicated last": (lambda d: [*d, d[-1]], {"duplicated": 1}),
    "swapped": (swapped, {"reordered": 1}),
    "flipped pattern": (lambda d: [*d[:5], flip(d[5], 8 * 300 + 3), *d[6:]], {"corrupted": 1, "lost": 1}),
    "flipped sequence": (lambda d: [*d[:5], flip(d[5], 31), *d[6:]], {"corrupted": 1, "lost": 1}),
    "flipped time": (lambda d: [*d[:5], flip(d[5], 8 * 20), *d[6:]], {"corrupted": 1, "lost": 1}),
    "cut": (lambda d: [*d[:5], d[5][:-1], *d[6:]], {"corrupted": 1, "lost": 1}),
    "padded": (lambda d: [*d[:5], d[5] + b"\0", *d[6:]], {"corrupted": 1, "lost": 1}),
    "mixed up": (lambda d: [*d[:5], d[5][:32] + d[6][32:], *d[6:]], {"corrupted": 1, "lost": 1}),
    "invented": (lambda d: [*d[:5], random.Random(1).randbytes(600), *d[5:]], {"foreign": 1}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(ends: tuple[Namespace, Namespace], fault: str) -> None:
    """Each injected fault is counted under its name, and nothing else is."""
    left, right = ends
    datagrams = captured(left, right, "--count", "100", "--size", "600")
    spoil, expected = FAULTS[fault]
    child = receiver(right, "192.0.2.2:7000", "--count", "100", "--idle", "0.3")
    replay(left, spoil(datagrams))
    result = report(child, code=int(bool(expected.keys() & {"lost", "duplicated", "corrupted"})))
    counts = {key: result[key] for key in ("lost", "duplicated", "reordered", "corrupted", "foreign")}
    assert counts == dict.fromkeys(counts, 0) | expected


def test_another_run_or_stream_is_foreign(ends: tuple[Namespace, Namespace]) -> None:
    """Two senders to one group, or two groups merged into one: nobody takes the second for the first."""
    left, right = ends
    streams = captured(left, right, "--count", "10", "--streams", "2", group="233.252.0.0")
    again = captured(left, right, "--count", "10")
    child = receiver(right, "192.0.2.2:7000", "--duration", "1")
    replay(left, streams + again)
    result = report(child, code=0)
    assert (result["unique"], result["foreign"]) == (10, 20)


def captured(left: Namespace, right: Namespace, *options: str, group: str = "233.252.0.1") -> list[bytes]:
    """What send sends to two groups from *group* on, as it arrives."""
    datagrams = []
    first = int.from_bytes(socket.inet_aton(group))
    streams = [f"{socket.inet_ntoa((first + i).to_bytes(4))}:5000%eth0" for i in range(2)]
    taps = [right.call(lambda text=text: open_receiver(parse_stream(text), 2)) for text in streams]
    send(left, f"{group}:5000%eth0", *options)
    for tap in taps:
        with tap:
            tap.settimeout(0.1)
            try:
                while True:
                    datagrams.append(tap.recv(65536))
            except TimeoutError:
                pass
    assert datagrams
    return datagrams


def replay(left: Namespace, datagrams: list[bytes]) -> None:
    with left.socket() as sock:
        for datagram in datagrams:
            sock.sendto(datagram, ("192.0.2.2", 7000))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("send", "233.252.0.1:5000"), 2, "%LINK"),
        (("send", "233.252.0.1%eth0"), 2, "port"),
        (("send", "233.252.0.1:5000%nosuch"), 1, "eth0"),
        (("send", STREAM, "--rate", "fast"), 2, "--rate"),
        (("send", STREAM, "--gso", "8", "--size", "60-70"), 2, "--gso"),
        (("send", STREAM, "--gso", "8", "--size", "2000", "--count", "8"), 1, "--size"),
        (("send", f"192.0.2.77@{STREAM}"), 1, "not an address of this host"),
        (("send", "203.0.113.1:5000"), 1, "no route"),
        (("recv", "233.252.0.1:5000"), 2, "%LINK"),
        (("recv", "233.252.0.1:5000%nosuch"), 1, "eth0"),
        (("recv", "203.0.113.1:5000"), 1, "not an address of this host"),
        (("recv", "233.252.0.0/30:5000%eth0", "--streams", "3"), 2, "--streams"),
    ],
)
def test_errors_say_what_to_do(
    ends: tuple[Namespace, Namespace], arguments: tuple[str, ...], code: int, says: str
) -> None:
    """One line, the right exit code, no traceback."""
    done = ends[0].run(*MCRELAY, *arguments, check=False, timeout=10)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert says in done.stderr


def tx_packets(namespace: Namespace) -> int:
    shown = json.loads(namespace.run("ip", "-j", "-s", "link", "show", "eth0").stdout)
    return int(shown[0]["stats64"]["tx"]["packets"])


def test_no_descriptor_is_leaked(ends: tuple[Namespace, Namespace]) -> None:
    """Sockets and the epoll of an account are gone with it."""
    before = len(os.listdir("/proc/self/fd"))
    captured(*ends, "--count", "3")
    assert len(os.listdir("/proc/self/fd")) == before
