"""What is measured, in which order: each section fills the book. Paths alternate within a round."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import exact
import hotspots
import microbench
import paths
import workloads
from meter import Soaker, resident_mb
from search import TOLERANCE
from trial import Trial
from way import UnsupportedError

from mcrelay.netns import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from book import Book
    from trial import Probe, Setting
    from way import Way
    from workloads import Workload

LATENCY_RATES = (1_000, 20_000, 100_000)
BURST, BURST_SECONDS = 50_000, 0.010
SHARE = 0.8  # of the highest rate: where everything has to be exact, and where the profile is taken
COST_SHARE = 0.5  # of the lowest highest rate in a row: nobody is near a limit


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    name: str
    rounds: int
    probe_seconds: float
    tolerance: float = TOLERANCE  # of a searched rate
    everything: bool = False
    reduced: bool = False
    left_out: tuple[str, ...] = ()  # sections

    def with_rounds(self, rounds: int) -> Extent:
        """Return the same with another number of samples."""
        return replace(self, rounds=rounds)


QUICK = Extent("quick", rounds=2, probe_seconds=0.25, tolerance=0.08, reduced=True, left_out=("rules",))
NORMAL = Extent("normal", rounds=5, probe_seconds=0.4, tolerance=0.05)
FULL = Extent("full", rounds=5, probe_seconds=0.6, everything=True)


class Sections:
    """One run of the bench."""

    def __init__(self, book: Book, setting: Setting, extent: Extent) -> None:
        self.book, self.setting, self.extent = book, setting, extent
        self.probes: list[dict[str, Any]] = []

    # ---- one row: the same traffic through every path ----

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
        """Search the highest loss-free rate, in alternation; *pipeline*: that of the kernel on one core, too."""
        for number in range(self.extent.rounds):
            for trial in _turned(trials, number):
                rate = self._highest(trial, equal=True)
                self.book.add(trial.work.name, trial.path.name, "rate", rate)
                if not pipeline:
                    continue
                if trial.path.both_cores:
                    rate = self._highest(trial)
                self.book.add(trial.work.name, trial.path.name, "pipeline", rate)

    def _highest(self, trial: Trial, *, equal: bool = False) -> float | None:
        return trial.highest(self.extent.probe_seconds, tolerance=self.extent.tolerance, equal=equal)

    def costs(self, trials: Sequence[Trial], rate_of: Callable[[Trial], float]) -> None:
        """Core-nanoseconds and worker-nanoseconds per delivered datagram, the sender's own subtracted."""
        works = list(dict.fromkeys(trial.work for trial in trials))
        with Lab() as lab:
            alone = {work: Trial(lab, paths.DROP, work, self.setting) for work in works}
            soaker = Soaker(self.setting.programs["soak"], self.setting.folder, self.setting.cores)
            try:
                for number in range(self.extent.rounds):
                    sender: dict[tuple[Workload, int], Probe] = {}
                    for trial in _turned(trials, number):
                        rate = rate_of(trial)
                        key = trial.work, round(rate)
                        if key not in sender:
                            base = alone[trial.work].probe(rate, self.extent.probe_seconds, soaker=soaker)
                            sender[key] = base
                            self.book.add(trial.work.name, "drop", "cost_ns", base.cores_ns)
                            self.book.add(trial.work.name, "drop", "accounted_ns", base.accounted_ns)
                            self.book.add(trial.work.name, "drop", "cost_rate", base.rate)
                        self._cost(trial, trial.probe(rate, self.extent.probe_seconds, soaker=soaker), sender[key])
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

    def _common_rate(self, trials: Sequence[Trial]) -> float:
        """Half of what the slowest path carries; socat's own half is its own."""
        known = [s.median for t in trials if t.path is not paths.SOCAT and (s := self._rate(t))]
        return COST_SHARE * min(known) if known else 50_000.0

    def _rate(self, trial: Trial) -> Any:
        return self.book.spread(trial.work.name, trial.path.name, "rate")

    # ---- the sections ----

    def stream(self) -> None:
        """Take one stream of 1316 bytes through every path: rate, pipeline, cost."""
        ways = [
            paths.MCRELAY, paths.EXCLUSIVE, paths.GRO, paths.EXCLUSIVE_GRO, paths.SINGLY, paths.C_SEND, paths.C_RUNS,
            paths.SMCROUTE, paths.SMCROUTE_BARE, paths.NFT, paths.SOCAT,
        ]  # fmt: skip
        uso = [paths.by_device(way) for way in (paths.MCRELAY, paths.EXCLUSIVE_GRO)]
        if self.extent.everything:
            uso.append(paths.by_device(paths.C_RUNS))
        if self.extent.reduced:
            ways = [
                paths.MCRELAY, paths.EXCLUSIVE, paths.EXCLUSIVE_GRO, paths.SINGLY, paths.SMCROUTE, paths.NFT,
                paths.SOCAT,
            ]  # fmt: skip
            uso = uso[:1]
        with self.trials([(way, workloads.ONE) for way in (*ways, *uso)]) as trials:
            self.rates(trials, pipeline=True)
            common = self._common_rate(trials)

            def rate_of(trial: Trial) -> float:
                spread = self._rate(trial) if trial.path is paths.SOCAT else None
                return COST_SHARE * spread.median if spread else common

            self.costs(trials, rate_of)
            if not self.extent.reduced:
                self._gaps([t for t in trials if t.path in {paths.MCRELAY, paths.SMCROUTE, *uso[:1]}])
            self._profile(trials)

    def _gaps(self, trials: Sequence[Trial]) -> None:
        """Find how much of what was evenly sent arrives back to back; kernel forwarding shows the sender's own part."""
        for number in range(self.extent.rounds):
            for trial in _turned(trials, number):
                for rate in LATENCY_RATES[1:]:
                    longest = trial.gaps(rate, self.extent.probe_seconds / 2)
                    self.book.add(trial.work.name, trial.path.name, f"longest_run@{rate}", longest)

    def _profile(self, trials: Sequence[Trial]) -> None:
        """What the worker does with its time, and the memory the process has, under 80 % of the highest rate."""
        trial = next((t for t in trials if t.path is paths.MCRELAY), None)
        spread = self._rate(trial) if trial else None
        if trial is None or spread is None:
            return
        found = hotspots.record(trial, SHARE * spread.median, 2.0, self.setting.folder)
        if isinstance(found, str):
            self.book.note(f"profile: {found}")
        else:
            self.book.profile = found
        self.book.add(workloads.ONE.name, trial.path.name, "rss_mb", resident_mb(trial.running.pids[0]))

    def fanout(self) -> None:
        """1, 10 and 50 outputs: rates, and the cost of each delivered datagram at half of the own highest rate."""
        works = [workloads.ONE, workloads.FANOUT_10, workloads.FANOUT_50]
        ours = [paths.MCRELAY]
        if self.extent.everything:
            ours += [paths.by_device(paths.MCRELAY), paths.EXCLUSIVE]
        pairs = [(way, work) for work in works for way in ours]
        pairs += [(way, work) for work in works[1:] for way in (paths.SMCROUTE, paths.NFT)]
        pairs.append((paths.SOCAT, workloads.FANOUT_10))
        if self.extent.reduced:
            pairs = [(paths.MCRELAY, work) for work in (works[0], works[2])]
        with self.trials([(way, replace(work, name=f"fanout-{work.outputs}")) for way, work in pairs]) as trials:
            self.rates(trials)

            def rate_of(trial: Trial) -> float:
                return COST_SHARE * (spread.median if (spread := self._rate(trial)) else 2000.0)

            self.costs(trials, rate_of)

    def shapes(self) -> None:
        """Sizes and streams, against kernel forwarding on equal cores: runs cannot always form."""
        works = [workloads.SMALL, workloads.MIXED, workloads.RANDOM, workloads.MANY, workloads.THIN]
        if self.extent.reduced:
            works = [workloads.RANDOM, workloads.THIN]
        for work in works:
            ways = [paths.MCRELAY, paths.EXCLUSIVE, paths.SMCROUTE]
            if work.streams > 1:
                ways.append(paths.TWO_WORKERS)
            if self.extent.reduced:
                ways = [paths.MCRELAY, paths.SMCROUTE]
            if self.extent.everything:
                ways += [
                    paths.by_device(paths.MCRELAY), paths.GRO, paths.SINGLY, paths.C_RUNS, paths.SMCROUTE_BARE,
                    paths.NFT, paths.SOCAT,
                ]  # fmt: skip
            with self.trials([(way, work) for way in ways]) as trials:
                self.rates(trials)
                common = self._common_rate(trials)
                self.costs(trials, lambda _, rate=common: rate)

    def superframes(self) -> None:
        """Bring datagrams in 48 at a time, as a host with UDP GRO or a sender with USO does."""
        ways = [paths.MCRELAY, paths.by_device(paths.MCRELAY), paths.EXCLUSIVE, paths.by_device(paths.EXCLUSIVE)]
        if self.extent.reduced:
            ways = ways[:2]
        if self.extent.everything:
            ways += [paths.C_RUNS, paths.SMCROUTE, paths.by_device(paths.SMCROUTE), paths.NFT]
        with self.trials([(way, workloads.SUPERFRAMES) for way in ways]) as trials:
            self.rates(trials)
            common = self._common_rate(trials)
            self.costs(trials, lambda _: common)

    def rules(self) -> None:
        """1, 100 and 10 000 rules, one of them busy: the same rate for all, the cost of a datagram."""
        works = [workloads.ONE, workloads.RULES_100, workloads.RULES_10000]
        if self.extent.reduced:
            works = [workloads.ONE, workloads.RULES_10000]
        named = [replace(work, name=f"rules-{1 + work.idle_rules}") for work in works]
        with self.trials([(paths.MCRELAY, work) for work in named]) as trials:
            rate = self._common_rate(trials)
            known = self.book.spread(workloads.ONE.name, "mcrelay", "rate")
            rate = COST_SHARE * known.median if known else rate
            self.costs(trials, lambda _: rate)

    def flood(self) -> None:
        """Send 500 000 packets/s that no rule wants beside 10 000/s that one does."""
        with self.trials([(paths.MCRELAY, workloads.FLOOD), (paths.SMCROUTE, workloads.FLOOD)]) as trials:
            for number in range(self.extent.rounds):
                for trial in _turned(trials, number):
                    flood, probe = trial.flooded(10_000, self.extent.probe_seconds)
                    name, path = trial.work.name, trial.path.name
                    self.book.add(name, path, "flood_rate", flood.sent / flood.seconds)
                    self.book.add(name, path, "lost", probe.sent - probe.delivered)
                    self.book.add(name, path, "worker_share", probe.worker_ns * probe.rate / 1e9)

    def start(self) -> None:
        """Measure 1000 groups from exec to READY."""
        for _ in range(self.extent.rounds):
            with self.trials([(paths.MCRELAY, workloads.THIN)]) as trials:
                for trial in trials:
                    self.book.add(trial.work.name, trial.path.name, "ready_seconds", trial.running.ready_seconds)

    def latency(self) -> None:
        """Delay from when each datagram was due, through `mcrelay send` and `recv`."""
        core, other = self.setting.cores[0], self.setting.cores[-1]
        ways = [paths.MCRELAY_DEEP, paths.LATENCY, paths.SMCROUTE]
        if self.extent.everything:
            ways += [paths.GRO, paths.NFT, paths.C_RUNS]
        rates = LATENCY_RATES[1:2] if self.extent.reduced else LATENCY_RATES
        with self.trials([(way, workloads.ONE) for way in ways]) as trials:
            for number in range(self.extent.rounds):
                for trial in _turned(trials, number):
                    # The receiver has the core that the path leaves alone.
                    receive_core = other if trial.path.both_cores else core
                    for rate in rates:
                        count = max(1000, round(rate * self.extent.probe_seconds))
                        self._delays(
                            f"latency@{rate}", trial, exact.account(trial, rate, count, receive_core=receive_core)
                        )
                    burst = exact.account(trial, BURST / BURST_SECONDS, BURST, receive_core=receive_core)
                    self.book.add("latency@burst", trial.path.name, "burst_seconds", burst["send_seconds"])
                    self._delays("latency@burst", trial, burst)

    def _delays(self, row: str, trial: Trial, found: dict[str, Any]) -> None:
        for name, value in (found["latency_us"] or {}).items():
            self.book.add(row, trial.path.name, f"{name}_us", value)
        self.book.add(row, trial.path.name, "lost", found["lost"] - found["socket_dropped"])

    def exactness(self) -> None:
        """Check every workload at 80 % of its highest rate, with 1 and 2 workers."""
        works = [
            workloads.ONE, workloads.SMALL, workloads.MIXED, workloads.RANDOM, workloads.MANY, workloads.THIN,
            workloads.FANOUT_10, workloads.FANOUT_50, workloads.SUPERFRAMES,
        ]  # fmt: skip
        if self.extent.reduced:
            works = [workloads.ONE, workloads.RANDOM, workloads.SUPERFRAMES]
        pairs = [(way, work) for way in (paths.MCRELAY, paths.TWO_WORKERS) for work in works]
        pairs += [(way, workloads.ONE) for way in (paths.EXCLUSIVE, paths.GRO, paths.EXCLUSIVE_GRO)]
        for pair in pairs:
            with self.trials([pair]) as trials:
                for trial in trials:
                    self._exact(trial)

    def _exact(self, trial: Trial) -> None:
        work = trial.work
        spread = self._rate(trial)
        rate = SHARE * (spread.median if spread else self._highest(trial) or 10_000.0)
        most = exact.RECEIVABLE // work.outputs
        count = max(1, round(min(most, rate * 0.5) / work.streams))
        for _ in range(1 if self.extent.reduced else 2):
            gso = work.run if work.superframes else 1
            self.book.exact.append(exact.account(trial, rate, count, gso=gso))

    def micro(self) -> None:
        """Run the microbenchmarks of parse, find and queue."""
        found = microbench.run(self.setting.folder, 0.2 if self.extent.reduced else 1.0)
        if isinstance(found, str):
            self.book.note(f"microbenchmarks: {found}")
            return
        for name, values in found.items():
            for value in values:
                self.book.add("micro", "core", name, value)


def _turned(trials: Sequence[Trial], number: int) -> list[Trial]:
    """Begin each round with another path."""
    return [*trials[number % len(trials) :], *trials[: number % len(trials)]] if trials else []
