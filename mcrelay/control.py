"""The control sockets: JSON lines, one request and one reply a line, on two Unix sockets.

``mcrelay.sock`` (0660) takes everything; ``mcrelay-ro.sock`` beside it answers reads only. Each client is a task of its
own: one that says nothing, or says too much, costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, Any

import msgspec

from .client import read_only_path
from .errors import ControlError, McrelayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

log = logging.getLogger(__name__)

LINE_BYTES = 1 << 20  # longest request; a reply may be longer
CLIENTS = 64  # at once, on both sockets together


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks."""

    command: str
    arguments: dict[str, Any] = {}


class Reply(msgspec.Struct, omit_defaults=True):
    """What it is told: ``result`` when ``ok``, else ``error`` and the exit code that fits it."""

    ok: bool
    result: Any = None
    error: str = ""
    exit_code: int = 0


class Peer(msgspec.Struct, frozen=True):
    """Who asks: SO_PEERCRED of unix(7)."""

    pid: int
    uid: int


class ControlServer:
    """Both sockets. ``reads`` and ``changes`` map a command to what answers it."""

    def __init__(
        self,
        path: Path,
        reads: dict[str, Callable[..., Awaitable[Any]]],
        changes: dict[str, Callable[..., Awaitable[Any]]],
    ) -> None:
        self._path = path
        self._reads = reads
        self._changes = changes
        self._lock_fd = -1
        self._servers: list[asyncio.Server] = []
        self._made: list[Path] = []
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take the path over from a dead relay, never from a living one. Raises ControlError when one lives."""
        self._claim()
        try:
            for path, changes in ((self._path, True), (read_only_path(self._path), False)):
                listener = _listen(path)
                self._made.append(path)
                self._servers.append(
                    await asyncio.start_unix_server(self._client(changes), sock=listener, limit=LINE_BYTES)
                )
        except OSError as error:
            await self.close()
            raise ControlError(
                f"no control socket at {self._path}: {error.strerror or error}; name another with --socket"
            ) from error

    async def close(self) -> None:
        """Hang up on everybody and remove the sockets."""
        for server in self._servers:
            server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._lock_fd >= 0:
            for path in (*self._made, self._lock_path):
                path.unlink(missing_ok=True)
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def _lock_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.lock")

    def _claim(self) -> None:
        """Hold the lock file for as long as we live: two daemons that start at once cannot both have it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(fd)
                    raise ControlError(
                        f"another mcrelay is running at {self._path}; stop it, or name another socket with --socket"
                    ) from None
                with contextlib.suppress(FileNotFoundError):
                    if os.fstat(fd).st_ino == self._lock_path.stat().st_ino:
                        self._lock_fd = fd
                        return
                os.close(fd)  # its last holder removed it meanwhile
        except OSError as error:
            raise ControlError(
                f"cannot make {self._lock_path}: {error.strerror}; run as root, or name another socket with --socket"
            ) from error

    def _client(self, changes: bool) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is None or len(self._clients) >= CLIENTS:
                writer.close()
                return
            self._clients.add(task)
            try:
                await self._converse(reader, writer, changes=changes)
            except (ConnectionError, asyncio.CancelledError):
                pass  # it hung up, or we do
            finally:
                self._clients.discard(task)
                writer.close()

        return serve

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, changes: bool) -> None:
        peer = _peer_of(writer)
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than LINE_BYTES
                await _answer(writer, Reply(ok=False, error=f"a request has at most {LINE_BYTES} bytes", exit_code=2))
                return
            if not line:
                return
            await _answer(writer, await self._reply(line, peer, changes=changes))

    async def _reply(self, line: bytes, peer: Peer, *, changes: bool) -> Reply:
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.MsgspecError as error:
            return Reply(ok=False, error=f"not a request: {error}", exit_code=2)
        handler = self._reads.get(request.command)
        if handler is None and request.command in self._changes:
            if not changes:
                return Reply(
                    ok=False, error=f"{request.command} needs {self._path}: this socket only reads", exit_code=1
                )
            handler = self._changes[request.command]
            log.info("command=%s uid=%d pid=%d", request.command, peer.uid, peer.pid)
        if handler is None:
            return Reply(ok=False, error=f"{request.command!r} is not known to the running relay", exit_code=2)
        try:
            return Reply(ok=True, result=await handler(**request.arguments))
        except McrelayError as error:
            return Reply(ok=False, error=str(error), exit_code=error.exit_code)
        except TypeError as error:
            return Reply(ok=False, error=f"{request.command}: {error}", exit_code=2)


def _listen(path: Path) -> socket.socket:
    """A listening socket at ``path`` with mode 0660 from its first moment; a stale one is replaced, nothing else is."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, f"{path} exists and is not a socket")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _peer_of(writer: asyncio.StreamWriter) -> Peer:
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", credentials)
    return Peer(pid, uid)


async def _answer(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(msgspec.json.encode(reply) + b"\n")
    await writer.drain()
