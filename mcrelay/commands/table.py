"""Columns for people: aligned, plain where it is piped, a little colour on a terminal (NO_COLOR is honoured)."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

BOLD, DIM, GREEN, YELLOW, RED = "1", "2", "32", "33", "31"
STATE_COLOURS = {
    "active": GREEN,
    "joined": GREEN,
    "UP": GREEN,
    "pending": YELLOW,
    "parked": YELLOW,
    "error": RED,
    "disabled": DIM,
}


def colourful(stream: TextIO | None = None) -> bool:
    """Whether colour is welcome: a terminal, and nobody said no (no-color.org)."""
    return (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, on: bool) -> str:
    """Wrap ``text`` in an SGR sequence."""
    return f"\033[{colour}m{text}\033[0m" if on and text else text


def render(header: Sequence[str], rows: Sequence[Sequence[str]], *, colour: bool, right: Sequence[str] = ()) -> str:
    """Lines of a table. Columns named in ``right`` hold numbers; a cell that is a state gets its colour."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str], *, heading: bool = False) -> str:
        shown = []
        for name, cell, width in zip(header, cells, widths, strict=True):
            padded = cell.rjust(width) if name in right else cell.ljust(width)
            tone = BOLD if heading else STATE_COLOURS.get(cell, "")
            shown.append(paint(padded, tone, on=colour) if tone else padded)
        return "  ".join(shown).rstrip()

    return "\n".join([line(header, heading=True), *map(line, rows)])


def print_json(value: object) -> None:
    """Print what ``-j`` asks for; every command's looks alike."""
    click.echo(json.dumps(value, indent=2))


def count(number: float) -> str:
    """12 345 678 with thin groups, as people read counters aloud."""
    return f"{number:,.0f}".replace(",", " ")


def rate(bits_per_second: float) -> str:
    """A bit rate with the unit that fits."""
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits_per_second < 1000:
            return f"{bits_per_second:.3g} {unit}"
        bits_per_second /= 1000
    return f"{bits_per_second:.3g} Gbit/s"
