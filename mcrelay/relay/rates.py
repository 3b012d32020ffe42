"""Rates: datagrams and bits a second, over the last second and the last ten. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcrelay.model.state import CounterKey, Snapshot

Counts: TypeAlias = "dict[CounterKey, tuple[int, int]]"  # datagrams and bytes, by (rule, output); (rule, "") received

SHORT_SECONDS, LONG_SECONDS = 1.0, 10.0
FEW = 1000  # counters: beyond this many they are read every LONG_SECONDS only, so that an idle relay stays idle
LEAST_SECONDS = 0.2  # two looks closer than that give no rate


@dataclass(frozen=True, slots=True)
class Rate:
    """Datagrams and bits of payload a second: over the last second, and over the last ten."""

    packets: float = 0.0
    bits: float = 0.0
    packets_10s: float = 0.0
    bits_10s: float = 0.0


NO_RATE = Rate()
NONE = (0, 0)


def counts_of(snapshot: Snapshot) -> Counts:
    """The present counts of every rule and of each of its outputs."""
    found: Counts = {}
    parts = [(rule, count) for (rule, _), count in snapshot.inputs.items()]
    for rule, count in (*parts, *snapshot.retired.items()):
        packets, size = found.get((rule, ""), NONE)
        found[rule, ""] = packets + count.rx_packets, size + count.rx_bytes
    for slot, sent in snapshot.outputs.items():
        found[slot] = sent.tx_packets, sent.tx_bytes
    return found


class Rates:
    """The looks of the last ten seconds. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Counts]] = deque()

    def due(self, now: float) -> bool:
        """Whether it is time for another look."""
        if not self._looks:
            return True
        at, counts = self._looks[-1]
        return now - at >= (SHORT_SECONDS - LEAST_SECONDS if len(counts) <= FEW else LONG_SECONDS)

    def look(self, now: float, counts: Counts) -> None:
        """Store the present counts."""
        self._looks.append((now, counts))
        while len(self._looks) > 2 and self._looks[1][0] <= now - LONG_SECONDS:
            self._looks.popleft()

    def rates(self, now: float, counts: Counts) -> Mapping[CounterKey, Rate]:
        """The rate of each counter that has moved."""
        short, long = self._since(now, SHORT_SECONDS), self._since(now, LONG_SECONDS)
        since = [look[1] for look in (short, long) if look is not None]
        found = {}
        for key, (packets, size) in counts.items():
            if not packets or all(look.get(key, NONE)[0] >= packets for look in since):  # as most of many do
                continue
            found[key] = Rate(*_speed(key, packets, size, now, short), *_speed(key, packets, size, now, long))
        return found

    def _since(self, now: float, seconds: float) -> tuple[float, Counts] | None:
        """The newest look that is at least so old, else the oldest one."""
        fitting = [look for look in self._looks if now - look[0] >= seconds]
        oldest = self._looks[0] if self._looks and now - self._looks[0][0] >= LEAST_SECONDS else None
        return fitting[-1] if fitting else oldest


def _speed(
    key: CounterKey, packets: int, size: int, now: float, since: tuple[float, Counts] | None
) -> tuple[float, float]:
    if since is None:
        return 0.0, 0.0
    at, counts = since
    before, bytes_before = counts.get(key, NONE)
    if packets <= before:  # never negative: counters may have begun anew
        return 0.0, 0.0
    return (packets - before) / (now - at), 8 * max(0, size - bytes_before) / (now - at)
