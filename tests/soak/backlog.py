"""The queue of each CPU through which a frame passes from one end of a veth pair to the other (net/core/dev.c).

One setting serves the whole machine, and a real device has no such queue. On a busy machine the kernel's own thread
that empties it may wait for a turn, and 1000 frames, the default, are then not enough: they are lost before the relay.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from support.settings import changed

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTH = Path("/proc/sys/net/core/netdev_max_backlog")
FRAMES = 100_000


@contextlib.contextmanager
def room() -> Iterator[None]:
    """Make it longer, and put the setting back; it stays as it is where it is not ours to change."""
    with changed({LENGTH: FRAMES}):
        yield


def dropped() -> int:
    """Frames of the whole machine that found it full since it runs (proc(5): /proc/net/softnet_stat, second column)."""
    return sum(int(line.split()[1], 16) for line in Path("/proc/net/softnet_stat").read_text().splitlines())
