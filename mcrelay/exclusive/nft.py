"""The one `nft -i` that holds the drop table. It owns the table, which ends with it in every case."""

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
    """A running nft. Its standard input closes when this process ends, even by kill -9, and that ends nft too.

    ``ended`` is called when nft ends by itself. Main thread: a child has the capabilities of the thread that starts it.
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
                    start_new_session=True,  # Ctrl-C is for the relay, which ends nft after it has let the streams go
                    env={
                        "LC_ALL": "C"
                    },  # in English, because its words are parsed; without the libraries of the one-file executable
                )
        except OSError as error:
            raise DropError(f"nft cannot be started: {error.strerror}") from error
        return cls(process, ended)

    @property
    def alive(self) -> bool:
        """Whether nft runs, and so the table exists."""
        return self._process.returncode is None

    async def run(self, line: str) -> None:
        """Run one command, all or nothing. Returns when the kernel has applied it. Raises DropError with nft's words.

        nft is silent on success, so an invalid command is appended: its error marks the end of the reply.
        """
        mark = f"mcrelay-mark-{next(self._marks)}"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                complaint = await self._ask(line, mark)
        except TimeoutError:
            await self.close()  # nft must not do it later
            raise DropError(f"nft gave no answer within {ANSWER_SECONDS:.0f} s") from None
        if complaint:
            raise DropError(explain(complaint))

    async def _ask(self, line: str, mark: str) -> str:
        stdin, stderr = self._process.stdin, self._process.stderr
        if stdin is None or stderr is None:
            raise DropError("nft has no pipes")
        with contextlib.suppress(ConnectionError):  # it has ended; its last words are still to be read
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
    """The first complaint of nft; the command and a caret follow it."""
    return said.partition("Error:")[2].strip().partition("\n")[0].strip()


def explain(complaint: str) -> str:
    """The meaning of nft's complaint for a person, with its own words."""
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
