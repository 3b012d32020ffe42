"""The last answer of a function, kept. For functions whose cost grows with the rules and that are called often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class Memo(Generic[P, T]):
    """Calls *make* once for the same arguments: those that are identical to the last ones, or else equal to them.

    The same object is the answer until then. What raises is not kept. Arguments must not change after the call.
    """

    def __init__(self, make: Callable[P, T]) -> None:
        self._make = make
        self._asked: tuple[object, ...] | None = None
        self._answer: T

    def __call__(self, *asked: P.args, **named: P.kwargs) -> T:
        """Give the answer for these arguments."""
        arguments = (*asked, *named.items())
        if self._asked is None or not _same(self._asked, arguments):
            self._answer = self._make(*asked, **named)
            self._asked = arguments
        return self._answer


def _same(before: tuple[object, ...], now: tuple[object, ...]) -> bool:
    return len(before) == len(now) and all(a is b or a == b for a, b in zip(before, now, strict=True))
