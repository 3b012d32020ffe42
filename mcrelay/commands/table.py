"""Tables and numbers: on a terminal fitted to its width and coloured (unless NO_COLOR is set), plain in a pipe."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
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
    """Whether to use colour: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, on: bool) -> str:
    """Wrap ``text`` in an SGR sequence."""
    return f"\033[{colour}m{text}\033[0m" if on and text else text


def columns(stream: TextIO | None = None) -> int | None:
    """The width of the terminal that *stream* (stdout) is; None if it is none: a pipe takes lines of any length.

    COLUMNS goes first, as for other programs; what is no number there is passed over.
    """
    stream = stream or sys.stdout
    if not stream.isatty():
        return None
    said = os.environ.get("COLUMNS", "")
    return (int(said) if said.isdecimal() else 0) or os.get_terminal_size(stream.fileno()).columns or 80


def render(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    colour: bool,
    right: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Lines of a table. Columns named in ``right`` hold numbers. A cell that is a state gets its colour.

    An empty cell repeats the one above it; "-" means that there is no value. With a ``width``, columns that do not fit
    stand in a second or third line. Without one, as in a pipe, every record is one line.
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
    """Divide the columns among lines, so that each line fits the width or has a single column."""
    begins = [0]
    used = 0
    for i, needed in enumerate(widths):
        if width is not None and i > begins[-1] and used + needed > width:
            begins.append(i)
            used = GAP
        used += needed + GAP
    return [range(begin, end) for begin, end in zip(begins, [*begins[1:], len(widths)], strict=True)]


def fold(text: str, width: int | None, indent: int = 2) -> str:
    """Fold a sentence to the width of the terminal, with further lines indented; one line in a pipe.

    A command in backquotes stays whole, so that it can be copied.
    """
    if width is None or len(text) <= width:
        return text
    whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\0"), text)
    folded = textwrap.fill(
        whole,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return folded.replace("\0", " ")


def say(text: str) -> None:
    """Print sentences on stderr, each folded to the terminal."""
    click.echo("\n".join(fold(line, columns(sys.stderr)) for line in text.split("\n")), err=True)


def answer(text: str) -> None:
    """Print a sentence on stdout, folded to the terminal."""
    click.echo(fold(text, columns()))


def print_json(value: object) -> None:
    """Print the JSON of ``-j``, in the same form for every command."""
    click.echo(json.dumps(value, indent=2))


def digits(number: float, decimals: int = 0) -> str:
    """12 345 678 on a terminal, for people; 12345678 in a pipe, for programs."""
    return f"{number:,.{decimals}f}".replace(",", " " if sys.stdout.isatty() else "")


def bit_rate(bits_per_second: float) -> str:
    """A bit rate with a suitable unit."""
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits_per_second < 999.5:  # else it would be written 1e+03
            return f"{bits_per_second:.3g} {unit}"
        bits_per_second /= 1000
    return f"{bits_per_second:.3g} Gbit/s"


def end(address: str, port: int | str) -> str:
    """An address with its port; what is kept or not known is a word."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
