"""mcrelay itself, in its variants: `mcrelay run -c FILE`, as a user would start it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topology import IDLE_GROUP, IN_GROUP, IN_PORT, OUT_GROUP, OUT_PORT
from way import START_SECONDS, Running, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from way import Place
    from workloads import Workload


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


def configuration(work: Workload, variant: Variant) -> str:
    """Write the configuration file. Pure."""
    lines = []
    if variant.workers > 1:
        lines += ["[relay]", f"workers = {variant.workers}", ""]
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
    }
    if any(defaults.values()):
        lines += ["[defaults]", *(f"{key} = {value}" for key, value in defaults.items() if value), ""]
    for i in range(work.streams):
        outputs = ", ".join(f'"{OUT_GROUP + i * work.outputs + j}:{OUT_PORT}%out0"' for j in range(work.outputs))
        lines += [f"[rules.s{i}]", f'input = "{IN_GROUP + i}:{IN_PORT}%in0"', f"outputs = [{outputs}]", ""]
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
        running = Running(groups=work.streams * work.outputs, copies=work.outputs, socket=str(place.folder / "control"))
        _launch(place, variant, running)
        wrong = [rule for rule in show(place, running, "rules") if rule["state"] != "active"]
        if wrong:
            running.stop()
            raise UnsupportedError(f"rule {wrong[0]['name']} is {wrong[0]['state']}: {wrong[0]['reason']}")
        others = [rule for rule in show(place, running, "rules") if variant.kernel and rule["engine"] != "kernel"]
        if others:
            running.stop()
            raise UnsupportedError(f"by the ring: {others[0]['engine_reason']}")
        return running

    return start


def _launch(place: Place, variant: Variant, running: Running) -> None:
    """Start the daemon and wait until it says READY, as systemd does: every group is joined and forwarded then."""
    ready, log = place.folder / "notify", place.folder / "mcrelay.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, log.open("w") as stderr:
        notified.bind(str(ready))
        notified.settimeout(0.2)
        environment = {**(place.environment or os.environ), "NOTIFY_SOCKET": str(ready)}
        begun = time.monotonic()
        child = place.site.relay.popen(
            *place.pin(workers=variant.workers), *place.command, "run",
            "-c", str(place.folder / "mcrelay.toml"), "--socket", running.socket,
            stderr=stderr, env=environment,
        )  # fmt: skip
        running.children.append(child)
        said = b""
        while b"READY=1" not in said:
            if child.poll() is not None or time.monotonic() - begun > START_SECONDS:
                running.stop()
                raise UnsupportedError(f"it did not start: {log.read_text()[-300:].strip()}")
            with contextlib.suppress(TimeoutError):
                said = notified.recv(4096)
        running.ready_seconds = time.monotonic() - begun


def show(place: Place, running: Running, noun: str) -> Any:
    """Return what `mcrelay show NOUN -j` says."""
    command = [*place.command, "show", noun, "-j", "--socket", running.socket]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=place.environment)
    return json.loads(done.stdout)
