"""Which relays run on this host, found by their control sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from mcrelay.config.overlaps import meet
from mcrelay.control.client import ask, read_only_path
from mcrelay.errors import McrelayError
from mcrelay.model.instance import RUN
from mcrelay.model.notation import parse_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay.model.rule import Rule

ANSWER_SECONDS = 1.0


def command_folder() -> Path:
    """The folder for control sockets of this user's `mcrelay relay` commands, each named by its pid."""
    if os.geteuid() == 0:
        return Path(RUN, "mcrelay-relay")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/mcrelay-{os.getuid()}", "mcrelay-relay")  # noqa: S108


def relay_commands() -> list[str]:
    """Control sockets of running `mcrelay relay` commands."""
    folders = dict.fromkeys([Path(RUN, "mcrelay-relay"), command_folder()])
    return [str(path) for folder in folders for path in _sockets(folder) if _listener(path) is not None]


def sweep(folder: Path) -> None:
    """Remove the sockets that killed commands have left in that folder."""
    with contextlib.suppress(OSError):
        for path in folder.glob("*.sock*"):
            pid = path.name.partition(".")[0].removesuffix("-ro")
            if pid.isdigit() and not Path("/proc", pid).exists():
                path.unlink(missing_ok=True)


def same_input(wanted: Rule) -> list[str]:
    """Say which relays of this network namespace already have an input of that rule: receivers would get all twice."""
    said = []
    for path in (path for folder in _folders() for path in _sockets(folder)):
        pid = _listener(path)
        if pid is None or pid == os.getpid() or _namespace(pid) != _namespace("self"):
            continue
        try:
            rules = ask(str(path), "show", read_only=True, noun="rules")
        except McrelayError:
            continue
        for rule in rules:
            ends = [(each["iif"], parse_stream(each["from"])) for each in rule["inputs"]]
            shared = any(
                link == each.stream.link and meet(stream, each.stream)
                for link, stream in ends
                for each in wanted.inputs
            )
            if shared and rule["state"] != "disabled":
                said.append(
                    f"rule {rule['name']} of another mcrelay (pid {pid}, --socket {path}) has this input too: "
                    f"receivers get twice what both send; end one of them"
                )
    return said


def _folders() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(Path(RUN).glob("mcrelay*"))
    if os.geteuid() != 0:
        yield command_folder()


def _sockets(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.glob("*.sock") if not path.stem.endswith("-ro"))
    except OSError:
        return []


def _listener(path: Path) -> int | None:
    """The pid that listens there; None if nobody does, or if we may not connect."""
    for each in (path, read_only_path(path)):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ANSWER_SECONDS)
            sock.connect(str(each))
            return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    return None


def _namespace(pid: int | str) -> str:
    """The network namespace of a process; ours if it cannot be read."""
    for each in (pid, "self"):
        with contextlib.suppress(OSError):
            return str(Path(f"/proc/{each}/ns/net").readlink())
    return ""
