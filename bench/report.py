"""The tables that a person reads, and the JSON that holds every sample."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import targets
from rich.table import Table

if TYPE_CHECKING:
    from book import Book
    from rich.console import Console

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
    """Return delays from the due time, and loss."""
    table = Table(title="Latency from the due time, us", title_justify="left", header_style="bold")
    table.add_column("traffic")
    table.add_column("path")
    for column in ("p50", "p99", "p99.9", "max", "lost", "sent in"):
        table.add_column(column, justify="right")
    for work in book.works():
        if not work.startswith("latency@"):
            continue
        for path in dict.fromkeys(book.paths(work, "p50_us")):
            took = book.spread(work, path, "burst_seconds")
            table.add_row(
                work.removeprefix("latency@"), titles.get(path, path),
                *(_cell(book, work, path, f"{name}_us") for name in ("p50", "p99", "p99.9", "max")),
                _cell(book, work, path, "lost"), f"{took.median * 1e3:.0f} ms" if took else "",
            )  # fmt: skip
    return table


def exact_table(book: Book) -> Table:
    """Return the accounts of the receiver."""
    table = Table(title="Accounts at 80 % of the highest rate", title_justify="left", header_style="bold")
    for column in ("workload", "path"):
        table.add_column(column)
    names = ("asked/s", "sent/s", "sent", "unique", "lost", "duplicated", "reordered", "corrupted", "dropped by sink")
    for column in names:
        table.add_column(column, justify="right")
    table.add_column("the relay says")
    for each in book.exact:
        table.add_row(
            each["workload"], each["path"], f"{each['asked']:,}", f"{each['rate']:,.0f}",
            *(f"{each[key]:,}" for key in ("sent", "unique", "lost", "duplicated", "reordered", "corrupted")),
            f"{each['socket_dropped']:,}",
            _reasons(each["lost_by_relay"]), style=None if each["exact"] else "red",
        )  # fmt: skip
    return table


def _reasons(lost: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in lost.items())


def other_lines(book: Book, titles: dict[str, str]) -> list[str]:
    """Return what fits no table: profile, bursts, microbenchmarks, what was missing."""
    lines = []
    if book.profile:
        top = book.profile["top"]
        rate, kernel = book.profile["rate"], book.profile["kernel_percent"]
        lines.append(f"Profile of the worker at {rate:,}/s: {kernel} % in kernel functions")
        lines += [
            f"  {row['percent']:5.1f} %  {row['symbol']}{'' if row['kernel'] else '  (' + row['object'] + ')'}"
            for row in top
        ]
    runs = [key for key in book.samples if key[2].startswith("longest_run@")]
    if runs:
        lines.append("Longest run of datagrams back to back at the sink, the sender evenly paced:")
        lines += [
            f"  {titles.get(path, path)}, {figure.partition('@')[2]}/s: {_cell(book, work, path, figure)}"
            for work, path, figure in runs
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
    for table in (target_table(book), rate_table(book, titles), latency_table(book, titles), exact_table(book)):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    for line in other_lines(book, titles):
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
