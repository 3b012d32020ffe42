"""The worker threads: started, pinned, woken, watched and ended together. They know nothing of what they relay."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from mcrelay.errors import OperationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class WorkerLoop(Protocol):
    """The loop on a thread: mcrelay._core.worker.Worker. ``run`` returns after ``stop``; all else returns at once."""

    @property
    def seen(self) -> int:
        """The generation of its present plan."""

    @property
    def turns(self) -> int:
        """How often it has looked at its rings."""

    def run(self) -> None:
        """Relay until ``stop``."""

    def publish(self, plan: Any) -> None:
        """Use *plan* from the next turn on."""

    def stop(self) -> None:
        """End after the present turn."""


class Workers:
    """``len(cpus)`` or more threads, one loop each. All methods belong to the main thread."""

    def __init__(self, count: int, make: Callable[[int, int], WorkerLoop], cpus: tuple[int, ...] = ()) -> None:
        """*make* makes the loop with that number and the eventfd that wakes it; worker i runs on CPU i of *cpus*."""
        self._cpus = cpus
        self._wake_fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
        self._loops = [make(i, fd) for i, fd in enumerate(self._wake_fds)]
        self._threads = [
            threading.Thread(target=self._run, args=(i,), name=f"mcrelay-worker-{i}", daemon=True) for i in range(count)
        ]
        self._failures: dict[int, BaseException] = {}
        self._started = False

    def start(self) -> None:
        """Start the threads; they idle until a plan gives them work. Raises UsageError for a CPU that cannot be had."""
        _try_cpus(self._cpus)
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:
            raise OperationError(f"workers: {error}; raise the limit of processes (ulimit -u, LimitNPROC)") from None
        self._started = True

    def _run(self, index: int) -> None:
        try:
            if self._cpus:
                os.sched_setaffinity(0, {self._cpus[index % len(self._cpus)]})  # 0: the calling thread
            self._loops[index].run()
        except BaseException as error:  # noqa: BLE001  the main thread reports it, in `check`
            self._failures[index] = error

    async def publish(self, plans: Sequence[Any], generation: int) -> None:
        """Give each loop its plan, and wait until all use it: at most a turn and a wait for room."""
        for loop, plan in zip(self._loops, plans, strict=True):
            loop.publish(plan)
        self.wake()
        while any(loop.seen < generation for loop in self._loops):
            self.check()
            await asyncio.sleep(0.0005)

    def check(self) -> None:
        """Raise OperationError if a thread has ended: a relay that is silent in part must not go on."""
        for i, thread in enumerate(self._threads):
            if self._started and not thread.is_alive():
                why = f": {self._failures[i]}" if i in self._failures else ""
                raise OperationError(f"worker {i} has ended{why}; the relay ends too, and has to be started again")

    def wake(self) -> None:
        """Let every loop turn once more, also when nothing arrives."""
        for fd in self._wake_fds:
            os.eventfd_write(fd, 1)

    @property
    def turns(self) -> tuple[int, ...]:
        """Turns of each loop."""
        return tuple(loop.turns for loop in self._loops)

    @property
    def generations(self) -> tuple[int, ...]:
        """The generation of each loop's present plan."""
        return tuple(loop.seen for loop in self._loops)

    def cpu_seconds(self) -> tuple[float, ...]:
        """CPU time of each thread, 0 if it does not run."""
        return tuple(
            time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) if thread.ident and thread.is_alive() else 0.0
            for thread in self._threads
        )

    def close(self) -> None:
        """End the threads. After this the caller may free what they used."""
        for loop in self._loops:
            loop.stop()
        self.wake()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        for fd in self._wake_fds:
            os.close(fd)
        self._wake_fds = []


def _try_cpus(cpus: tuple[int, ...]) -> None:
    """Try each CPU here (sched_setaffinity(2)): in a thread an error could only end it."""
    before = os.sched_getaffinity(0)
    try:
        for cpu in cpus:
            try:
                os.sched_setaffinity(0, {cpu})
            except OSError as error:
                allowed = ", ".join(map(str, sorted(before)))
                raise UsageError(
                    f"relay.cpus: no worker can run on CPU {cpu} ({error.strerror}); name some of {allowed}"
                ) from None
    finally:
        os.sched_setaffinity(0, before)
