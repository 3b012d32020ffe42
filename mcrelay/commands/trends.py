"""How fast each rule and output has gone for the last minute, from what ``show stats`` says again and again. Pure."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Key = tuple[str, str]  # (rule, output), or (rule, "") for what the rule receives

MINUTE = 60.0


@dataclass(slots=True)
class Trend:
    """One rule or output: speeds a second over the last interval, and the rates of the last minute, newest last."""

    packets: int
    bytes: int
    lost: int
    packet_rate: float
    bit_rate: float
    loss_rate: float
    rates: array[float]


class Trends:
    """What has been seen. Times are Unix seconds, the relay's own."""

    def __init__(self) -> None:
        self.times: deque[tuple[float, float]] = deque()  # of each rate, from and until; all trends end at the same one
        self.trends: dict[Key, Trend] = {}
        self._last: float | None = None

    def take(self, stats: dict[str, Any]) -> None:
        """Take what the relay says now. Counters that went back are another process's: nothing is known of a speed."""
        now = stats["time"]
        seconds = now - self._last if self._last is not None else 0.0
        if seconds > 0:
            self.times.append((now - seconds, now))
        self._last = now
        while self.times and now - self.times[0][1] >= MINUTE:
            self.times.popleft()
        found = {}
        for key, packets, size, lost in _counts(stats):
            trend = self.trends.get(key)
            if trend is None or packets < trend.packets or lost < trend.lost:
                trend = Trend(packets, size, lost, 0.0, 0.0, 0.0, array("f"))
            elif seconds > 0:
                trend.packet_rate = (packets - trend.packets) / seconds
                trend.bit_rate = 8 * max(0, size - trend.bytes) / seconds
                trend.loss_rate = (lost - trend.lost) / seconds
                trend.packets, trend.bytes, trend.lost = packets, size, lost
                trend.rates.append(trend.packet_rate)
            if len(trend.rates) > len(self.times):
                del trend.rates[: len(trend.rates) - len(self.times)]
            found[key] = trend
        self.trends = found

    def forget(self) -> None:
        """The relay is away: what it says next is a beginning."""
        self._last = None

    def minute(self, key: Key, cells: int) -> list[float | None]:
        """The last minute in parts, oldest first: the highest rate in each, None where nothing was looked at."""
        found: list[float | None] = [None] * cells
        trend = self.trends.get(key)
        if trend is None or not self.times:
            return found
        end = self.times[-1][1]
        for (begin, until), rate in zip(reversed(self.times), reversed(trend.rates), strict=False):
            first = cells - 1 - int((end - begin) / MINUTE * cells - 1e-6)
            last = cells - 1 - int((end - until) / MINUTE * cells)
            for cell in range(max(0, first), last + 1):
                found[cell] = max(rate, found[cell] or 0.0)
        return found


def _counts(stats: dict[str, Any]) -> Iterator[tuple[Key, int, int, int]]:
    """Of each rule and output: its key, datagrams, bytes, and what was lost; a rule has what its outputs lost too."""
    for rule in stats["rules"]:
        name = rule["name"]
        lost = sum(rule["drops"].values())
        for output in rule["outputs"]:
            missed = sum(output["tx_errors"].values())
            lost += missed
            yield (name, output["to"]), output["tx_packets"], output["tx_bytes"], missed
        yield (name, ""), rule["rx_packets"], rule["rx_bytes"], lost
