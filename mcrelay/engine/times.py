"""The registry of how long datagrams are in the relay: a histogram of each rule, of all workers together. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from mcrelay.engine.counters import total
from mcrelay.model.state import RelayTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mcrelay.engine.counters import Counters

C = TypeVar("C", bound="Counters")


class TimeRegistry(Generic[C]):
    """Who has which histogram, for as long as there is the rule. Its counters are the buckets, and then the sum."""

    def __init__(self, make: Callable[[], list[C]], bounds: Sequence[float]) -> None:
        """*make* makes one a worker; *bounds* are seconds, the last infinite."""
        self._make = make
        self._bounds = bounds
        self._none = RelayTimes(dict.fromkeys(bounds, 0), 0.0)
        self._held: dict[str, list[C]] = {}

    def of(self, rule: str) -> list[C]:
        """The histogram of a rule, one a worker; made when first asked for."""
        return self._held.get(rule) or self._held.setdefault(rule, self._make())

    def prune(self, rules: Collection[str]) -> None:
        """Forget the rules that are not among these."""
        self._held = {rule: held for rule, held in self._held.items() if rule in rules}

    def read(self) -> dict[str, RelayTimes]:
        """Of every rule."""
        found = {}
        for rule, held in self._held.items():
            parts = [each.read() for each in held]
            moved = [part for part in parts if any(part)]
            if not moved:
                found[rule] = self._none
                continue
            *datagrams, nanoseconds = moved[0] if len(moved) == 1 else total(moved)
            found[rule] = RelayTimes(dict(zip(self._bounds, datagrams, strict=True)), nanoseconds / 1e9)
        return found
