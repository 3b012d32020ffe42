"""Columns and numbers: as wide as a terminal and a little coloured there (NO_COLOR is honoured), plain in a pipe."""

from __future__ import annotations

import json
import os
import shutil
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
GAP = 2


def colourful(stream: TextIO | None = None) -> bool:
    """Whether colour is welcome: a terminal, and nobody said no (no-color.org)."""
    return (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, on: bool) -> str:
    """Wrap ``text`` in an SGR sequence."""
    return f"\033[{colour}m{text}\033[0m" if on and text else text


def columns() -> int | None:
    """How wide the terminal is; None where stdout is none: a pipe takes lines of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def render(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    colour: bool,
    right: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Lines of a table. Columns named in ``right`` hold numbers; a cell that is a state gets its colour.

    An empty cell says the same as the one above it, "-" that there is nothing to say. With a ``width``, columns that do
    not fit stand in a second line, or a third; without, as in a pipe, every record is one whole line.
    """
    if width is None:
        rows = _filled(rows)
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str], part: range, *, heading: bool = False) -> str:
        shown = []
        for i in part:
            padded = cells[i].rjust(widths[i]) if header[i] in right else cells[i].ljust(widths[i])
            tone = BOLD if heading else STATE_COLOURS.get(cells[i], "")
            shown.append(paint(padded, tone, on=colour) if tone else padded)
        return (" " * GAP if part.start else "") + (" " * GAP).join(shown).rstrip()

    lines = [line(header, part, heading=True) for part in _parts(widths, width)]
    for row in rows:
        lines += [line(row, part) for part in _parts(widths, width) if any(row[i] not in {"", "-"} for i in part)]
    return "\n".join(lines)


def _filled(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    found: list[list[str]] = []
    for row in rows:
        found.append([cell or found[-1][i] if found else cell for i, cell in enumerate(row)])
    return found


def _parts(widths: Sequence[int], width: int | None) -> list[range]:
    """Which columns stand in which line, so that each is as wide as allowed, or has a single column."""
    begins = [0]
    used = 0
    for i, needed in enumerate(widths):
        if width is not None and i > begins[-1] and used + needed > width:
            begins.append(i)
            used = GAP
        used += needed + GAP
    return [range(begin, end) for begin, end in zip(begins, [*begins[1:], len(widths)], strict=True)]


def fold(text: str, width: int | None) -> str:
    """A sentence in as many lines as the terminal needs, the further ones indented; one line in a pipe."""
    if width is None or len(text) <= width:
        return text
    import textwrap  # noqa: PLC0415  where something is long

    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def print_json(value: object) -> None:
    """Print what ``-j`` asks for; every command's looks alike."""
    click.echo(json.dumps(value, indent=2))


def digits(number: float, decimals: int = 0) -> str:
    """12 345 678 on a terminal, where it is read aloud; 12345678 in a pipe, where programs read."""
    return f"{number:,.{decimals}f}".replace(",", " " if sys.stdout.isatty() else "")


def bit_rate(bits_per_second: float) -> str:
    """A bit rate with the unit that fits."""
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits_per_second < 999.5:  # else it would be written 1e+03
            return f"{bits_per_second:.3g} {unit}"
        bits_per_second /= 1000
    return f"{bits_per_second:.3g} Gbit/s"
