"""The microbenchmarks (bench/micro), run by pytest-benchmark: nanoseconds of single operations."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tools import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SLICES = 10


def run(folder: Path, seconds: float) -> dict[str, list[float]] | str:
    """Run them, each so long; the samples by name, or what went wrong."""
    file = folder / "micro.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "bench/micro"),
         f"--benchmark-json={file}", f"--benchmark-max-time={seconds}", f"--basetemp={folder / 'pytest'}"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        return (done.stdout.strip() or done.stderr.strip()).rpartition("\n")[2]
    return read(json.loads(file.read_text()))


def read(report: dict[str, Any]) -> dict[str, list[float]]:
    """Return nanoseconds per operation, the medians of SLICES parts of the run. Pure.

    Each round of pytest-benchmark runs as many operations as ``extra_info`` says.
    """
    found = {}
    for each in report["benchmarks"]:
        data, operations = each["stats"]["data"], each["extra_info"]["operations"]
        length = max(1, len(data) // SLICES)
        parts = [data[at : at + length] for at in range(0, len(data), length)]
        found[each["name"].removeprefix("test_")] = [statistics.median(part) * 1e9 / operations for part in parts]
    return found
