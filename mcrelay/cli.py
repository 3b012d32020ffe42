"""The `mcrelay` command: imports only the subcommand asked for; errors become one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys

import click

from mcrelay.errors import ConfigError, McrelayError

# name: (module, what --help says); modules are imported when their command is used
COMMANDS = {
    "run": ("run", "Run the relay in the foreground: the daemon."),
    "relay": ("relay", "Relay one stream until Ctrl-C, without any file."),
    "check": ("check", "Check a configuration and say everything that is wrong with it."),
    "show": ("show", "Show what the running relay does."),
    "add": ("rules", "Add a rule to the running relay."),
    "replace": ("rules", "Replace a running rule."),
    "delete": ("rules", "Delete a rule of the running relay."),
    "enable": ("rules", "Enable a rule."),
    "disable": ("rules", "Disable a rule, and keep it."),
    "reload": ("rules", "Reload the configuration files."),
    "save": ("save", "Save run-time rules to a file."),
    "send": ("send", "Send test traffic."),
    "recv": ("recv", "Receive test traffic and say what was lost."),
    "demo": ("demo", "See it work: a sender, the relay and a receiver in namespaces of their own."),
    "version": ("version", "Show version, build and the kernel features found."),
}


class Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mcrelay.commands.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExample:\n  mcrelay relay 239.1.1.1:5000%eth1 239.10.0.1:5004%eth0",
)
def cli() -> None:
    """Relay UDP multicast that a router refuses to forward, from links where it arrives to where it is wanted."""


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 it failed, 2 used wrongly or bad configuration."""
    try:
        code = cli.main(standalone_mode=False)
    except ConfigError as error:
        for complaint in error.complaints:
            print(f"warning: {complaint}" if complaint.warning else complaint, file=sys.stderr)  # noqa: T201
        code = error.exit_code
    except McrelayError as error:
        print(f"mcrelay: {error}", file=sys.stderr)  # noqa: T201
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = 2 if isinstance(error, click.UsageError) else 1
    except (click.Abort, KeyboardInterrupt):
        code = 1
    except BrokenPipeError:  # `mcrelay show | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
