"""Word of every change of the IPv4 routes, rules and next hops (rtnetlink(7)); what they say is asked elsewhere.

Links are heard too: with one that goes down, or loses its carrier, the kernel takes routes and next hops away and says
nothing of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# linux/rtnetlink.h, linux/netlink.h
RTMGRP_LINK = 0x1
RTMGRP_IPV4_ROUTE = 0x40
RTMGRP_IPV4_RULE = 0x80
RTNLGRP_NEXTHOP = 32
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1

SETTLE_SECONDS = 0.02  # a link that comes up brings several routes
REST_SECONDS = 1.0  # of a routing daemon that changes thousands a second, one change a second is heard


class RouteWatch:
    """Calls *changed* soon after a change, and not before a second has passed since the last call. Main thread."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._events: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, *, wanted: bool) -> None:
        """Listen, or do not: without routed outputs nothing that happens to a route costs anything. Raises OSError."""
        if not wanted:
            self.close()
        elif self._events is None:
            events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
            try:
                # The least there can be: what finds no room is a notification as well (ENOBUFS), and costs nothing.
                events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                events.bind((0, RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE))
                with contextlib.suppress(OSError):  # the kernel has no next hops as objects
                    events.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NEXTHOP)
            except BaseException:
                events.close()
                raise
            self._events = events
            self._listen()

    def close(self) -> None:
        """Listen no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None

    def _woken(self) -> None:
        """Nothing more is heard until it has been looked at."""
        loop = asyncio.get_running_loop()
        if self._events is not None:
            loop.remove_reader(self._events)
        self._timer = loop.call_later(SETTLE_SECONDS, self._look)

    def _look(self) -> None:
        """What is in the socket by now happened before the look; what comes later wakes us after the rest."""
        self._drain()
        self._timer = asyncio.get_running_loop().call_later(REST_SECONDS, self._listen)
        self._changed()

    def _listen(self) -> None:
        self._timer = None
        if self._events is not None:
            asyncio.get_running_loop().add_reader(self._events, self._woken)

    def _drain(self) -> None:
        while self._events is not None:
            try:
                self._events.recv(1)  # the rest of the message goes with it
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: some found no room
                continue
