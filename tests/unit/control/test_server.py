"""The control sockets, with handlers of our own: nobody can stall, crash or bypass them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import time

import msgspec
import pytest

from mcrelay.control.client import RefusedError, ask
from mcrelay.control.protocol import Command, Peer
from mcrelay.control.server import CLIENTS, LINE_BYTES, ControlServer
from mcrelay.errors import Complaint, ConfigError, ControlError, UsageError


class Noun(msgspec.Struct, forbid_unknown_fields=True):
    noun: str = "rules"


class Name(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class Handlers:
    """A relay that remembers what it was asked, and by whom."""

    def __init__(self):
        self.added = []

    async def show(self, _peer, arguments):
        return {"noun": arguments.noun}

    async def slow(self, _peer, _arguments):
        await asyncio.sleep(30)

    async def large(self, _peer, _arguments):
        return "x" * (8 << 20)

    async def add(self, peer, arguments):
        self.added.append((arguments.name, peer))

    async def fail(self, _peer, _arguments):
        raise UsageError("that is wrong; this would be right")

    async def refuse(self, _peer, _arguments):
        raise ConfigError([COMPLAINT, COMPLAINT])

    def server(self, path):
        reads = {"show": Command(self.show, Noun), "slow": Command(self.slow), "large": Command(self.large)}
        changes = {"add": Command(self.add, Name), "fail": Command(self.fail), "refuse": Command(self.refuse)}
        return ControlServer(path, reads, changes)


@contextlib.asynccontextmanager
async def serving(path):
    handlers = Handlers()
    server = handlers.server(path)
    await server.start()
    try:
        yield handlers
    finally:
        await server.close()


def run(test, seconds=20):
    asyncio.run(asyncio.wait_for(test(), seconds))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "mcrelay.sock"


def read_only(path):
    return path.with_name("mcrelay-ro.sock")


class Client:
    """One connection."""

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, path):
        made = cls()
        made.reader, made.writer = await asyncio.open_unix_connection(str(path), limit=16 << 20)
        try:
            yield made
        finally:
            made.writer.close()
            with contextlib.suppress(ConnectionError):
                await made.writer.wait_closed()

    async def send(self, line):
        self.writer.write(line)
        await self.writer.drain()

    async def reply(self):
        line = await asyncio.wait_for(self.reader.readline(), 5)
        return json.loads(line) if line else None

    async def hung_up(self):
        try:
            return await asyncio.wait_for(self.reader.read(), 5) == b""
        except ConnectionError:
            return True

    async def ask(self, command, **arguments):
        await self.send(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
        return await self.reply()


COMPLAINT = Complaint("a.toml", 3, "rules.x.ttl", "300 is too much", "write 1-255")
ME = Peer(os.getpid(), os.getuid())
SHOWN = {"ok": True, "result": {"noun": "rules"}}


async def answers_quickly(path):
    begin = time.monotonic()
    async with Client.of(path) as client:
        assert await client.ask("show") == SHOWN
    return time.monotonic() - begin < 0.5


def test_the_client_gets_what_the_handler_says(path):
    async def test():
        async with serving(path) as handlers:
            assert await asyncio.to_thread(ask, str(path), "show", noun="links") == {"noun": "links"}
            assert await asyncio.to_thread(ask, str(path), "add", name="x") is None
            assert handlers.added == [("x", ME)]
            with pytest.raises(RefusedError, match="this would be right") as refused:
                await asyncio.to_thread(ask, str(path), "fail")
            assert refused.value.exit_code == 2
            with pytest.raises(ConfigError) as complained:
                await asyncio.to_thread(ask, str(path), "refuse")
            assert complained.value.complaints == (COMPLAINT, COMPLAINT)

    run(test)


def test_the_client_says_so_when_no_relay_runs(path):
    with pytest.raises(ControlError, match=r"no relay is running at .* start one with `mcrelay run`"):
        ask(str(path), "show", read_only=True)


def test_one_connection_may_ask_many_times(path):
    async def test():
        async with serving(path), Client.of(path) as client:
            for _ in range(100):
                assert await client.ask("show") == SHOWN
            await client.send(b'{"command":"show"}\n' * 3)  # without waiting
            assert [await client.reply() for _ in range(3)] == [SHOWN] * 3

    run(test)


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"hello\n", b"\xff\xfe\x00\n", b"{}\n", b"[]\n", b"null\n", b'{"command":5}\n', b'{"command":"show"\n',
        b'{"command":"show","arguments":[]}\n', b'{"command":"show","extra":1}\n', b'{"command":"reboot"}\n',
        b'{"command":"__init__"}\n', b'{"command":"show","arguments":{"nonsense":1}}\n', b"[" * 100000 + b"\n",
    ],
)  # fmt: skip
def test_a_line_that_makes_no_sense_is_refused_as_wrong_use_and_the_connection_goes_on(path, line):
    async def test():
        async with serving(path) as handlers, Client.of(path) as client:
            await client.send(line)
            reply = await client.reply()
            assert (reply["ok"], reply["exit_code"]) == (False, 2)
            assert reply["error"]
            assert await client.ask("show") == SHOWN
            assert handlers.added == []

    run(test)


def test_the_read_only_socket_reads_and_refuses_changes(path):
    async def test():
        async with serving(path) as handlers, Client.of(read_only(path)) as client:
            assert await client.ask("show") == SHOWN
            reply = await client.ask("add", name="x")
            assert (reply["ok"], reply["exit_code"]) == (False, 1)
            assert "this socket only reads" in reply["error"]
            assert str(path) in reply["error"]
            assert handlers.added == []

    run(test)


# Clients that misbehave


def test_clients_that_say_nothing_or_half_a_line_stall_nobody(path):
    async def test():
        async with serving(path), contextlib.AsyncExitStack() as idle:
            for i in range(20):
                client = await idle.enter_async_context(Client.of(path))
                if i % 2:
                    await client.send(b'{"command":"sh')
            assert await answers_quickly(path)

    run(test)


def test_a_client_whose_answer_takes_long_stalls_nobody(path):
    async def test():
        async with serving(path), Client.of(path) as waiting:
            await waiting.send(b'{"command":"slow"}\n')
            assert await answers_quickly(path)

    run(test)


def test_clients_that_never_read_their_answers_stall_nobody(path):
    async def test():
        async with serving(path):
            deaf = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(5)]
            for each in deaf:
                each.connect(str(path))
                each.sendall(b'{"command":"large"}\n')
            await asyncio.sleep(0.2)
            assert await answers_quickly(path)
            for each in deaf:
                each.close()

    run(test)


def test_a_client_that_hangs_up_amid_everything_harms_nobody(path):
    async def test():
        async with serving(path) as handlers:
            for line in (b"", b'{"comm', b'{"command":"large"}\n', b'{"command":"slow"}\n'):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as each:
                    each.connect(str(path))
                    each.sendall(line)
            assert await answers_quickly(path)
            assert handlers.added == []

    run(test)


def test_a_line_of_100_mb_is_cut_off_and_stalls_nobody(path):
    sent = 0

    def pour():
        nonlocal sent
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as each:
            each.connect(str(path))
            each.settimeout(10)
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    each.sendall(b"x" * (1 << 20))
                    sent += 1 << 20

    async def test():
        async with serving(path):
            pouring = asyncio.create_task(asyncio.to_thread(pour))
            assert await answers_quickly(path)
            await pouring
            assert sent < 16 * LINE_BYTES
            assert await answers_quickly(path)

    run(test)


def test_a_line_that_is_just_too_long_is_told_so(path):
    async def test():
        async with serving(path), Client.of(path) as client:
            await client.send(b"x" * (LINE_BYTES + 1))
            reply = await client.reply()
            assert reply == {"ok": False, "error": f"a request has at most {LINE_BYTES} bytes", "exit_code": 2}
            assert await client.reply() is None

    run(test)


def test_when_all_places_are_taken_the_one_that_has_been_silent_longest_makes_room(path):
    async def test():
        async with serving(path), contextlib.AsyncExitStack() as held:
            clients = [await held.enter_async_context(Client.of(path)) for _ in range(CLIENTS)]
            for each in clients[1:]:
                assert await each.ask("show") == SHOWN
            assert await answers_quickly(path)
            assert await clients[0].hung_up()
            assert await clients[1].ask("show") == SHOWN
            assert await answers_quickly(path)
            assert [await each.ask("show") for each in clients[1:]] == [SHOWN] * (CLIENTS - 1)

    run(test)


def test_readers_and_changers_do_not_take_each_others_places(path):
    async def test():
        async with serving(path), contextlib.AsyncExitStack() as held:
            for _ in range(CLIENTS):
                reader = await held.enter_async_context(Client.of(read_only(path)))
                await reader.send(b'{"command":"slow"}\n')
            async with Client.of(read_only(path)) as late:
                assert await late.hung_up()
            assert await answers_quickly(path)

    run(test)


def test_seventy_clients_at_once_are_all_served_or_hung_up_on(path):
    async def one():
        try:
            async with Client.of(path) as client:
                return await client.ask("show")
        except ConnectionError:
            return None

    async def test():
        async with serving(path):
            replies = await asyncio.gather(*(one() for _ in range(70)))
            assert set(map(str, replies)) <= {str(SHOWN), "None"}
            assert replies.count(SHOWN) >= CLIENTS
            assert await answers_quickly(path)

    run(test)


# The path


def test_the_sockets_are_for_owner_and_group_whatever_the_umask(path):
    before = os.umask(0)

    async def test():
        async with serving(path):
            for each in (path, read_only(path)):
                mode = each.stat().st_mode
                assert stat.S_ISSOCK(mode)
                assert stat.S_IMODE(mode) == 0o660

    try:
        run(test)
        assert os.umask(0) == 0, "the umask is as it was"
    finally:
        os.umask(before)


def test_nothing_is_left_behind(path):
    async def test():
        async with serving(path):
            assert path.exists()
        assert list(path.parent.iterdir()) == []

    run(test)


def test_a_second_relay_is_refused_and_the_first_goes_on(path):
    async def test():
        async with serving(path):
            with pytest.raises(ControlError, match=r"another mcrelay is running at .*; stop it, or name another"):
                await Handlers().server(path).start()
            assert await answers_quickly(path)
            assert await answers_quickly(read_only(path))
        async with serving(path):
            assert await answers_quickly(path)

    run(test)


def test_of_relays_that_start_at_once_exactly_one_does(path):
    async def test():
        servers = [Handlers().server(path) for _ in range(8)]
        results = await asyncio.gather(*(each.start() for each in servers), return_exceptions=True)
        assert results.count(None) == 1
        assert sum(isinstance(each, ControlError) for each in results) == 7
        assert await answers_quickly(path)
        await servers[results.index(None)].close()

    run(test)


def test_the_socket_of_a_dead_relay_is_taken_over(path):
    path.parent.mkdir()
    for each in (path, read_only(path)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(each))
    path.with_name("mcrelay.sock.lock").touch()

    async def test():
        async with serving(path):
            assert await answers_quickly(path)
            assert await answers_quickly(read_only(path))

    run(test)


@pytest.mark.parametrize("which", ["mcrelay.sock", "mcrelay-ro.sock"])
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_not_a_socket_is_never_deleted(path, which, kind):
    there = path.with_name(which)
    path.parent.mkdir()
    if kind == "file":
        there.write_text("precious")
    elif kind == "directory":
        there.mkdir()
    else:
        there.symlink_to("/etc/hostname")

    async def test():
        with pytest.raises(ControlError, match=rf"{which} exists and is not a socket; name another with --socket"):
            await Handlers().server(path).start()

    run(test)
    assert [each.name for each in path.parent.iterdir()] == [which]
    assert there.is_symlink() if kind == "link" else there.exists()
    if kind == "file":
        assert there.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_a_clear_error(tmp_path):
    async def test():
        with pytest.raises(ControlError, match="path too long; name another with --socket"):
            await Handlers().server(tmp_path / ("x" * 120)).start()

    run(test)
    assert list(tmp_path.iterdir()) == []
