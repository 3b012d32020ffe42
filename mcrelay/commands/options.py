"""Command-line options that several commands share."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mcrelay.errors import UsageError
from mcrelay.model.instance import control_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

_T = TypeVar("_T")  # a command, or what becomes one

ETC = "/etc/mcrelay"
_OF_A_RELAY = "Ask the relay of this instance (mcrelay@NAME.service)."


def relay_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-i`` and ``--socket``, which say which relay is asked; the function gets its ``socket_path``, or None."""

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
    """Add ``-j``, as ``as_json``; ``table.as_json`` writes what it prints."""
    return click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")(function)


class _Stream(click.types.StringParamType):
    """A stream, read by who needs it; a shell completes its LINK."""

    name = "stream"

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415  for this alone

        stream, percent, begun = incomplete.rpartition("%")
        names = [name for _, name in socket.if_nameindex() if percent and name.startswith(begun)]
        return [CompletionItem(f"{stream}%{name}") for name in names]


def finish(command: click.Command) -> click.Command:
    """Give a command what all have: the options that name a relay, and links that a shell completes in streams.

    A command that asks no relay takes the former too: what is typed out of habit does no harm.
    """
    for each in command.params:
        if isinstance(each, click.Argument) and each.name in {"source", "outputs", "stream"}:
            each.type = _Stream()
        if isinstance(each, click.Option) and isinstance(each.type, click.IntRange | click.FloatRange):
            each.metavar = each.metavar or "N"  # click would write INTEGER RANGE
    known = {name for parameter in command.params for name in parameter.opts}
    for add, name in ((_instance(_OF_A_RELAY, hidden=True, expose_value=False), "-i"),
                      (functools.partial(_socket, hidden=True, expose_value=False), "--socket")):  # fmt: skip
        if name not in known:
            add(command)
    return command


def rule_names(context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Complete the name of a rule that runs, if the relay answers at once."""
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
