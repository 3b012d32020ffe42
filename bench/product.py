"""mcrelay itself, in its variants: `mcrelay run -c FILE`, as a user would start it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared import Manager
from topology import IDLE_GROUP, IN_GROUPS, IN_PORT, OUT_GROUP, OUT_GROUPS, OUT_PORT, written
from way import START_SECONDS, Running, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from way import Place
    from workloads import Workload


METRICS = "127.0.0.1:19736"
ONLOOKER = Path(__file__).parent / "onlooker.py"


@dataclass(frozen=True, slots=True)
class Variant:
    """What is unusual about a mcrelay under test."""

    burst: int = 0
    exclusive: bool = False
    kernel: bool = False
    gro: bool = False
    latency: bool = False
    workers: int = 1
    ring: str = ""
    health: bool = False  # looked at in each datagram, and metrics that are scraped each second
    captured: tuple[str, ...] = ()  # at the same time: a rule or link, and options of the capture


def configuration(work: Workload, variant: Variant) -> str:
    """Write the configuration file. Pure."""
    lines = []
    relay = {
        "workers": str(variant.workers) if variant.workers > 1 else "",
        "metrics": f'"{METRICS}"' if variant.health else "",
    }
    if any(relay.values()):
        lines += ["[relay]", *(f"{key} = {value}" for key, value in relay.items() if value), ""]
    link = {
        "profile": '"latency"' if variant.latency else "",
        "ring": f'"{variant.ring}"' if variant.ring else "",
        "gro": "true" if variant.gro else "",
    }
    if any(link.values()):
        lines += ["[links.in0]", *(f"{key} = {value}" for key, value in link.items() if value), ""]
    defaults = {
        "burst": str(variant.burst or ""),
        "exclusive": "true" if variant.exclusive else "",
        "engine": '"kernel"' if variant.kernel else "",
        "health": '"auto"' if variant.health else "",
    }
    if any(defaults.values()):
        lines += ["[defaults]", *(f"{key} = {value}" for key, value in defaults.items() if value), ""]
    come, leave = IN_GROUPS[work.ingress], OUT_GROUPS[work.egress]
    if work.ranged:
        ends = (written(group, port, count=work.streams) for group, port in ((come, IN_PORT), (leave, OUT_PORT)))
        lines += ["[rules.range]", 'input = "{}%in0"\noutputs = ["{}%out0"]'.format(*ends), ""]
    for i in range(0 if work.ranged else work.streams):
        outputs = ", ".join(f'"{written(leave + i * work.outputs + j, OUT_PORT)}%out0"' for j in range(work.outputs))
        lines += [f"[rules.s{i}]", f'input = "{written(come + i, IN_PORT)}%in0"', f"outputs = [{outputs}]", ""]
    for i in range(work.idle_rules):
        lines += [
            f"[rules.idle{i}]",
            f'input = "{IDLE_GROUP + i}:{IN_PORT}%in0"',
            f'outputs = ["{OUT_GROUP + 0x100000 + i}:{OUT_PORT}%out0"]',
            "",
        ]
    return "\n".join(lines)


def mcrelay(variant: Variant) -> Callable[[Place, Workload], Running]:
    """Return how to start such a mcrelay. As root it goes on as nobody, with CAP_NET_RAW alone, as it always does."""

    def start(place: Place, work: Workload) -> Running:
        file = place.folder / "mcrelay.toml"
        file.write_text(configuration(work, variant))
        checked = subprocess.run(
            [*place.command, "check", "-c", str(file)],
            capture_output=True, text=True, check=False, env=place.environment,
        )  # fmt: skip
        if checked.returncode:
            raise UnsupportedError((checked.stderr or checked.stdout).strip().splitlines()[0].rpartition(".toml:")[2])
        running = Running(
            first=OUT_GROUPS[work.egress], groups=work.streams * work.outputs, copies=work.outputs,
            socket=str(place.folder / "control"),
        )  # fmt: skip
        manager = Manager(place.folder)
        running.stop_with = manager.close
        running.restart_by = functools.partial(_restart, place, variant, running, manager)
        _launch(place, variant, running, manager)
        wrong = [rule for rule in show(place, running, "rules") if rule["state"] != "active"]
        if wrong:
            running.stop()
            raise UnsupportedError(f"rule {wrong[0]['name']} is {wrong[0]['state']}: {wrong[0]['reason']}")
        others = [rule for rule in show(place, running, "rules") if variant.kernel and rule["engine"] != "kernel"]
        if others:
            running.stop()
            raise UnsupportedError(f"by the ring: {others[0]['engine_reason']}")
        if variant.health:
            capture = [
                *place.command,
                "capture",
                *variant.captured,
                "-w",
                os.devnull,
                "--duration",
                "600",
                "--socket",
                running.socket,
            ]
            command = [sys.executable, str(ONLOOKER), METRICS, *(capture if variant.captured else ())]
            running.onlookers.append(place.site.relay.popen(*command, env=place.environment or dict(os.environ)))
        return running

    return start


def _restart(place: Place, variant: Variant, running: Running, manager: Manager, by: int) -> None:
    """End the daemon by a signal, and start the next one with what it has stored, as systemd does."""
    child = running.children.pop()
    child.send_signal(by)
    child.wait(timeout=10)
    _launch(place, variant, running, manager)


def _launch(place: Place, variant: Variant, running: Running, manager: Manager) -> None:
    """Start the daemon and wait until it says READY, as systemd does: every group is joined and forwarded then."""
    log, told = place.folder / "mcrelay.log", len(manager.told)
    run = [*place.command, "run", "-c", str(place.folder / "mcrelay.toml"), "--socket", running.socket]
    command, fds = manager.command(*run) if manager.kept else (run, ())
    environment = {**(place.environment or os.environ), "NOTIFY_SOCKET": manager.path}
    with log.open("a") as stderr:
        begun = time.monotonic()
        child = place.site.relay.popen(
            *place.pin(workers=variant.workers), *command, stderr=stderr, env=environment, pass_fds=fds
        )
        running.children.append(child)
        while not any("READY=1" in each for each in manager.told[told:]):
            if child.poll() is not None or time.monotonic() - begun > START_SECONDS:
                running.stop()
                raise UnsupportedError(f"it did not start: {log.read_text()[-300:].strip()}")
            time.sleep(0.001)
        running.ready_seconds = time.monotonic() - begun


def show(place: Place, running: Running, noun: str) -> Any:
    """Return what `mcrelay show NOUN -j` says."""
    command = [*place.command, "show", noun, "-j", "--socket", running.socket]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=place.environment)
    return json.loads(done.stdout)
