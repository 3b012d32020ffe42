"""Calls that may never return (a file on a dead server, a name service), made where nothing waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

from mcrelay.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def aside(what: str, function: Callable[[], T], seconds: float) -> T:
    """Call *function* on a thread of its own. Returns its result and raises its exception.

    After *seconds* it raises OperationError with *what* in it, and leaves the thread to itself. The thread is a
    daemon, so that not even the end of the process waits for it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: None if done.done() else outcome())

    def work() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  the waiting caller gets it
            failure = error
            settle(lambda: done.set_exception(failure))
        else:
            settle(lambda: done.set_result(result))

    try:
        threading.Thread(target=work, name=what, daemon=True).start()
    except RuntimeError as error:
        raise OperationError(f"{what}: {error}; raise the limit of processes (ulimit -u, LimitNPROC)") from None
    try:
        return await asyncio.wait_for(done, seconds)
    except TimeoutError:
        raise OperationError(f"{what} did not end within {seconds:g} s; nothing was changed") from None
