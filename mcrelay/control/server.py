"""The control sockets: JSON lines, one request and one reply a line, on two Unix sockets.

``mcrelay.sock`` (0660) takes every request; ``mcrelay-ro.sock`` beside it answers only reads. Each client has its own
task: a client that sends nothing, or too much, does not delay others. If there are too many clients, the one that has
kept us waiting longest is closed. Each socket has its own limit, so that readers never lock out a change.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from mcrelay.control.protocol import Commands, Peer, Reply
from mcrelay.control.sockets import SocketFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from mcrelay.control.protocol import Command
    from mcrelay.linux.capabilities import Account

Serve: TypeAlias = "Callable[[socket.socket], Coroutine[Any, Any, None]]"  # serves a client until it or we hang up

log = logging.getLogger(__name__)

LINE_BYTES = 1 << 20  # longest request; a reply may be longer
CLIENTS = 64  # at once, on each socket
WAITING = 256  # clients that wait for room
BACKLOG = 100  # connections that have not been let in yet
ACCEPT_AGAIN_SECONDS = 1.0
GRACE_SECONDS = 0.2  # younger clients are never evicted
PATIENCE_SECONDS = 2.0  # a client that was not admitted by then is refused


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
        """Wait until there is room for one more; the longest idle client makes it. Returns False if there is none."""
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
        since = time.monotonic() - GRACE_SECONDS  # a client that has just come is about to send its request
        idle = [(client.idle_since, client) for client in self.clients if client.idle_since is not None]
        when, client = min(idle, key=lambda each: each[0], default=(since, None))
        if client is None or when > since:
            return False
        self.clients.discard(client)
        client.writer.transport.abort()  # its unread replies are lost
        return True


class ControlServer:
    """Both sockets. ``reads`` and ``changes`` map a command to its handler."""

    def __init__(self, path: Path, reads: Mapping[str, Command], changes: Mapping[str, Command]) -> None:
        self._files = SocketFiles(path)
        self._commands = Commands(path, reads, changes)
        self._listeners: list[tuple[socket.socket, bool]] = []  # bound, not served yet; whether changes are let in
        self._open: list[socket.socket] = []  # served
        self._tasks: set[asyncio.Task[None]] = set()  # one a client
        self._rooms = {True: _Room(), False: _Room()}  # by whether changes are allowed

    def bind(self, owner: Account | None = None) -> None:
        """Take the path, for *owner* from now on (`control/sockets`). Raises ControlError if a relay lives there."""
        self._listeners = self._files.bind(owner)

    async def start(self) -> None:
        """Answer from now on. Calls ``bind`` if that was not done, and raises ControlError as it does."""
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
        """Accept waiting clients. Without descriptors, pause a little: asyncio of 3.11 would try 100 times at once."""
        loop = asyncio.get_running_loop()
        try:
            client, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("keeps clients waiting: %s; raise LimitNOFILE (ulimit -n)", error.strerror)
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
        """Remove the sockets, also if nothing was served."""
        for listener, _ in self._listeners:
            listener.close()
        self._listeners.clear()
        self._files.remove()

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
            reply = await self._commands.reply(line, peer, changes=changes)
            client.idle_since = time.monotonic()
            await _answer(client.writer, reply)


def _peer_of(writer: asyncio.StreamWriter) -> Peer:
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", credentials)
    return Peer(pid, uid)


async def _answer(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(msgspec.json.encode(reply) + b"\n")
    await writer.drain()
