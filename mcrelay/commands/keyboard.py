"""Keys as they are pressed, by name: what a full-screen command reads from its terminal."""

from __future__ import annotations

import contextlib
import os
import re
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SEQUENCES = {  # what xterm and its heirs send (ctlseqs, "PC-Style Function Keys")
    "\033[A": "up",
    "\033[B": "down",
    "\033OA": "up",
    "\033OB": "down",
    "\033[5~": "page up",
    "\033[6~": "page down",
    "\033[H": "home",
    "\033[F": "end",
    "\033OH": "home",
    "\033OF": "end",
    "\033[1~": "home",
    "\033[4~": "end",
    "\033": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
}
_ONE = re.compile(r"\033(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])?|.", re.DOTALL)
_LFLAG, _CC = 3, 6  # places in what tcgetattr returns


@contextlib.contextmanager
def keys_at_once(descriptor: int) -> Iterator[None]:
    """Have the terminal hand over each key as it is pressed, and show none; put back at the end (termios(3)).

    Ctrl-C still interrupts. Ctrl-Z does nothing: it would leave a shell in the middle of a screen.
    """
    before = termios.tcgetattr(descriptor)
    wanted = termios.tcgetattr(descriptor)
    wanted[_LFLAG] &= ~(termios.ICANON | termios.ECHO)
    wanted[_CC][termios.VSUSP] = b"\0"
    termios.tcsetattr(descriptor, termios.TCSADRAIN, wanted)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def read_keys(descriptor: int) -> list[str]:
    """The keys that have been pressed: a letter as itself, the others by name. Raises EOFError at the end."""
    data = os.read(descriptor, 1024)
    if not data:
        raise EOFError
    return named(data.decode(errors="replace"))


def named(text: str) -> list[str]:
    """Keys by name; a sequence that nobody here knows is none."""
    found = (SEQUENCES.get(each, each) for each in _ONE.findall(text))
    return [each for each in found if not each.startswith("\033")]
