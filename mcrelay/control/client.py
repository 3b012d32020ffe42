"""Ask the running relay: one request, one reply, over its Unix socket."""

from __future__ import annotations

import grp
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

from mcrelay.errors import Complaint, ConfigError, ControlError, McrelayError
from mcrelay.model.instance import control_path

TIMEOUT_SECONDS = 5.0


def read_only_path(path: Path) -> Path:
    """The read-only socket that stands beside a control socket."""
    return path.with_name(f"{path.stem}-ro{path.suffix}")


class NotRunningError(ControlError):
    """Nobody listens at that socket."""


class RefusedError(ControlError):
    """The relay refused; carries its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def ask(path: str | None, command: str, *, read_only: bool = False, **arguments: Any) -> Any:
    """Send ``command`` to the relay at ``path`` (default: $MCRELAY_SOCKET, then the usual place).

    A read falls back to the read-only socket beside it. Raises ControlError with the remedy, or ConfigError with the
    relay's complaints.
    """
    main = Path(path or os.environ.get("MCRELAY_SOCKET") or control_path())
    request = json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"
    try:
        reply = json.loads(_exchange([main, read_only_path(main)] if read_only else [main], request))
    except (TimeoutError, BlockingIOError):  # the latter: SO_SNDTIMEO of socket(7) has run out in connect
        done = "" if read_only else "; whether it was done, `mcrelay show` says once it answers"
        raise ControlError(
            f"the relay at {main} has not answered within {TIMEOUT_SECONDS:g} s: it may be stopped or very busy; "
            f"see `systemctl status` and its log{done}"
        ) from None
    except (OSError, ValueError) as error:
        raise ControlError(f"the relay at {main} did not answer: {error}") from error
    if not reply["ok"] and reply.get("complaints"):
        raise ConfigError([Complaint(**each) for each in reply["complaints"]])
    if not reply["ok"]:
        raise RefusedError(reply.get("error", ""), reply.get("exit_code", 1))
    return reply.get("result")


def _exchange(paths: list[Path], request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        patience = struct.pack("@ll", int(TIMEOUT_SECONDS), 0)  # struct timeval
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)  # settimeout() refuses to queue: connect(2)
        _connect(sock, paths)
        sock.settimeout(TIMEOUT_SECONDS)
        sock.sendall(request)
        with sock.makefile("rb") as replies:
            line = replies.readline()
    if not line:
        raise ControlError("the relay hung up; it may be stopping, or serve too many clients")
    return line


def _connect(sock: socket.socket, paths: list[Path]) -> None:
    error: McrelayError | None = None
    for path in paths:
        try:
            sock.connect(str(path))
        except PermissionError:
            error = _not_permitted(path)
        except (FileNotFoundError, ConnectionRefusedError):
            error = error or NotRunningError(
                f"no relay is running at {path}: start one with `mcrelay run` or `systemctl start mcrelay`, "
                f"or say where with -i or --socket"
            )
        else:
            return
    if error is not None:
        raise error


def _not_permitted(path: Path) -> ControlError:
    """Say which group may use the socket, and how to join it."""
    try:
        group = grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        group = "root"
    if group == "root":
        return ControlError(f"no permission to use {path}: run as root")
    user = os.environ.get("USER") or "YOU"
    return ControlError(
        f"no permission to use {path}: only group {group} may, and you are not in it; "
        f"as root: `usermod -aG {group} {user}`, then log in again"
    )
