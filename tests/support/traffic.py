"""`mcrelay send` and `mcrelay recv` inside namespaces, as tests use them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.commands.lab import Namespace

MCRELAY = (sys.executable, "-m", "mcrelay")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 10) -> Any:
    """Poll until *condition* is true; fail with *what* otherwise."""
    until = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.01)


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


def start_recv(namespace: Namespace, stream: str, *options: str) -> subprocess.Popen[str]:
    """Start `recv -j` inside and return when its sockets are bound and joined."""
    command = [*MCRELAY, "recv", stream, "-j", *options]
    child = namespace.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    port = int(stream.partition(":")[2].partition("%")[0])
    first = stream.rpartition("@")[2].partition(":")[0].partition("/")[0]
    if int(first.split(".")[0]) >= 224:
        wait_for(lambda: child.poll() is not None or first in memberships(namespace), f"the join of {first}")
    wait_for(lambda: child.poll() is not None or port in bound_ports(namespace), f"port {port}")
    return child


def finish(child: subprocess.Popen[str], code: int = 0, seconds: float = 30) -> dict[str, Any]:
    """Wait for a `recv -j` to end with exit *code*; its JSON."""
    out, err = child.communicate(timeout=seconds)
    assert child.returncode == code, f"exit code {child.returncode}: {err}{out}"
    assert "Traceback" not in err
    result: dict[str, Any] = json.loads(out)
    return result


def send(namespace: Namespace, stream: str, *options: str) -> dict[str, Any]:
    """Run `send -j` inside to its end; its JSON."""
    result: dict[str, Any] = json.loads(namespace.run(*MCRELAY, "send", stream, "-j", *options).stdout)
    return result
