"""``mcrelay relay``: one stream, no file, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import click

from mcrelay.config.flags import read_table, rule_arguments, rule_options
from mcrelay.config.parse import parse_rule
from mcrelay.linux import capabilities, logs
from mcrelay.linux.features import probe
from mcrelay.linux.process import admin_uses, prepare, reserved_ports
from mcrelay.linux.systemd import Notifier
from mcrelay.model.rule import Config
from mcrelay.relay import views
from mcrelay.relay.build import build


@click.command(epilog="\b\nExample:\n  mcrelay relay 239.1.1.1:5000%eth1 239.10.0.1:5004%eth0 --ttl 8")
@rule_arguments
@rule_options("description", "enabled")
def relay(source: str, outputs: tuple[str, ...], **options: Any) -> None:
    """Relay one stream until Ctrl-C, then say what was relayed."""
    rule = parse_rule("relay", read_table(source, outputs, options), {})
    logs.set_up()
    prepare()
    config = Config(rules={rule.name: rule})
    capabilities.become_unprivileged(capabilities.successor(), admin_uses(config), reserved_ports(config))
    click.echo(asyncio.run(_relay(config)))


async def _relay(config: Config) -> str:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = build(config, probe(), Notifier(""), table=f"mcrelay-relay-{os.getpid()}")
    last: dict[str, Any] = {}

    async def watch() -> None:
        await stop.wait()
        last.update(views.stats(service.state()))  # before the service gives its counters back

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
