"""One path, running in its own site with one workload: what can be asked of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import topology
from load import Blast, Load
from meter import Sink, Soaker, cpu_seconds, is_main
from search import TOLERANCE, highest
from topology import FLOOD_GROUP
from way import Place, UnsupportedError
from workloads import FLOOD_RATE

if TYPE_CHECKING:
    from pathlib import Path

    from meter import Delivered
    from way import Way
    from workloads import Workload

    from mcrelay.commands.lab import Lab

SENT_SHARE = 0.98  # of what was offered: below, the sender could not keep up, and the rate was not tried
BUSY = 0.9  # of a core: what is left is no use to a second sender
BACKLOG_SHARE = 0.02  # of what was sent may still be on its way when the sender ends: else a ring is filling up


@dataclass(frozen=True, slots=True)
class Setting:
    """What all trials of a run share: the compiled programs, how to start mcrelay, the cores."""

    folder: Path
    programs: dict[str, str]
    command: tuple[str, ...]
    cores: tuple[int, ...]
    softirq: tuple[int, ...]  # the kernel's threads for what does not fit into others' time
    environment: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate, tried once. What is per datagram is per datagram of the input, not of its copies."""

    offered: int
    sent: int
    delivered: float  # datagrams at the sink, over the copies of each
    backlog: int  # not yet delivered when the sender ended
    exact: bool  # every payload byte of every copy was counted at the sink, and none more
    seconds: float
    sender_ns: float  # CPU of the sender, with all softirq on its time
    threads_ns: float  # CPU of the path's own threads
    worker_ns: float  # of those beside the main thread, where there are any: the main thread of mcrelay decides
    accounted_ns: float  # of senders, path and the kernel's softirq threads together
    cores_ns: float  # of all cores and of everything that runs on them; 0 unless a soaker watched

    @property
    def loss_free(self) -> bool:
        """Whether the rate was offered in earnest, all of it arrived, and it could have gone on."""
        return self.exact and self.sent >= SENT_SHARE * self.offered and self.backlog <= BACKLOG_SHARE * self.sent

    @property
    def rate(self) -> float:
        """What was really sent in a second."""
        return self.sent / self.seconds


@dataclass(slots=True)
class _Watch:
    """What is read when the senders begin and when they end."""

    idle_ns: int = 0
    clock_ns: int = 0
    busy_ns: int = 0
    come: Delivered | None = field(default=None)


class Trial:
    """A path under test. Make it, ask it, close it; many may be open at a time, and one is asked at a time."""

    def __init__(self, lab: Lab, path: Way, work: Workload, setting: Setting, *, label: str = "") -> None:
        """Build the site and start the path. UnsupportedError if it cannot do this."""
        if path.missing:
            raise UnsupportedError(path.missing)
        self.path, self.work, self.setting = path, work, setting
        self.second = 0.5 if path.both_cores else 0.0  # what the second core sends of it where cores are equal
        self.guesses: dict[bool, float] = {}  # the rate to search from next, by whether cores were equal
        self.log: list[dict[str, Any]] = []  # every probe of every search
        label = label or f"{path.name}-{work.name}"
        self.site = topology.build(lab, f"{len(lab.namespaces)}", outs=path.outs(work), ipv6=work.ipv6)
        self.site.segmentation(source=work.superframes, relay=path.device_segments)
        folder = setting.folder / f"{lab.prefix}-{label}"
        folder.mkdir()
        folder.chmod(0o755)
        self.place = Place(self.site, folder, setting.programs, setting.command, setting.cores, setting.environment)
        self.running = path.start(self.place, work)
        self.sink = Sink(self.site, self.running.first, self.running.groups, self.running.port)
        self.sink.open()

    def close(self) -> None:
        """Stop the path; the lab removes the site."""
        self.running.stop()

    def senders(self, *, equal: bool) -> dict[int, float]:
        """Return what each core sends: the first all of it, unless cores are equal and the second can help."""
        first, *second = self.setting.cores
        if not (equal and self.second and second):
            return {first: 1.0}
        return {first: 1 - self.second, second[0]: self.second}

    def probe(self, rate: float, seconds: float, *, equal: bool = False, soaker: Soaker | None = None) -> Probe:
        """Send at *rate* (0: as fast as it goes) and count."""
        before, used = self.sink.read(), cpu_seconds((*self.running.pids, *self.setting.softirq))
        program = self.setting.programs["blast"]
        blast = Blast(program, self.site, self.work, rate, seconds=seconds, shares=self.senders(equal=equal))
        watch = _Watch()

        def go() -> None:
            if soaker:
                watch.clock_ns, watch.idle_ns = soaker.read()

        def end() -> None:
            if soaker:
                clock_ns, idle_ns = soaker.read()
                watch.busy_ns = (clock_ns - watch.clock_ns) - (idle_ns - watch.idle_ns)
            watch.come = self.sink.read() - before

        return self._account(blast.result(go, end), before, used, watch)

    def _account(self, load: Load, before: Delivered, used: dict[str, float], watch: _Watch) -> Probe:
        copies = self.running.copies
        come = self.sink.settle(before, load.sent_bytes * copies)
        now = cpu_seconds((*self.running.pids, *self.setting.softirq))
        spent = {thread: seconds - used.get(thread, 0.0) for thread, seconds in now.items()}
        softirq = sum(spent.pop(f"{pid}/{pid}") for pid in self.setting.softirq)
        workers = [seconds for thread, seconds in spent.items() if not is_main(thread)] or list(spent.values())
        mean = load.sent_bytes / max(load.sent, 1)
        delivered = come.payload_bytes / mean / copies if copies else float(load.sent)
        at_end = watch.come.payload_bytes // copies if copies and watch.come else load.sent_bytes
        return Probe(
            offered=load.offered,
            sent=load.sent,
            delivered=delivered,
            backlog=max(0, round((load.sent_bytes - at_end) / mean)),
            exact=come.payload_bytes == load.sent_bytes * copies,
            seconds=load.seconds,
            sender_ns=load.cpu_ns / max(load.sent, 1),
            threads_ns=sum(spent.values()) * 1e9 / max(delivered, 1.0),
            worker_ns=sum(workers) * 1e9 / max(delivered, 1.0),
            accounted_ns=(load.cpu_ns + (sum(spent.values()) + softirq) * 1e9) / max(load.sent, 1),
            cores_ns=watch.busy_ns / max(load.sent, 1),
        )

    def highest(self, seconds: float, *, tolerance: float = TOLERANCE, equal: bool = False) -> float | None:
        """Search the highest loss-free rate; returns it as it was really sent, None if there is none."""
        best = 0.0

        def passes(rate: float) -> bool:
            nonlocal best
            probe = self.probe(rate, seconds, equal=equal)
            shown = {key: round(value, 1) for key, value in asdict(probe).items()}
            self.log.append({"asked": round(rate), "equal": equal, **shown, "loss_free": probe.loss_free})
            if probe.loss_free:
                best = max(best, probe.rate)
            return probe.loss_free

        if equal not in self.guesses:
            self._arrange(seconds / 2, equal=equal)
        found = highest(passes, self.guesses[equal], tolerance=tolerance)
        self.guesses[equal] = found or self.guesses[equal]
        return best or None

    def _arrange(self, seconds: float, *, equal: bool) -> None:
        """Learn where to search, and whether the core of a relay has time left to send as well.

        One sender flat out takes all of its core, the relay a part of its own. With a share of (1 - part) / 2 on the
        relay's core both are full, at 1 / (1 - share) of the rate.
        """
        flat_out = self.probe(0, seconds, equal=equal)
        guess = 0.95 * flat_out.delivered / flat_out.seconds
        part = flat_out.threads_ns * flat_out.delivered / flat_out.seconds / 1e9
        if equal and not self.second and flat_out.exact and part < BUSY:
            self.second = (1 - part) / 2
            more = self.probe(1.05 * guess, seconds, equal=True)
            self.second = self.second if more.loss_free else 0.0
            guess = max(guess, 0.9 * guess / (1 - self.second))
        self.guesses[equal] = max(1000.0, guess)

    def flood(self, seconds: float) -> Blast:
        """Begin to flood the link, from the first core, with what no rule wants, for so long and a little longer."""
        return Blast(
            self.setting.programs["blast"], self.site, replace(self.work, streams=100, runs=True), FLOOD_RATE,
            seconds=seconds + 0.5, shares=self.senders(equal=False), group=FLOOD_GROUP, source_port=50000,
        )  # fmt: skip
