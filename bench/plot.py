"""The picture of a run: rate, cost, shapes of traffic, latency."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from book import Book, Spread
    from matplotlib.axes import Axes

OURS, OURS_LIGHT, KERNEL, NFT, SOCAT, C_LOOP = "#0b6e4f", "#7fc8a9", "#c8553d", "#e09f3e", "#8d99ae", "#577590"
PATHS = (  # of the 1316-byte row, from top to bottom
    ("kernel-exclusive", "mcrelay, kernel engine, exclusive", OURS),
    ("kernel", "mcrelay, kernel engine", OURS),
    ("exclusive-gro", "mcrelay, exclusive + gro", OURS),
    ("exclusive", "mcrelay, exclusive", OURS),
    ("gro", "mcrelay, gro", OURS),
    ("mcrelay", "mcrelay", OURS),
    ("burst-1", "mcrelay, one send() each", OURS_LIGHT),
    ("c-runs", "plain C loop, runs", C_LOOP),
    ("c-send", "plain C loop, send()", C_LOOP),
    ("nft", "nftables rewrite + fwd", NFT),
    ("smcroute-bare", "smcroute, not joined", KERNEL),
    ("smcroute", "smcroute", KERNEL),
    ("socat", "socat", SOCAT),
)
SHAPES = (
    ("1316", "1316 B"),
    ("64", "64 B"),
    ("mixed", "64/570/\n1400 B"),
    ("random", "80-400 B\nrandom"),
    ("streams-100", "100\nstreams"),
    ("streams-1000", "1000 thin\nstreams"),
)
SHAPE_PATHS = (
    ("mcrelay", "mcrelay", OURS),
    ("exclusive", "mcrelay, exclusive", OURS_LIGHT),
    ("smcroute", "smcroute", KERNEL),
)
LATENCY_PATHS = (
    ("throughput", "mcrelay, throughput profile", OURS_LIGHT),
    ("latency", "mcrelay, latency profile", OURS),
    ("smcroute", "smcroute", KERNEL),
)
LATENCY_ROWS = (("1000", "1 000/s"), ("20000", "20 000/s"), ("100000", "100 000/s"), ("burst", "50 000\nin 10 ms"))
ENDS: dict[str, Any] = {"ecolor": "#333333", "lw": 1, "capsize": 2}
DARK = "#333333"
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}


def draw(book: Book, heading: str, file: Path) -> None:
    """Write the picture."""
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    title = "Highest loss-free rate, 1 stream of 1316 B, both cores for all"
    _bars(axes[0][0], book, "rate", scale=1e-3, title=title, unit="1000 datagrams/s")
    cost, title = "cost_ns", "Cost of one datagram on all cores, sender subtracted"
    if any((found := book.spread("1316", path, cost)) and found.median < 0 for path, _, _ in PATHS):
        cost, title = "accounted_ns", "Cost of one datagram by thread clocks (no quiet machine)"
    _bars(axes[0][1], book, cost, scale=1, title=title, unit="core-nanoseconds")
    _shapes(axes[1][0], book)
    _latency(axes[1][1], book)
    title = "mcrelay and its peers: bars are medians, lines go from least to most"
    figure.suptitle(title, fontsize=13, fontweight="bold")
    below = textwrap.fill(heading, 170)
    figure.text(0.5, -0.005, below, ha="center", va="top", fontsize=8, color="#555555")
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _ends(found: Spread, scale: float) -> list[list[float]]:
    return [[(found.median - found.least) * scale], [(found.most - found.median) * scale]]


def _nothing(axis: Axes) -> None:
    axis.text(0.5, 0.5, "not measured in this run", transform=axis.transAxes, ha="center", color="#888888")
    axis.set(xticks=[], yticks=[])


def _bars(axis: Axes, book: Book, figure: str, *, scale: float, title: str, unit: str) -> None:
    axis.set_title(title, loc="left")
    rows = [(label, colour, s) for path, label, colour in PATHS if (s := book.spread("1316", path, figure))]
    if not rows:
        _nothing(axis)
        return
    widest = max(found.most for _, _, found in rows) * scale
    for at, (_, colour, found) in enumerate(rows):
        axis.barh(at, found.median * scale, color=colour, xerr=_ends(found, scale), height=0.7, error_kw=ENDS)
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
    places = _Places(axis, len(SHAPE_PATHS))
    for at, (work, _) in enumerate(rows):
        for number, (path, label, colour) in enumerate(SHAPE_PATHS):
            if found := book.spread(work, path, "rate"):
                x = places.bar(at, number, found.median / 1e3, colour=colour, label=label, ends=_ends(found, 1e-3))
                axis.text(x, found.most / 1e3, f"{found.median / 1e3:,.0f}", ha="center", va="bottom", fontsize=8)
    axis.set_xticks(range(len(rows)), [label for _, label in rows])
    axis.set_ylabel("1000 datagrams/s")
    axis.legend(handles=places.handles, frameon=False)


class _Places:
    """Bars side by side; each colour gets one line of the legend."""

    def __init__(self, axis: Axes, count: int) -> None:
        self._axis, self._count, self._width = axis, count, 0.8 / count
        self.handles: list[Any] = []
        self._said: set[str] = set()

    def bar(self, at: int, number: int, height: float, *, colour: str, label: str, ends: Any = None) -> float:
        """Draw one bar; returns where it stands."""
        x = at + (number - (self._count - 1) / 2) * self._width
        drawn = self._axis.bar(x, height, self._width * 0.94, color=colour, yerr=ends, error_kw=ENDS, label=label)
        if label not in self._said:
            self._said.add(label)
            self.handles.append(drawn)
        return x


def short(us: float) -> str:
    """Write microseconds in so few characters that they fit into a bar. Pure."""
    if us < 1000:
        return f"{us:.0f}"
    return f"{us / 1e3:.{1 if us < 10_000 else 0}f}\nms" if us < 1e6 else f"{us / 1e6:.1f}\ns"


def _latency(axis: Axes, book: Book) -> None:
    axis.set_title("Latency from the due time", loc="left")
    keys = [path for path, _, _ in LATENCY_PATHS]
    rows = [row for row in LATENCY_ROWS if any(book.spread("1316", key, f"p50@{row[0]}") for key in keys)]
    if not rows:
        _nothing(axis)
        return
    places, least, most = _Places(axis, len(LATENCY_PATHS)), [], []
    for at, (row, _) in enumerate(rows):
        for number, (path, label, colour) in enumerate(LATENCY_PATHS):
            p50, p99, p999 = (book.spread("1316", path, f"{name}@{row}") for name in ("p50", "p99", "p99.9"))
            if not (p50 and p99 and p999):
                continue
            least.append(p50.median)
            most.append(p999.median)
            x = places.bar(at, number, p50.median, colour=colour, label=label)
            axis.plot([x, x], [p50.median, p999.median], color=DARK, lw=1)
            axis.plot(x, p99.median, "D", color="white", markeredgecolor=DARK, markersize=5)
            axis.plot(x, p999.median, "_", color=DARK, markersize=9)
            place: dict[str, Any] = {
                "textcoords": "offset points",
                "ha": "center",
                "va": "top",
                "fontsize": 8,
                "linespacing": 0.9,
            }
            axis.annotate(short(p50.median), (x, p50.median), (0, -3), color="white", fontweight="bold", **place)
    axis.set_yscale("log")
    axis.set_ylim(min(least) / 3, max(most) * 12)
    axis.set_ylabel("microseconds (logarithmic)")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_xticks(range(len(rows)), [label for _, label in rows])
    marks = [
        Line2D([], [], marker="D", color="white", markeredgecolor=DARK, markersize=5, label="p99 (the bar is p50)"),
        Line2D([], [], marker="_", color=DARK, lw=0, markersize=9, label="p99.9"),
    ]
    axis.legend(handles=[*places.handles, *marks], frameon=False, loc="upper left", ncols=2)
