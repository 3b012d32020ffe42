"""What a path under test is: a way to forward that starts in a site, and stops."""

from __future__ import annotations

import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from topology import OUT_GROUP, OUT_PORT

from mcrelay.linux.programs import search_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from topology import Group, Site
    from workloads import Workload

START_SECONDS = 60  # and a path that does not forward by then has failed


class UnsupportedError(Exception):
    """This path cannot do this workload; the text says why."""


@dataclass(slots=True)
class Place:
    """Where a path runs: its site, a folder of its own, the programs compiled for the bench, its cores."""

    site: Site
    folder: Path
    programs: dict[str, str]
    command: tuple[str, ...]  # how to start mcrelay
    cores: tuple[int, ...]
    environment: dict[str, str] | None = None

    def pin(self, *, workers: int = 1) -> list[str]:
        """Return what binds a relay to its core: the second, the sender has the first. Several workers get both."""
        chosen = self.cores if workers > 1 else self.cores[1:2] or self.cores
        return ["taskset", "-c", ",".join(map(str, chosen))]


@dataclass(slots=True)
class Running:
    """A path that forwards. ``pids`` are its processes, none where the kernel does it all."""

    children: list[subprocess.Popen[str]] = field(default_factory=list)
    first: Group = OUT_GROUP  # what the sink counts: so many groups from here on
    groups: int = 1
    port: int = OUT_PORT
    copies: int = 1  # of each datagram
    ready_seconds: float = 0.0
    socket: str = ""
    stop_with: Callable[[], None] = lambda: None
    restart_by: Callable[[int], None] | None = None  # ends the process by a signal and starts the next one
    onlookers: list[subprocess.Popen[str]] = field(default_factory=list)  # whose CPU is not the path's

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self.children]

    def stop(self) -> None:
        """End it."""
        for child in (*self.onlookers, *self.children):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in (*self.onlookers, *self.children):
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.stop_with()


@dataclass(frozen=True, slots=True)
class Way:
    """One way to forward."""

    name: str
    title: str
    start: Callable[[Place, Workload], Running]
    both_cores: bool = False  # it works on the cores of whoever sends: on equal cores that is both
    program: str = ""  # without it on this machine there is no such path
    package: str = ""
    outs: Callable[[Workload], int] = lambda _: 1
    device_segments: bool = False  # the link out takes superframes whole

    @property
    def missing(self) -> str | None:
        """Say what has to be installed, if anything."""
        if not self.program or shutil.which(self.program, path=search_path()):
            return None
        return f"{self.program} is not installed (Debian: {self.package})"
