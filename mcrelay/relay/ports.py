"""Ports of unicast inputs, held open: the kernel tells a sender of a closed one that nobody listens (ICMP, RFC 1122).

Each is a bound socket that nobody reads, with the smallest buffer; the ring has the datagrams. A program of this host
that has the port open needs no such help, and would lose what a second socket takes: the port is then left to it.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import socket
from typing import TYPE_CHECKING

from mcrelay.exclusive import listeners
from mcrelay.igmp.membership import open_helper
from mcrelay.model import refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mcrelay.exclusive.listeners import Listeners
    from mcrelay.igmp.membership import Keeper
    from mcrelay.model.plan import HostPort
    from mcrelay.model.stream import Address

log = logging.getLogger(__name__)


def open_port(address: Address, port: int) -> socket.socket:
    """Bind a socket that is not to be read. Raises OSError.

    SO_REUSEADDR, because an output of ours may send from that port; and a program that comes later and says so too may
    have it as well, until the next look leaves it the port alone.
    """
    opened = open_helper(address.version)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((str(address), port))
    except BaseException:
        opened.close()
        raise
    return opened


class Ports:
    """What is held now. ``failed`` says why a port that is wanted is closed. Main thread."""

    def __init__(
        self,
        keeper: Keeper | None = None,
        opener: Callable[[Address, int], socket.socket] = open_port,
        listening: Callable[[], Listeners | None] = listeners.read,
        own: Callable[[], Collection[int]] = listeners.own_inodes,
    ) -> None:
        self.failed: dict[HostPort, str] = {}
        self._keeper = keeper
        self._open = opener
        self._listening = listening
        self._own = own
        self._serial = itertools.count()
        self._held: dict[HostPort, tuple[socket.socket, str]] = {}
        self._left: frozenset[HostPort] = frozenset()  # to other programs

    def reconcile(self, wanted: Collection[HostPort]) -> None:
        """Hold these ports and no others, but for those that another program has open."""
        for place in self._held.keys() - set(wanted):
            self._release(place)
        heard = self._listening() if wanted else None
        own = functools.cache(self._own)
        left, failed = set(), {}
        for address, port in sorted(wanted, key=_order):
            place = address, port
            if heard is not None and heard.have_open(address, port, own):
                left.add(place)
                if place in self._held:
                    self._release(place)
            elif place not in self._held:
                try:
                    self._hold(place)
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        left.add(place)
                    else:
                        failed[place] = refusals.of_port(address, port, error)
        for address, port in sorted(left - self._left, key=_order):
            log.info("left to another program port=%d address=%s: it is open there", port, address)
        self._left = frozenset(left)
        if failed != self.failed:
            self.failed = failed

    def close(self) -> None:
        """Close every port; a keeper may have the sockets too, and then they stay open."""
        for held, _ in self._held.values():
            held.close()
        self._held.clear()

    def _hold(self, place: HostPort) -> None:
        opened = self._open(*place)
        name = f"port-{os.getpid()}-{next(self._serial)}"
        self._held[place] = opened, name
        if self._keeper is not None:
            self._keeper.store(opened.fileno(), name)

    def _release(self, place: HostPort) -> None:
        held, name = self._held.pop(place)
        if self._keeper is not None:
            self._keeper.forget(name)
        held.close()


def _order(place: HostPort) -> tuple[int, int, int]:
    return place[0].version, int(place[0]), place[1]
