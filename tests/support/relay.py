"""A relay under test: the real command in the standard lab, real traffic, and both ends to compare."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.kernel_losses import KernelLosses
from support.traffic import MCRELAY, memberships, wait_for
from support.ways import way

from mcrelay.commands.lab import StandardLab, standard_lab
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
READY_SECONDS = 30


both_engines = pytest.mark.usefixtures("engine")  # of tests/netns/conftest.py
each_family = pytest.mark.usefixtures("family")  # with each engine, and for IPv6
every_way = pytest.mark.usefixtures("way")  # with each engine, for each family and from one to the other
ring_ways = pytest.mark.usefixtures("ring_way")  # the same without the kernel engine
kernel_ways = pytest.mark.usefixtures("kernel_way")  # and with it alone


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
        """Put this into the file, for the families and with the engine under test."""
        config = way().config(config)
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
        self.wait_for(lambda: "ready" in self.log.read_text(), "READY", READY_SECONDS)
        self.heard_by_switch()

    def heard_by_switch(self) -> None:
        """Wait until the standard lab's switch has heard of every group that is joined, where a report gets there.

        READY says that the kernel has joined. It sends its report some jiffies later (net/ipv4/igmp.c,
        igmp_ifc_event), and a switch that prunes drops what a test sends before that.
        """
        if not isinstance(self.lab, StandardLab):
            return
        kernels_own = ("224.0.0.", "ff02:", "ff01:")
        joined = {group for group in memberships(self.lab.relay, "in0") if not group.startswith(kernels_own)}
        until = time.monotonic() + 1
        while joined and time.monotonic() < until:
            joined -= {entry.rpartition("@")[2] for entry in self.lab.mdb().get("to-relay", ())}

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
    with standard_lab(**{"ipv6": way().has_ipv6, **lab_options}) as lab, tempfile.TemporaryDirectory() as folder:
        lab.wait_until_up()
        lab.relay.sysctl(sysctls or {})
        relay = RelayUnderTest(lab, config, Path(folder), environment=environment)
        relay.program = program
        relay.start()
        lab.wait_until_pruned()  # most often it does by now: a relay takes longer to start
        losses = KernelLosses(lab.lab.namespaces)
        try:
            yield relay
        except AssertionError as error:
            error.add_note(str(losses))
            raise
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

    with logged() as said:

        def serve() -> None:
            try:
                namespace.call(lambda: asyncio.run(run()))
            except Exception:
                traceback.print_exc(file=said)

        thread = threading.Thread(target=serve, daemon=True)  # one that does not end fails its test alone
        thread.start()
        try:
            until = time.monotonic() + READY_SECONDS
            while thread.is_alive() and time.monotonic() < until and not ready.wait(0.1):
                pass
            assert ready.is_set(), f"not READY within {READY_SECONDS} s; the relay said:\n{said.getvalue()}"
            yield held[0]
        finally:
            with contextlib.suppress(IndexError, RuntimeError):  # it did not begin, or has ended
                loop, stop = done[0]
                loop.call_soon_threadsafe(stop.set)
            thread.join(READY_SECONDS)
            assert not thread.is_alive(), f"the relay does not end; it said:\n{said.getvalue()}"


@contextlib.contextmanager
def logged():
    """What is logged meanwhile by a relay that is part of this process."""
    said = io.StringIO()
    handler, logger = logging.StreamHandler(said), logging.getLogger("mcrelay")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


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
