"""The control sockets: JSON lines, one request and one reply a line, on two Unix sockets.

``mcrelay.sock`` (0660) takes everything; ``mcrelay-ro.sock`` beside it answers reads only. Each client is a task of its
own: one that says nothing, or says too much, costs nobody else anything. Where there is room for no more clients, the
one that has kept us waiting longest makes room; each socket has its own room, so that readers never lock a changer out.
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
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from mcrelay.control.client import read_only_path
from mcrelay.errors import Complaint, ConfigError, ControlError, McrelayError
from mcrelay.linux.capabilities import ADMINS, READERS, group_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path

    from mcrelay.linux.capabilities import Account

Serve: TypeAlias = "Callable[[socket.socket], Coroutine[Any, Any, None]]"  # a client, until it or we hang up

log = logging.getLogger(__name__)

LINE_BYTES = 1 << 20  # longest request; a reply may be longer
CLIENTS = 64  # at once, on each socket
WAITING = 256  # for room
BACKLOG = 100  # that have not been let in yet
ACCEPT_AGAIN_SECONDS = 1.0
GRACE_SECONDS = 0.2  # younger clients are never evicted
PATIENCE_SECONDS = 2.0  # a client that was not admitted by then is refused


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks."""

    command: str
    arguments: dict[str, Any] = {}


class Reply(msgspec.Struct, omit_defaults=True):
    """What it is told: ``result`` when ``ok``, else ``error`` and the exit code that fits it.

    Where a configuration was refused, ``complaints`` hold what ``error`` says line by line, in parts.
    """

    ok: bool
    result: Any = None
    error: str = ""
    exit_code: int = 0
    complaints: list[Complaint] = []


class Peer(msgspec.Struct, frozen=True):
    """Who asks: SO_PEERCRED of unix(7)."""

    pid: int
    uid: int


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of a command that takes none."""


@dataclass(frozen=True, slots=True)
class Command:
    """What answers a command: called with who asks, and with the arguments once they are of that type."""

    handler: Callable[[Peer, Any], Awaitable[Any]]
    arguments: type[msgspec.Struct] = Nothing


@dataclass(eq=False, slots=True)
class _Client:
    """One connection; ``idle_since`` is a monotonic time while we wait for it, None while it waits for us."""

    writer: asyncio.StreamWriter
    idle_since: float | None = None


class _Room:
    """The clients of one socket, CLIENTS at most."""

    def __init__(self) -> None:
        self.clients: set[_Client] = set()
        self._waiting = 0
        self._door = asyncio.Lock()  # fair: first come, first served

    async def enter(self, client: _Client) -> bool:
        """Wait until there is room for one more; who has kept us waiting longest makes it. False: there is none."""
        if self._waiting >= WAITING:
            return False
        until = time.monotonic() + PATIENCE_SECONDS
        self._waiting += 1
        try:
            async with self._door:
                while len(self.clients) >= CLIENTS and not self._hang_up_on_the_idlest():
                    if time.monotonic() > until:
                        return False
                    await asyncio.sleep(GRACE_SECONDS / 4)
                client.idle_since = time.monotonic()
                self.clients.add(client)
        finally:
            self._waiting -= 1
        return True

    def _hang_up_on_the_idlest(self) -> bool:
        since = time.monotonic() - GRACE_SECONDS  # who has come just now is about to say something
        idle = [(client.idle_since, client) for client in self.clients if client.idle_since is not None]
        when, client = min(idle, key=lambda each: each[0], default=(since, None))
        if client is None or when > since:
            return False
        self.clients.discard(client)
        client.writer.transport.abort()  # what it has not read by now is thrown away
        return True


def _remedy(error: OSError, folder: Path) -> str:
    """What lets the sockets be made; being root helps only where that is what is missing."""
    another = "or name another socket with --socket"
    sayings = {
        errno.EROFS: f"mount something that can be written there (tmpfs on /run), {another}",
        errno.ENOSPC: f"make room there, {another}",
        errno.EDQUOT: f"make room there, {another}",
        errno.ENOTDIR: f"something on the way to {folder} is no folder: remove it, {another}",
        errno.ELOOP: f"a link on the way to {folder} points at itself: remove it, {another}",
        errno.ENAMETOOLONG: "name a shorter one with --socket",
    }
    if error.errno in {errno.EACCES, errno.EPERM} and os.geteuid():
        return f"run as root, {another}"
    return sayings.get(error.errno or 0, f"see who may write to {folder}, {another}")


class ControlServer:
    """Both sockets. ``reads`` and ``changes`` map a command to what answers it."""

    def __init__(self, path: Path, reads: Mapping[str, Command], changes: Mapping[str, Command]) -> None:
        self._path = path
        self._reads = reads
        self._changes = changes
        self._lock_fd = -1
        self._listeners: list[tuple[socket.socket, bool]] = []  # bound, not served yet; whether changes are let in
        self._open: list[socket.socket] = []  # served
        self._tasks: set[asyncio.Task[None]] = set()  # one a client
        self._made: list[Path] = []
        self._rooms = {True: _Room(), False: _Room()}  # by whether changes are let in

    def bind(self, owner: Account | None = None) -> None:
        """Take the path over from a dead relay, never from a living one. Raises ControlError when one lives.

        A folder that has to be made for the sockets is given to *owner*, who removes them at the end.
        """
        self._claim(owner)
        try:
            for path, changes in ((self._path, True), (read_only_path(self._path), False)):
                self._listeners.append((_listen(path), changes))
                self._made.append(path)
                _share(path, changes=changes)
        except OSError as error:
            self.remove()
            raise ControlError(
                f"no control socket at {self._path}: {error.strerror or error}; name another with --socket"
            ) from error

    async def start(self) -> None:
        """Answer from now on. Raises ControlError as ``bind`` does, if that was not called before."""
        if not self._listeners:
            self.bind()
        while self._listeners:
            listener, changes = self._listeners.pop()
            listener.listen(BACKLOG)
            self._open.append(listener)
            self._watch(listener, self._client(changes))

    def _watch(self, listener: socket.socket, serve: Serve) -> None:
        if listener in self._open:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener, serve)

    def _accept(self, listener: socket.socket, serve: Serve) -> None:
        """Let in who waits; out of descriptors, let them wait a little: asyncio of 3.11 would try 100 times at once."""
        loop = asyncio.get_running_loop()
        try:
            client, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("clients wait: %s; raise LimitNOFILE (ulimit -n)", error.strerror)
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_AGAIN_SECONDS, self._watch, listener, serve)
            return
        client.setblocking(False)
        task = loop.create_task(serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Hang up on everybody and remove the sockets."""
        for listener in self._open:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._open.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.remove()

    def remove(self) -> None:
        """Give the path back; what the folder's owner does not let us remove, the next relay replaces."""
        for listener, _ in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._lock_fd >= 0:
            for path in (*self._made, self._lock_path):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.info("%s stays behind: %s", path, error.strerror)
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def _lock_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.lock")

    def _claim(self, owner: Account | None) -> None:
        """Hold the lock file for as long as we live: two daemons that start at once cannot both have it."""
        try:
            _make_folder(self._path.parent, owner)
            while True:
                fd = _open_lock(self._lock_path)
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
                f"cannot make {self._lock_path}: {error.strerror}; {_remedy(error, self._lock_path.parent)}"
            ) from error

    def _client(self, changes: bool) -> Serve:
        room = self._rooms[changes]

        async def serve(connection: socket.socket) -> None:
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_BYTES)
            client = _Client(writer)
            try:
                if await room.enter(client):
                    await self._converse(reader, client, changes=changes)
            except (ConnectionError, asyncio.CancelledError):
                pass  # it hung up, or we do
            finally:
                room.clients.discard(client)
                writer.close()

        return serve

    async def _converse(self, reader: asyncio.StreamReader, client: _Client, *, changes: bool) -> None:
        peer = _peer_of(client.writer)
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than LINE_BYTES
                reply = Reply(ok=False, error=f"a request has at most {LINE_BYTES} bytes", exit_code=2)
                await _answer(client.writer, reply)
                return
            if not line:
                return
            client.idle_since = None
            reply = await self._reply(line, peer, changes=changes)
            client.idle_since = time.monotonic()
            await _answer(client.writer, reply)

    async def _reply(self, line: bytes, peer: Peer, *, changes: bool) -> Reply:
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


def _make_folder(folder: Path, owner: Account | None) -> None:
    """Make the folder for the sockets; one that is there already stays whose it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)  # whatever the umask: who may use the sockets is said by the sockets
        if owner is not None:
            with contextlib.suppress(OSError):  # a user namespace that does not know the user, who is then not become
                os.chown(folder, owner.uid, owner.gid)


def _open_lock(path: Path) -> int:
    """Open, or else create: with O_CREAT the kernel refuses a file of another user's in /tmp (fs.protected_regular)."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _share(path: Path, *, changes: bool) -> None:
    """Give the socket to the group that may use it, if there is one. Nobody can connect yet: it does not listen."""
    group = group_id(ADMINS if changes else READERS)
    if group is not None:
        with contextlib.suppress(PermissionError):
            os.chown(path, -1, group)
            return
    if changes and os.getegid() == group_id(READERS):
        path.chmod(0o600)  # they may look, not change


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
