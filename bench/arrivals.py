"""When datagrams reach the sink: the delay of each from when it was due, and how long they come back to back."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from load import Blast

if TYPE_CHECKING:
    from trial import Trial

PATIENCE = 10.0  # seconds for a burst that leaves more slowly than it is due
STALL = 0.5  # seconds that a path may stand still before what it still has counts as lost


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent to be timed: paced singly, or all of it due within a moment."""

    name: str
    rate: float  # datagrams a second
    count: int = 0  # of a burst; else what the rate gives

    def seconds(self, usual: float) -> float:
        """For how long it is sent."""
        return self.count / self.rate if self.count else usual


PACED = (Traffic("1000", 1_000), Traffic("20000", 20_000), Traffic("100000", 100_000))
BURST = Traffic("burst", 5e6, count=50_000)
FIGURES = ("p50", "p99", "p99.9", "max", "longest", "lost", "seconds")  # of each traffic, in the book


def watch(trial: Trial, traffic: Traffic, usual: float) -> dict[str, Any]:
    """Send *traffic* through a path, for *usual* seconds if it is no burst.

    Returns ``sent``, ``seconds`` it took to send, ``lost`` of all copies, delays in microseconds (``p50``, ``p99``,
    ``p99.9``, ``max``), ``unseen`` (so many delays are not known), and ``longest``: the longest run of datagrams closer
    together than a quarter of the interval they were sent at. Of several copies the last is watched: it waits for the
    others.
    """
    work, running, site = trial.work, trial.running, trial.site
    # Datagrams are handed over one by one if they are paced: whatever clusters, the path did.
    sent = work if traffic.count or work.superframes else replace(work, run=1)
    first = running.first + running.groups - work.streams
    core = str(trial.setting.cores[0])
    watcher = site.sink.popen(
        *("chrt", "-i", "0", "taskset", "-c", core, trial.setting.programs["arrivals"], f"eth{site.outs - 1}"),
        *(str(first), str(work.streams), str(running.port), f"{1e9 / traffic.rate / 4:.0f}"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert watcher.stdout is not None
    if watcher.stdout.readline().strip() != "ready":
        raise RuntimeError("what watches the sink did not start")
    before = trial.sink.read()
    load = Blast(
        trial.setting.programs["blast"], site, sent, traffic.rate, seconds=traffic.seconds(usual),
        shares=trial.senders(equal=False), patience=PATIENCE if traffic.count else 0.0,
    ).result()  # fmt: skip
    come = trial.sink.settle(before, load.sent_bytes * running.copies, patience=STALL)
    found: dict[str, Any] = json.loads(watcher.communicate("\n")[0])
    mean = load.sent_bytes / max(load.sent, 1)
    lost = round((load.sent_bytes * running.copies - come.payload_bytes) / mean)
    return {**found, "sent": load.sent, "seconds": load.seconds, "lost": lost}
