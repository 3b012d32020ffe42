"""Times that stay right when the wall clock is set: durations come from the monotonic clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STEP_SECONDS = 0.5  # a smaller difference is slewing: adjtime(3)


def unix_time(monotonic: float) -> float:
    """The Unix time of a moment of the monotonic clock, by the wall clock as it is set now."""
    return time.time() - (time.monotonic() - monotonic)


class Stamps:
    """Kernel time stamps of packets (Unix time), corrected after the clock was set.

    Call ``look`` often. After a step, every stamp older than the last look counts as one from before the step.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._looked = monotonic()
        self._offset = wall() - self._looked
        self._before: dict[str, tuple[float, float]] = {}  # a stamp from before a step, and what it is now

    def look(self, read: Callable[[], Mapping[str, float | None]]) -> None:
        """Notice a step of the clock since the last look; ``read`` then gives the newest stamp of each rule."""
        wall, monotonic = self._wall(), self._monotonic()
        since, step = monotonic - self._looked, wall - monotonic - self._offset
        self._looked, self._offset = monotonic, wall - monotonic
        if abs(step) < STEP_SECONDS:
            return
        for rule, stamp in read().items():
            if stamp is not None and not wall - since - STEP_SECONDS / 2 <= stamp <= wall:
                self._before[rule] = (stamp, (self.right(rule, stamp) or stamp) + step)

    def right(self, rule: str, stamp: float | None) -> float | None:
        """Give the time of a stamp as the clock is set now."""
        before = self._before.get(rule)
        return before[1] if before is not None and before[0] == stamp else stamp
