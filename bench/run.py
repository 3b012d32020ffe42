"""``make bench``: everything side by side, alternating; prints the tables and writes JSON, text and plot."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import click
import machine
import meter
import neighbours
import paths
import plot
import report
import rounds
import sections
import tools
from book import Book
from rich.console import Console
from trial import BACKLOG_SHARE, SENT_SHARE, Setting
from way import Way

from mcrelay.commands.lab import missing_privilege

NAMES = (
    "stream", "shapes", "fanout", "superframes", "families", "rules", "flood", "start", "restart", "latency",
    "exactness", "micro",
)  # fmt: skip
WIDTH = 180  # of the table as text


@click.command()
@click.option("--quick", "extent", flag_value="quick", help="Under 2 minutes: few rounds, the main rows.")
@click.option("--normal", "extent", flag_value="normal", default=True, help="Under 25 minutes.")
@click.option("--full", "extent", flag_value="full", help="Every path with every workload.")
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="These sections alone.")
@click.option("--rounds", "count", type=click.IntRange(1), help="Samples of everything.")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), default=tools.HERE / "results", help="Results go here."
)
def main(extent: str, only: tuple[str, ...], count: int | None, folder: Path) -> None:
    """Measure mcrelay and its peers side by side."""
    trouble = missing_privilege()
    if trouble:
        raise click.ClickException(trouble)
    chosen: Any = {each.name: each for each in (rounds.QUICK, rounds.NORMAL, rounds.FULL)}[extent]
    chosen = chosen.with_rounds(count) if count else chosen
    names = only or [each for each in NAMES if each not in chosen.left_out]
    console, book, begun = Console(width=None if sys.stdout.isatty() else WIDTH), Book(), time.monotonic()
    if len(meter.cores()) < 2:
        book.note("one core only: sender and relay share it, and no ratio means much")
    facts = machine.describe(tools.ROOT)
    with tempfile.TemporaryDirectory(prefix="mcrelay-bench-") as name, neighbours.room() as crowded:
        if crowded:
            book.note(crowded)
        work = Path(name)
        work.chmod(0o711)  # the relay goes on as nobody
        command = (str(tools.ROOT / ".venv/bin/mcrelay"),)
        setting = Setting(work, tools.compile_all(work), command, meter.cores(), meter.softirq_threads())
        run = sections.Sections(book, setting, chosen)
        broken = False
        for section in names:
            at = time.monotonic()
            try:
                getattr(run, section)()
            except Exception as error:  # noqa: BLE001  what has been measured by then is worth keeping
                traceback.print_exc()
                book.note(f"section {section} broke off: {error}")
                broken = True
            console.print(f"{section}: {time.monotonic() - at:.0f} s", style="dim", highlight=False)
    facts["steal_ticks"] = machine.steal_ticks() - facts["steal_ticks"]
    took = time.monotonic() - begun
    heading = (
        f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, commit {facts['commit']}, {chosen.name} run:"
        f" {chosen.rounds} rounds in alternation, probes of {chosen.probe_seconds} s, {took:.0f} s in all"
    )
    titles = {way.name: way.title for way in vars(paths).values() if isinstance(way, Way)}
    titles |= {f"{name}+uso": f"{title} (device segments)" for name, title in titles.items()}
    settings = {
        "extent": chosen.name, "rounds": chosen.rounds, "probe_seconds": chosen.probe_seconds,
        "timed_seconds": chosen.timed_seconds,
        "tolerance": chosen.tolerance, "sent_share": SENT_SHARE, "backlog_share": BACKLOG_SHARE,
        "sections": list(names), "seconds": round(took), "titles": titles,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(report.as_json(book, facts, settings, run.probes) + "\n")
    with (folder / "bench.txt").open("w") as file:
        report.write(Console(file=file, width=WIDTH), book, titles, heading)
    plot.draw(book, heading, folder / "bench.png")
    report.write(console, book, titles, heading)
    console.print(f"written: {folder}/bench.json, bench.txt, bench.png", highlight=False)
    if broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
