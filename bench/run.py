"""``make bench``: everything, side by side, alternating; prints the table and writes bench/results."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import meter
import paths
import tools
import workloads
from trial import Trial

from mcrelay.netns import Lab


def main() -> None:
    cores = meter.cores()
    with tempfile.TemporaryDirectory(prefix="mcrelay-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        programs = tools.compile_all(folder)
        command = (str(ROOT / ".venv/bin/mcrelay"),)
        work = workloads.ONE
        with Lab() as lab:
            trials = []
            for path in (
                paths.MCRELAY,
                paths.SINGLY,
                paths.C_SEND,
                paths.C_RUNS,
                paths.SMCROUTE,
                paths.SMCROUTE_BARE,
                paths.NFT,
                paths.SOCAT,
            ):
                try:
                    trials.append(Trial(lab, path, work, folder / path.name, programs, command=command, cores=cores))
                except paths.Unsupported as why:
                    print(f"{path.title}: {why}")
            rates: dict[str, list[float]] = {trial.path.name: [] for trial in trials}
            for _ in range(3):
                for trial in trials:
                    rates[trial.path.name].append(trial.highest(0.7)[0])
            for trial in trials:
                found = rates[trial.path.name]
                print(f"{trial.path.title:45} {statistics.median(found):10,.0f}/s  {min(found):,.0f}-{max(found):,.0f}")
                trial.close()


main()
