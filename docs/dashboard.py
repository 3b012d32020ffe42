"""The dashboard for Grafana as a picture: a real Prometheus answers each panel's queries, drawn where it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from support.prometheus import Prometheus, filled_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHBOARD = Path(__file__).parents[1] / "packaging" / "grafana" / "mcrelay.json"
COLUMNS = 24  # of Grafana's grid
CELL = 0.6, 0.42  # inches of one of its cells
NAMED = 4  # lines that a legend has room for


def draw(watching: Prometheus, seconds: int, path: Path) -> None:
    """Draw the last seconds."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    rows = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in panels)
    figure = Figure(figsize=(COLUMNS * CELL[0], rows * CELL[1]), facecolor="white")
    for panel in panels:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        axes = figure.add_axes(((x + 1.2) / COLUMNS, 1 - (y + h - 1) / rows, (w - 1.6) / COLUMNS, (h - 2.2) / rows))
        axes.set_title(panel["title"], fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        expressions = [filled_in(target["expr"], "5s") for target in panel["targets"]]
        if panel["type"] == "timeseries":
            _lines(axes, [each for text in expressions for each in watching.history(text, seconds)])
        else:
            _values(axes, [each for text in expressions for each in watching.query(text)], panel["type"])
    FigureCanvasAgg(figure).print_png(str(path))


def _lines(axes: Axes, found: list[dict[str, Any]]) -> None:
    for each in found:
        end = float(each["values"][-1][0])
        points = [(float(at) - end, float(value)) for at, value in each["values"]]
        axes.plot(*zip(*points, strict=True), linewidth=1, label=_name(each["metric"]))
    axes.set_ylim(bottom=0)
    if found:
        axes.legend(*(part[:NAMED] for part in axes.get_legend_handles_labels()), fontsize=6, loc="lower left")
    else:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes, fontsize=9, color="grey")


def _values(axes: Axes, found: list[dict[str, Any]], kind: str) -> None:
    axes.set_axis_off()
    if kind == "stat":
        text = ", ".join(f"{float(each['value'][1]):g}" for each in found) or "0"
    else:
        text = "\n".join(f"{key}  {value}" for each in found for key, value in each["metric"].items() if key[0] != "_")
    axes.text(0, 0.5, text, fontsize=22 if kind == "stat" else 8, va="center", transform=axes.transAxes)


def _name(labels: dict[str, str]) -> str:
    return " ".join(value for key, value in labels.items() if key not in {"__name__", "instance", "job"})
