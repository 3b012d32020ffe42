"""Command-line options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcrelay.model.rule import DEFAULT_CONTROL

if TYPE_CHECKING:
    from collections.abc import Callable


def socket_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--socket``, as ``socket_path``."""
    return click.option(
        "--socket",
        "socket_path",
        metavar="PATH",
        envvar="MCRELAY_SOCKET",
        help=f"Control socket of the relay.  [default: {DEFAULT_CONTROL}]",
    )(function)


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-c`` and ``-i``, as ``paths`` and ``instance``."""
    instance = click.option(
        "-i", "--instance", metavar="NAME", help="Use /etc/mcrelay/NAME.toml and NAME.conf.d/*.toml."
    )
    paths = click.option(
        "-c",
        "--config",
        "paths",
        multiple=True,
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="A file, or a directory for its *.toml; may repeat. Replaces /etc/mcrelay/mcrelay.toml and conf.d/*.toml.",
    )
    return paths(instance(function))
