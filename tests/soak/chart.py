"""The picture of a long run: what the process held, the accounts, and latency, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
GREEN, RED, GREY = "#0b6e4f", "#c8553d", "#8d99ae"


def draw(run: dict[str, Any], path: Path) -> None:
    """Draw a run as soak.json has it."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(5, 1, figsize=(9, 10), sharex=True, layout="constrained")
        _held(axes[:3], run)
        _accounts(axes[3], run["turns"])
        _latency(axes[4], run["turns"])
        for each in axes:
            each.set_ylim(bottom=0)
            for turn in run["turns"]:
                if turn["restarted"]:
                    each.axvline(turn["seconds"] / 60, color=GREY, lw=0.8, ls=":")
        axes[-1].set_xlabel("minutes (dotted: a turn with a restart)")
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _held(axes: list[Axes], run: dict[str, Any]) -> None:
    minutes = [each["seconds"] / 60 for each in run["samples"]]
    for axis, key, scale, title in (
        (axes[0], "resident_kib", 1024, "resident memory, MiB"),
        (axes[1], "descriptors", 1, "descriptors"),
        (axes[2], "threads", 1, "threads"),
    ):
        axis.plot(minutes, [each[key] / scale for each in run["samples"]], color=GREEN, lw=1.2)
        axis.set_title(title, loc="left")


def _accounts(axis: Axes, turns: list[dict[str, Any]]) -> None:
    minutes = [turn["seconds"] / 60 for turn in turns]
    received, missing, sums = 0, 0, []
    for turn in turns:
        received += sum(each["received"] for each in turn["sinks"].values())
        missing += sum(each["sent"] - each["received"] for each in turn["sinks"].values())
        sums.append((received, missing))
    axis.plot(minutes, [each[0] for each in sums], color=GREEN, label="at the sinks, in all")
    axis.plot(minutes, [each[1] for each in sums], color=RED, label=f"missing there: {missing}")
    wrong = [turn["seconds"] / 60 for turn in turns if turn["faults"]]
    axis.plot(wrong, [0] * len(wrong), "x", color=RED, label=f"turns with a fault: {len(wrong)}")
    axis.set_title("datagrams", loc="left")
    axis.legend(frameon=False, fontsize=8)


def _latency(axis: Axes, turns: list[dict[str, Any]]) -> None:
    minutes = [turn["seconds"] / 60 for turn in turns]
    for kind, colour in (("runs", GREEN), ("mixed", RED)):
        for name, style in (("p50", "-"), ("p99", "--")):
            found = [(turn["sinks"][kind]["latency_us"] or {}).get(name) for turn in turns]
            axis.plot(
                minutes, found, style, color=colour, label=f"{'ring' if kind == 'runs' else 'kernel engine'} {name}"
            )
    axis.set_title("latency from sender to sink, us", loc="left")
    axis.legend(frameon=False, fontsize=8, ncol=2)
