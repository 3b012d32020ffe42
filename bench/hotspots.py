"""Where a relay's worker spends its time: perf with the software clock, which works in a virtual machine too."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from meter import cpu_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from trial import Trial

TOP = 12


def record(trial: Trial, rate: float, seconds: float, folder: Path) -> dict[str, Any] | str:
    """Profile the busiest thread while traffic passes; a sentence where that is not possible."""
    if not shutil.which("perf"):
        return "perf is not installed (Debian: linux-perf)"
    before = cpu_seconds(trial.running.pids)
    trial.probe(rate, 0.3)
    spent = {thread: now - before.get(thread, 0.0) for thread, now in cpu_seconds(trial.running.pids).items()}
    worker = max(spent, key=lambda thread: spent[thread]).rpartition("/")[2]
    file = folder / "perf.data"
    recorder = subprocess.Popen(
        ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4000", "-t", worker, "-o", str(file), "--",
         "sleep", str(seconds)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    probe = trial.probe(rate, seconds + 0.3)
    trouble = recorder.communicate()[1]
    report = subprocess.run(
        ["perf", "report", "-i", str(file), "--stdio", "--no-children", "-s", "dso,sym", "-t", ";"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = read(report.stdout)
    if not found["top"]:
        return f"perf saw nothing: {(trouble or report.stderr).strip()[:200]}"
    if not any(row["kernel"] for row in found["top"]):
        return "perf does not show the kernel's functions to this user (kernel.perf_event_paranoid)"
    return {"rate": round(probe.rate), "worker_ns": probe.worker_ns, **found}


def read(text: str) -> dict[str, Any]:
    """Read `perf report -s dso,sym -t ;`: the kernel's share in percent, and the symbols that took most. Pure."""
    kernel, rows = 0.0, []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(";")]
        if line.startswith("#") or len(parts) < 3 or not parts[0].endswith("%"):
            continue
        percent = float(parts[0].rstrip("%"))
        level, _, symbol = parts[2].partition(" ")
        inside = level == "[k]"
        kernel += percent if inside else 0.0
        rows.append({"percent": percent, "kernel": inside, "symbol": symbol, "object": parts[1]})
    return {"kernel_percent": round(kernel, 1), "top": rows[:TOP]}
