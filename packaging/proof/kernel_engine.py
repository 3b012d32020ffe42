"""The kernel engine under a real systemd: what the drop-in allows, and nothing lost while the process is away."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from typing import TYPE_CHECKING

from .container import TOOL
from .report import ok, until
from .traffic import CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, RULE, SENT, exact, patiently, told

if TYPE_CHECKING:
    from pathlib import Path

    from .container import Container

FAST = 100_000  # datagrams a second
COUNT = 4 * FAST
FEW = 10_000
DROPIN = "kernel-engine.conf"


def prove(box: Container, package: Path, next_package: Path) -> None:
    """With the drop-in and without; restart, upgrade and kill -9 in mid-stream; then nothing is left."""
    box.configure(RULE + 'engine = "kernel"\n')
    box("systemctl", "restart", "mcrelay")
    engine, reason = engine_of(box)
    ok(
        engine == "ring" and DROPIN in reason and exact(box.stream(FEW), FEW),
        f"without {DROPIN}, by the ring: {reason}",
    )
    ok("bpf" not in allowed(box), "and the unit's filter of system calls has no bpf(2)")
    others = itertools.cycle((next_package, package))  # where a busy machine makes it try again: back, and on

    def upgrade() -> None:
        box("dpkg", "-i", f"/root/{next(others).name}", stdin=subprocess.DEVNULL)
        box("systemctl", "restart", "mcrelay")

    with box.dropin(DROPIN):
        box("systemctl", "restart", "mcrelay")
        ok(engine_of(box)[0] == "kernel" and "bpf" in allowed(box), f"with {DROPIN}: by the kernel engine")
        wanted = 1 << CAP_NET_RAW | 1 << CAP_NET_ADMIN | 1 << CAP_BPF
        ok(int(box.facts()["CapEff"], 16) == wanted, f"its capabilities are {box.facts()['CapEff']}")
        got = patiently(lambda: box.end(*box.begin(COUNT, FAST)), COUNT)
        ok(exact(got, COUNT), f"at {FAST} a second: {told(got, COUNT)}")
        for what, interrupt in (
            ("systemctl restart", lambda: box("systemctl", "restart", "mcrelay")),
            ("an upgrade with its restart", upgrade),
            ("kill -9", lambda: box.kill("KILL")),
        ):
            got = patiently(lambda interrupt=interrupt: interrupted(box, interrupt), COUNT)
            ok(exact(got, COUNT), f"{what} at {FAST} a second: {told(got, COUNT)}")
        box("systemctl", "stop", "mcrelay")
        before = frames_at_sink(box)
        box("ip", "netns", "exec", "source", TOOL, "send", SENT, "--rate", FEW, "--count", FEW)
        ok(frames_at_sink(box) - before < FEW / 100, "systemctl stop: nothing forwards any more")
    box.configure(RULE)
    box("systemctl", "start", "mcrelay")


def interrupted(box: Container, interrupt) -> dict:
    """A stream with another process at its end than at its beginning."""
    before = box.main_pid()
    sink, source = box.begin(COUNT, FAST)
    time.sleep(1)
    interrupt()
    until(lambda: box.main_pid() not in {0, before} and box.ready(), "another process")
    ok(source.poll() is None, "another process is ready in mid-stream")
    got = box.end(sink, source)
    until(lambda: engine_of(box)[0] == "kernel", "the kernel engine again")
    return got


def frames_at_sink(box: Container) -> int:
    """Count what has come to the sink's link."""
    (link,) = json.loads(box("ip", "-n", "sink", "-j", "-s", "link", "show", "eth0"))
    return link["stats64"]["rx"]["packets"]


def engine_of(box: Container) -> tuple[str, str]:
    """Who forwards the one rule, and why the ring if it is the ring."""
    (rule,) = json.loads(box("mcrelay", "show", "rules", "-j"))
    return rule["engine"], rule["engine_reason"] or ""


def allowed(box: Container) -> list[str]:
    """The system calls that the unit may make."""
    return box("systemctl", "show", "-P", "SystemCallFilter", "mcrelay").split()
