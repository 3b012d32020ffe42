"""Traffic inside namespaces, and what the kernel says of it: `mcrelay send` and `recv`, sockets, joins; waiting."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcrelay.commands.send import consecutive

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.commands.lab import Namespace

MCRELAY = [sys.executable, "-m", "mcrelay"]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 10) -> Any:
    """Poll until *condition* is true, and return its value; fail with *what* otherwise."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.005)
    return value


def bound_ports(namespace: Namespace) -> set[int]:
    """UDP ports that sockets inside are bound to (proc(5), /proc/net/udp)."""
    lines = namespace.call(Path("/proc/thread-self/net/udp").read_text).splitlines()[1:]
    return {int(line.split()[1].split(":")[1], 16) for line in lines}


def unread_bytes(namespace: Namespace) -> int:
    """What waits in UDP sockets inside to be read (/proc/net/udp: rx_queue)."""
    lines = namespace.call(Path("/proc/thread-self/net/udp").read_text).splitlines()[1:]
    return sum(int(line.split()[4].split(":")[1], 16) for line in lines)


def memberships(namespace: Namespace) -> Counter[str]:
    """Groups joined inside, and by how many sockets, on any link (/proc/net/igmp)."""
    groups: Counter[str] = Counter()
    for line in namespace.call(Path("/proc/thread-self/net/igmp").read_text).splitlines():
        if line.startswith("\t\t\t\t"):
            group, users, *_ = line.split()
            groups[".".join(str(byte) for byte in bytes.fromhex(group)[::-1])] += int(users)
    return groups


def receiver(namespace, stream: str, *options: object) -> subprocess.Popen:
    """`mcrelay recv` in a namespace, every socket of it bound and joined by the time this returns."""
    streams = int(str(options[options.index("--streams") + 1])) if "--streams" in options else None
    *_, last = consecutive(stream, streams)  # they are opened in turn
    group, already = str(last.address), memberships(namespace)
    child = namespace.popen(*MCRELAY, "recv", stream, *map(str, options), "-j", stdout=subprocess.PIPE)

    def listens() -> bool:
        assert child.poll() is None, f"recv {stream} ended with exit code {child.returncode}"
        if last.address.is_multicast:
            return memberships(namespace)[group] > already[group]
        return last.port in bound_ports(namespace)

    wait_for(listens, f"recv {stream} to listen")
    return child


def heard(child: subprocess.Popen, namespace):
    """What a `recv` that waits for no count printed: ended once all that has reached its namespace is read.

    Call it when whoever sends has ended and the relay is at rest.
    """
    wait_for(lambda: not unread_bytes(namespace), "recv to read all there is")
    child.send_signal(signal.SIGINT)
    return report(child)


def sender(namespace, stream: str, *options: object) -> subprocess.Popen:
    return namespace.popen(*MCRELAY, "send", stream, *map(str, options), "-j", stdout=subprocess.PIPE)


def report(child: subprocess.Popen, timeout: float = 60, code: int | None = None):
    """What `send` or `recv` printed; *code* is what it has to end with, where that matters."""
    out, _ = child.communicate(timeout=timeout)
    assert code is None or child.returncode == code, f"exit code {child.returncode}: {out}"
    return json.loads(out)


def send(namespace, stream: str, *options: object):
    return report(sender(namespace, stream, *options))


def assert_exact(got, count: int) -> None:
    """Every datagram once, in order, byte for byte."""
    assert got["socket_dropped"] == 0, "the sink itself was too slow"
    for what in ("lost", "duplicated", "reordered", "corrupted", "foreign"):
        assert got[what] == 0, got
    assert got["received"] == count, got
