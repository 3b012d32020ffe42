"""Every sample of a run, by (workload, path, figure); medians, spreads and ratios of them. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some samples, their least and their greatest, and how many there were."""

    median: float
    least: float
    most: float
    count: int


def spread(values: list[float]) -> Spread | None:
    """Sum samples up; None if there are none."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


@dataclass(slots=True)
class Book:
    """What a run has measured. The n-th sample of each key is of the n-th round: rounds alternate between paths."""

    samples: dict[Key, list[float | None]] = field(default_factory=dict)
    exact: list[dict[str, Any]] = field(default_factory=list)  # accounts of `mcrelay recv`
    notes: list[str] = field(default_factory=list)  # what could not be measured, and why
    profile: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # of a kernel path: see hotspots.STAGES

    def add(self, work: str, path: str, figure: str, value: float | None) -> None:
        """Enter the sample of one round; None keeps the rounds in step where there was nothing to measure."""
        self.samples.setdefault((work, path, figure), []).append(value)

    def note(self, text: str) -> None:
        """Say once what is missing."""
        if text not in self.notes:
            self.notes.append(text)

    def values(self, work: str, path: str, figure: str) -> list[float]:
        """Return the samples there are."""
        return [value for value in self.samples.get((work, path, figure), []) if value is not None]

    def spread(self, work: str, path: str, figure: str) -> Spread | None:
        """Sum the samples of one key up."""
        return spread(self.values(work, path, figure))

    def ratio(self, over: Key, under: Key) -> Spread | None:
        """Sum up the ratio of two keys, taken within each round: what disturbs a round disturbs both.

        A cost that came out negative was measured in a disturbed round, and has no ratio.
        """
        pairs = zip(self.samples.get(over, []), self.samples.get(under, []), strict=False)
        return spread([a / b for a, b in pairs if a and b and a > 0 and b > 0])

    def paths(self, work: str, figure: str) -> list[str]:
        """Return the paths that have this figure for a workload, in the order they came."""
        return [path for (row, path, name) in self.samples if row == work and name == figure]

    def works(self) -> list[str]:
        """Return the workloads, in the order they came."""
        return list(dict.fromkeys(work for work, _, _ in self.samples))
