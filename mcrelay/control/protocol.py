"""What is said over a control socket: a request, its reply, and the commands that answer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mcrelay.errors import Complaint, ConfigError, McrelayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A client's request."""

    command: str
    arguments: dict[str, Any] = {}


class Reply(msgspec.Struct, omit_defaults=True):
    """The reply: ``result`` if ``ok``, else ``error`` and its exit code.

    If a configuration was refused, ``complaints`` holds the lines of ``error`` in parts.
    """

    ok: bool
    result: Any = None
    error: str = ""
    exit_code: int = 0
    complaints: list[Complaint] = []


class Peer(msgspec.Struct, frozen=True):
    """The client's process: SO_PEERCRED of unix(7)."""

    pid: int
    uid: int


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of a command that takes none."""


@dataclass(frozen=True, slots=True)
class Command:
    """The handler of a command: called with the client's process, and with the arguments as that type."""

    handler: Callable[[Peer, Any], Awaitable[Any]]
    arguments: type[msgspec.Struct] = Nothing


class Commands:
    """What can be asked. ``reads`` and ``changes`` map a command to its handler; *path* is where changes are taken."""

    def __init__(self, path: Path, reads: Mapping[str, Command], changes: Mapping[str, Command]) -> None:
        self._path = path
        self._reads = reads
        self._changes = changes

    async def reply(self, line: bytes, peer: Peer, *, changes: bool) -> Reply:
        """Answer a request; *changes*: whether it came where changes are taken. What a handler raises is a reply."""
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.MsgspecError as error:
            return Reply(ok=False, error=f"not a request: {error}", exit_code=2)
        command = self._reads.get(request.command)
        if command is None and request.command in self._changes:
            if not changes:
                return Reply(
                    ok=False, error=f"{request.command} needs {self._path}: this socket only reads", exit_code=1
                )
            command = self._changes[request.command]
        if command is None:
            return Reply(ok=False, error=f"{request.command!r} is not known to the running relay", exit_code=2)
        try:
            arguments = msgspec.convert(request.arguments, command.arguments)
        except msgspec.ValidationError as error:
            return Reply(ok=False, error=f"{request.command}: {error}", exit_code=2)
        try:
            return Reply(ok=True, result=await command.handler(peer, arguments))
        except ConfigError as error:
            return Reply(ok=False, error=str(error), exit_code=error.exit_code, complaints=list(error.complaints))
        except McrelayError as error:
            return Reply(ok=False, error=str(error), exit_code=error.exit_code)
        except OSError as error:
            return Reply(ok=False, error=f"{request.command}: {error.strerror or error}", exit_code=1)
