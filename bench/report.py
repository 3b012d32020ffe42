"""The tables that a person reads, and the JSON that holds every sample."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import hotspots
import targets
from rich.table import Table

if TYPE_CHECKING:
    from book import Book
    from rich.console import Console

PEERS_WORK = "1316"  # what every path is timed with
TRAFFIC = {
    "1000": "1 000/s",
    "10000": "10 000/s",
    "20000": "20 000/s",
    "100000": "100 000/s",
    "burst": "50 000 in 10 ms",
}
COLOURS = {True: "green", False: "red", None: "dim"}


def target_table(book: Book) -> Table:
    """Return the targets, row by row."""
    table = Table(title="Targets: median [least-most]", title_justify="left", header_style="bold")
    table.add_column("figure")
    table.add_column("target", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("")
    for row in targets.rows(book):
        if row.target == targets.NO_TARGET and row.measured == targets.NOT_MEASURED:
            continue
        table.add_row(row.figure, row.target, row.measured, f"[{COLOURS[row.met]}]{row.verdict}[/]")
    return table


def rate_table(book: Book, titles: dict[str, str]) -> Table:
    """Return rate and cost of every path with every workload."""
    table = Table(title="Each path with each workload", title_justify="left", header_style="bold")
    for column in ("workload", "path"):
        table.add_column(column)
    for column in (
        "highest loss-free rate/s", "pipeline/s", "all cores ns", "by threads ns", "worker ns", "at rate/s",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    last = ""
    for work in book.works():
        paths = list(dict.fromkeys([*book.paths(work, "rate"), *book.paths(work, "cost_ns")]))
        for path in paths:
            pipeline = "" if (work, path, "pipeline") not in book.samples else _cell(book, work, path, "pipeline")
            table.add_row(
                work if work != last else "", titles.get(path, path), _cell(book, work, path, "rate"), pipeline,
                *(_cell(book, work, path, figure) for figure in ("cost_ns", "accounted_ns", "worker_ns")),
                _cell(book, work, path, "cost_rate", only_median=True),
            )  # fmt: skip
            last = work
    return table


def latency_table(book: Book, titles: dict[str, str]) -> Table:
    """Return delays from the due time, back-to-back runs and losses of the workload that all paths have."""
    table = Table(title=f"Latency from the due time, us: {PEERS_WORK} B", title_justify="left", header_style="bold")
    for column in ("sent", "path"):
        table.add_column(column)
    for column in ("p50", "p99", "p99.9", "max", "back to back", "lost", "sent in"):
        table.add_column(column, justify="right")
    for traffic, title in TRAFFIC.items():
        for number, path in enumerate(_timed(book, PEERS_WORK, traffic)):
            took = book.spread(PEERS_WORK, path, f"seconds@{traffic}")
            table.add_row(
                title if number == 0 else "", titles.get(path, path),
                *(_cell(book, PEERS_WORK, path, f"{name}@{traffic}") for name in ("p50", "p99")),
                *(_cell(book, PEERS_WORK, path, f"{name}@{traffic}", only_median=True) for name in ("p99.9", "max")),
                _cell(book, PEERS_WORK, path, f"longest@{traffic}", only_median=True) if traffic != "burst" else "",
                _cell(book, PEERS_WORK, path, f"lost@{traffic}"),
                f"{took.median * 1e3:.0f} ms" if took and traffic == "burst" else "",
            )  # fmt: skip
    return table


def times_table(book: Book, titles: dict[str, str]) -> Table:
    """Return the same of every other workload: medians only."""
    table = Table(
        title="The same of other workloads, ms: p50 / p99 / p99.9 / max",
        title_justify="left", header_style="bold",
    )  # fmt: skip
    for column in ("workload", "path"):
        table.add_column(column)
    for title in TRAFFIC.values():
        table.add_column(title, justify="right")
    for work in book.works():
        paths = dict.fromkeys(path for traffic in TRAFFIC for path in _timed(book, work, traffic))
        for number, path in enumerate(paths if work != PEERS_WORK else ()):
            cells = (_times(book, work, path, traffic) for traffic in TRAFFIC)
            title = titles.get(path, path).removeprefix("mcrelay, ").replace(" (", "\n(")
            table.add_row(work if number == 0 else "", title, *cells)
    return table


def _timed(book: Book, work: str, traffic: str) -> list[str]:
    return list(dict.fromkeys(book.paths(work, f"p50@{traffic}")))


def _times(book: Book, work: str, path: str, traffic: str) -> str:
    found = [book.spread(work, path, f"{name}@{traffic}") for name in ("p50", "p99", "p99.9", "max", "longest")]
    if not all(found):
        return "beyond its rate" if (work, path, f"p50@{traffic}") in book.samples else ""
    *times, longest = (each.median for each in found if each)
    lost = book.spread(work, path, f"lost@{traffic}")
    shown = " / ".join(f"{us / 1e3:.{2 if us < 995 else 1 if us < 9_950 else 0}f}" for us in times)
    said = [] if traffic == "burst" else [f"{longest:.0f} back to back"]
    if lost and lost.most:
        said.append(f"lost {lost.most:,.0f}")
    return "\n".join([shown, *said])


def exact_table(book: Book) -> Table:
    """Return the accounts of the receiver, those of one path and workload together."""
    table = Table(title="Accounts at 80 % of the highest rate", title_justify="left", header_style="bold")
    for column in ("workload", "path"):
        table.add_column(column)
    counts = ("sent", "unique", "lost", "duplicated", "reordered", "corrupted", "socket_dropped")
    for column in ("runs", "asked/s", "sent/s", *counts[:-1], "dropped by sink"):
        table.add_column(column, justify="right")
    table.add_column("lost, as the relay says")
    for work, path in dict.fromkeys((each["workload"], each["path"]) for each in book.exact):
        runs = [each for each in book.exact if (each["workload"], each["path"]) == (work, path)]
        rates = [each["rate"] for each in runs]
        reasons: Counter[str] = Counter()
        for each in runs:
            reasons.update(each["lost_by_relay"])
        table.add_row(
            work, path, str(len(runs)), f"{runs[0]['asked']:,}", f"{min(rates):,.0f}-{max(rates):,.0f}",
            *(f"{sum(each[key] for each in runs):,}" for key in counts),
            ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()),
            style=None if all(each["exact"] for each in runs) else "red",
        )  # fmt: skip
    return table


def other_lines(book: Book) -> list[str]:
    """Return what fits no table: profile, microbenchmarks, what was missing."""
    lines = []
    if book.profile:
        top = book.profile["top"]
        rate, kernel = book.profile["rate"], book.profile["kernel_percent"]
        lines.append(f"Profile of the worker at {rate:,}/s: {kernel} % in kernel functions")
        lines += [
            f"  {row['percent']:5.1f} %  {row['symbol']}{'' if row['kernel'] else '  (' + row['object'] + ')'}"
            for row in top
        ]
    for title, profile in book.stages.items():
        lines.append(f"Profile of both cores, {title}, at {profile['rate']:,}/s; the rest is sender, links and sink:")
        lines += [
            f"  {percent:5.1f} %  {hotspots.STAGES[symbol]} ({symbol})"
            for symbol, percent in profile["percent"].items()
        ]
    micro = [key for key in book.samples if key[0] == "micro"]
    if micro:
        lines.append("Single operations of the core, ns:")
        lines += [f"  {figure}: {targets.shown(book.spread(*key), 'ns', 2)}" for key in micro for figure in (key[2],)]
    if book.notes:
        lines.append("Not measured:")
        lines += [f"  {note}" for note in book.notes]
    return lines


def write(console: Console, book: Book, titles: dict[str, str], heading: str) -> None:
    """Print all of it."""
    console.print(heading, highlight=False)
    named = [make(book, titles) for make in (rate_table, latency_table, times_table)]
    for table in (target_table(book), *named, exact_table(book)):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    for line in other_lines(book):
        console.print(line, highlight=False, markup=False)


def as_json(book: Book, machine: dict[str, Any], settings: dict[str, Any], probes: list[dict[str, Any]]) -> str:
    """Return machine, settings, targets and every sample."""
    return _lines(
        {
            "machine": machine,
            "settings": settings,
            "targets": [
                {"figure": row.figure.strip(), "target": row.target, "measured": row.measured, "met": row.met}
                for row in targets.rows(book)
            ],
            "samples": [
                {"workload": work, "path": path, "figure": figure, "values": [_rounded(value) for value in values]}
                for (work, path, figure), values in book.samples.items()
            ],
            "exact": book.exact,
            "profile": book.profile,
            "stages": book.stages,
            "notes": book.notes,
            "probes": probes,
        }
    )


def _lines(parts: dict[str, Any]) -> str:
    """Write JSON with a line for each item of a list: it is kept under version control."""
    shown = []
    for key, value in parts.items():
        items = ",\n".join(f"  {json.dumps(item)}" for item in value) if isinstance(value, list) else ""
        shown.append(f" {json.dumps(key)}: " + (f"[\n{items}\n ]" if items else json.dumps(value)))
    return "{\n" + ",\n".join(shown) + "\n}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _cell(book: Book, work: str, path: str, figure: str, *, only_median: bool = False) -> str:
    found = book.spread(work, path, figure)
    if found is None:
        return "none" if (work, path, figure) in book.samples else ""
    if only_median or found.count == 1:
        return f"{found.median:,.0f}"
    return f"{found.median:,.0f} [{found.least:,.0f}-{found.most:,.0f}]"
