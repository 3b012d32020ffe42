"""How the proof speaks: one line for each thing that was seen; the first that is not so ends it."""

from __future__ import annotations

import resource
import subprocess
import time

CLEAN = ("env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive")


def sh(*command: object, check: bool = True, **options) -> str:
    """Run a command to its end and return what it said; a failure ends the proof unless *check* is off."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        raise SystemExit(f"FAIL  {' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def ok(condition: object, text: str) -> None:
    print(f"{'ok   ' if condition else 'FAIL '} {text}", flush=True)
    if not condition:
        raise SystemExit(1)


def until(condition, what: str, seconds: float = 15) -> float:
    """Wait for something; return the seconds that it took."""
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        if condition():
            return time.monotonic() - begin
        time.sleep(0.02)
    raise SystemExit(f"FAIL  no {what} within {seconds} s")


def starts_within(limit_ms: int, name: str, *command: object, runs: int = 9) -> None:
    """Time a whole command. Its CPU time decides, the least of several: others on the machine add to the rest."""
    waited, worked = [], []
    for _ in range(runs):
        begin, before = time.monotonic(), _worked_ms()
        subprocess.run(list(map(str, command)), capture_output=True, check=True)
        waited.append((time.monotonic() - begin) * 1000)
        worked.append(_worked_ms() - before)
    ok(min(worked) < limit_ms, f"{name} takes {min(waited):.0f} ms at best, {sorted(waited)[runs // 2]:.0f} mostly")


def _worked_ms() -> float:
    """CPU time of every child that has ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000
