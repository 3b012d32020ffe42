"""Prometheus' two text formats (prometheus.io, "Exposition formats"; OpenMetrics 1.0), written straight away.

A family has the methods of those of prometheus-client, which makes an object and three dictionaries of every series
and so takes ten times as long: that matters with thousands of rules.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Number: TypeAlias = "int | float"

OPEN_METRICS = "application/openmetrics-text"


class Family:
    """One metric with all its series, as lines."""

    kind = ""
    suffix = ""  # of the name of each series

    def __init__(self, name: str, documentation: str, value: Number | None = None, labels: Sequence[str] = ()) -> None:
        self._name, self._documentation = name, documentation
        self._labels = labels
        self._one = self._line(self.suffix, {name: place for place, name in enumerate(labels)}, len(labels))
        self._several: dict[tuple[str, ...], str] = {}
        self._lines: list[str] = []
        if value is not None:
            self.add_metric((), value)

    def add_metric(self, labels: Sequence[str], value: Number) -> None:
        """Add a series; *labels* are the values, in the order of the names."""
        self._lines.append(self._one.format(*map(escaped, labels), value))

    def add_each(self, labels: Sequence[str], values: Mapping[str, Number]) -> None:
        """Add a series for each value of the last label; *labels* are those of the others."""
        self._lines.append(self._lines_of(tuple(values)).format(*map(escaped, labels), *values.values()))

    def _lines_of(self, last: tuple[str, ...]) -> str:
        if (found := self._several.get(last)) is None:
            *others, label = self._labels
            places: dict[str, int | str] = {name: place for place, name in enumerate(others)}
            lines = [
                self._line(self.suffix, places | {label: text}, place) for place, text in enumerate(last, len(others))
            ]
            found = self._several[last] = "".join(lines)
        return found

    def _line(self, suffix: str, labels: Mapping[str, int | str], place: int) -> str:
        """A line for str.format: of each label the value or the place of it, and the place of the number.

        Labels stand in the order of their names, as prometheus-client writes them: people compare whole lines.
        """
        pairs = [
            f'{name}="{{{value}}}"' if isinstance(value, int) else f'{name}="{_plain(escaped(value))}"'
            for name, value in sorted(labels.items(), key=itemgetter(0))
        ]
        inside = f"{{{{{','.join(pairs)}}}}}" if pairs else ""
        return f"{self._name}{suffix}{inside} {{{place}}}\n"

    def text(self, *, open_metrics: bool) -> str:
        """All of it; OpenMetrics names a counter without what its series end in."""
        name = self._name if open_metrics else self._name + self.suffix
        about = self._documentation.replace("\\", "\\\\").replace("\n", "\\n")
        about = about.replace('"', '\\"') if open_metrics else about
        return f"# HELP {name} {about}\n# TYPE {name} {self.kind}\n{''.join(self._lines)}"


class Gauge(Family):
    """What goes up and down."""

    kind = "gauge"


class Counter(Family):
    """What only grows."""

    kind, suffix = "counter", "_total"


class Histogram(Family):
    """How many were at most so large: cumulative counts, by upper bound as text, the last one "+Inf"."""

    kind = "histogram"

    def add_buckets(self, labels: Sequence[str], buckets: Mapping[str, Number], sum_value: Number) -> None:
        """Add a series."""
        counts = buckets.values()
        self._lines.append(self._lines_of(tuple(buckets)).format(*map(escaped, labels), *counts, sum_value))

    def _lines_of(self, last: tuple[str, ...]) -> str:
        if (found := self._several.get(last)) is None:
            places: dict[str, int | str] = {name: place for place, name in enumerate(self._labels)}
            first = len(places)
            lines = [self._line("_bucket", places | {"le": bound}, place) for place, bound in enumerate(last, first)]
            sum_at = first + len(last)
            lines += [self._line("_count", places, sum_at - 1), self._line("_sum", places, sum_at)]
            found = self._several[last] = "".join(lines)
        return found


def escaped(text: str) -> str:
    """The value of a label."""
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return text


def _plain(text: str) -> str:
    """For str.format, where braces mean something."""
    return text.replace("{", "{{").replace("}", "}}")


def write(families: Iterable[Family], accept: str) -> tuple[bytes, str]:
    """The text for one scrape, and its content type; *accept* is the header that asks for one form or the other."""
    _, content_type = choose_encoder(accept)
    open_metrics = content_type.startswith(OPEN_METRICS)
    parts = [each.text(open_metrics=open_metrics) for each in families]
    return "".join([*parts, *(["# EOF\n"] if open_metrics else [])]).encode(), content_type
