"""The one `nft -i` that holds the drop table: the table is its own, and goes with it however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from typing import TYPE_CHECKING

from mcrelay.errors import DropError
from mcrelay.linux import capabilities
from mcrelay.linux.programs import search_path

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_SECONDS = 5.0  # 10 000 keys take 0.2 s
END_SECONDS = 1.0


def find_nft() -> str | None:
    """Where nft is."""
    return shutil.which("nft", path=search_path())


class NftSession:
    """A running nft. Its standard input ends when this process does, and so it does too, even after kill -9.

    ``ended`` is called when it ends by itself. Main thread: a child has the capabilities of the thread that starts it.
    """

    def __init__(self, process: asyncio.subprocess.Process, ended: Callable[[], None]) -> None:
        self._process = process
        self._marks = itertools.count(1)
        self._said = b""
        self._watch = asyncio.create_task(self._until_its_end(ended))

    @classmethod
    async def start(cls, path: str, ended: Callable[[], None]) -> NftSession:
        """Start it. Raises DropError."""
        try:
            with capabilities.lent(capabilities.CAP_NET_ADMIN):
                process = await asyncio.create_subprocess_exec(
                    path,
                    "-i",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C means the relay; it ends nft when it has let the streams go
                    env={
                        "LC_ALL": "C"
                    },  # its words are read; and the libraries of a one-file executable are not its own
                )
        except OSError as error:
            raise DropError(f"nft cannot be started: {error.strerror}") from error
        return cls(process, ended)

    @property
    def alive(self) -> bool:
        """Whether it runs, and the table with it."""
        return self._process.returncode is None

    async def run(self, line: str) -> None:
        """Let it do this, all or nothing; returns when the kernel goes by it. Raises DropError with what nft said.

        nft is silent on success, so an invalid command is appended: its error marks the end of the reply.
        """
        mark = f"mcrelay-mark-{next(self._marks)}"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                complaint = await self._ask(line, mark)
        except TimeoutError:
            await self.close()  # what it may still do must not be done later
            raise DropError(f"nft gave no answer within {ANSWER_SECONDS:.0f} s") from None
        if complaint:
            raise DropError(explain(complaint))

    async def _ask(self, line: str, mark: str) -> str:
        stdin, stderr = self._process.stdin, self._process.stderr
        if stdin is None or stderr is None:
            raise DropError("nft has no pipes")
        with contextlib.suppress(ConnectionError):  # it has ended; what it said is still to be read
            stdin.write(f"{line}\n{mark}\n".encode())
            await stdin.drain()
        while mark.encode() not in self._said:
            more = await stderr.read(1 << 16)
            if not more:
                said = _first_line(self._said.decode(errors="replace"))
                raise DropError(explain(said) if said else "nft has ended, and did not say why")
            self._said += more
        before, _, self._said = self._said.partition(mark.encode())
        return _first_line(before.decode(errors="replace").rpartition("Error:")[0])

    async def close(self) -> None:
        """End it; the table is gone when this returns."""
        self._watch.cancel()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), END_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _until_its_end(self, ended: Callable[[], None]) -> None:
        await self._process.wait()
        ended()


def _first_line(said: str) -> str:
    """The first complaint of nft: under it stand the command and a caret."""
    return said.partition("Error:")[2].strip().partition("\n")[0].strip()


def explain(complaint: str) -> str:
    """What nft's complaint means for a person, with its own words."""
    meaning = "nft refuses the drop table"
    if "syntax error" in complaint or "unknown table option" in complaint:
        meaning = "this nft knows no tables with an owner: nftables 0.9.9 or newer is needed"
    elif "Operation not permitted" in complaint:
        meaning = "the table belongs to another process, or CAP_NET_ADMIN is missing"
    elif "not supported" in complaint or "Invalid argument" in complaint:
        meaning = (
            "this kernel knows no tables with an owner (Linux 5.12), or has no ingress hook (CONFIG_NETFILTER_INGRESS)"
        )
    return f"{meaning} (nft: {complaint})"
