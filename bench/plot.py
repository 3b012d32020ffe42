"""The picture of a run: rate, cost, shapes of traffic, latency."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from book import Book, Spread
    from matplotlib.axes import Axes

OURS, OURS_LIGHT, KERNEL, NFT, SOCAT, C_LOOP = "#0b6e4f", "#7fc8a9", "#c8553d", "#e09f3e", "#8d99ae", "#577590"
PATHS = (  # of the 1316-byte row, from top to bottom
    ("exclusive-gro", "mcrelay, exclusive + gro", OURS), ("exclusive", "mcrelay, exclusive", OURS),
    ("gro", "mcrelay, gro", OURS), ("mcrelay", "mcrelay", OURS), ("burst-1", "mcrelay, one send() each", OURS_LIGHT),
    ("c-runs", "plain C loop, runs", C_LOOP), ("c-send", "plain C loop, send()", C_LOOP),
    ("nft", "nftables rewrite + fwd", NFT), ("smcroute-bare", "smcroute, not joined", KERNEL),
    ("smcroute", "smcroute", KERNEL), ("socat", "socat", SOCAT),
)  # fmt: skip
SHAPES = (
    ("1316", "1316 B"), ("64", "64 B"), ("mixed", "64/570/\n1400 B"), ("random", "80-400 B\nrandom"),
    ("streams-100", "100\nstreams"), ("streams-1000", "1000 thin\nstreams"),
)  # fmt: skip
SHAPE_PATHS = (
    ("mcrelay", "mcrelay", OURS), ("exclusive", "mcrelay, exclusive", OURS_LIGHT), ("smcroute", "smcroute", KERNEL),
)  # fmt: skip
LATENCY_PATHS = (
    ("throughput", "mcrelay, throughput profile", OURS_LIGHT), ("latency", "mcrelay, latency profile", OURS),
    ("smcroute", "smcroute", KERNEL),
)  # fmt: skip
LATENCY_ROWS = (("1000", "1 000/s"), ("20000", "20 000/s"), ("100000", "100 000/s"), ("burst", "50 000\nin 10 ms"))


def draw(book: Book, heading: str, file: Path) -> None:
    """Write the picture."""
    plt.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    )
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    _bars(
        axes[0][0],
        book,
        "rate",
        1e-3,
        "Highest loss-free rate, 1 stream of 1316 B, both cores for all",
        "1000 datagrams/s",
    )
    _bars(axes[0][1], book, "cost_ns", 1, "Cost of one datagram on all cores, sender subtracted", "core-nanoseconds")
    _shapes(axes[1][0], book)
    _latency(axes[1][1], book)
    figure.suptitle(
        "mcrelay and its peers; bars are medians, lines go from least to most", fontsize=13, fontweight="bold"
    )
    figure.text(0.5, -0.005, textwrap.fill(heading, 170), ha="center", va="top", fontsize=8, color="#555555")
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _ends(found: Spread, scale: float) -> list[list[float]]:
    return [[(found.median - found.least) * scale], [(found.most - found.median) * scale]]


def _nothing(axis: Axes) -> None:
    axis.text(0.5, 0.5, "not measured in this run", transform=axis.transAxes, ha="center", color="#888888")
    axis.set(xticks=[], yticks=[])


def _bars(axis: Axes, book: Book, figure: str, scale: float, title: str, unit: str) -> None:
    axis.set_title(title, loc="left")
    rows = [(label, colour, s) for path, label, colour in PATHS if (s := book.spread("1316", path, figure))]
    if not rows:
        _nothing(axis)
        return
    widest = max(found.most for _, _, found in rows) * scale
    for at, (_, colour, found) in enumerate(rows):
        axis.barh(at, found.median * scale, color=colour, xerr=_ends(found, scale), height=0.7,
                  error_kw={"ecolor": "#333333", "lw": 1, "capsize": 2})  # fmt: skip
        axis.text(found.most * scale + widest * 0.015, at, f"{found.median * scale:,.0f}", va="center")
    axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axis.invert_yaxis()
    axis.set_xlabel(unit)
    axis.set_xlim(min(0, *(found.least * scale for _, _, found in rows)), widest * 1.12)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _shapes(axis: Axes, book: Book) -> None:
    axis.set_title("Highest loss-free rate by shape of traffic, both cores for all", loc="left")
    rows = [(work, label) for work, label in SHAPES if book.spread(work, "mcrelay", "rate")]
    if not rows:
        _nothing(axis)
        return
    width = 0.8 / len(SHAPE_PATHS)
    for number, (path, label, colour) in enumerate(SHAPE_PATHS):
        known = [(at, s) for at, (work, _) in enumerate(rows) if (s := book.spread(work, path, "rate"))]
        if not known:
            continue
        for at, found in known:
            x = at + (number - 1) * width
            axis.bar(x, found.median / 1e3, width * 0.94, color=colour, yerr=_ends(found, 1e-3),
                     error_kw={"ecolor": "#333333", "lw": 1, "capsize": 2}, label=label if at == known[0][0] else None)  # fmt: skip
            axis.text(x, found.most / 1e3, f"{found.median / 1e3:,.0f}", ha="center", va="bottom", fontsize=8)
    axis.set_xticks(range(len(rows)), [label for _, label in rows])
    axis.set_ylabel("1000 datagrams/s")
    axis.legend(frameon=False)


def _latency(axis: Axes, book: Book) -> None:
    axis.set_title("Latency from the due time: p50 (bar), p99 (mark), p99.9 (tick)", loc="left")
    rows = [
        row for row in LATENCY_ROWS if any(book.spread(f"latency@{row[0]}", p, "p50_us") for p, _, _ in LATENCY_PATHS)
    ]
    if not rows:
        _nothing(axis)
        return
    width = 0.8 / len(LATENCY_PATHS)
    said = set()
    for at, (row, _) in enumerate(rows):
        for number, (path, label, colour) in enumerate(LATENCY_PATHS):
            p50, p99, p999 = (book.spread(f"latency@{row}", path, f"{name}_us") for name in ("p50", "p99", "p99.9"))
            if not (p50 and p99 and p999):
                continue
            x = at + (number - 1) * width
            axis.bar(x, p50.median, width * 0.94, color=colour, label=None if path in said else label)
            said.add(path)
            axis.plot([x, x], [p50.median, p999.median], color="#333333", lw=1)
            axis.plot(x, p99.median, "D", color="white", markeredgecolor="#333333", markersize=5)
            axis.plot(x, p999.median, "_", color="#333333", markersize=8)
            axis.text(x, p50.median, f"{p50.median:,.0f}", ha="center", va="top", fontsize=7.5, color="white",
                      fontweight="bold")  # fmt: skip
    axis.set_yscale("log")
    axis.set_ylabel("microseconds (logarithmic)")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_xticks(range(len(rows)), [label for _, label in rows])
    axis.legend(frameon=False, loc="upper left")
