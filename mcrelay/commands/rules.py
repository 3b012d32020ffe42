"""The commands that change a running relay: add, replace, delete, enable, disable, reload."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from mcrelay.commands.options import as_typed, json_option, relay_options, rule_names
from mcrelay.commands.table import answer, print_json, say
from mcrelay.config.flags import read_table, rule_arguments, rule_options
from mcrelay.control.client import ask
from mcrelay.errors import UsageError
from mcrelay.model.wording import counted

NOT_SAVED = "only until the next reload or restart; `mcrelay save` writes it to a file"


class _Add(click.Command):
    """NAME, INPUT and OUTPUT... are for one rule; with --file there are none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        several = any(each == "--file" or each.startswith("--file=") for each in args)
        for each in self.params:
            if isinstance(each, click.Argument):
                each.required = not several
        return super().parse_args(ctx, args)


@click.command(
    cls=_Add,
    epilog="\b\nExamples:\n  mcrelay add lobby 239.1.1.1:5000%eth1 239.10.0.1:5004%eth0 --ttl 8\n"
    "  mcrelay add --file rules.toml",
)
@click.argument("name")
@rule_arguments
@rule_options()
@click.option(
    "--file",
    "file",
    metavar="FILE|-",
    help="Add all rules of a file, or none: [rules.NAME] tables, or lines of NAME INPUT OUTPUT... and flags.",
)
@relay_options
def add(
    name: str | None, source: str, outputs: tuple[str, ...], file: str | None, socket_path: str | None, **options: Any
) -> None:
    """Add a rule to the running relay; returns once every worker forwards it.

    The command line says everything: [defaults] of the files do not apply. Where one output has options of its own,
    write it as a file does: '{ to = "10.9.0.7:7000", ttl = 64 }'.
    """
    if file is None:
        _stand(ask(socket_path, "add", name=name, rule=read_table(source, outputs, options)))
        return
    if name is not None:
        raise UsageError(f"--file names the rules; leave {name} out")
    rules = read_rules(_text_of(file), file)
    _stand(*ask(socket_path, "add_all", rules=rules)["rules"])


def read_rules(text: str, file: str) -> list[dict[str, Any]]:
    """Read rules, each as ``name`` and ``rule``: TOML if a line begins with [, else one rule a line. UsageError."""
    if any(line.lstrip().startswith("[") for line in text.splitlines()):
        return _tables(text, file)
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            words = words[2:] if words[:2] == ["mcrelay", "add"] else words
            if not words:
                continue
            given = add.make_context("add", words).params
        except (click.UsageError, ValueError) as error:
            text = error.format_message() if isinstance(error, click.UsageError) else str(error)
            raise UsageError(f"{file}:{number}: {text}; write NAME INPUT OUTPUT... and flags") from None
        if given.pop("file") or given.pop("instance") or given.pop("socket_path"):
            raise UsageError(f"{file}:{number}: --file, -i and --socket stand on the command line alone")
        name, source, outputs = (given.pop(key) for key in ("name", "source", "outputs"))
        found.append({"name": name, "rule": read_table(source, outputs, given)})
    return _some(found, file)


def _tables(text: str, file: str) -> list[dict[str, Any]]:
    import tomllib  # noqa: PLC0415  one rule needs it not

    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not TOML: {error}") from None
    rules = tables.pop("rules", {})
    if tables:
        raise UsageError(f"{file}: [{next(iter(tables))}] is not a rule; only [rules.NAME] can be added to what runs")
    return _some([{"name": name, "rule": rule} for name, rule in rules.items()], file)


def _some(found: list[dict[str, Any]], file: str) -> list[dict[str, Any]]:
    if not found:
        raise UsageError(f"{file} holds no rule; write [rules.NAME] tables, or lines of NAME INPUT OUTPUT...")
    return found


def _text_of(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read()
        with open(file, encoding="utf-8-sig") as opened:  # noqa: PTH123  pathlib costs a fifth of the start
            return opened.read()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}; name another file, or - for stdin") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text; save it as that") from None


@click.command(epilog="\b\nExample:\n  mcrelay replace lobby 239.1.1.1:5000%eth1 239.10.0.2:5004%eth0")
@click.argument("name", shell_complete=rule_names)
@rule_arguments
@rule_options()
@relay_options
def replace(name: str, source: str, outputs: tuple[str, ...], socket_path: str | None, **options: Any) -> None:
    """Replace a running rule; what both rules have in common loses no datagram.

    The command line says everything: nothing is taken from the rule before, nor from [defaults] of the files.
    """
    _stand(ask(socket_path, "replace", name=name, rule=read_table(source, outputs, options)))


@click.command(epilog="\b\nExample:\n  mcrelay delete lobby")
@click.argument("name", shell_complete=rule_names)
@relay_options
def delete(name: str, socket_path: str | None) -> None:
    """Delete a rule of the running relay. One that stands in a file comes back with the next reload or restart."""
    result = ask(socket_path, "delete", name=name)
    answer(
        f"{name}: deleted" + (f" ({NOT_SAVED.partition(';')[0]}: it stands in a file)" if result["in_files"] else "")
    )


@click.command(epilog="\b\nExample:\n  mcrelay enable lobby")
@click.argument("name", shell_complete=rule_names)
@relay_options
def enable(name: str, socket_path: str | None) -> None:
    """Enable a rule that was disabled."""
    _stand(ask(socket_path, "enable", name=name))


@click.command(epilog="\b\nExample:\n  mcrelay disable lobby")
@click.argument("name", shell_complete=rule_names)
@relay_options
def disable(name: str, socket_path: str | None) -> None:
    """Stop relaying by a rule, and keep it."""
    _stand(ask(socket_path, "disable", name=name))


@click.command(epilog="\b\nExample:\n  mcrelay reload --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--keep-runtime", is_flag=True, help="Keep what was changed at run time.")
@json_option
@relay_options
def reload(dry_run: bool, keep_runtime: bool, as_json: bool, socket_path: str | None) -> None:
    """Reload the configuration files, as a restart would.

    A bad configuration changes nothing. Run-time changes that are lost are named, each with the command that restores
    it. Keys that only a restart applies are named too; the rest is applied. What is unchanged loses no datagram.
    """
    result = ask(socket_path, "reload", dry_run=dry_run, keep_runtime=keep_runtime)
    if as_json:
        print_json(result)
        return
    for warning in result["warnings"]:
        say(f"warning: {as_typed(warning)}")
    lines = [f"+ {name}" for name in result["added"]]
    lines += [f"- {name}" for name in result["removed"]]
    for name, differences in result["changed"].items():
        lines += [f"~ {name}", *(f"    {each}" for each in differences)]
    different = bool(lines)
    lines += [f"! {key} changed: restart the relay to apply it" for key in result["needs_restart"]]
    if result["gone"]:
        lines.append(f"run-time changes that {'would go' if dry_run else 'went'}, and what brings each back:")
        lines += [f"  {command}" for command in result["gone"].values()]
    rules = counted(result["rules"], "rule")
    nothing = "nothing else" if result["needs_restart"] else "nothing"
    if dry_run:
        lines.append(f"nothing was changed; it would be {rules}" if different else f"{nothing} would change: {rules}")
    else:
        stand = ", ".join(f"{number} {state}" for state, number in result["states"].items())
        lines.append(f"{'reloaded' if different else f'{nothing} changed'}: {rules}{': ' if stand else ''}{stand}")
    click.echo("\n".join(lines))


def _stand(*results: dict[str, Any]) -> None:
    """Print the state of each changed rule; of several, what is so of all stands once, at the end."""
    one = len(results) == 1
    for result in results:
        for warning in result["warnings"]:
            say(f"warning: {as_typed(warning)}")
        reason = f": {result['reason']}" if result["reason"] else ""
        kept = f" ({NOT_SAVED})" if one and result["origin"] == "runtime" else ""
        answer(f"{result['rule']}: {result['state']}{reason}{kept}")
    if not one:
        answer(f"added {counted(len(results), 'rule')}, {NOT_SAVED.replace('writes it', 'writes them')}")
