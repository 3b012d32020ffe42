"""One path, running in its own site with one workload: what can be asked of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import paths
import topology
from load import Blast, Load
from meter import Sink, Soaker, cpu_seconds
from search import highest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mcrelay.netns import Lab
    from workloads import Workload

SENT_SHARE = 0.98  # of what was offered: below, the sender could not keep up, and the rate was not tried
BACKLOG_SHARE = 0.02  # of what was sent may still be on its way when the sender ends: else a ring is filling up
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate, tried once. Per-datagram figures are of delivered datagrams of the input, not of copies."""

    offered: int
    sent: int
    delivered: float  # datagrams at the sink, over the copies of each
    backlog: int  # not yet delivered when the sender ended
    exact: bool  # every payload byte of every copy was counted at the sink
    seconds: float
    sender_ns: float  # CPU of the sender and of all softirq on its time, per datagram
    path_ns: float  # CPU of the path's own threads, per datagram

    @property
    def loss_free(self) -> bool:
        """Whether the rate was offered in earnest, all of it arrived, and it could have gone on."""
        return self.exact and self.sent >= SENT_SHARE * self.offered and self.backlog <= BACKLOG_SHARE * self.sent


class Trial:
    """A path under test. Make it, ask it, close it; many can be open at a time, and one is asked at a time."""

    def __init__(
        self,
        lab: Lab,
        path: paths.Path_,
        work: Workload,
        folder: Path,
        programs: dict[str, str],
        *,
        command: tuple[str, ...],
        cores: Sequence[int],
        environment: dict[str, str] | None = None,
        label: str = "",
    ) -> None:
        """Build the site and start the path. Unsupported if it cannot do this."""
        if path.missing:
            raise paths.Unsupported(path.missing)
        self.path, self.work, self.guess = path, work, 0.0
        self._programs, self._cores = programs, list(cores)
        self.site = topology.build(lab, label or path.name, outs=path.outs(work))
        self.site.segmentation(source=work.superframes, relay=path.device_segments)
        folder.mkdir()
        folder.chmod(0o755)
        self.place = paths.Place(
            self.site, folder, programs, command, tuple(self._cores[1:] or self._cores), environment
        )
        self.running = path.start(self.place, work)
        self.sink = Sink(self.site, self.running.first, self.running.groups, self.running.port)
        self.sink.open()

    def close(self) -> None:
        """Stop the path; the lab removes the site."""
        self.running.stop()

    def senders(self, *, equal: bool) -> list[int]:
        """Return the cores to send from: a kernel path on equal cores gets a sender on each, all else one on the first."""
        return self._cores if equal and self.path.kernel else self._cores[:1]

    def probe(self, rate: float, seconds: float, *, equal: bool = True, soaker: Soaker | None = None) -> Probe:
        """Send at *rate* (0: as fast as it goes) and count. With a *soaker*, ``path_ns`` is of all cores, sender too."""
        copies = self.running.copies
        before, used = self.sink.read(), cpu_seconds(self.running.pids)
        blast = Blast(self._programs["blast"], self.site, self.work, rate, seconds, self.senders(equal=equal))
        at_end: dict[str, Any] = {}

        def go() -> None:
            at_end["idle"], at_end["at"] = (soaker.idle_ns(), soaker.clock_ns()) if soaker else (0, 0)

        def end() -> None:
            at_end["come"] = self.sink.read() - before
            if soaker:
                at_end["busy"] = (soaker.clock_ns() - at_end["at"]) * soaker.cores - (soaker.idle_ns() - at_end["idle"])

        load = blast.result(go, end)
        return self._account(load, before, used, at_end, copies)

    def _account(self, load: Load, before: Any, used: dict[str, float], at_end: dict[str, Any], copies: int) -> Probe:
        come = self.sink.settle(before, load.sent_bytes * copies)
        now = cpu_seconds(self.running.pids)
        spent = sum(now.values()) - sum(used.get(thread, 0.0) for thread in now)
        mean = load.sent_bytes / load.sent if load.sent else 1.0
        delivered = come.payload_bytes / mean / copies if copies else float(load.sent)
        per = max(delivered, 1.0)
        on_the_way = max(0, load.sent_bytes - at_end["come"].payload_bytes // copies) if copies else 0
        return Probe(
            offered=load.offered,
            sent=load.sent,
            delivered=delivered,
            backlog=round(on_the_way / mean),
            exact=come.payload_bytes == load.sent_bytes * copies,
            seconds=load.seconds,
            sender_ns=load.cpu_ns / max(load.sent, 1),
            path_ns=(at_end["busy"] if "busy" in at_end else spent * 1e9) / per,
        )

    def highest(self, seconds: float, *, equal: bool = True) -> tuple[float, list[dict[str, Any]]]:
        """Search the highest loss-free rate; returns it, as it was really sent, and every probe."""
        probes: list[dict[str, Any]] = []
        best = 0.0

        def passes(rate: float) -> bool:
            nonlocal best
            probe = self.probe(rate, seconds, equal=equal)
            probes.append({"rate": round(rate), **asdict(probe), "loss_free": probe.loss_free})
            if probe.loss_free:
                best = max(best, probe.sent / probe.seconds)
            return probe.loss_free

        if not self.guess:
            flat_out = self.probe(0, seconds / 2, equal=equal)
            self.guess = max(1000.0, 0.95 * flat_out.delivered / flat_out.seconds)
        found = highest(passes, self.guess)
        if found:
            self.guess = found
        return best, probes
