"""``mcrelay help``: prints the same as ``--help``."""

from __future__ import annotations

import click


@click.command(name="help", epilog="\b\nExample:\n  mcrelay help relay")
@click.argument("command", required=False)
@click.pass_context
def help(context: click.Context, command: str | None) -> None:  # noqa: A001  the command's own name
    """Show how COMMAND is used; without it, list the commands."""
    parent = context.parent
    assert parent is not None
    assert isinstance(parent.command, click.Group)
    if command is None:
        click.echo(parent.get_help())
        return
    name, found, _ = parent.command.resolve_command(parent, [command])
    assert found is not None
    with click.Context(found, info_name=name, parent=parent) as inner:
        click.echo(found.get_help(inner))
