"""What a monitor needs from outside: time, a way out for reports, limits, and what this host says of its link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Cancellable(Protocol):
    """The return value of call_at."""

    def cancel(self) -> object: ...


class Clock(Protocol):
    """The part of an asyncio event loop that tells time."""

    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], object], /) -> Cancellable: ...


class Port(Protocol):
    """Where reports leave. Returns how many of the frames it took; raises OSError if the link takes none."""

    def send(self, frames: Sequence[bytes], /) -> int: ...


class Spoken(Port, Protocol):
    """A tap, as far as the monitors use it."""

    def close(self) -> None: ...
    def refuses(self, frame: bytes, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the monitor waits, in seconds.

    A switch port under spanning tree forwards nothing for 30 s, hence the repeats. A switch remembers a group, and a
    host an older querier, for 260 s (RFC 3376, 8.4 and 8.12 with the usual 125 s between queries).
    """

    repeats: tuple[float, ...] = (0, 1, 3, 10, 35, 65)
    silence: float = 260
    older_querier: float = 260
    margin: float = 1  # an answer may be this much later than the query allows


@dataclass(frozen=True, slots=True)
class Host:
    """What a monitor asks this host about its link.

    ``version`` tells the one that the kernel speaks, None where that is unknown. ``forced`` tells the one that a
    setting demands, 0 for none, and the name of that setting. ``disabled`` tells whether the family is switched off.
    """

    version: Callable[[], int | None] = lambda: None
    forced: Callable[[], tuple[int, str]] = lambda: (0, "")
    disabled: Callable[[], bool] = lambda: False
