"""The commands that relay: ``run`` for years, ``relay`` until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import resource
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__, logs, views
from .client import ask
from .config import parse_rule
from .errors import McrelayError, OperationError, UsageError
from .features import probe
from .files import load
from .model import Config
from .notify import Notifier
from .options import config_options, socket_option
from .service import Service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .errors import Complaint

log = logging.getLogger(__name__)


@click.command(epilog="\b\nExample:\n  mcrelay run -c /etc/mcrelay/mcrelay.toml")
@config_options
@socket_option
def run(paths: tuple[Path, ...], instance: str | None, socket_path: str | None) -> None:
    """Run the relay in the foreground, as systemd wants it (Type=notify).

    SIGTERM and SIGINT stop it cleanly, SIGHUP reloads the configuration, SIGUSR1 logs how everything stands.
    """
    config, warnings = load(paths, instance)
    logs.set_up()
    _say_all(warnings)
    if socket_path:
        config = replace(config, relay=replace(config.relay, control=socket_path))
    _prepare()
    asyncio.run(_Daemon(config, paths, instance).run())


class _Daemon:
    """One run of the relay with its control sockets and signals."""

    def __init__(self, config: Config, paths: tuple[Path, ...], instance: str | None) -> None:
        self._paths = paths
        self._instance = instance
        self._notifier = Notifier()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.service = Service(config, probe(), self._notifier)

    async def run(self) -> None:
        from .control import ControlServer  # noqa: PLC0415 - only a daemon needs it

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._spawn, self._reload_on_signal)
        loop.add_signal_handler(signal.SIGUSR1, self._dump)
        path = Path(self.service.config.relay.control)
        server = ControlServer(path, {"show": self._show, "version": _version}, {"reload": self._reload})
        await server.start()
        log.info("mcrelay=%s control=%s rules=%d", __version__, path, len(self.service.config.rules))
        try:
            await self.service.run(self._stop, lambda: log.info("ready %s", self.service.summary()))
        finally:
            await server.close()
            log.info("stopped")

    def _spawn(self, function: Callable[[], Awaitable[Any]]) -> None:
        task = asyncio.ensure_future(function())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _show(self, noun: str) -> Any:
        if noun not in views.NOUNS:
            raise UsageError(f"show {noun!r}: say one of {', '.join(views.NOUNS)}")
        return views.NOUNS[noun](self.service)

    async def _reload(self) -> dict[str, Any]:
        """Read the files again and go by them. A bad configuration changes nothing and says why."""
        before = self.service.config
        config, warnings = load(self._paths, self._instance)
        _say_all(warnings)
        restart = [
            key for key in ("workers", "cpus", "metrics") if getattr(config.relay, key) != getattr(before.relay, key)
        ]
        restart += [
            f"links.{name}" for name in before.links.keys() | config.links.keys()
            if before.links.get(name) != config.links.get(name)
        ]  # fmt: skip
        config = replace(config, relay=before.relay, links=before.links)
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={_monotonic_usec()}")
        try:
            await self.service.update(config)
        finally:
            self._notifier.send("READY=1")
        changed = sorted(
            name for name in before.rules.keys() | config.rules.keys()
            if before.rules.get(name) != config.rules.get(name)
        )  # fmt: skip
        log.info("reload rules=%d changed=%s", len(config.rules), ",".join(changed) or "none")
        return {"rules": len(config.rules), "changed": changed, "needs_restart": sorted(restart)}

    async def _reload_on_signal(self) -> None:
        try:
            result = await self._reload()
        except McrelayError as error:
            for line in str(error).splitlines():
                log.error("reload refused: %s", line)
            log.error("reload refused: what ran before goes on unchanged")
            return
        for key in result["needs_restart"]:
            log.warning("reload key=%s changed: restart the relay to apply it", key)

    def _dump(self) -> None:
        for noun in ("rules", "stats", "groups"):
            log.info("%s %s", noun, json.dumps(views.NOUNS[noun](self.service)))


@click.command(epilog="\b\nExample:\n  mcrelay reload")
@socket_option
def reload(socket_path: str | None) -> None:
    """Make what runs what the files say. A bad configuration changes nothing."""
    result = ask(socket_path, "reload")
    changed = ", ".join(result["changed"]) or "nothing"
    click.echo(f"reloaded: {result['rules']} rules, changed: {changed}")
    for key in result["needs_restart"]:
        click.echo(f"{key} changed: restart the relay to apply it")


@click.command(epilog="\b\nExample:\n  mcrelay relay 239.1.1.1:5000%eth1 239.10.0.1:5004%eth0 --ttl 8")
@click.argument("source", metavar="INPUT")
@click.argument("outputs", metavar="OUTPUT...", nargs=-1, required=True)
@click.option("--ttl", type=int, metavar="N", help="TTL of what is sent.  [default: 16 multicast, 64 unicast]")
@click.option("--dscp", metavar="N|keep", help="DSCP of what is sent.  [default: keep]")
@click.option("--source-address", metavar="A.B.C.D", help="Source address of what is sent.  [default: the link's own]")
@click.option("--source-port", type=int, metavar="N", help="Source port of what is sent.")
@click.option("--burst", type=int, metavar="N", help="Longest run of datagrams sent at once.  [default: 16]")
@click.option("--allow", multiple=True, metavar="NET", help="Let only these sources in; may repeat.")
def relay(source: str, outputs: tuple[str, ...], allow: tuple[str, ...], **options: Any) -> None:
    """Relay one stream until Ctrl-C, then say what was relayed."""
    table: dict[str, Any] = {"input": source, "outputs": list(outputs)}
    table |= {key: value for key, value in options.items() if value is not None}
    if allow:
        table["allow"] = list(allow)
    if options["dscp"] not in {None, "keep"}:
        try:
            table["dscp"] = int(options["dscp"])
        except ValueError:
            raise UsageError(f"--dscp {options['dscp']}: say 0-63, or keep") from None
    rule = parse_rule("relay", table, {})
    logs.set_up()
    _prepare()
    click.echo(asyncio.run(_relay_one(Config(rules={rule.name: rule}))))


async def _relay_one(config: Config) -> str:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service(config, probe(), Notifier(""))
    last: dict[str, Any] = {}

    async def watch() -> None:
        await stop.wait()
        last.update(views.stats(service))  # before the service gives its counters back

    watcher = asyncio.create_task(watch())
    await service.run(stop)
    await watcher
    return _summary(last)


def _summary(stats: dict[str, Any]) -> str:
    """What one rule did, as a person would tell it."""
    (rule,) = stats["rules"]
    lines = [f"received {rule['rx_packets']} datagrams, {rule['rx_bytes']} bytes in {stats['uptime_seconds']:.1f} s"]
    lines += [f"  dropped {n}: {reason}" for reason, n in rule["drops"].items() if n]
    for output in rule["outputs"]:
        lines.append(f"sent {output['tx_packets']} to {output['to']}")
        lines += [f"  not sent {n}: {reason}" for reason, n in output["tx_errors"].items() if n]
    return "\n".join(lines)


def _prepare() -> None:
    """Settle what the whole process needs, before the first thread. Raises OperationError without CAP_NET_RAW."""
    faulthandler.enable()
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        raise OperationError(
            "relaying needs CAP_NET_RAW: run as root, or `setcap cap_net_raw+ep` on the executable"
        ) from None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a socket an output, a helper for 20 groups


def _say_all(warnings: tuple[Complaint, ...]) -> None:
    for warning in warnings:
        log.warning("%s", warning)


async def _version() -> dict[str, str]:
    return {"version": __version__}


def _monotonic_usec() -> int:
    """RELOADING=1 wants CLOCK_MONOTONIC beside it: sd_notify(3)."""
    import time  # noqa: PLC0415

    return time.monotonic_ns() // 1000
