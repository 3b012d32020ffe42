"""``compare.py BASE HEAD``: two commits built side by side and measured in alternation, pair by pair."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import meter
import neighbours
import tools
import workloads
from product import Variant, mcrelay
from rounds import COST_SHARE
from trial import Setting, Trial
from way import Way
from workloads import Workload

from mcrelay.commands.lab import Lab

WORKLOADS = {each.name: each for each in vars(workloads).values() if isinstance(each, Workload)}


def build(commit: str, folder: Path) -> None:
    """Check a commit out into *folder* and compile it there, with this Python's Cython."""
    subprocess.run(["git", "-C", str(tools.ROOT), "worktree", "add", "--detach", "-q", str(folder), commit], check=True)
    log = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if log.returncode:
        raise click.ClickException(f"{commit} does not compile:\n{log.stderr[-2000:]}")


@click.command()
@click.argument("base")
@click.argument("head")
@click.option("--workload", type=click.Choice(sorted(WORKLOADS)), default="1316", show_default=True)
@click.option("--pairs", type=click.IntRange(2), default=10, show_default=True, help="Measurements of each.")
@click.option("--seconds", type=click.FloatRange(0.1), default=0.7, show_default=True, help="Of one probe.")
@click.option("--exclusive", is_flag=True, help="Both with exclusive = true.")
@click.option("--gro", is_flag=True, help="Both with gro = true.")
def main(base: str, head: str, workload: str, pairs: int, seconds: float, *, exclusive: bool, gro: bool) -> None:
    """Compare two commits: the highest loss-free rate and the worker's CPU per datagram.

    \b
    Example: .venv/bin/python bench/compare.py main HEAD --workload random
    """
    way = Way("compared", "mcrelay", mcrelay(Variant(exclusive=exclusive, gro=gro)))
    work = WORKLOADS[workload]
    with tempfile.TemporaryDirectory(prefix="mcrelay-compare-") as name, neighbours.room(), Lab() as lab:
        folder = Path(name)
        folder.chmod(0o711)  # the relay goes on as nobody
        programs = tools.compile_all(folder)
        trees = [folder / "base", folder / "head"]
        trials = []
        try:
            for tree, commit in zip(trees, (base, head), strict=True):
                build(commit, tree)
                environment = {**os.environ, "PYTHONPATH": str(tree)}
                command = (sys.executable, "-P", "-m", "mcrelay")  # -P: not the tree that we happen to stand in
                setting = Setting(folder, programs, command, meter.cores(), (), environment)
                trials.append(Trial(lab, way, work, setting, label=tree.name))
            alternate(trials, pairs, seconds, (base, head))
        finally:
            for trial in trials:
                trial.close()
            for tree in trees:
                subprocess.run(
                    ["git", "-C", str(tools.ROOT), "worktree", "remove", "--force", str(tree)],
                    check=False, capture_output=True,
                )  # fmt: skip


def alternate(trials: list[Trial], pairs: int, seconds: float, names: tuple[str, str]) -> None:
    """Measure the two in turn, so many times; print each pair, and how the second stands to the first."""
    click.echo(f"{'pair':>4}  {'rate/s ' + names[0]:>20} {names[1]:>14} {'ratio':>7}"
               f"  {'worker ns ' + names[0]:>20} {names[1]:>14} {'ratio':>7}")  # fmt: skip
    rates, costs = [], []
    for number in range(pairs):
        order = trials if number % 2 == 0 else trials[::-1]
        found = {trial: trial.highest(seconds, equal=True) or 0.0 for trial in order}
        rate = COST_SHARE * min(found.values())
        spent = {trial: trial.probe(rate, seconds).worker_ns for trial in order} if rate else dict.fromkeys(order, 0.0)
        one, two = trials
        shown = f"{number + 1:>4}  {found[one]:>20,.0f} {found[two]:>14,.0f} {_over(found[two], found[one]):>7}"
        click.echo(f"{shown}  {spent[one]:>20,.0f} {spent[two]:>14,.0f} {_over(spent[two], spent[one]):>7}")
        if rate:
            rates.append(found[two] / found[one])
            costs.append(spent[two] / spent[one])
    for title, ratios in (("rate", rates), ("worker CPU", costs)):
        if ratios:
            click.echo(
                f"{title} of {names[1]} over {names[0]}: {statistics.median(ratios):.3f}x"
                f" [{min(ratios):.3f}-{max(ratios):.3f}], above 1 in {sum(r > 1 for r in ratios)} of {len(ratios)}"
            )


def _over(head: float, base: float) -> str:
    return f"{head / base:.3f}x" if base else "-"


if __name__ == "__main__":
    main()
