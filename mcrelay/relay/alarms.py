"""Log lines for a rule's drops: one when they begin and one when they have ended, never one for each packet."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

QUIET_SECONDS = 5.0  # seconds without a drop after which it is over

SAYINGS = {
    "policer": "more arrives than its limit lets through",
    "echo": "what this relay sent comes back to it: something mirrors its output link, or a second relay returns it",
}


@dataclass(slots=True)
class _Episode:
    first: int
    last: int
    moved: float


class DropAlarms:
    """Follows the ``policer`` and ``echo`` drops of every rule."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int] = {}
        self._open: dict[tuple[str, str], _Episode] = {}

    def look(self, drops: Mapping[str, Mapping[str, int]], now: float) -> None:
        """Compare with the last look; ``drops`` are counts by rule and reason, ``now`` is monotonic seconds."""
        for rule, counts in drops.items():
            for reason in SAYINGS:
                self._follow((rule, reason), counts[reason], now)
        for key in [key for key in self._seen if key[0] not in drops]:
            del self._seen[key]
            self._open.pop(key, None)

    @property
    def dropping(self) -> set[str]:
        """Rules that exceed their limit now."""
        return {rule for rule, reason in self._open if reason == "policer"}

    def _follow(self, key: tuple[str, str], count: int, now: float) -> None:
        before = self._seen.get(key, 0)
        self._seen[key] = count
        episode = self._open.get(key)
        if count > before:
            if episode is None:
                self._open[key] = _Episode(before, count, now)
                log.warning("began rule=%s dropping=%s: %s", *key, SAYINGS[key[1]])
            else:
                episode.last, episode.moved = count, now
        elif episode is not None and now - episode.moved >= QUIET_SECONDS:
            log.info("ended rule=%s dropping=%s dropped=%d", *key, episode.last - episode.first)
            del self._open[key]
