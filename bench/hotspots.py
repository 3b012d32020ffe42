"""Where the time goes, of a worker or of the kernel engine: perf's software clock works in a virtual machine too."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from meter import cpu_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from trial import Trial

TOP = 12
# The kernel's functions that a datagram of a kernel rule goes through on the relay, and what they do for it
STAGES = {
    "tpacket_rcv": "the ring's filter decides who takes it",
    "packet_rcv": "the IGMP tap says that it is none",
    "relay": "the program, all of it",
    "bpf_clone_redirect": "of that: it is copied, and sent",
    "ip_rcv": "the original climbs the IP stack",
    "rcu_do_batch": "what the IP stack took for it is given back",
}
NO_PERF = "perf is not installed (Debian: linux-perf)"


def record(trial: Trial, rate: float, seconds: float, folder: Path) -> dict[str, Any] | str:
    """Profile the busiest thread while traffic passes; a sentence where that is not possible."""
    if not shutil.which("perf"):
        return NO_PERF
    before = cpu_seconds(trial.running.pids)
    trial.probe(rate, 0.3)
    spent = {thread: now - before.get(thread, 0.0) for thread, now in cpu_seconds(trial.running.pids).items()}
    worker = max(spent, key=lambda thread: spent[thread]).rpartition("/")[2]
    recorder = _begin(folder, seconds, "-t", worker)
    probe = trial.probe(rate, seconds + 0.3)
    trouble = recorder.communicate()[1]
    found = read(_report(folder, "--no-children", "-s", "dso,sym"))
    if not found["top"]:
        return f"perf saw nothing: {trouble.strip()[:200]}"
    if not any(row["kernel"] for row in found["top"]):
        return "perf does not show the kernel's functions to this user (kernel.perf_event_paranoid)"
    return {"rate": round(probe.rate), "worker_ns": probe.worker_ns, **found}


def record_stages(trial: Trial, rate: float, seconds: float, folder: Path) -> dict[str, Any] | str:
    """Profile both cores while traffic passes by the kernel engine; a sentence where that is not possible."""
    if not shutil.which("perf"):
        return NO_PERF
    recorder = _begin(folder, seconds, "-a", "-g")
    probe = trial.probe(rate, seconds + 0.3, equal=True)
    trouble = recorder.communicate()[1]
    percent = read_stages(_report(folder, "--children", "-g", "none", "-s", "sym"))
    return {"rate": round(probe.rate), "percent": percent} if percent else f"perf saw nothing: {trouble.strip()[:200]}"


def _begin(folder: Path, seconds: float, *what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4000", *what, "-o", str(folder / "perf.data"), "--",
         "sleep", str(seconds)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _report(folder: Path, *how: str) -> str:
    return subprocess.run(
        ["perf", "report", "-i", str(folder / "perf.data"), "--stdio", *how, "-t", ";"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip


def read(text: str) -> dict[str, Any]:
    """Read `perf report -s dso,sym -t ;`: the kernel's share in percent, and the symbols that took most. Pure."""
    kernel, rows = 0.0, []
    for percent, where, symbol in _lines(text):
        level, _, name = symbol.partition(" ")
        inside = level == "[k]"
        kernel += float(percent[:-1]) if inside else 0.0
        rows.append({"percent": float(percent[:-1]), "kernel": inside, "symbol": name, "object": where})
    return {"kernel_percent": round(kernel, 1), "top": rows[:TOP]}


def read_stages(text: str) -> dict[str, float]:
    """Read `perf report --children -s sym -t ;`: percent of all time in each of STAGES and what it calls. Pure.

    A program of the kernel engine is named bpf_prog_TAG_NAME.
    """
    found = dict.fromkeys(STAGES, 0.0)
    for percent, _, symbol in _lines(text):
        name = re.sub(r"^bpf_prog_[0-9a-f]{16}_", "", symbol.removeprefix("[k] "))
        if name in found:
            found[name] = max(found[name], float(percent[:-1]))
    return found if any(found.values()) else {}


def _lines(text: str) -> list[list[str]]:
    """The lines of three columns that begin with a percentage."""
    lines = [[part.strip() for part in line.split(";")] for line in text.splitlines() if not line.startswith("#")]
    return [parts[:3] for parts in lines if len(parts) >= 3 and parts[0].endswith("%")]
