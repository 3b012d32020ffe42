"""Rounds: the same traffic through every path in turn. Each figure goes into the book."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import paths
from meter import Soaker
from search import TOLERANCE
from trial import Trial
from way import UnsupportedError

from mcrelay.commands.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from book import Book, Spread
    from trial import Probe, Setting
    from way import Way
    from workloads import Workload

T = TypeVar("T")

COST_SHARE = 0.5  # of the lowest highest rate in a row: nobody is near a limit


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    name: str
    rounds: int
    probe_seconds: float
    timed_seconds: float  # of a probe for latency
    tolerance: float = TOLERANCE  # of a searched rate
    depth: int = 1  # quick 0, normal 1, full 2
    left_out: tuple[str, ...] = ()  # sections

    def pick(self, quick: Sequence[T], normal: Sequence[T] = (), full: Sequence[T] = ()) -> list[T]:
        """Return what a run of this extent measures: each does what the smaller one does, and more."""
        return [each for part in (quick, normal, full)[: self.depth + 1] for each in part]

    def with_rounds(self, rounds: int) -> Extent:
        """Return the same with another number of samples."""
        return replace(self, rounds=rounds)


QUICK = Extent(
    "quick", rounds=2, probe_seconds=0.2, timed_seconds=0.2, tolerance=0.1, depth=0,
    left_out=("families", "rules", "start"),
)  # fmt: skip
NORMAL = Extent("normal", rounds=5, probe_seconds=0.25, timed_seconds=0.15, tolerance=0.06)
FULL = Extent("full", rounds=5, probe_seconds=0.4, timed_seconds=0.3, depth=2)


class Rounds:
    """How one row of the bench is measured."""

    def __init__(self, book: Book, setting: Setting, extent: Extent) -> None:
        self.book, self.setting, self.extent = book, setting, extent
        self.probes: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def trials(self, pairs: Sequence[tuple[Way, Workload]]) -> Iterator[list[Trial]]:
        """Start the paths, each in a site of its own; those that cannot do it are noted."""
        with Lab() as lab:
            found: list[Trial] = []
            try:
                for way, work in pairs:
                    try:
                        found.append(Trial(lab, way, work, self.setting))
                    except UnsupportedError as why:
                        self.book.note(f"{work.title}: {way.title}: {why}")
                yield found
            finally:
                for trial in found:
                    trial.close()
                    self.probes += [
                        {"path": trial.path.name, "workload": trial.work.name, **each} for each in trial.log
                    ]

    def rates(self, trials: Sequence[Trial], *, pipeline: bool = False) -> None:
        """Search the highest loss-free rate, in alternation; *pipeline*: also with one sender on one core."""
        for number in range(self.extent.rounds):
            for trial in turned(trials, number):
                rate = self.highest(trial, equal=True)
                self.book.add(trial.work.name, trial.path.name, "rate", rate)
                if not pipeline:
                    continue
                if len(trial.senders(equal=True)) > 1:
                    rate = self.highest(trial)
                self.book.add(trial.work.name, trial.path.name, "pipeline", rate)

    def highest(self, trial: Trial, *, equal: bool = False, tolerance: float = 0.0) -> float | None:
        """Search the highest loss-free rate; None if there is none."""
        return trial.highest(self.extent.probe_seconds, tolerance=tolerance or self.extent.tolerance, equal=equal)

    def costs(self, trials: Sequence[Trial], rate_of: Callable[[Trial], float], seconds: float = 0.0) -> None:
        """Core-nanoseconds and worker-nanoseconds per delivered datagram, the sender's own subtracted."""
        seconds = seconds or self.extent.probe_seconds
        with Lab() as lab:
            traffic = dict.fromkeys(t.work.traffic for t in trials)
            alone = {
                work: Trial(lab, paths.DROP, work, self.setting, label=f"drop-{i}") for i, work in enumerate(traffic)
            }
            soaker = Soaker(self.setting.programs["soak"], self.setting.folder, self.setting.cores)
            try:
                for number in range(self.extent.rounds):
                    sender: dict[tuple[Workload, int], Probe] = {}
                    for trial in turned(trials, number):
                        rate, work = rate_of(trial), trial.work.traffic
                        key = work, round(rate)
                        if key not in sender:
                            base = sender[key] = alone[work].probe(rate, seconds, soaker=soaker)
                            self.book.add(trial.work.name, "drop", "cost_ns", base.cores_ns)
                            self.book.add(trial.work.name, "drop", "accounted_ns", base.accounted_ns)
                            self.book.add(trial.work.name, "drop", "cost_rate", base.rate)
                        self._cost(trial, trial.probe(rate, seconds, soaker=soaker), sender[key])
            finally:
                soaker.close()

    def _cost(self, trial: Trial, probe: Probe, alone: Probe) -> None:
        copies, name, path = trial.running.copies, trial.work.name, trial.path.name
        sound = probe.delivered >= 0.99 * probe.sent
        self.book.add(name, path, "cost_rate", probe.rate)
        self.book.add(name, path, "cost_ns", (probe.cores_ns - alone.cores_ns) / copies if sound else None)
        accounted = (probe.accounted_ns - alone.accounted_ns) / copies
        self.book.add(name, path, "accounted_ns", accounted if sound else None)
        if trial.running.pids:
            self.book.add(name, path, "worker_ns", probe.worker_ns / copies if sound else None)
            self.book.add(name, path, "threads_ns", probe.threads_ns / copies if sound else None)

    def common_rate(self, trials: Sequence[Trial]) -> float:
        """Half of what the slowest path carries; socat's own half is its own."""
        known = [s.median for t in trials if t.path is not paths.SOCAT and (s := self.rate(t))]
        return COST_SHARE * min(known) if known else 50_000.0

    def rate(self, trial: Trial) -> Spread | None:
        """Return the highest rates of a path, if they were searched."""
        return self.book.spread(trial.work.name, trial.path.name, "rate")


def turned(trials: Sequence[Trial], number: int) -> list[Trial]:
    """Begin each round with another path."""
    return [*trials[number % len(trials) :], *trials[: number % len(trials)]] if trials else []
