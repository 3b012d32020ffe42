"""Settings of the whole machine that a long run needs otherwise, for as long as it runs."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@contextlib.contextmanager
def changed(wanted: Mapping[Path, int]) -> Iterator[bool]:
    """Write each, in this order, and put all back the other way round, also where SIGTERM ends the process: as Ctrl-C.

    Yields whether they are ours to change.
    """
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    before: dict[Path, str] = {}
    allowed = True
    try:
        try:
            before = {path: path.read_text() for path in wanted}
            for path, value in wanted.items():
                path.write_text(str(value))
        except OSError:
            allowed = False
        yield allowed
    finally:
        with contextlib.suppress(OSError):
            for path in reversed(before):
                path.write_text(before[path])
        signal.signal(signal.SIGTERM, handler)
