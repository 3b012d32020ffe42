"""``mcrelay capture``: a bounded pcapng of what a rule or a link carries, from sockets beside the relay's rings."""

from __future__ import annotations

import contextlib
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, BinaryIO

import click

from mcrelay import __version__
from mcrelay.commands.options import relay_options
from mcrelay.control.client import ask
from mcrelay.errors import ControlError, LinkError, OperationError, UsageError
from mcrelay.links.watch import links_now
from mcrelay.linux import bpf, pcapng
from mcrelay.linux.packets import PacketSocket
from mcrelay.model.frame import cut
from mcrelay.model.link_faults import no_ethernet
from mcrelay.model.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mcrelay.model.frame import Frame
    from mcrelay.model.link import Link

SNAPLEN = 262144  # bytes: whole frames
DURATION_SECONDS = 60.0
FILE_BYTES = 1 << 30  # a capture that nobody ends fills no disk
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Source:
    """What is captured on one link; *outgoing* are the destinations that this host sends to."""

    link: str
    groups: frozenset[IPv4Address] = frozenset()
    outgoing: frozenset[IPv4Address] = frozenset()

    def programs(self) -> list[bytes]:
        """The filters: everything multicast, or what the rule takes in and what it sends."""
        if not self.groups and not self.outgoing:
            return [bpf.multicast_filter()]
        both = ((self.groups, False), (self.outgoing, True))
        return [bpf.fitting_filter(groups, outgoing=outgoing)[0] for groups, outgoing in both if groups]


@dataclass(slots=True)
class Limits:
    """When a capture ends: seconds, frames, bytes of the file; ``stopped`` when a person or a signal says so."""

    seconds: float
    frames: int | None
    file_bytes: int = FILE_BYTES
    stopped: threading.Event = field(default_factory=threading.Event)


@click.command(
    epilog="\b\nExamples:\n  mcrelay capture lobby -w lobby.pcapng\n  mcrelay capture eth1 -w - | tshark -r - -n"
)
@click.argument("what", metavar="RULE|LINK")
@click.option("-w", "--write", "path", required=True, metavar="FILE", help="Where to write; - is standard output.")
@click.option("--snaplen", type=click.IntRange(64), default=SNAPLEN, help="Bytes kept of each frame.  [default: all]")
@click.option("--count", type=click.IntRange(1), help="End after so many frames.")
@click.option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    default=DURATION_SECONDS,
    help=f"End after so many seconds.  [default: {DURATION_SECONDS:g}]",
)
@relay_options
def capture(what: str, *, path: str, snaplen: int, count: int | None, duration: float, socket_path: str | None) -> None:
    """Write what a rule takes in and sends, or all multicast UDP and IGMP of a link, as pcapng.

    Frames are as they were on the link: VLAN tags are in place, and datagrams that the kernel had merged are cut apart.
    The relay does not notice. What the capture itself is too slow for is missing in the file alone, is told at the end,
    and stands in the file's statistics. It ends at 1 GiB at the latest. Needs CAP_NET_RAW.
    """
    if path == "-" and sys.stdout.isatty():
        raise UsageError("-w - writes binary data: send it through a pipe, e.g. | tshark -r -")
    links = links_now()
    sources = sources_of(what, links, socket_path)
    limits = Limits(duration, count)
    begin = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            sockets = [
                (number, stack.enter_context(PacketSocket(source.link, program)))
                for number, source in enumerate(sources)
                for program in source.programs()
            ]
            stack.enter_context(_stopped_by_signals(limits.stopped))
            file = sys.stdout.buffer if path == "-" else stack.enter_context(open(path, "wb"))  # noqa: PTH123
            frames, dropped = write(file, [source.link for source in sources], sockets, snaplen, limits)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OperationError(f"cannot write {path}: {error.strerror}") from error
    lost = f"; {dropped} more came faster than they could be written" if dropped else ""
    click.echo(f"{counted(frames, 'frame')} in {time.monotonic() - begin:.1f} s{lost}", err=True)


def sources_of(what: str, links: Mapping[str, Link], socket_path: str | None) -> list[Source]:
    """Say what to capture for a rule of the running relay, or else for a link. Raises McrelayError."""
    rules = []
    trouble = ""
    try:
        rules = [rule for rule in ask(socket_path, "show", read_only=True, noun="rules") if rule["name"] == what]
    except ControlError as error:
        trouble = str(error)
    if not rules:
        if what not in links:
            because = trouble or "`mcrelay show` and `ip link` list those that there are"
            raise UsageError(f"{what!r} is neither a rule that runs nor a link: {because}")
        return [_usable(Source(links[what].name), links)]
    groups: dict[str, set[IPv4Address]] = {}
    outgoing: dict[str, set[IPv4Address]] = {}
    for each in rules[0]["inputs"]:
        groups.setdefault(each["iif"], set()).add(IPv4Address(each["group"]))
    for each in rules[0]["outputs"]:
        if each["oif"]:
            outgoing.setdefault(each["oif"], set()).add(IPv4Address(each["to"].partition(":")[0].partition("%")[0]))
    names = [name for name in dict.fromkeys([*groups, *outgoing]) if name in groups or name in links]
    return [
        _usable(Source(name, frozenset(groups.get(name, ())), frozenset(outgoing.get(name, ()))), links)
        for name in names
    ]


def _usable(source: Source, links: Mapping[str, Link]) -> Source:
    if source.link not in links:
        raise LinkError(f"link {source.link} does not exist")
    if fault := no_ethernet(links[source.link]):
        raise LinkError(fault)
    return source


def write(
    file: BinaryIO, names: Sequence[str], sockets: Sequence[tuple[int, PacketSocket]], snaplen: int, limits: Limits
) -> tuple[int, int]:
    """Write frames until a limit is met; how many were written and how many were lost. Raises OSError."""
    head = pcapng.section(f"mcrelay {__version__}") + b"".join(pcapng.interface(name, snaplen) for name in names)
    file.write(head)
    file.flush()
    until = time.monotonic() + limits.seconds
    counts = [0] * len(names)
    size = len(head)
    for number, frame in _frames(sockets, until, limits.stopped, file):
        block = pcapng.packet(number, frame, snaplen)
        if size + len(block) > limits.file_bytes:
            break
        file.write(block)
        size += len(block)
        counts[number] += 1
        if sum(counts) == limits.frames:
            break
    lost = [0] * len(names)
    for number, each in sockets:
        lost[number] += each.dropped()
    for number, (count, dropped) in enumerate(zip(counts, lost, strict=True)):
        file.write(pcapng.statistics(number, time.time_ns(), count + dropped, dropped))
    file.flush()
    return sum(counts), sum(lost)


def _frames(
    sockets: Sequence[tuple[int, PacketSocket]], until: float, stopped: threading.Event, file: BinaryIO
) -> Iterator[tuple[int, Frame]]:
    """Frames as they come; whoever reads the file meanwhile has them soon."""
    numbers = {each: number for number, each in sockets}
    while not stopped.is_set() and (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select(list(numbers), [], [], min(left, LOOK_SECONDS))
        for each in ready:
            for frame in each.read():
                for piece in cut(frame):
                    yield numbers[each], piece
        if not ready:
            file.flush()


@contextlib.contextmanager
def _stopped_by_signals(stopped: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the capture, and the file is whole."""
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
