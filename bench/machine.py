"""The machine of a run: figures without it mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import meter

from mcrelay.linux.programs import search_path

SYSCTLS = ("net.core.rmem_max", "net.core.wmem_max", "net.core.netdev_max_backlog", "kernel.sched_rt_runtime_us")


def describe(root: Path) -> dict[str, Any]:
    """Return processor, cores, kernel, versions of what is measured, and the settings that matter."""
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "cores_used": list(meter.cores()),
        "memory_mb": int(memory) // 1024,
        "hypervisor": any("hypervisor" in line for line in _lines("/proc/cpuinfo") if line.startswith("flags")),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _said(root, "git", "rev-parse", "--short", "HEAD"),
        "changed_files": len(_said(root, "git", "status", "--porcelain").splitlines()),
        "nft": _said(root, "nft", "--version"),
        "smcroute": _said(root, "smcrouted", "-v"),
        "socat": next((line for line in _said(root, "socat", "-V").splitlines() if "version" in line), ""),
        "compiler": _said(root, "gcc", "--version").partition("\n")[0],
        "sysctl": {name: _said(root, "sysctl", "-n", name) for name in SYSCTLS},
        "steal_ticks": steal_ticks(),
    }


def steal_ticks() -> int:
    """Return the time that the hypervisor has taken from us so far, where it says so (proc(5), /proc/stat)."""
    return int(_lines("/proc/stat")[0].split()[8])


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _said(root: Path, *command: str) -> str:
    environment = {**os.environ, "PATH": search_path()}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=environment)
    except FileNotFoundError:
        return ""
    return (done.stdout or done.stderr).strip()
