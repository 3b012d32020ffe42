"""A relay under test: the real command in the standard lab, real traffic, and both ends to compare."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.traffic import MCRELAY, wait_for

from mcrelay.commands.lab import standard_lab
from mcrelay.config.parse import parse_config
from mcrelay.control.client import ask
from mcrelay.errors import ControlError
from mcrelay.linux.systemd import Notifier
from mcrelay.relay.build import build

if TYPE_CHECKING:
    from mcrelay.linux.features import Features

SOURCE = "192.168.168.55"
GROUP = "226.2.2.2"
INPUT = f"{SOURCE}@{GROUP}:2068%in0"


both_engines = pytest.mark.usefixtures("engine")  # of tests/netns/conftest.py


class RelayUnderTest:
    """`mcrelay run` in a lab's relay namespace."""

    program: tuple[str, ...] | list[str] = MCRELAY
    engine = "ring"  # of every rule that does not say: see `both_engines`

    def __init__(self, lab, config: str, folder: Path, *, environment: dict[str, str] | None = None) -> None:
        self.lab = lab
        self.config = folder / "mcrelay.toml"
        self.socket = str(folder / "run" / "mcrelay.sock")  # a folder that the relay makes, and so may remove from
        folder.chmod(0o755)  # a relay started by root goes on as nobody, and reads the file again at a reload
        self.log = folder / "log"
        self.write(config)
        self._environment = environment
        self.process = None

    def write(self, config: str) -> None:
        """Put this into the file, with the engine under test as default."""
        if self.engine != "ring":
            key = f'engine = "{self.engine}"\n'
            there = config.replace("[defaults]\n", f"[defaults]\n{key}")
            config = there if there != config else f"{config}\n[defaults]\n{key}"  # no line moves
        self.config.write_text(config)

    def start(self) -> None:
        command = [*self.program, "run", "-c", str(self.config), "--socket", self.socket]
        if self._environment:
            command = ["env", *(f"{key}={value}" for key, value in self._environment.items()), *command]
        with self.log.open("w") as log:
            self.process = self.lab.relay.popen(*command, stderr=log)
        self.wait_for(lambda: "ready" in self.log.read_text(), "READY", 30)

    def wait_for(self, condition, what: str, seconds: float = 10) -> float:
        """Poll until true; returns the seconds it took."""
        begin = time.monotonic()

        def holds() -> bool:
            with contextlib.suppress(ControlError):
                return bool(condition())
            return False

        try:
            wait_for(holds, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; the relay said:\n{self.log.read_text()}") from None
        return time.monotonic() - begin

    def show(self, noun: str):
        return ask(self.socket, "show", read_only=True, noun=noun)

    def rule(self, name: str = "x"):
        return next(each for each in self.show("stats")["rules"] if each["name"] == name)

    def state(self, name: str = "x") -> str:
        return next(each for each in self.show("rules") if each["name"] == name)["state"]

    def reload(self, config: str) -> None:
        self.write(config)
        ask(self.socket, "reload")

    def stop(self, seconds: float = 5) -> float:
        """SIGTERM; returns the seconds until it had ended, and insists on exit code 0."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler writes where each thread stands
            self.process.wait()
            raise AssertionError(f"no end within {seconds} s of SIGTERM:\n{self.log.read_text()}") from None
        assert code == 0, f"exit code {code}:\n{self.log.read_text()}"
        return time.monotonic() - begin

    def link(self, name: str = "in0"):
        return next(each for each in self.show("stats")["links"] if each["ifname"] == name)

    def at_rest(self):
        """Statistics once no counter has moved for a fifth of a second, and no fragment waits for the others."""
        before = self.show("stats")
        until = time.monotonic() + 3  # a fragment waits for one second
        while True:
            time.sleep(0.2)
            now = self.show("stats")
            moved = any(_counters(before[part]) != _counters(now[part]) for part in ("rules", "links"))
            waiting = any(sum(each["frames"].values()) < each["rx_frames"] for each in now["links"])
            if not moved and (not waiting or time.monotonic() > until):
                return now
            before = now


def _counters(value):
    """What counts, without how fast: rates move on while nothing does."""
    if isinstance(value, list):
        return [_counters(each) for each in value]
    if isinstance(value, dict):
        return {key: _counters(each) for key, each in value.items() if "_rate" not in key}
    return value


@contextlib.contextmanager
def relaying(
    config: str,
    *,
    environment: dict[str, str] | None = None,
    sysctls: dict[str, int] | None = None,
    program: tuple[str, ...] | list[str] = MCRELAY,
    **lab_options,
):
    """The lab with a relay that is READY, and stopped at the end. ``program`` stands for `mcrelay`."""
    with standard_lab(**lab_options) as lab, tempfile.TemporaryDirectory() as folder:
        lab.settle()
        lab.relay.sysctl(sysctls or {})
        relay = RelayUnderTest(lab, config, Path(folder), environment=environment)
        relay.program = program
        relay.start()
        yield relay
        if relay.process.poll() is None:
            relay.stop()


@contextlib.contextmanager
def service_in(namespace, config: str, features: Features):
    """The relay as a thread of this process, in a namespace, on a kernel that is said to offer ``features``."""
    ready, done, held = threading.Event(), [], []

    async def run() -> None:
        stop = asyncio.Event()
        done.append((asyncio.get_running_loop(), stop))
        held.append(build(parse_config([("x.toml", config)]).config, features, Notifier("")))
        await held[0].run(stop, ready.set)

    thread = threading.Thread(target=namespace.call, args=(lambda: asyncio.run(run()),))
    thread.start()
    assert ready.wait(10)
    try:
        yield held[0]
    finally:
        loop, stop = done[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()


def carries(namespace, link: str) -> bool:
    """Whether the kernel counts the carrier of a link by now, up to a second late (linux/net/core/link_watch.c).

    Before that nobody can use the link. True for a link that does not exist.
    """
    found = namespace.run("ip", "-j", "link", "show", "dev", link, check=False).stdout
    return all(each["operstate"] == "UP" for each in json.loads(found or "[]"))


def assert_adds_up(stats) -> None:
    """At rest, every datagram of every rule and output and every frame is accounted for exactly once."""
    for rule in stats["rules"]:
        for output in rule["outputs"]:
            accounted = output["tx_packets"] + sum(output["tx_errors"].values()) + sum(rule["drops"].values())
            assert rule["rx_packets"] == output["since_packets"] + accounted, (rule, output)
    for link in stats["links"]:
        assert sum(link["frames"].values()) == link["rx_frames"], link
