"""Which links were deleted: a socket without a protocol on each of them tells."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Presence:
    """Notices that a link was deleted, even when another has its name and its number by now. Main thread.

    A packet socket without a protocol receives nothing and costs nothing, but the kernel marks it when its link goes.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def dead(self) -> set[int]:
        """Ifindexes of watched links that were deleted; they are not watched any more."""
        gone = {ifindex for ifindex, held in self._held.items() if not held.getsockname()[0]}
        for ifindex in gone:
            self._held.pop(ifindex).close()
        return gone

    def watch(self, ifindexes: Iterable[int]) -> None:
        """Watch these links and no others, from now on. One that has gone meanwhile is tried again next time."""
        wanted = set(ifindexes)
        for ifindex in self._held.keys() - wanted:
            self._held.pop(ifindex).close()
        for ifindex in wanted - self._held.keys():
            held = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            try:
                held.bind((socket.if_indextoname(ifindex), 0))
            except OSError:
                held.close()
            else:
                self._held[ifindex] = held

    def close(self) -> None:
        """Watch nothing."""
        self.watch(())
