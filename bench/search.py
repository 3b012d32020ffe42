"""The highest rate that loses nothing: up and down in steps from a guess, then halving. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = 0.03
ROUNDING = 1 + 1e-9
PROBES = 14  # at most: a path that never passes gives up


def highest(passes: Callable[[float], bool], guess: float, *, tolerance: float = TOLERANCE) -> float:
    """Return the highest rate that passed, within *tolerance* of one that did not; 0 if none did."""
    good, bad, rate, left = 0.0, 0.0, guess, PROBES
    step = 1 + tolerance  # a good guess takes two probes
    while left and not (good and bad and bad <= good * (1 + tolerance) * ROUNDING):
        left -= 1
        if passes(rate):
            good = max(good, rate)
        else:
            bad = min(bad or rate, rate)
        if not bad:
            rate, step = good * step, step * step  # far off: twice as far the next time
        elif not good:
            rate, step = bad / step, step * step
        else:
            rate = (good + bad) / 2
    return good
