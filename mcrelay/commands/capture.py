"""``mcrelay capture``: a bounded pcapng of what a rule or a link carries, from sockets beside the relay's rings."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import click

from mcrelay import __version__
from mcrelay.commands.evidence import subject_of
from mcrelay.commands.options import relay_options
from mcrelay.commands.table import digits, say
from mcrelay.commands.tools import ways
from mcrelay.control.client import ask
from mcrelay.errors import ControlError, LinkError, OperationError, UsageError
from mcrelay.links.watch import links_now
from mcrelay.linux import bpf, pcapng
from mcrelay.linux.packets import PacketSocket
from mcrelay.model.frame import cut, read_datagram
from mcrelay.model.link_faults import no_ethernet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mcrelay.commands.evidence import Input, Output, Subject
    from mcrelay.model.frame import Frame
    from mcrelay.model.link import Link

SNAPLEN = 262144  # bytes: whole frames
DURATION_SECONDS = 60.0
FILE_BYTES = 1 << 30  # bytes: a capture that nobody ends must not fill the disk
LOOK_SECONDS = 0.01  # a buffer holds what comes meanwhile


@dataclass(frozen=True, slots=True)
class Tap:
    """One socket of the capture: a link, and what of its frames is wanted.

    *streams* are of a rule: what arrives for them, or with *sent* what this host sends for them. Without any it is all
    multicast that arrives on the link, and with *sent* also what this host sends there.
    """

    link: str
    streams: tuple[Input | Output, ...] = ()
    sent: bool = False

    def open(self) -> PacketSocket:
        """Raises LinkError, OperationError."""
        groups = {group for each in self.streams for group in each.groups}
        program = bpf.fitting_filter(groups, outgoing=self.sent)[0] if groups else bpf.multicast_filter()
        return PacketSocket(self.link, program, sent=self.sent)

    def wants(self, frame: Frame) -> bool:
        """Whether the frame is written: the filter of a rule knows its groups only."""
        if not self.streams:
            return True
        flow = read_datagram(frame)
        return flow is not None and any(each.carries(flow) for each in self.streams)


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
@click.option(
    "--sent", is_flag=True, help="Also what this host sends there, of a rule its outputs; this costs the relay CPU."
)
@relay_options
def capture(
    what: str, *, path: str, snaplen: int, count: int | None, duration: float, sent: bool, socket_path: str | None
) -> None:
    """Write what arrives for a rule, or all multicast UDP, IGMP and MLD that arrive on a link, as pcapng.

    Frames are as they were on the link: VLAN tags are in place, and datagrams that the kernel had merged are cut apart.
    The relay waits for nothing here, and its worker pays nothing. If the capture is too slow, frames are missing only
    in the file. It then prints their number, and writes it into the file's statistics. It ends at 1 GiB at the latest.
    Needs CAP_NET_RAW.

    With --sent the kernel copies each frame that is sent on the link, at the cost of who sends it: the relay's worker
    then takes a third more CPU. The same is true of what this host sends for a rule with own = true, which is captured
    because the rule takes it in.
    """
    if path == "-" and sys.stdout.isatty():
        raise UsageError("-w - writes binary data: send it through a pipe, e.g. | tshark -r -")
    links = links_now()
    taps = taps_of(what, links, socket_path, sent=sent)
    limits = Limits(duration, count)
    begin = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            sockets = [(tap, stack.enter_context(tap.open())) for tap in taps]
            stack.enter_context(_stopped_by_signals(limits.stopped))
            file = sys.stdout.buffer if path == "-" else stack.enter_context(open(path, "wb"))  # noqa: PTH123
            frames, dropped = write(file, sockets, snaplen, limits)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OperationError(f"cannot write {path}: {error.strerror}") from error
    lost = f"; {digits(dropped)} more came faster than they could be written" if dropped else ""
    say(f"{digits(frames)} {'frame' if frames == 1 else 'frames'} in {time.monotonic() - begin:.1f} s{lost}")


def taps_of(what: str, links: Mapping[str, Link], socket_path: str | None, *, sent: bool) -> list[Tap]:
    """Choose the sockets for a rule of the running relay, or else for a link. Raises McrelayError."""
    rules = []
    trouble = ""
    try:
        rules = [rule for rule in ask(socket_path, "show", read_only=True, noun="rules") if rule["name"] == what]
    except ControlError as error:
        trouble = str(error)
    if rules:
        taps = _of_rule(subject_of(rules[0]), links, sent=sent)
    elif what in links:
        taps = [Tap(links[what].name, sent=sent)]
    else:
        because = trouble or "`mcrelay show` and `ip link` list those that there are"
        raise UsageError(f"{what!r} is neither a rule that runs nor a link: {because}")
    for each in taps:
        if each.link not in links:
            raise LinkError(f"link {each.link} does not exist")
        if fault := no_ethernet(links[each.link]):
            raise LinkError(fault)
    return taps


def _of_rule(subject: Subject, links: Mapping[str, Link], *, sent: bool) -> list[Tap]:
    """One socket on each link for what arrives there, and one for what this host sends there, as far as wanted."""
    arriving: dict[str, list[Input | Output]] = {}
    leaving: dict[str, list[Input | Output]] = {}
    for each in subject.inputs:
        arriving.setdefault(each.link, []).append(each)
        if each.own:
            leaving.setdefault(each.link, []).append(each)
    if sent:
        routed = ways({("", str(each.address)) for each in subject.outputs if not each.link})
        for output in subject.outputs:
            way = routed.get(("", str(output.address)))
            link = output.link or (way.link if way else "")
            if link in links:
                leaving.setdefault(link, []).append(output)
    return [
        Tap(link, tuple(streams), sent=going)
        for found, going in ((arriving, False), (leaving, True))
        for link, streams in found.items()
    ]


def write(file: BinaryIO, sockets: Sequence[tuple[Tap, PacketSocket]], snaplen: int, limits: Limits) -> tuple[int, int]:
    """Write frames until a limit is reached. Returns how many were written and how many were lost. Raises OSError."""
    names = list(dict.fromkeys(tap.link for tap, _ in sockets))
    head = pcapng.section(f"mcrelay {__version__}") + b"".join(pcapng.interface(name, snaplen) for name in names)
    file.write(head)
    file.flush()
    until = time.monotonic() + limits.seconds
    counts = dict.fromkeys(names, 0)
    size = len(head)
    for link, frame in _frames(sockets, until, limits.stopped, file):
        block = pcapng.packet(names.index(link), frame, snaplen)
        if size + len(block) > limits.file_bytes:
            break
        file.write(block)
        size += len(block)
        counts[link] += 1
        if sum(counts.values()) == limits.frames:
            break
    lost = dict.fromkeys(names, 0)
    for tap, each in sockets:
        lost[tap.link] += each.dropped()
    for number, link in enumerate(names):
        file.write(pcapng.statistics(number, time.time_ns(), counts[link] + lost[link], lost[link]))
    file.flush()
    return sum(counts.values()), sum(lost.values())


def _frames(
    sockets: Sequence[tuple[Tap, PacketSocket]], until: float, stopped: threading.Event, file: BinaryIO
) -> Iterator[tuple[str, Frame]]:
    """Give wanted frames and their links as they come, and flush soon, for a reader of the file.

    It looks now and then, and does not sleep on the sockets: whoever sends a frame, the relay's worker too, would have
    to wake it for each.
    """
    while not stopped.is_set() and time.monotonic() < until:
        seen = False
        for tap, each in sockets:
            for frame in each.read():
                seen = True
                for piece in cut(frame) if tap.wants(frame) else ():
                    yield tap.link, piece
        if not seen:
            file.flush()
            stopped.wait(min(LOOK_SECONDS, max(0.0, until - time.monotonic())))


@contextlib.contextmanager
def _stopped_by_signals(stopped: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the capture, and the file is whole."""
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
