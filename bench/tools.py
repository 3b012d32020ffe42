"""The C programs that measure and load, and those measured: compiled when the bench starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCES = {
    "blast": HERE / "blast.c",
    "soak": HERE / "soak.c",
    "arrivals": HERE / "arrivals.c",
    "relay": ROOT / "experiments/lib/relay.c",
}


def compile_all(folder: Path) -> dict[str, str]:
    """Compile every program into *folder*; its path by its name."""
    made = {}
    for name, source in SOURCES.items():
        made[name] = str(folder / name)
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", made[name], str(source)], check=True)
    return made
