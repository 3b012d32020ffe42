"""Traffic inside namespaces, and what the kernel says of it: `mcrelay send` and `recv`, sockets, joins; waiting."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.ways import way

from mcrelay.commands.send import consecutive
from mcrelay.commands.senders import end_of, family_of

if TYPE_CHECKING:
    import socket
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
    return {int(line.split()[1].split(":")[1], 16) for line in _udp_sockets(namespace)}


def unread_bytes(namespace: Namespace) -> int:
    """What waits in UDP sockets inside to be read (/proc/net/udp: rx_queue)."""
    return sum(int(line.split()[4].split(":")[1], 16) for line in _udp_sockets(namespace))


def _udp_sockets(namespace: Namespace) -> list[str]:
    """The lines of both families."""
    files = ("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6")
    return [line for file in files for line in namespace.call(Path(file).read_text).splitlines()[1:]]


def udp_socket(namespace: Namespace, address: str) -> socket.socket:
    """A UDP socket of that address's family, inside."""
    return namespace.socket(family_of(ip_address(address)))


def end(
    namespace: Namespace, address: str, port: int, link: str = "eth0"
) -> tuple[str, int] | tuple[str, int, int, int]:
    """An end as such a socket takes it; a group of IPv6 with the link to send it by."""
    found = ip_address(address)
    return namespace.call(lambda: end_of(found, port, link if found.is_multicast else None))


def memberships(namespace: Namespace, ifname: str | None = None) -> Counter[str]:
    """Groups joined inside, and by how many sockets, on that link or on any (/proc/net/igmp, igmp6)."""
    groups: Counter[str] = Counter()
    link = ""
    for line in namespace.call(Path("/proc/thread-self/net/igmp").read_text).splitlines():
        if not line.startswith("\t\t\t\t"):
            link = line.split()[1]
        elif ifname in (None, link):
            group, users, *_ = line.split()
            groups[".".join(str(byte) for byte in bytes.fromhex(group)[::-1])] += int(users)
    for line in namespace.call(Path("/proc/thread-self/net/igmp6").read_text).splitlines():
        _, link, group, users, *_ = line.split()
        if ifname in (None, link):
            groups[str(IPv6Address(bytes.fromhex(group)))] += int(users)
    return groups


def receiver(namespace, stream: str, *options: object, seconds: float = 10) -> subprocess.Popen:
    """`mcrelay recv` in a namespace, every socket of it bound and joined by the time this returns."""
    stream = way().at(namespace, stream)
    streams = int(str(options[options.index("--streams") + 1])) if "--streams" in options else None
    *_, last = consecutive(stream, streams)  # they are opened in turn
    group, already = str(last.address), memberships(namespace)
    child = namespace.popen(*MCRELAY, "recv", stream, *map(str, options), "-j", stdout=subprocess.PIPE)

    def listens() -> bool:
        assert child.poll() is None, f"recv {stream} ended with exit code {child.returncode}"
        if last.address.is_multicast:
            return memberships(namespace)[group] > already[group]
        return last.port in bound_ports(namespace)

    wait_for(listens, f"recv {stream} to listen", seconds)
    return child


def heard(child: subprocess.Popen, namespace, *, seconds: float = 10):
    """What a `recv` that waits for no count printed: ended once all that has reached its namespace is read.

    Call it when whoever sends has ended and the relay is at rest.
    """
    wait_for(lambda: not unread_bytes(namespace), "recv to read all there is", seconds)
    child.send_signal(signal.SIGINT)
    return report(child)


def sender(namespace, stream: str, *options: object) -> subprocess.Popen:
    return namespace.popen(
        *MCRELAY, "send", way().at(namespace, stream), *map(str, options), "-j", stdout=subprocess.PIPE
    )


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
