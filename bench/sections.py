"""What is measured, in which order."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import arrivals
import exact
import hotspots
import microbench
import paths
import workloads
from arrivals import BURST, PACED, Traffic
from meter import resident_mb
from rounds import COST_SHARE, Rounds, turned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trial import Trial
    from way import Way
    from workloads import Workload

RESTART_RATE, RESTART_COUNT = 100_000, 200_000  # a restart begins and ends while two seconds of these are sent
RESTART_AHEAD = 0.5  # seconds in which the sender starts and datagrams come
SHARE = 0.8  # of the highest rate: where everything has to be exact, and where the profile is taken
FLOODED = Traffic("10000", 10_000)  # what has to get through beside a flood
COARSE = 0.15  # of a rate that is searched only to be taken 80 % of
FLOOD_AHEAD = 1.0  # seconds that `mcrelay send` and `recv` take to start
WORKLOADS = (
    workloads.ONE, workloads.SMALL, workloads.MIXED, workloads.RANDOM, workloads.MANY, workloads.THIN,
    workloads.FANOUT_10, workloads.FANOUT_50, workloads.RULES_100, workloads.RULES_10000, workloads.SUPERFRAMES,
    workloads.FLOOD,
)  # fmt: skip


class Sections(Rounds):
    """One run of the bench; each of its methods is a section."""

    def stream(self) -> None:
        """Take one stream of 1316 bytes through every path: rate, pipeline, cost."""
        ways = self.extent.pick(
            [
                paths.MCRELAY, paths.EXCLUSIVE, paths.KERNEL, paths.KERNEL_EXCLUSIVE, paths.SINGLY, paths.SMCROUTE,
                paths.NFT, paths.SOCAT, paths.by_device(paths.MCRELAY),
            ],
            [paths.GRO, paths.EXCLUSIVE_GRO, paths.C_RUNS, paths.SMCROUTE_BARE, paths.HEALTHY],
            [paths.C_SEND, paths.by_device(paths.EXCLUSIVE_GRO), paths.by_device(paths.C_RUNS)],
        )  # fmt: skip
        with self.trials([(way, workloads.ONE) for way in ways]) as trials:
            self.rates(trials, pipeline=True)
            common = self.common_rate(trials)

            def rate_of(trial: Trial) -> float:
                spread = self.rate(trial) if trial.path is paths.SOCAT else None
                return COST_SHARE * spread.median if spread else common

            self.costs(trials, rate_of)
            self._profile(trials)
            self._stages(trials)

    def _profile(self, trials: Sequence[Trial]) -> None:
        """What the worker does with its time, and the memory the process has, under 80 % of the highest rate."""
        trial = next((t for t in trials if t.path is paths.MCRELAY), None)
        spread = self.rate(trial) if trial else None
        if trial is None or spread is None:
            return
        found = hotspots.record(trial, SHARE * spread.median, 2.0, self.setting.folder)
        if isinstance(found, str):
            self.book.note(f"profile: {found}")
        else:
            self.book.profile = found
        self.book.add(workloads.ONE.name, trial.path.name, "rss_mb", resident_mb(trial.running.pids[0]))

    def _stages(self, trials: Sequence[Trial]) -> None:
        """What both cores do with their time while the kernel engine forwards as fast as it goes."""
        for trial in trials:
            if trial.path not in {paths.KERNEL, paths.KERNEL_EXCLUSIVE}:
                continue
            found = hotspots.record_stages(trial, 0, 1.0, self.setting.folder)
            if isinstance(found, str):
                self.book.note(f"profile of {trial.path.title}: {found}")
            else:
                self.book.stages[trial.path.title] = found

    def fanout(self) -> None:
        """1, 10 and 50 outputs: rates, and the cost of each delivered datagram at half of the own highest rate."""
        one, ten, fifty = workloads.ONE, workloads.FANOUT_10, workloads.FANOUT_50
        device = paths.by_device(paths.MCRELAY)
        pairs = self.extent.pick(
            [*((paths.MCRELAY, work) for work in (one, fifty)), (paths.KERNEL, fifty)],
            [
                (paths.MCRELAY, ten), *((device, work) for work in (ten, fifty)),
                (paths.KERNEL, ten), *((paths.KERNEL_EXCLUSIVE, work) for work in (ten, fifty)),
                *((peer, work) for peer in (paths.SMCROUTE, paths.NFT) for work in (ten, fifty)), (paths.SOCAT, ten),
            ],
            [(device, one), *((paths.EXCLUSIVE, work) for work in (one, ten, fifty))],
        )  # fmt: skip
        with self.trials([(way, replace(work, name=f"fanout-{work.outputs}")) for way, work in pairs]) as trials:
            self.rates(trials)

            def rate_of(trial: Trial) -> float:
                return COST_SHARE * (spread.median if (spread := self.rate(trial)) else 2000.0)

            self.costs(trials, rate_of)

    def shapes(self) -> None:
        """Sizes and streams, against kernel forwarding on equal cores: runs cannot always form."""
        works = self.extent.pick([workloads.RANDOM, workloads.THIN], [workloads.SMALL, workloads.MIXED, workloads.MANY])
        for work in works:
            ways = self.extent.pick(
                [paths.MCRELAY, paths.KERNEL, paths.SMCROUTE],
                [paths.EXCLUSIVE, paths.KERNEL_EXCLUSIVE, paths.by_device(paths.MCRELAY)],
                [
                    paths.TWO_WORKERS, paths.GRO, paths.SINGLY, paths.C_RUNS, paths.SMCROUTE_BARE, paths.NFT,
                    paths.SOCAT,
                ],
            )  # fmt: skip
            with self.trials([(way, work) for way in ways]) as trials:
                self.rates(trials)
                common = self.common_rate(trials)
                self.costs(trials, dict.fromkeys(trials, common).__getitem__)

    def superframes(self) -> None:
        """Bring datagrams in 48 at a time, as a host with UDP GRO or a sender with USO does."""
        ways = self.extent.pick(
            [paths.MCRELAY, paths.by_device(paths.MCRELAY)],
            [paths.KERNEL, paths.by_device(paths.KERNEL), paths.by_device(paths.KERNEL_EXCLUSIVE)],
            [
                paths.EXCLUSIVE, paths.by_device(paths.EXCLUSIVE), paths.C_RUNS, paths.SMCROUTE,
                paths.by_device(paths.SMCROUTE), paths.NFT,
            ],
        )  # fmt: skip
        with self.trials([(way, workloads.SUPERFRAMES) for way in ways]) as trials:
            self.rates(trials)
            common = self.common_rate(trials)
            self.costs(trials, lambda _: common)

    def families(self) -> None:
        """Relay from either IP version to either, the four directions in alternation; then each with an account."""
        works = [workloads.V4_TO_V4, workloads.V6_TO_V6, workloads.V4_TO_V6, workloads.V6_TO_V4]
        with self.trials([(way, work) for way in (paths.MCRELAY, paths.KERNEL) for work in works]) as trials:
            self.rates(trials)
            common = self.common_rate(trials)
            self.costs(trials, lambda _: common)
        self._accounts([(way, work) for way in (paths.ONE_WORKER, paths.KERNEL) for work in works])

    def rules(self) -> None:
        """1, 100 and 10 000 rules, one of them busy: the same rate for all, the cost of a datagram."""
        works = self.extent.pick([workloads.ONE, workloads.RULES_10000], [workloads.RULES_100])
        named = [replace(work, name=f"rules-{1 + work.idle_rules}") for work in works]
        ways = self.extent.pick(
            [paths.MCRELAY], [paths.KERNEL, paths.KERNEL_EXCLUSIVE], [paths.by_device(paths.MCRELAY)]
        )
        with self.trials([(way, work) for work in named for way in ways]) as trials:
            self.rates(trials)
            common = self.common_rate(trials)
            self.costs(trials, lambda _: common, 2 * self.extent.probe_seconds)

    def flood(self) -> None:
        """Send 500 000 packets/s that no rule wants beside 10 000/s that one does."""
        ways = [paths.MCRELAY, paths.KERNEL, paths.KERNEL_EXCLUSIVE, paths.SMCROUTE]
        with self.trials([(way, workloads.FLOOD) for way in ways]) as trials:
            for number in range(self.extent.rounds):
                for trial in turned(trials, number):
                    sender = trial.flood(self.extent.probe_seconds)
                    probe = trial.probe(FLOODED.rate, self.extent.probe_seconds)
                    flood, name, path = sender.result(), trial.work.name, trial.path.name
                    self.book.add(name, path, "flood_rate", flood.sent / flood.seconds)
                    self.book.add(name, path, "lost", probe.sent - probe.delivered)
                    self.book.add(name, path, "worker_share", probe.worker_ns * probe.rate / 1e9)

    def start(self) -> None:
        """Measure 1000 groups, each with a rule, and a range of 4096 from exec to READY."""
        pairs = ((paths.MCRELAY, workloads.THIN), (paths.KERNEL, workloads.THIN), (paths.MCRELAY, workloads.RANGE))
        for pair in pairs * self.extent.rounds:
            with self.trials([pair]) as trials:
                for trial in trials:
                    self.book.add(trial.work.name, trial.path.name, "ready_seconds", trial.running.ready_seconds)

    def latency(self) -> None:
        """Delay from when each datagram was due until it reaches the sink, and how long they come back to back."""
        for work in self.extent.pick(WORKLOADS[:1], WORKLOADS[1:]):
            with self.trials([(way, work) for way in self._timed(work)]) as trials:
                for number in range(self.extent.rounds):
                    for trial in turned(trials, number):
                        self._times(trial)

    def _timed(self, work: Workload) -> list[Way]:
        """Peers where they can be told apart, and what our own do with each workload."""
        device, peers = paths.by_device(paths.THROUGHPUT), [paths.SMCROUTE, paths.NFT]
        latency = [paths.LATENCY, paths.by_device(paths.LATENCY)]
        if work is workloads.ONE:
            return self.extent.pick(
                [paths.THROUGHPUT, paths.LATENCY, paths.KERNEL, *peers],
                [paths.KERNEL_EXCLUSIVE, device],
                [latency[1], paths.GRO, paths.C_RUNS, paths.SOCAT],
            )
        more = [*latency, paths.GRO, paths.C_RUNS]
        if work is workloads.FANOUT_10:
            return self.extent.pick([], [paths.THROUGHPUT, paths.KERNEL, device, *peers], more)
        return self.extent.pick([], [paths.THROUGHPUT, paths.KERNEL, device], [*more, *peers])

    def _times(self, trial: Trial) -> None:
        # Where there are targets, long enough that one stall of a virtual machine is less than a hundredth of it.
        usual = self.extent.timed_seconds * (3 if trial.work is workloads.ONE else 1)
        all_traffic = self.extent.pick([PACED[1], BURST], [PACED[0], PACED[2]])
        for traffic in [FLOODED] if trial.work is workloads.FLOOD else all_traffic:
            with _flood(trial, usual):
                found = arrivals.watch(trial, traffic, usual) if self._carries(trial, traffic) else {}
            if found and found["unseen"]:
                self.book.note(f"{trial.work.title}: {trial.path.title}: a sample of delays missed {found['unseen']}")
                found = {}
            for name in arrivals.FIGURES:
                self.book.add(trial.work.name, trial.path.name, f"{name}@{traffic.name}", found.get(name))

    def _carries(self, trial: Trial, traffic: Traffic) -> bool:
        """Whether a path is known to carry so much for ever; a burst is another matter."""
        known = self.rate(trial) or self.book.spread(trial.work.name, "mcrelay", "rate")
        return traffic.count > 0 or known is None or traffic.rate <= known.most

    def exactness(self) -> None:
        """Check every workload at 80 % of its highest rate, with 1 and 2 workers and with the kernel engine."""
        few = [workloads.ONE, workloads.RANDOM, workloads.SUPERFRAMES]
        works = self.extent.pick(few, [work for work in WORKLOADS if work not in few])
        pairs = [(way, work) for way in (paths.ONE_WORKER, paths.TWO_WORKERS) for work in works]
        options = self.extent.pick([], [paths.EXCLUSIVE, paths.GRO, paths.EXCLUSIVE_GRO])
        pairs += [(way, workloads.ONE) for way in options]
        pairs += [(way, work) for way in (paths.KERNEL, paths.KERNEL_EXCLUSIVE) for work in works]
        self._accounts(pairs)

    def _accounts(self, pairs: Sequence[tuple[Way, Workload]]) -> None:
        for pair in pairs:
            with self.trials([pair]) as trials:
                for trial in trials:
                    self._exact(trial)

    def _exact(self, trial: Trial) -> None:
        work = trial.work
        path = paths.MCRELAY.name if trial.path is paths.ONE_WORKER else trial.path.name
        spread = self.book.spread(work.name, path, "rate")
        if work is workloads.FLOOD:
            rate = FLOODED.rate
        else:
            rate = SHARE * (spread.median if spread else self.highest(trial, tolerance=COARSE) or 10_000.0)
        most = exact.RECEIVABLE // work.outputs
        count = max(1, round(min(most, rate * 0.5) / work.streams))
        for _ in range(self.extent.depth or 1):
            with _flood(trial, count / rate + FLOOD_AHEAD):
                self.book.exact.append(exact.account(trial, rate, count))

    def restart(self) -> None:
        """Restart the relay, and kill it, under 100 000 datagrams a second; a service manager keeps its descriptors."""
        ways = self.extent.pick([paths.MCRELAY, paths.KERNEL, paths.KERNEL_EXCLUSIVE])
        with self.trials([(way, workloads.ONE) for way in ways]) as trials:
            for number in range(self.extent.rounds):
                for trial in turned(trials, number):
                    for by in (signal.SIGTERM, signal.SIGKILL):
                        self._restarted(trial, by)

    def _restarted(self, trial: Trial, by: signal.Signals) -> None:
        again = trial.running.restart_by
        assert again is not None, "only mcrelay is restarted"

        def meanwhile() -> None:
            time.sleep(RESTART_AHEAD)
            again(by)

        found = exact.account(trial, RESTART_RATE, RESTART_COUNT, meanwhile)
        for figure in ("sent", "unique", "lost", "duplicated", "reordered", "socket_dropped"):
            self.book.add("restart", trial.path.name, f"{figure}@{by.name}", found[figure])

    def micro(self) -> None:
        """Run the microbenchmarks of parse, find and queue."""
        found = microbench.run(self.setting.folder, 1.0 if self.extent.depth else 0.2)
        if isinstance(found, str):
            self.book.note(f"microbenchmarks: {found}")
            return
        for name, values in found.items():
            for value in values:
                self.book.add("micro", "core", name, value)


@contextlib.contextmanager
def _flood(trial: Trial, seconds: float) -> Iterator[None]:
    """Flood the link meanwhile, if that is the workload."""
    sender = trial.flood(seconds) if trial.work is workloads.FLOOD else None
    yield
    if sender:
        sender.result()
