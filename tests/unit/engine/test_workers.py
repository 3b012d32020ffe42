"""The worker threads, with loops that relay nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

from mcrelay.engine.workers import Workers
from mcrelay.errors import OperationError, UsageError


class FakeLoop:
    """Runs until it is stopped, or told to fail; goes by a plan, a number here, as soon as it is published."""

    def __init__(self) -> None:
        self.seen = self.turns = 0
        self.failure = None
        self.ended = threading.Event()

    def run(self) -> None:
        self.ended.wait()
        if self.failure:
            raise self.failure

    def publish(self, plan) -> None:
        self.seen = plan

    def stop(self) -> None:
        self.ended.set()


@pytest.fixture
def loops():
    return [FakeLoop(), FakeLoop()]


@pytest.fixture
def crew(loops):
    made = Workers(2, lambda i, _: loops[i])
    yield made
    made.close()


def wait_for_the_end(crew):
    for _ in range(5000):
        try:
            crew.check()
        except OperationError as error:
            return str(error)
        time.sleep(0.001)
    raise AssertionError("nobody noticed")


def test_a_worker_that_ends_is_named_with_its_reason(crew, loops):
    crew.start()
    crew.check()
    loops[1].failure = ValueError("no reason at all")
    loops[1].stop()
    assert wait_for_the_end(crew).startswith("worker 1 has ended: no reason at all; the relay ends too")


def test_a_worker_that_ends_without_a_word_is_named_as_well(crew, loops):
    crew.start()
    loops[0].stop()
    assert wait_for_the_end(crew).startswith("worker 0 has ended; the relay ends too")


def test_publish_waits_for_every_worker_and_does_not_wait_for_one_that_has_ended(crew, loops):
    crew.start()
    asyncio.run(crew.publish([7, 7], 7))
    assert crew.generations == (7, 7)
    loops[1].publish = lambda _: loops[1].stop()
    with pytest.raises(OperationError, match="worker 1 has ended"):
        asyncio.run(crew.publish([8, 8], 8))


def test_every_worker_is_woken_by_an_event_of_its_own():
    fds = []
    crew = Workers(2, lambda _, fd: fds.append(fd) or FakeLoop())
    crew.wake()
    assert [os.eventfd_read(fd) for fd in fds] == [1, 1]
    crew.close()


def test_a_cpu_that_cannot_be_had_is_named_before_any_thread_starts(loops):
    crew = Workers(2, lambda i, _: loops[i], cpus=(0, 8000))
    before = os.sched_getaffinity(0)
    with pytest.raises(UsageError, match=r"no worker can run on CPU 8000 \(Invalid argument\); name some of"):
        crew.start()
    assert os.sched_getaffinity(0) == before
    assert crew.cpu_seconds() == (0, 0)
    crew.close()
