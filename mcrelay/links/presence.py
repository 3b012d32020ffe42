"""The incarnation of each link: a socket without a protocol on each link tells when the link is deleted."""

from __future__ import annotations

import itertools
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mcrelay.model.link import LinkTable
from mcrelay.model.memo import Memo

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mcrelay.model.link import Link


@dataclass(frozen=True, slots=True)
class _Held:
    socket: socket.socket
    incarnation: int


class Presence:
    """Notices that a link was deleted, even if another one already has its name and number. Main thread.

    A packet socket without a protocol receives nothing and costs nothing, and the kernel marks it when its link is
    deleted. Every watched link gets a unique number, its incarnation.
    """

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}  # by ifindex
        self._numbers = itertools.count(1)
        self._marked = Memo(_marked)  # there may be thousands of links, and every look needs them

    def look(self) -> bool:
        """Whether a watched link was deleted since the last look. Call it before a dump: later ones are for the next.

        Such a link is no longer watched, even if another link has its number.
        """
        gone = [ifindex for ifindex, held in self._held.items() if not held.socket.getsockname()[0]]
        for ifindex in gone:
            self._held.pop(ifindex).socket.close()
        return bool(gone)

    def watch(self, links: Mapping[str, Link], names: Collection[str]) -> dict[str, Link]:
        """Watch exactly the links with these names. Returns all *links* with their incarnations.

        A link that was watched until now keeps its incarnation in this answer: its name may have changed. A link that
        is gone meanwhile is tried again next time. Raises OSError if no descriptor is left.
        """
        numbers = {ifindex: held.incarnation for ifindex, held in self._held.items()}
        wanted = {links[name].ifindex for name in names if name in links}
        for ifindex in self._held.keys() - wanted:
            self._held.pop(ifindex).socket.close()
        for ifindex in wanted - self._held.keys():
            held = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            try:
                held.bind((socket.if_indextoname(ifindex), 0))
            except OSError:
                held.close()
            else:
                self._held[ifindex] = _Held(held, next(self._numbers))
        numbers.update({ifindex: held.incarnation for ifindex, held in self._held.items()})
        return self._marked(links, numbers)

    def close(self) -> None:
        """Watch nothing."""
        self.watch({}, ())


def _marked(links: Mapping[str, Link], numbers: Mapping[int, int]) -> dict[str, Link]:
    marked = dict(links)
    for name, link in links.items():
        if link.ifindex in numbers:
            marked[name] = replace(link, incarnation=numbers[link.ifindex])
    return LinkTable(marked)
