from __future__ import annotations

import pytest

from mcrelay.linux.clock import Stamps, unix_time


class Clocks:
    """A wall clock that can be set, beside one that cannot."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.offset = 1_800_000_000.0

    @property
    def wall(self) -> float:
        return self.monotonic + self.offset


@pytest.mark.parametrize("step", [-86_400 * 20, -10, 10, 86_400 * 20])
@pytest.mark.parametrize("quiet", [0.3, 100.0])
def test_a_stream_that_stopped_before_the_clock_was_set_keeps_its_age(step, quiet):
    clocks = Clocks()
    stamps = Stamps(lambda: clocks.wall, lambda: clocks.monotonic)
    stopped = clocks.wall
    clocks.monotonic += quiet
    stamps.look(lambda: {"x": stopped})
    clocks.monotonic += 0.4
    clocks.offset += step
    clocks.monotonic += 0.4
    stamps.look(lambda: {"x": stopped})
    assert clocks.wall - stamps.right("x", stopped) == pytest.approx(quiet + 0.8)
    clocks.offset += step
    clocks.monotonic += 1
    stamps.look(lambda: {"x": stopped})
    assert clocks.wall - stamps.right("x", stopped) == pytest.approx(quiet + 1.8)


@pytest.mark.parametrize("step", [-86_400, -10, 10, 86_400])
def test_a_stream_that_goes_on_has_stamps_of_the_new_clock(step):
    clocks = Clocks()
    stamps = Stamps(lambda: clocks.wall, lambda: clocks.monotonic)
    clocks.offset += step
    clocks.monotonic += 0.5
    newest = clocks.wall
    stamps.look(lambda: {"x": newest, "y": None})
    assert stamps.right("x", newest) == newest
    assert stamps.right("y", None) is None


def test_a_clock_that_is_slewed_changes_nothing_and_nobody_is_asked():
    clocks = Clocks()
    stamps = Stamps(lambda: clocks.wall, lambda: clocks.monotonic)
    for _ in range(1000):
        clocks.monotonic += 1
        clocks.offset += 0.0005
        stamps.look(lambda: pytest.fail("asked"))


def test_a_moment_is_told_by_the_clock_as_it_is_now(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 50.0)
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert unix_time(45.0) == 995.0
