"""Which relays run on this host, found by their control sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from mcrelay.control.client import ask, read_only_path
from mcrelay.errors import McrelayError
from mcrelay.model.instance import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay.model.rule import Rule

ANSWER_SECONDS = 1.0


def command_folder() -> Path:
    """Where `mcrelay relay` commands of this user have their control sockets, each called by its pid."""
    if os.geteuid() == 0:
        return Path(RUN, "mcrelay-relay")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/mcrelay-{os.getuid()}", "mcrelay-relay")  # noqa: S108


def relay_commands() -> list[str]:
    """Control sockets of `mcrelay relay` commands that run."""
    folders = dict.fromkeys([Path(RUN, "mcrelay-relay"), command_folder()])
    return [str(path) for folder in folders for path in _sockets(folder) if _listener(path) is not None]


def sweep(folder: Path) -> None:
    """Remove what commands that were killed have left in that folder."""
    with contextlib.suppress(OSError):
        for path in folder.glob("*.sock*"):
            pid = path.name.partition(".")[0].removesuffix("-ro")
            if pid.isdigit() and not Path("/proc", pid).exists():
                path.unlink(missing_ok=True)


def same_input(wanted: Rule) -> list[str]:
    """Say which relays of this network namespace have an input of that rule already: two send everything twice."""
    streams = {(each.stream.link, str(each.stream.address), each.stream.port) for each in wanted.inputs}
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
            ends = {(each["iif"], each["group"], each["port"]) for each in rule["inputs"]}
            if streams & ends and rule["state"] != "disabled":
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
    """The process that listens there; None if nobody does, or does not let us ask."""
    for each in (path, read_only_path(path)):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ANSWER_SECONDS)
            sock.connect(str(each))
            return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    return None


def _namespace(pid: int | str) -> str:
    """The network namespace of a process; where that is not to be seen, ours."""
    for each in (pid, "self"):
        with contextlib.suppress(OSError):
            return str(Path(f"/proc/{each}/ns/net").readlink())
    return ""
