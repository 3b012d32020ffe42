"""``mcrelay run``: the daemon, for years."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mcrelay import __version__
from mcrelay.commands.options import config_options, socket_option
from mcrelay.config.files import load, watched_paths
from mcrelay.control.handlers import Changer
from mcrelay.control.protocol import Command, Nothing
from mcrelay.control.server import ControlServer
from mcrelay.errors import UsageError
from mcrelay.exclusive.droptable import table_name
from mcrelay.linux import capabilities, logs
from mcrelay.linux.aside import aside
from mcrelay.linux.features import probe
from mcrelay.linux.installed import Installed
from mcrelay.linux.process import admin_uses, prepare, reserved_ports
from mcrelay.linux.systemd import Notifier, take_inherited
from mcrelay.relay import views
from mcrelay.relay.build import build
from mcrelay.relay.state import DaemonState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcrelay.config.parse import Parsed
    from mcrelay.control.protocol import Peer
    from mcrelay.control.web import WebServer
    from mcrelay.linux.capabilities import Account
    from mcrelay.relay.state import RelayState

log = logging.getLogger(__name__)

FEW_RULES = 500  # answers about more are made beside the main loop, which has other things to do
ANSWER_SECONDS = 4.0  # for one: a client waits 5 s


@click.command(epilog="\b\nExample:\n  mcrelay run -c /etc/mcrelay/mcrelay.toml")
@config_options
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="How log lines look.")
@click.option(
    "--log-level", type=click.Choice([*logs.LEVELS]), default="info", help="The least that is logged.  [default: info]"
)
@socket_option
def run(
    paths: tuple[Path, ...], instance: str | None, log_format: str, log_level: str, socket_path: str | None
) -> None:
    """Run the relay in the foreground, as systemd wants it (Type=notify).

    Started by root, it goes on as user mcrelay, or nobody, with CAP_NET_RAW alone (and CAP_NET_ADMIN where a rule is
    exclusive or has the kernel engine, which needs CAP_BPF too, or a link has gro; CAP_NET_BIND_SERVICE where a
    source_port is below 1024).
    SIGTERM and SIGINT stop it cleanly, SIGHUP reloads the configuration, SIGUSR1 logs how everything stands.
    """
    gc.disable()  # thousands of rules stay for ever: the garbage collector need not look at them again
    parsed = load(paths, instance)
    logs.set_up(as_json=log_format == "json", level=log_level)
    for warning in parsed.warnings:
        log.warning("warns of %s", warning)
    prepare()
    daemon = _Daemon(
        parsed, paths, instance, socket_path
    )  # connects the notify socket now: it may refuse the other user
    account = capabilities.successor()
    watched = watched_paths(paths, instance)
    daemon.bind(account)
    try:
        capabilities.become_unprivileged(account, admin_uses(parsed.config), reserved_ports(parsed.config))
        capabilities.warn_of_blocked(watched)
        written = logs.set_aside()
        try:
            asyncio.run(daemon.run())
        finally:
            if not written():  # nobody reads the log, and Python would wait for it at its end
                daemon.server.remove()
                os._exit(1 if sys.exc_info()[0] else 0)
    finally:
        daemon.server.remove()


class _Show(msgspec.Struct, forbid_unknown_fields=True):
    noun: str


class _Explain(msgspec.Struct, forbid_unknown_fields=True):
    link: str
    frame: str  # hexadecimal, from its Ethernet header on
    tci: int | None = None  # of a VLAN tag


class _Daemon:
    """One run of the relay with its control sockets and signals."""

    def __init__(self, parsed: Parsed, paths: tuple[Path, ...], instance: str | None, socket_path: str | None) -> None:
        config = parsed.config
        if socket_path:
            config = replace(config, relay=replace(config.relay, control=socket_path))
        notifier = Notifier()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._service = build(config, probe(), notifier, take_inherited(), table_name(config.relay.control))
        self._changer = Changer(self._service, parsed, paths, instance, notifier)
        self._installed = Installed()
        self.ready = False
        self._web = _web_server(config.relay.metrics, self)
        reads = {"show": Command(self._show, _Show), "version": Command(self._version)}
        reads["explain"] = Command(self._explain, _Explain)
        path = Path(config.relay.control)
        self.server = ControlServer(path, reads | self._changer.reads, self._changer.changes)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._spawn, self._changer.reload_on_signal)
        loop.add_signal_handler(signal.SIGUSR1, self._dump)
        path = self._service.config.relay.control
        await self.server.start()
        log.info("started mcrelay=%s control=%s rules=%d", __version__, path, len(self._service.config.rules))
        serving = asyncio.create_task(self._web.run()) if self._web else None
        try:
            await self._service.run(self._stop, self._ready)
        finally:
            if serving:
                serving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await serving
            await self.server.close()
            log.info("stopped")

    def bind(self, account: Account | None) -> None:
        """Bind the addresses of this relay, with the privileges of its start."""
        self.server.bind(account)
        if self._web:
            self._web.bind()

    async def state(self, *, links: bool = False) -> RelayState:
        """The state of the relay; with *links* it is up to date for links that no rule names too."""
        if links:
            await self._service.look_at_all_links()
        return self._service.state()

    def daemon(self) -> DaemonState:
        """Facts about this process."""
        changer = self._changer
        return DaemonState(__version__, self._installed.replaced, changer.reload_successful, changer.reload_time)

    def _ready(self) -> None:
        self.ready = True
        gc.freeze()
        gc.enable()
        log.info("ready %s", self._service.summary())

    def _spawn(self, function: Callable[[], Awaitable[Any]]) -> None:
        task = asyncio.ensure_future(function())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _show(self, _: Peer, show: _Show) -> Any:
        if show.noun not in views.NOUNS:
            raise UsageError(f"show {show.noun!r}: say one of {', '.join(views.NOUNS)}")
        make, relay = views.NOUNS[show.noun], await self.state(links=show.noun == "links")
        if len(relay.rules) <= FEW_RULES:
            return make(relay)
        return await aside("making the answer", lambda: make(relay), ANSWER_SECONDS)

    async def _explain(self, _: Peer, asked: _Explain) -> dict[str, Any] | None:
        try:
            frame = bytes.fromhex(asked.frame)
        except ValueError as error:
            raise UsageError(f"the frame is not hexadecimal: {error}") from error
        found = self._service.explain(frame, asked.link, asked.tci)
        return asdict(found) if found else None

    def _dump(self) -> None:
        state = self._service.state()
        for noun in ("rules", "stats", "groups"):
            log.info("reports %s %s", noun, json.dumps(views.NOUNS[noun](state)))

    async def _version(self, _: Peer, __: Nothing) -> dict[str, Any]:
        return {
            "version": __version__,
            "restart_due": self._installed.replaced,
            "needs_restart": self._changer.needs_restart,
        }


def _web_server(address: str | None, daemon: _Daemon) -> WebServer | None:
    """The server of metrics. Its libraries are imported only if somebody asks for it."""
    if address is None:
        return None
    from mcrelay.control.web import WebServer  # noqa: PLC0415

    return WebServer(address, daemon)
