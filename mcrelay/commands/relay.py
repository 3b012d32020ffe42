"""``mcrelay relay``: one stream, without a file, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import os
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mcrelay import __version__
from mcrelay.commands.show import near_miss
from mcrelay.commands.sightings import Sightings
from mcrelay.commands.table import bit_rate, columns, digits, fold, say
from mcrelay.config.checks import master_complaints
from mcrelay.config.flags import read_table, rule_arguments, rule_options, words
from mcrelay.config.parse import RUNTIME, parse_rule
from mcrelay.control.protocol import Command, Nothing
from mcrelay.control.running import command_folder, same_input, sweep
from mcrelay.control.server import ControlServer
from mcrelay.errors import ConfigError, ControlError, LinkError, McrelayError, OperationError, UsageError
from mcrelay.links.watch import links_now
from mcrelay.linux import capabilities, logs
from mcrelay.linux.features import probe
from mcrelay.linux.process import admin_uses, prepare, reserved_ports
from mcrelay.linux.systemd import Notifier
from mcrelay.model.rule import Config
from mcrelay.model.wording import counted
from mcrelay.relay import views
from mcrelay.relay.build import build

if TYPE_CHECKING:
    from mcrelay.control.protocol import Peer
    from mcrelay.model.rule import Rule
    from mcrelay.relay.service import Service
    from mcrelay.relay.shapes import OutputStatsRow, StatsRow

NOTHING_SECONDS = 3.0  # seconds without a datagram after which it says what is seen instead
LOOK_SECONDS = 0.25
LINE_LOOKS = 2  # looks for each time that the line is written anew


@click.command(epilog="\b\nExample:\n  mcrelay relay 239.1.1.1:5000%eth1 239.10.0.1:5004%eth0 --ttl 8")
@rule_arguments
@rule_options("description", "enabled")
def relay(source: str, outputs: tuple[str, ...], **options: Any) -> None:
    """Relay one stream until Ctrl-C, then say what was relayed.

    A terminal shows a live line. If nothing arrives for 3 s, it says what arrives instead. `mcrelay show` finds it.
    The exit code is 1 if nothing could be relayed.
    """
    rule = parse_rule("relay", read_table(source, outputs, options), {})
    _insist_on_links(rule)
    logs.set_up()
    if sys.stdout.isatty() and sys.stderr.isatty():
        _log_over_the_line()
    prepare()
    for text in same_input(rule):
        say(f"warning: {text}")
    config = Config(rules={rule.name: rule})
    account = capabilities.successor()
    server = _bound(_Answers(rule), account)
    try:
        capabilities.become_unprivileged(account, admin_uses(config), reserved_ports(config))
        last = asyncio.run(_Relaying(config, server).run())
    finally:
        if server is not None:
            server[0].remove()
    click.echo("\n".join(fold(line, columns(), 4) for line in summary(last.stats)))
    failure = last.failure()
    if failure:
        raise OperationError(failure)


def _insist_on_links(rule: Rule) -> None:
    """Raise LinkError for a link that does not exist, ConfigError for an input on a port: it is wanted to work now."""
    with contextlib.suppress(OSError):  # netlink is closed to us: the rule waits for its link
        links = links_now()
        streams = [each.stream for each in rule.inputs] + [each.stream for each in rule.outputs]
        for name in filter(None, (each.link for each in streams)):
            if name not in links:
                near = difflib.get_close_matches(name, links, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(links)}"
                raise LinkError(f"no link is called {name}; {hint}")
        if refused := master_complaints([rule], lambda _: RUNTIME, links):
            raise ConfigError(refused)


class _OverTheLine(logging.Formatter):
    """Makes each line of the log wipe the live line first, and fit the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return f"\r\x1b[K{fold(super().format(record), columns())}"


def _log_over_the_line() -> None:
    """Make each line of the log wipe the live line first."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_OverTheLine("%(asctime)s %(levelname)s %(message)s"))


class _Show(msgspec.Struct, forbid_unknown_fields=True):
    noun: str


class _Answers:
    """Handlers of the control socket, which only reads."""

    def __init__(self, rule: Rule) -> None:
        self.service: Service | None = None
        self._command = shlex.join(["mcrelay", "relay", *words(rule)])

    async def show(self, _: Peer, show: _Show) -> Any:
        if show.noun not in views.NOUNS or self.service is None:
            raise UsageError(f"show {show.noun!r}: say one of {', '.join(views.NOUNS)}")
        if show.noun == "links":
            await self.service.look_at_all_links()
        return views.NOUNS[show.noun](self.service.state())

    async def version(self, _: Peer, __: Nothing) -> dict[str, Any]:
        return {"version": __version__, "restart_due": False, "needs_restart": [], "command": self._command}


def _bound(answers: _Answers, account: capabilities.Account | None) -> tuple[ControlServer, _Answers] | None:
    """A control socket that `show` finds. If there is no place for one, the command relays without it."""
    folder = command_folder()
    sweep(folder)
    path = folder / f"{os.getpid()}.sock"
    reads = {"show": Command(answers.show, _Show), "version": Command(answers.version)}
    server = ControlServer(path, reads, {})
    try:
        server.bind(account)
    except ControlError as error:
        say(f"warning: `mcrelay show` will not find this: {error}")
        return None
    return server, answers


class _Last:
    """The state at the end."""

    def __init__(self, service: Service) -> None:
        state = service.state()
        self.stats = views.stats(state)
        (self._rule,) = views.rules(state)

    def failure(self) -> str:
        """Why nothing could be relayed, or which part could not; "" if all went well."""
        rule = self._rule
        if rule["state"] in {"error", "pending"}:
            return f"nothing could be relayed: {rule['reason']}"
        (counts,) = self.stats["rules"]
        failed = [f"{each['to']}: {each['reason']}" for each in rule["outputs"] if each["state"] == "error"]
        if not failed and counts["rx_packets"]:
            failed = [f"{each['to']}: {_refusals(each)}" for each in counts["outputs"] if not each["tx_packets"]]
        if failed:
            return f"could not send to {'; '.join(failed)}"
        if not counts["rx_packets"]:
            return f"nothing arrived of {rule['inputs'][0]['from']}"
        return ""


class _Relaying:
    """The relay, with its live line."""

    def __init__(self, config: Config, server: tuple[ControlServer, _Answers] | None) -> None:
        self._config = config
        self._server = server
        (self._rule,) = config.rules.values()
        self._sightings: Sightings | None = None

    async def run(self) -> _Last:
        asked, stop = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked.set)
        service = build(self._config, probe(), Notifier(""), table=f"mcrelay-relay-{os.getpid()}")
        if self._server is not None:
            server, answers = self._server
            answers.service = service
            await server.start()
        watcher = asyncio.create_task(self._watch(service, asked, stop))
        try:
            await service.run(stop)
            return await watcher
        finally:
            watcher.cancel()
            if self._server is not None:
                await self._server[0].close()

    async def _watch(self, service: Service, asked: asyncio.Event, stop: asyncio.Event) -> _Last:
        """Show the live line until the end. Returns the state then, before the service closes its counters."""
        begin = time.monotonic()
        wanted = self._rule.inputs[0]
        with contextlib.suppress(McrelayError):  # the rule itself says what is wrong with its link
            self._sightings = Sightings(wanted.stream.link or "", wanted)
        shown, said, looks = False, False, 0
        try:
            while not asked.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asked.wait(), LOOK_SECONDS)
                looks += 1
                arrived = service.engine.snapshot().inputs
                if any(each.rx_packets for each in arrived.values()):
                    self._close_sightings()
                elif self._sightings is not None:
                    self._sightings.look()
                seconds = time.monotonic() - begin
                if seconds >= NOTHING_SECONDS and not said:
                    said = True
                    for text in self._instead(service, seconds):
                        click.echo("\r\x1b[K" if shown else "", nl=False, err=True)
                        say(text)
                if sys.stdout.isatty() and looks % LINE_LOOKS == 0:
                    line = live_line(views.stats(service.state()), (columns() or 80) - 1)
                    click.echo(f"\r\x1b[K{line}", nl=False)
                    shown = True
            if shown:
                click.echo("\r\x1b[K", nl=False)
            return _Last(service)
        finally:
            stop.set()
            self._close_sightings()

    def _close_sightings(self) -> None:
        if self._sightings is not None:
            self._sightings.close()
            self._sightings = None

    def _instead(self, service: Service, seconds: float) -> list[str]:
        """The text for some seconds without a datagram; "" if one came."""
        state = service.state()
        if views.stats(state)["rules"][0]["rx_packets"]:
            return []
        wanted = self._rule.inputs[0].stream
        lines = [f"nothing of {views.rules(state)[0]['inputs'][0]['from']} has arrived for {seconds:.0f} s"]
        if status_reason := views.rules(state)[0]["reason"]:
            return [*lines, status_reason]
        seen = self._sightings.said(seconds) if self._sightings is not None else []
        if seen:
            return [*lines, *seen]
        name = wanted.link or ""
        link = state.links.get(name)
        if link is not None and not link.carrier:
            return [*lines, f"{name} has no carrier: is its cable in, and the other end up?"]
        if not wanted.address.is_multicast:
            return lines
        lines.append(f"no multicast at all arrives on {name}")
        heard = (state.mld if wanted.address.version == 6 else state.igmp).get(name)
        if heard is None or heard.querier is None:
            lines.append(
                f"nor was a querier heard on {name}: without one, a switch that snoops may pass no group on; have the "
                f"switch or the router query there"
            )
        return lines


def live_line(stats: StatsRow, width: int) -> str:
    """The live line, which is written again and again: as many outputs that lose something as there is room for."""
    (rule,) = stats["rules"]
    lost = sum(rule["drops"].values()) + sum(link["ring_dropped_frames"] for link in stats["links"])
    lost += sum(sum(each["tx_errors"].values()) for each in rule["outputs"])
    sent = sum(each["tx_packets"] for each in rule["outputs"])
    speed = f"{digits(rule['rx_rate'])}/s {bit_rate(rule['rx_bit_rate'])}"
    line = f"in {digits(rule['rx_packets'])}  out {digits(sent)}  lost {digits(lost)}  {speed}"
    losing = [f"{each['to']}: {_refusals(each)}" for each in rule["outputs"] if any(each["tx_errors"].values())]
    for number, text in enumerate(losing):
        left = len(losing) - number
        more = f"  {counted(left, 'output')} losing"
        if len(line) + 2 + len(text) + (len(more) if left > 1 else 0) > width:
            return (line + more)[:width]
        line += f"  {text}"
    return line[:width]


def _refusals(output: OutputStatsRow) -> str:
    return ", ".join(f"{digits(n)} {reason}" for reason, n in output["tx_errors"].items() if n) or "none was sent"


def summary(stats: StatsRow) -> list[str]:
    """The result of one rule, in sentences."""
    (rule,) = stats["rules"]
    amount = f"{digits(rule['rx_packets'])} datagrams, {digits(rule['rx_bytes'])} bytes"
    lines = [f"received {amount} in {stats['uptime_seconds']:.1f} s"]
    lines += [f"  dropped {digits(n)}: {reason}" for reason, n in rule["drops"].items() if n]
    for link in stats["links"]:
        missed = {verdict: n for verdict, n in link["frames"].items() if verdict not in {"relayed", "dropped"} and n}
        missed |= {"ring full": link["ring_dropped_frames"]} if link["ring_dropped_frames"] else {}
        lines += [f"  not relayed {digits(n)} frames of {link['ifname']}: {verdict}" for verdict, n in missed.items()]
        lines += [f"  {near_miss(each)}" for each in link.get("near_misses", ())]
    for output in rule["outputs"]:
        lines.append(f"sent {digits(output['tx_packets'])} to {output['to']}")
        lines += [f"  not sent {digits(n)}: {reason}" for reason, n in output["tx_errors"].items() if n]
    return lines
