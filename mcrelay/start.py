"""Where the command begins: no state of its descriptors, locale and signals leads to a traceback.

Importing this is starting: it imports next to nothing before Ctrl-C has a quiet end, which the libraries it needs later
would answer with a traceback. What comes before is Python's own start: the loader of the packages (packaging/loader)
leaves signals to the kernel until here, so that Ctrl-C ends it quietly; a Python that is installed does not.
"""

from __future__ import annotations

import os
import signal
import sys


def _end(_number: int, _frame: object) -> None:
    os._exit(1)  # nothing has begun that would need a clean end


if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background job ignores it, and may
    signal.signal(signal.SIGINT, _end)
signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does, unless a loader left signals alone: writing is an error


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 it failed or Ctrl-C ended it, 2 used wrongly or bad configuration."""
    _open_what_is_closed()
    from mcrelay.cli import main as command  # noqa: PLC0415  only now: see above

    command()


def _open_what_is_closed() -> None:
    """Give each of 0, 1 and 2 a file, else the first socket would be one of them and be written to by mistake.

    Nothing can be written to what stands in for stdout, so that a command that has something to say fails as it should.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  it stays open
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
