"""What it costs to be looked at: the same relay without and with health, metrics that are scraped, and a capture.

    .venv/bin/python bench/watched.py                   # 10 pairs; as root, on a quiet machine
    .venv/bin/python bench/watched.py --capture sent    # with --sent; "link": of the input link; "nothing": of neither

Both run side by side and are measured in alternation. A capture is another process: it takes CPU of its own where
there is some, which here is the sender's or the relay's.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import meter
import neighbours
import paths
import tools
from compare import WORKLOADS, alternate
from trial import Setting, Trial

from mcrelay.commands.lab import Lab

LOOKED_AT = {
    "rule": paths.WATCHED,
    "sent": paths.SENT_WATCHED,
    "link": paths.LINK_WATCHED,
    "nothing": paths.HEALTHY,
}


@click.command()
@click.option("--workload", type=click.Choice(sorted(WORKLOADS)), default="1316", show_default=True)
@click.option("--pairs", type=click.IntRange(2), default=10, show_default=True, help="Measurements of each.")
@click.option("--seconds", type=click.FloatRange(0.1), default=0.7, show_default=True, help="Of one probe.")
@click.option("--capture", type=click.Choice(sorted(LOOKED_AT)), default="rule", show_default=True)
def main(workload: str, pairs: int, seconds: float, capture: str) -> None:
    """Compare a relay that is looked at with one that is not: loss-free rate, and the worker's CPU per datagram."""
    with tempfile.TemporaryDirectory(prefix="mcrelay-watched-") as name, neighbours.room(), Lab() as lab:
        folder = Path(name)
        folder.chmod(0o711)  # the relay goes on as nobody
        setting = Setting(folder, tools.compile_all(folder), (sys.executable, "-m", "mcrelay"), meter.cores(), ())
        trials: list[Trial] = []
        try:
            trials += [Trial(lab, way, WORKLOADS[workload], setting) for way in (paths.MCRELAY, LOOKED_AT[capture])]
            alternate(trials, pairs, seconds, ("alone", "looked at"))
        finally:
            for trial in trials:
                trial.close()


if __name__ == "__main__":
    main()
