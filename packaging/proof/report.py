"""How the proof speaks: one line for each thing that was seen; the first that is not so ends it."""

from __future__ import annotations

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
    """Time a whole command. The best of several counts: what a busy machine adds is not the command's."""
    times = []
    for _ in range(runs):
        begin = time.monotonic()
        subprocess.run(list(map(str, command)), capture_output=True, check=True)
        times.append((time.monotonic() - begin) * 1000)
    ok(min(times) < limit_ms, f"{name} takes {min(times):.0f} ms at best, {sorted(times)[runs // 2]:.0f} mostly")
