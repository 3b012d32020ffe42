"""Which incarnation of a link it is: a socket without a protocol on each of them tells that one was deleted."""

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
    """Notices that a link was deleted, even when another has its name and its number by now. Main thread.

    A packet socket without a protocol receives nothing and costs nothing, but the kernel marks it when its link goes.
    Every link that is watched has a number of its own, its incarnation.
    """

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}  # by ifindex
        self._numbers = itertools.count(1)
        self._marked = Memo(_marked)  # there may be thousands of links, and they are asked for at every look

    def look(self) -> bool:
        """Whether a watched link was deleted since the last look. Before a dump: what is deleted later is for the next.

        Such a link is not watched any more, whatever has its number by now.
        """
        gone = [ifindex for ifindex, held in self._held.items() if not held.socket.getsockname()[0]]
        for ifindex in gone:
            self._held.pop(ifindex).socket.close()
        return bool(gone)

    def watch(self, links: Mapping[str, Link], names: Collection[str]) -> dict[str, Link]:
        """Watch the links of these names and no others; give all *links* back, with the incarnation of each.

        A link that was watched until now has its incarnation this one time more: its name may have changed. One that
        has gone meanwhile is tried again next time. Raises OSError where there is no descriptor left.
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
