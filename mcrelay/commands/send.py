"""``mcrelay send``: test traffic with sequence numbers and time stamps, at an even rate (pyx/sending.pxd)."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import sys
import threading
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Protocol

import click

from mcrelay.commands.options import json_option
from mcrelay.commands.senders import open_sender, source_of
from mcrelay.commands.table import bit_rate, digits, print_json
from mcrelay.errors import OperationError, SettingError, UsageError
from mcrelay.model.notation import parse_stream
from mcrelay.model.ports import spans_of
from mcrelay.model.rate import parse_rate
from mcrelay.model.rule import GROUP_TTL, HOST_TTL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from mcrelay.model.stream import Address, Stream

MOST_STREAMS = 65536
SIZE_MAX = 65507  # bytes of UDP payload that IPv4 can carry


@dataclass(frozen=True, slots=True)
class Sizes:
    """Payload sizes in bytes: a cycle, or, when ``random``, the smallest and the largest."""

    values: tuple[int, ...]
    random: bool = False

    @property
    def mean(self) -> float:
        """The average size in bytes."""
        return sum(self.values) / len(self.values)


class Worker(Protocol):
    """A Sender or a Receiver, which ``drive`` runs."""

    def run(self) -> None: ...
    def stop(self) -> None: ...


def parse_sizes(text: str) -> Sizes:
    """Read ``1316``, a cycle ``64,570,1400`` or a random range ``80-400``."""
    low, dash, high = text.partition("-")
    values = [low, high] if dash else text.split(",")
    sizes = [int(value) if value.isascii() and value.strip().isdigit() else -1 for value in values]
    for value, size in zip(values, sizes, strict=True):
        if not 0 <= size <= SIZE_MAX:
            raise SettingError(
                f"--size: {value!r} is not a size", f"bytes from 0 to {SIZE_MAX}, e.g. 1316, 64,570,1400 or 80-400"
            )
    if dash and sizes[0] > sizes[1]:
        raise SettingError(f"--size: {text!r} runs backwards", f"write {high}-{low}")
    return Sizes(tuple(sizes), random=bool(dash))


def pace_of(text: str, sizes: Sizes) -> float:
    """Read ``20000``, ``20kpps`` or ``500Mbit`` (of payload) as datagrams per second."""
    try:
        rate = parse_rate(text)
    except SettingError as error:
        raise SettingError(f"--rate: {error.problem}", error.remedy) from None
    if rate.unit == "pps":
        return rate.number
    if not sizes.mean:
        raise SettingError("--rate: empty datagrams have no bits", "give a rate in pps, e.g. 20kpps")
    return rate.number / 8 / sizes.mean


def consecutive(text: str, streams: int | None) -> list[Stream]:
    """Return the streams that STREAM and ``--streams`` name: consecutive groups, or each group of a range.

    Each of them comes once for every port that STREAM names.
    """
    stream = parse_stream(text)
    if stream.port is None or stream.port == "any":
        raise UsageError(f"{text} names no port; write one, e.g. 233.252.0.1:5000%eth0")
    if stream.address.is_multicast and stream.link is None:
        raise UsageError(f"{text} does not say by which link; write {text}%LINK, e.g. {text}%{_some_link()}")
    count = streams or 1
    if stream.length is not None:
        if streams is not None:
            raise UsageError(f"{text} is a range already; leave --streams out")
        count = stream.group_count
    if count > 1 and not stream.address.is_multicast:
        raise UsageError(f"{text} is one host; --streams counts groups, e.g. 233.252.0.1:5000%{_some_link()}")
    highest = _highest(stream.address)
    if count > 1 and int(stream.address) + count - 1 > int(highest):
        raise UsageError(f"{count} groups from {stream.address} on go beyond {highest}; start lower")
    ports = [port for low, high in spans_of(stream.port) for port in range(low, high + 1)]
    if count * len(ports) > MOST_STREAMS:
        raise UsageError(f"{text} is {count * len(ports)} streams; at most {MOST_STREAMS} are sent at once")
    first = replace(stream, length=None)
    return [replace(first, address=first.address + i, port=port) for i in range(count) for port in ports]


def allow_files(count: int) -> None:
    """Raise the limit of open files for *count* sockets and some more, as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 64:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 64), hard))


def drive(worker: Worker, show: Callable[[], str]) -> None:
    """Run *worker* on a thread. SIGINT and SIGTERM stop it; a terminal shows the line that *show* makes."""
    failure: list[OSError] = []

    def run() -> None:
        try:
            worker.run()
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="traffic")
    with _stopped_by_signals(worker):
        thread.start()
        while thread.is_alive():
            thread.join(0.25)
            if sys.stderr.isatty():
                click.echo(f"\r{show()}\x1b[K", nl=False, err=True)
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    if failure:
        raise failure[0]


@click.command()
@click.argument("stream")
@click.option(
    "--rate",
    metavar="RATE",
    default="1000",
    show_default=True,
    help="Of all streams together: 20000, 20kpps or 500Mbit.",
)
@click.option(
    "--size",
    metavar="SIZE",
    default="1316",
    show_default=True,
    help="Payload bytes: 1316, a cycle 64,570,1400 or a random 80-400.",
)
@click.option("--count", metavar="N", type=click.IntRange(1), help="Datagrams of each stream.")
@click.option(
    "--duration", "--timeout", metavar="SECONDS", type=click.FloatRange(0, min_open=True), help="End after so long."
)
@click.option(
    "--streams", metavar="N", type=click.IntRange(1, MOST_STREAMS), help="So many consecutive groups, in turn."
)
@click.option(
    "--ttl", metavar="N", type=click.IntRange(1, 255), help=f"{GROUP_TTL} for a group, {HOST_TTL} for a host."
)
@click.option("--dscp", metavar="N", type=click.IntRange(0, 63), default=0, help="0 unless said.")
@click.option(
    "--gso", metavar="N", type=click.IntRange(1, 64), default=1, help="Datagrams of one UDP_SEGMENT superframe."
)
@click.option(
    "--source-port", metavar="N", type=click.IntRange(1, 65535), help="Otherwise the kernel chooses one a stream."
)
@json_option
def send(
    stream: str,
    *,
    rate: str,
    size: str,
    count: int | None,
    duration: float | None,
    streams: int | None,
    ttl: int | None,
    dscp: int,
    gso: int,
    source_port: int | None,
    as_json: bool,
) -> None:
    """Send test traffic to STREAM, [SOURCE@]GROUP:PORT%LINK or HOST:PORT, for `mcrelay recv` to check.

    SOURCE is the address to send from. Without --count and --duration it goes on until Ctrl-C.

    \b
    Example: mcrelay send 233.252.0.1:5000%eth0 --rate 500Mbit --duration 10
    """  # noqa: D301  click's mark for lines to be left alone
    from mcrelay._core.traffic import Sender  # noqa: PLC0415  other commands start without it

    sizes = parse_sizes(size)
    if gso > 1 and (len(sizes.values) > 1 or not 0 < sizes.values[0] * gso <= SIZE_MAX):
        raise UsageError(f"--gso {gso} needs one --size, of 1 to {SIZE_MAX // gso} bytes")
    pace = pace_of(rate, sizes)
    targets = consecutive(stream, streams)
    allow_files(len(targets))
    with contextlib.ExitStack() as stack:
        source = source_of(targets[0])
        sockets = [stack.enter_context(open_sender(each, ttl, dscp, source_port, source)) for each in targets]
        sender = Sender(
            [sock.fileno() for sock in sockets],
            sizes.values,
            rate=pace,
            random_sizes=sizes.random,
            count=count or 0,
            duration=duration or 0,
            gso=gso,
        )
        try:
            drive(sender, lambda: f"sent {digits(sender.sent)}  errors {digits(sender.errors)}")
        except OSError as error:
            hint = "choose a --size (and --gso) that fits the link"  # only EMSGSIZE and EINVAL end a run
            raise OperationError(f"cannot send to {stream}: {error.strerror}; {hint}") from error
    seconds = sender.elapsed_ns / 1e9
    per_second = (sender.sent - 1) / sender.sent / seconds if sender.sent > 1 and seconds else 0.0
    result = {
        "sent": sender.sent,
        "bytes": sender.sent_bytes,
        "seconds": round(seconds, 6),
        "rate_pps": round(sender.sent * per_second, 1),
        "bits_per_second": round(sender.sent_bytes * 8 * per_second),
        "errors": sender.errors,
        "late_max_us": round(sender.late_max_ns / 1e3, 1),
        "streams": len(targets),
    }
    if as_json:
        print_json(result)
    else:
        click.echo(
            f"sent {digits(sender.sent)} datagrams, {digits(sender.sent_bytes)} bytes, in {seconds:.3f} s:"
            f" {digits(result['rate_pps'])}/s, {bit_rate(result['bits_per_second'])}\n"
            f"late by {digits(result['late_max_us'])} us at worst"
            + (f", {digits(sender.errors)} errors, the last: {sender.last_error}" if sender.errors else "")
        )
    if not sender.sent:
        raise OperationError(f"nothing was sent to {stream}: {sender.last_error or 'it was stopped before'}")


def _highest(group: Address) -> Address:
    """The last group, of IPv6 the last with the same flags and scope (RFC 4291, 2.7)."""
    if isinstance(group, IPv6Address):
        return IPv6Address(int(group) | (1 << 112) - 1)
    return IPv4Address("239.255.255.255")


@contextlib.contextmanager
def _stopped_by_signals(worker: Worker) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        worker.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _some_link() -> str:
    """Return a link of this host for an example that can be pasted."""
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    return names[0] if names else "eth0"
