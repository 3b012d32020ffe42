"""`mcrelay send` through a path to `mcrelay recv`: every datagram accounted for."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from product import show
from topology import IN_GROUPS, IN_PORT, written

if TYPE_CHECKING:
    from collections.abc import Callable

    from trial import Trial

RECEIVABLE = 40_000  # datagrams that the receiver's socket buffer holds while it waits for a core
WRONG = ("lost", "duplicated", "reordered", "corrupted", "foreign")


def account(trial: Trial, rate: float, count: int, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Send *count* datagrams of each stream at *rate* and return what arrived, with what was sent.

    What is to happen *meanwhile* is begun when the sender is.

    The receiver runs at the lowest priority: it takes nothing from the path under test, and its socket buffer holds
    what it cannot read yet.
    """
    work, running, site, command = trial.work, trial.running, trial.site, trial.setting.command
    first, port = running.first, running.port
    streams = running.groups
    before = losses(trial)
    trial.sink.open(drop=False)
    try:
        receiver = site.sink.popen(
            *("chrt", "-i", "0"), *command, "recv", f"{written(first, port)}%eth0", "-j",
            "--count", str(count), "--streams", str(streams), "--idle", "1",
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **_environment(trial),
        )  # fmt: skip
        _until_bound(trial, port, streams, receiver)
        sender = site.source.popen(
            *("taskset", "-c", str(trial.setting.cores[0])), *command,
            "send", f"{written(IN_GROUPS[work.ingress], IN_PORT)}%eth0", "-j",
            "--rate", f"{rate:.0f}", "--count", str(count), "--streams", str(work.streams),
            "--size", work.sizes, "--gso", str(work.run if work.alike else 1),
            stdout=subprocess.PIPE, **_environment(trial),
        )  # fmt: skip
        meanwhile()
        sent = json.loads(sender.communicate(timeout=60)[0])
        got = json.loads(receiver.communicate(timeout=60)[0])
    finally:
        trial.sink.open()
    return {
        "workload": work.name,
        "path": trial.path.name,
        "asked": round(rate),
        "rate": sent["rate_pps"],
        "sent": sent["sent"] * running.copies,
        **{key: got[key] for key in ("unique", *WRONG, "unnumbered", "socket_dropped", "checksum_errors")},
        "lost_by_relay": {key: n for key, now in losses(trial).items() if (n := now - before.get(key, 0))},
        "exact": got["unique"] + got["unnumbered"] == sent["sent"] * running.copies
        and not any(got[key] for key in WRONG),
    }


def losses(trial: Trial) -> dict[str, int]:
    """Return what the relay itself says that it did not deliver, by reason; nothing where the relay is not mcrelay."""
    if not trial.running.socket:
        return {}
    stats = show(trial.place, trial.running, "stats")
    found = {"ring": sum(link["ring_dropped_frames"] for link in stats["links"])}
    reasons = [rule["drops"] for rule in stats["rules"]]
    reasons += [output["tx_errors"] for rule in stats["rules"] for output in rule["outputs"]]
    for each in reasons:
        for reason, count in each.items():
            found[reason] = found.get(reason, 0) + count
    return found


def _environment(trial: Trial) -> dict[str, Any]:
    return {"env": trial.setting.environment} if trial.setting.environment else {}


def _until_bound(trial: Trial, port: int, count: int, receiver: subprocess.Popen[str]) -> None:
    """Wait until the receiver has all its sockets, and time for the last one to join."""
    table = Path("/proc/thread-self/net", "udp6" if trial.running.first.version == 6 else "udp")

    def bound() -> int:
        return table.read_text().count(f":{port:04X} ")

    until = time.monotonic() + 30
    while trial.site.sink.call(bound) < count:
        if receiver.poll() is not None or time.monotonic() > until:
            raise RuntimeError("`mcrelay recv` did not start")
        time.sleep(0.01)
    time.sleep(0.05)
