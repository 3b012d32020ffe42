"""Command-line options that several commands share."""

from __future__ import annotations

import functools
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mcrelay.errors import COMMAND_LINE, UsageError
from mcrelay.model.instance import control_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

_T = TypeVar("_T")  # a command, or a function that becomes one

ETC = "/etc/mcrelay"
_OF_A_RELAY = "Ask the relay of this instance (mcrelay@NAME.service)."


def relay_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-i`` and ``--socket``, which choose the relay; the function gets its ``socket_path``, or None."""

    @functools.wraps(function)
    def with_path(*arguments: Any, instance: str | None, socket_path: str | None, **options: Any) -> Any:
        if instance is not None and socket_path is not None:
            raise UsageError("-i and --socket both name a relay; leave one of them out")
        path = socket_path if instance is None else control_path(instance)
        return function(*arguments, socket_path=path, **options)

    return _instance(_OF_A_RELAY)(_socket(with_path))


def socket_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--socket``, as ``socket_path``: where to listen."""
    return _socket(function, envvar="MCRELAY_SOCKET")


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-c`` and ``-i``, as ``paths`` and ``instance``."""
    paths = click.option(
        "-c",
        "--config",
        "paths",
        multiple=True,
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="A file, or a directory for its *.toml; may repeat. Replaces /etc/mcrelay/mcrelay.toml and conf.d/*.toml.",
    )
    return paths(_instance("Use /etc/mcrelay/NAME.toml and NAME.conf.d/*.toml.")(function))


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-j``, as ``as_json``; ``table.as_json`` writes the output."""
    return click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")(function)


class _Stream(click.types.StringParamType):
    """A stream, which the command parses; a shell completes its LINK."""

    name = "stream"

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415  for this alone

        stream, percent, begun = incomplete.rpartition("%")
        names = [name for _, name in socket.if_nameindex() if percent and name.startswith(begun)]
        return [CompletionItem(f"{stream}%{name}") for name in names]


class _Number(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has none
    """A number of a range, in words where click writes INTEGER RANGE and 1<=x<=63."""

    name = "number"

    def __init__(self, range_: click.IntRange | click.FloatRange) -> None:
        """*range_* has a least; it may have a most."""
        self._kind = int if isinstance(range_, click.IntRange) else float
        self._least, self._most, self._above = range_.min or 0, range_.max, range_.min_open
        least = f"above {self._least:g}" if self._above else f"{self._least:g}"
        if self._most is None:
            self.words = least if self._above else f"{least} or more"
        else:
            self.words = f"{least}, at most {self._most:g}" if self._above else f"from {least} to {self._most:g}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Raises click's error for what is no number, or not of the range."""
        kind = "whole number" if self._kind is int else "number"
        try:
            number = self._kind(value)
        except ValueError:
            self.fail(f"{value!r} is no {kind}; wanted is {self.words}", param, ctx)
        below = number <= self._least if self._above else number < self._least
        if below or not number <= (self._most or float("inf")):  # nan is neither
            self.fail(f"{value} is not {self.words}", param, ctx)
        return number


def finish(command: click.Command) -> click.Command:
    """Give a command the options of all commands: those that choose a relay, and completion of links in streams.

    A command that asks no relay accepts the former too: an option typed out of habit does no harm.
    """
    for each in command.params:
        if isinstance(each, click.Argument) and each.name in {"source", "outputs", "stream"}:
            each.type = _Stream()
        if isinstance(each, click.Option) and isinstance(each.type, click.IntRange | click.FloatRange):
            each.type = _Number(each.type)
            each.metavar = each.metavar or "N"
            each.help = f"{each.help}  [{each.type.words}]"
    known = {name for parameter in command.params for name in parameter.opts}
    for add, name in ((_instance(_OF_A_RELAY, hidden=True, expose_value=False), "-i"),
                      (functools.partial(_socket, hidden=True, expose_value=False), "--socket")):  # fmt: skip
        if name not in known:
            add(command)
    return command


def as_typed(complaint: str) -> str:
    """Name the place by the word that was typed where no file holds it: OUTPUT 1, not rules.relay.outputs[0]."""
    place, _, rest = complaint.partition(": ")
    if place != COMMAND_LINE:
        return complaint
    path, _, problem = rest.partition(": ")
    found = re.fullmatch(r"rules\.([\w-]+)\.(?:(input)|outputs\[(\d+)\]|outputs|(\w+))(?:\.(\w+))?", path)
    if found is None:
        return rest
    name, source, output, key, inner = found.groups()
    word = "INPUT" if source else f"--{key.replace('_', '-')}" if key else f"OUTPUT {int(output or 0) + 1}"
    rule = "" if name in {"relay", *sys.argv} else f"{name}: "
    return f"{rule}{word}{f' {inner}' if inner else ''}: {problem}"


def rule_names(context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Complete the name of a running rule, if the relay answers at once."""
    from mcrelay.control.client import ask  # noqa: PLC0415  completion alone needs it here
    from mcrelay.errors import McrelayError  # noqa: PLC0415

    path, instance = context.params.get("socket_path"), context.params.get("instance")
    try:
        rules = ask(path or (control_path(instance) if instance else None), "show", read_only=True, noun="rules")
    except McrelayError:
        return []
    return [rule["name"] for rule in rules if rule["name"].startswith(text)]


def _socket(function: _T, *, envvar: str | None = None, **settings: Any) -> _T:
    text = f"Control socket of the relay.  [default: $MCRELAY_SOCKET, then {control_path()}]"
    add = click.option("--socket", "socket_path", metavar="PATH", envvar=envvar, help=text, **settings)
    return add(function)  # type: ignore[type-var]


def _instance(text: str, **settings: Any) -> Callable[[_T], _T]:
    add = click.option("-i", "--instance", "instance", metavar="NAME", help=text, shell_complete=_instances, **settings)
    return cast("Callable[[_T], _T]", add)


def _instances(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Complete the name of an instance that has a file."""
    try:
        names = os.listdir(ETC)  # noqa: PTH208  pathlib costs a fifth of the start
    except OSError:
        return []
    return sorted(name[:-5] for name in names if name.endswith(".toml") and name.startswith(text))
