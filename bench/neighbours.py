"""Room in the kernel's neighbour table while the bench runs (experiments/015-neighbour-table).

One table serves all namespaces of a host. A relay host has its own; here sources, relays and kernel forwarding of every
site would crowd each other out, and each datagram to one of many groups would pay for it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from shared import changed

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path("/proc/sys/net/ipv4/neigh/default")
ROOM = {"gc_thresh3": 1 << 17, "gc_thresh2": 1 << 16, "gc_thresh1": 1 << 15}  # entries; the most first
CROWDED = "many streams: the neighbour table is not ours to enlarge, so paths crowd each other out of it"


@contextlib.contextmanager
def room() -> Iterator[str]:
    """Make it, and put the settings back; yields why there is none, or nothing."""
    with changed({FOLDER / name: entries for name, entries in ROOM.items()}) as allowed:
        yield "" if allowed else CROWDED
