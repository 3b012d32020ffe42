"""``mcrelay recv``: receive the traffic of ``mcrelay send``, and account for every datagram (pyx/receiving.pxd)."""

from __future__ import annotations

import contextlib
import functools
import select
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcrelay.commands.options import json_option
from mcrelay.commands.receivers import can_be_tapped, open_receiver, open_taps
from mcrelay.commands.send import allow_files, consecutive, drive
from mcrelay.commands.table import bit_rate, digits, print_json
from mcrelay.errors import OperationError
from mcrelay.model.address import host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcrelay._core.traffic import Receiver
    from mcrelay.model.stream import Stream

GRACE_SECONDS = 0.1  # seconds until a UDP socket has the datagram that its tap has
IDLE_SECONDS = 2.0  # seconds, if a count was given
COUNTS = (
    "received unique lost duplicated reordered corrupted foreign unnumbered socket_dropped bytes".split()  # noqa: SIM905
)


@click.command()
@click.argument("stream")
@click.option(
    "--count", metavar="N", type=click.IntRange(1), help="Datagrams expected of each stream; ends when all are there."
)
@click.option(
    "--duration",
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="End after so long, whatever came.",
)
@click.option(
    "--idle",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help=f"End so long after the last datagram; with --count {IDLE_SECONDS:g} unless said.",
)
@click.option("--streams", metavar="N", type=click.IntRange(1, 65536), help="So many consecutive groups.")
@json_option
def recv(
    stream: str, *, count: int | None, duration: float | None, idle: float | None, streams: int | None, as_json: bool
) -> None:
    """Join STREAM, [SOURCE@]GROUP:PORT%LINK, and check what `mcrelay send` sends there; HOST:PORT is an own address.

    Goes on until Ctrl-C unless told otherwise. Exit code 1: nothing came, or something was lost, duplicated or
    corrupted.

    \b
    Example: mcrelay recv 233.252.0.1:5000%eth0 --count 10000
    """  # noqa: D301  click's mark for lines to be left alone
    targets = consecutive(stream, streams)
    allow_files(2 * len(targets))
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(open_receiver(target, len(targets))) for target in targets]
        taps = open_taps(targets, stack)
        listening = Listening(
            [sock.fileno() for sock in sockets],
            [tap.fileno() for tap in taps],
            expected=count or 0,
            duration=duration or 0,
            idle=idle or (IDLE_SECONDS if count else 0),
        )
        before = checksum_errors(), reverse_path_refusals()
        try:
            drive(listening, lambda: f"received {digits(listening.received)}")
        except OSError as error:
            raise OperationError(f"cannot receive {stream}: {error.strerror}") from error
        result = summary(listening.receiver, targets)
        result["checksum_errors"] = checksum_errors() - before[0]
        result["captured"] = listening.captured
        result["rp_filter_drops"] = refused = reverse_path_refusals() - before[1]
    if as_json:
        print_json(result)
    else:
        click.echo(_readable(result))
    wrong = [f"{digits(result[key])} {key}" for key in ("lost", "duplicated", "corrupted") if result[key]]
    if not result["received"]:
        # What the kernel refuses to the sockets reaches the taps: then these are other streams'.
        raise OperationError(f"nothing was received of {stream}; {_why_nothing(targets, 0 if taps else refused)}")
    if wrong:
        raise OperationError(f"not as it was sent: {', '.join(wrong)}")


def _why_nothing(targets: Sequence[Stream], refused: int) -> str:
    if not refused:
        return "is it sent there, and on that link?"
    link = targets[0].link or "LINK"
    root = "run this as root, and it captures them before that, or " if can_be_tapped(targets) else ""
    return (
        f"meanwhile the kernel refused {digits(refused)} datagrams of this host, perhaps these, for want of a route "
        f"back to their source (rp_filter): {root}give {link} a route to the source, or set "
        f"net.ipv4.conf.{link}.rp_filter and net.ipv4.conf.all.rp_filter to 0"
    )


class Listening:
    """Receives by the sockets, or by the taps (packet sockets) if the kernel refuses the datagrams to the sockets.

    The kernel refuses a source to which it has no route (rp_filter): a relay's usual case. Both are open from the
    start, so nothing is missed; the first datagram decides.
    """

    def __init__(
        self, sockets: Sequence[int], taps: Sequence[int], *, expected: int, duration: float, idle: float
    ) -> None:
        from mcrelay._core.traffic import Receiver  # noqa: PLC0415  other commands start without it

        self._taps, self._duration = taps, duration
        self._receiver = functools.partial(Receiver, expected=expected, idle=idle)
        self._stopped = threading.Event()
        self.captured = False
        self.receiver = self._receiver(sockets, duration=duration)
        self._sockets = sockets

    def run(self) -> None:
        """Receive until a limit or ``stop``. Raises OSError."""
        begin = time.monotonic()
        if self._taps and self._refused():
            left = max(self._duration - (time.monotonic() - begin), 0.001) if self._duration else 0
            self.receiver = self._receiver(self._taps, duration=left, frames=True)
            self.captured = True
        if not self._stopped.is_set():
            self.receiver.run()

    def stop(self) -> None:
        """Make ``run`` return within about 20 ms."""
        self._stopped.set()
        self.receiver.stop()

    @property
    def received(self) -> int:
        """Datagrams so far, of every kind."""
        return self.receiver.received

    def _refused(self) -> bool:
        """Wait for the first datagram. Returns whether only a tap got it."""
        until = time.monotonic() + self._duration if self._duration else None
        ready = select.poll()
        for fd in (*self._sockets, *self._taps):
            ready.register(fd, select.POLLIN)
        while not self._stopped.is_set() and (until is None or time.monotonic() < until):
            if ready.poll(20):
                time.sleep(GRACE_SECONDS)  # the socket has it a little later than the tap
                heard = {fd for fd, _ in ready.poll(0)}
                return heard.isdisjoint(self._sockets)
        return False


def summary(receiver: Receiver, targets: list[Stream]) -> dict[str, Any]:
    """Return what ``recv -j`` prints: sums over all streams, then each stream."""
    streams = [receiver.stream(i) for i in range(len(targets))]
    total: dict[str, Any] = {key: sum(stream[key] for stream in streams) for key in COUNTS}
    seconds = receiver.elapsed_ns / 1e9
    received = total["received"]
    per_second = (received - 1) / received / seconds if received > 1 and seconds else 0.0
    delays = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    latency = {name: ns / 1e3 for name, share in delays.items() if (ns := receiver.delay_ns(share)) is not None}
    sources = {
        "other" if key is None else f"{host(ip_address(key[0]))}:{key[1]}": n for key, n in receiver.sources().items()
    }
    return total | {
        "seconds": round(seconds, 6),
        "rate_pps": round(received * per_second, 1),
        "bits_per_second": round(total["bytes"] * 8 * per_second),
        "latency_us": latency or None,
        "sources": sources,
        "ttl": {str(key): n for key, n in receiver.ttl().items()},
        "tos": {str(key): n for key, n in receiver.tos().items()},
        "streams": [
            {"group": str(target.address), "port": target.port, **stream}
            for target, stream in zip(targets, streams, strict=True)
        ],
    }


def checksum_errors() -> int:
    """Datagrams that this namespace has refused for a bad UDP checksum: a fault of the relay, not of the sink."""
    return _counter("snmp", "Udp:", "InCsumErrors") + _counter6("Udp6InCsumErrors")


def reverse_path_refusals() -> int:
    """Datagrams that this namespace has refused for lack of a route back to their source (rp_filter)."""
    return _counter("netstat", "TcpExt:", "IPReversePathFilter")


def _counter(file: str, family: str, name: str) -> int:
    """One counter of this namespace; 0 if /proc is not mounted."""
    try:
        lines = Path("/proc/thread-self/net", file).read_text().splitlines()  # proc(5): a line of names, then of values
    except FileNotFoundError:
        return 0
    names, values = (line.split() for line in lines if line.startswith(family))
    return int(dict(zip(names, values, strict=True)).get(name, 0))


def _counter6(name: str) -> int:
    """The same for IPv6, which has a line for each; 0 where it is not compiled in."""
    try:
        lines = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return int(dict(line.split() for line in lines).get(name, 0))


def _readable(result: dict[str, Any]) -> str:
    pace = f"{digits(result['rate_pps'])}/s, {bit_rate(result['bits_per_second'])}"
    amount = digits(result["bytes"])
    lines = [
        f"received {digits(result['received'])} datagrams, {amount} bytes, in {result['seconds']:.3f} s: {pace}",
        "  ".join(f"{key} {digits(result[key])}" for key in COUNTS[1:6]),
    ]
    if result["captured"]:
        lines.append("captured by a packet socket: the kernel refuses this source, having no route to it (rp_filter)")
    if result["foreign"]:
        lines.append(f"{digits(result['foreign'])} foreign: not from `mcrelay send`, or from another start of it")
    if result["unnumbered"]:
        lines.append(f"{digits(result['unnumbered'])} unnumbered: too small to carry a sequence number")
    if result["socket_dropped"]:
        lines.append(f"{digits(result['socket_dropped'])} dropped by this receiver's own socket, not on the way to it")
    if result["checksum_errors"]:
        lines.append(f"{digits(result['checksum_errors'])} refused in this namespace for a bad UDP checksum")
    if latency := result["latency_us"]:
        lines.append("latency " + "  ".join(f"{name} {digits(us, 1)} us" for name, us in latency.items()))
    for title in ("sources", "TTL", "TOS"):
        seen = [f"{key} ({digits(n)})" for key, n in result[title.lower()].items()]
        if seen:
            lines.append(f"{title} {'  '.join(seen[:4])}{'  …' if len(seen) > 4 else ''}")
    return "\n".join(lines)
