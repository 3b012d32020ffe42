"""The commands that change a running relay: add, replace, delete, enable, disable, reload."""

from __future__ import annotations

from typing import Any

import click

from mcrelay.commands.options import relay_options
from mcrelay.config.flags import read_table, rule_arguments, rule_options
from mcrelay.control.client import ask
from mcrelay.model.wording import counted

NOT_SAVED = "only until the next reload or restart; `mcrelay save` writes it to a file"


@click.command(epilog="\b\nExample:\n  mcrelay add lobby 239.1.1.1:5000%eth1 239.10.0.1:5004%eth0 --ttl 8")
@click.argument("name")
@rule_arguments
@rule_options()
@relay_options
def add(name: str, source: str, outputs: tuple[str, ...], socket_path: str | None, **options: Any) -> None:
    """Add a rule to the running relay; returns once every worker forwards it.

    The command line says everything: [defaults] of the files do not apply. Where one output has options of its own,
    write it as a file does: '{ to = "10.9.0.7:7000", ttl = 64 }'.
    """
    _standing(ask(socket_path, "add", name=name, rule=read_table(source, outputs, options)))


@click.command(epilog="\b\nExample:\n  mcrelay replace lobby 239.1.1.1:5000%eth1 239.10.0.2:5004%eth0")
@click.argument("name")
@rule_arguments
@rule_options()
@relay_options
def replace(name: str, source: str, outputs: tuple[str, ...], socket_path: str | None, **options: Any) -> None:
    """Replace a running rule; what both rules have in common loses no datagram.

    The command line says everything: nothing is taken from the rule before, nor from [defaults] of the files.
    """
    _standing(ask(socket_path, "replace", name=name, rule=read_table(source, outputs, options)))


@click.command(epilog="\b\nExample:\n  mcrelay delete lobby")
@click.argument("name")
@relay_options
def delete(name: str, socket_path: str | None) -> None:
    """Delete a rule of the running relay. One that stands in a file comes back with the next reload or restart."""
    result = ask(socket_path, "delete", name=name)
    click.echo(
        f"{name}: deleted" + (f" ({NOT_SAVED.partition(';')[0]}: it stands in a file)" if result["in_files"] else "")
    )


@click.command(epilog="\b\nExample:\n  mcrelay enable lobby")
@click.argument("name")
@relay_options
def enable(name: str, socket_path: str | None) -> None:
    """Enable a rule that was disabled."""
    _standing(ask(socket_path, "enable", name=name))


@click.command(epilog="\b\nExample:\n  mcrelay disable lobby")
@click.argument("name")
@relay_options
def disable(name: str, socket_path: str | None) -> None:
    """Stop relaying by a rule, and keep it."""
    _standing(ask(socket_path, "disable", name=name))


@click.command(epilog="\b\nExample:\n  mcrelay reload --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--keep-runtime", is_flag=True, help="Keep what was changed at run time.")
@relay_options
def reload(dry_run: bool, keep_runtime: bool, socket_path: str | None) -> None:
    """Reload the configuration files, as a restart would.

    A bad configuration changes nothing. Run-time changes that are lost are named, each with the command that restores
    it. Keys that only a restart applies are named too; the rest is applied. What is unchanged loses no datagram.
    """
    result = ask(socket_path, "reload", dry_run=dry_run, keep_runtime=keep_runtime)
    for warning in result["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    lines = [f"+ {name}" for name in result["added"]]
    lines += [f"- {name}" for name in result["removed"]]
    for name, differences in result["changed"].items():
        lines += [f"~ {name}", *(f"    {each}" for each in differences)]
    lines += [f"! {key} changed: restart the relay to apply it" for key in result["needs_restart"]]
    if result["gone"]:
        lines.append(f"run-time changes that {'would go' if dry_run else 'went'}, and what brings each back:")
        lines += [f"  {command}" for command in result["gone"].values()]
    said = "nothing was changed; it would be" if dry_run else "reloaded:"
    lines.append(f"{said} {counted(result['rules'], 'rule')}")
    click.echo("\n".join(lines))


def _standing(result: dict[str, Any]) -> None:
    """Say how the rule stands that was changed."""
    for warning in result["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    reason = f": {result['reason']}" if result["reason"] else ""
    kept = f" ({NOT_SAVED})" if result["origin"] == "runtime" else ""
    click.echo(f"{result['rule']}: {result['state']}{reason}{kept}")
