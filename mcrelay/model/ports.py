"""The ports that a stream names: one, several (``5000,5002`` or ``6906-6941``), or any; how they are mapped. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

HIGHEST_PORT = 65535
Span: TypeAlias = tuple[int, int]  # from the first to the second, both included


@dataclass(frozen=True, slots=True)
class Ports:
    """At least two ports, each named once, in the order in which they are written: outputs are mapped by it."""

    spans: tuple[Span, ...]

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in self.spans)

    def __iter__(self) -> Iterator[int]:
        for low, high in self.spans:
            yield from range(low, high + 1)

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and any(low <= port <= high for low, high in self.spans)

    def __str__(self) -> str:
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.spans)


Port: TypeAlias = int | Ports | Literal["any"]


def spans_of(port: Port | None) -> tuple[Span, ...]:
    """Give the ports that a stream names; any is all of them, and none where the text has none."""
    if isinstance(port, Ports):
        return port.spans
    if isinstance(port, int):
        return ((port, port),)
    return () if port is None else ((0, HIGHEST_PORT),)


def names_port(port: Port | None, number: int) -> bool:
    """Whether the stream takes, or sends to, this port."""
    return any(low <= number <= high for low, high in spans_of(port))


def have_common(a: Port | None, b: Port | None) -> bool:
    """Whether some port is in both."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return any(la <= hb and lb <= ha for la, ha in spans_of(a) for lb, hb in spans_of(b))


def port_count(port: Port | None) -> int:
    """How many ports the stream names one by one; any names none so."""
    if isinstance(port, Ports):
        return len(port)
    return int(isinstance(port, int))


def mapping(taken: Port | None, sent: Port | None) -> tuple[tuple[int, int, int], ...]:
    """Where each port goes, in order: (lowest, highest, what the lowest becomes). Empty where every port is kept.

    Both name as many, or the second is any.
    """
    if sent in {taken, "any"}:
        return ()
    found: list[tuple[int, int, int]] = []
    goals = list(spans_of(sent))
    for low, high in spans_of(taken):
        start = low
        while start <= high:
            to, last = goals[0]
            size = min(high - start, last - to) + 1
            found.append((start, start + size - 1, to))
            start += size
            goals[0] = (to + size, last)
            if to + size > last:
                goals.pop(0)
    return tuple(found)
