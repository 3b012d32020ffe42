"""The `mcrelay` command: imports only the subcommand asked for; errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import signal
import sys
from pathlib import Path

import click

from mcrelay import __version__
from mcrelay.commands.options import as_typed, finish
from mcrelay.commands.table import say  # now: a relay that has changed its user may not be able to read it later
from mcrelay.errors import COMMAND_LINE, ConfigError, McrelayError

# name: (module, what --help says); modules are imported when their command is used
COMMANDS = {
    "run": ("run", "Run the relay in the foreground: the daemon."),
    "relay": ("relay", "Relay one stream until Ctrl-C, without any file."),
    "check": ("check", "Check a configuration and say everything that is wrong with it."),
    "show": ("show", "Show what the running relay does."),
    "top": ("top", "Watch the running relay: rates, losses and the last minute."),
    "add": ("rules", "Add a rule to the running relay."),
    "replace": ("rules", "Replace a running rule."),
    "delete": ("rules", "Delete a rule of the running relay."),
    "enable": ("rules", "Enable a rule."),
    "disable": ("rules", "Disable a rule, and keep it."),
    "reload": ("rules", "Reload the configuration files."),
    "save": ("save", "Save run-time rules to a file."),
    "send": ("send", "Send test traffic."),
    "recv": ("recv", "Receive test traffic and say what was lost."),
    "doctor": ("doctor", "Say which stage of a stream's way is broken, and what mends it."),
    "explain": ("explain", "Say what the running relay would do with a packet, and why."),
    "discover": ("discover", "List the multicast flows on a link, and a rule for each."),
    "capture": ("capture", "Write what a rule or a link carries, as pcapng."),
    "demo": ("demo", "See it work: a sender, the relay and a receiver in namespaces of their own."),
    "version": ("version", "Show version, build and the kernel features found."),
    "help": ("help", "Show how a command is used."),
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
        return finish(command) if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1) or [n for n in COMMANDS if n.startswith(args[0])]
            hint = f"did you mean {near[0]}?" if near else "`mcrelay help` lists them"
            ctx.fail(f"no command is called {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExample:\n  mcrelay relay 239.1.1.1:5000%eth1 239.10.0.1:5004%eth0\n\n"
    "Exit codes: 0 done, 1 it failed (or Ctrl-C ended it), 2 used wrongly or a bad configuration. "
    "Ctrl-C is the usual end of run, relay, top, send and recv: they end as their work did.",
)
@click.version_option(__version__, "-V", "--version", message="mcrelay %(version)s")
def cli() -> None:
    """Relay UDP multicast that a router refuses to forward, from links where it arrives to where it is wanted."""


def main() -> None:
    """Run the command, and exit: 0 done, 1 it failed or Ctrl-C ended it, 2 used wrongly or bad configuration."""
    code, interrupted = 1, False
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = _end_if_interrupted
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # what the locale has no letter for
        code = _run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code, interrupted = 1, True
    except BrokenPipeError:  # `mcrelay show | head`: nobody reads on
        code = 1
    except OSError as error:  # each command says what its own work needs: this is what it prints
        code = 1
        _say(f"mcrelay: cannot print: {error.strerror or error}")
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to be interrupted
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # Python would try again at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if interrupted:  # if the signal came while a dataclass was made, Python ends itself by SIGINT later
        os._exit(code)
    sys.exit(code)


def _end_if_interrupted(unraisable: sys.UnraisableHookArgs) -> None:
    """End at once where Ctrl-C came inside a callback of Python's own (an import's lock), which would swallow it."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        os._exit(1)
    sys.__unraisablehook__(unraisable)


def _run() -> int:
    """Run the command that argv names, print what went wrong, and return the exit code."""
    try:
        code = cli.main(prog_name="mcrelay", standalone_mode=False)
    except SystemExit as end:
        code = end.code
    except ConfigError as error:
        for complaint in error.complaints:
            beginning = "warning: " if complaint.warning else "mcrelay: " if complaint.file == COMMAND_LINE else ""
            _say(f"{beginning}{as_typed(str(complaint))}")
        return error.exit_code
    except McrelayError as error:
        _say(f"mcrelay: {error}")
        return error.exit_code
    except click.ClickException as error:
        return _used_wrongly(error)
    except click.Abort:  # what click makes of Ctrl-C
        raise KeyboardInterrupt from None
    except OSError as error:
        if error.filename is None:
            raise
        _say(f"mcrelay: {error.filename}: {error.strerror}")
        return 1
    except Exception as error:  # noqa: BLE001  a traceback helps nobody at the terminal
        steps, at = [], error.__traceback__
        while at is not None:  # not by the traceback module, which reads files that may be gone by now
            steps.append(f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}")
            at = at.tb_next
        what = f"{type(error).__name__}: {error} ({' > '.join(steps[-4:])})"
        _say(f"mcrelay: a fault of mcrelay's own, please report it: {what}")
        return 1
    return code if isinstance(code, int) else 0


def _used_wrongly(error: click.ClickException) -> int:
    """Say what is wrong with the words given, and how the command is used. Returns the exit code."""
    if not isinstance(error, click.UsageError):
        _say(f"mcrelay: {error.format_message()}")
        return 1
    if not sys.argv[1:]:
        _say(error.format_message())  # all of --help
        return 2
    _say(f"mcrelay: {error.format_message()}")
    if error.ctx is not None:
        _say(f"{error.ctx.get_usage()}\n`{error.ctx.command_path} --help` says more")
    return 2


def _say(text: str) -> None:
    """Print on stderr, if it can be."""
    with contextlib.suppress(OSError):
        say(text)
