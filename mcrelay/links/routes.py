"""Notice of every change of routes, rules and next hops (rtnetlink(7)). Others ask for the routes themselves.

It listens to links too: when one goes down or loses its carrier, the kernel removes routes and next hops without a
message about them.
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
RTMGRP_IPV6_ROUTE = 0x400
RTMGRP_IPV6_RULE = 1 << 18  # RTNLGRP_IPV6_RULE
GROUPS = RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV6_ROUTE | RTMGRP_IPV6_RULE
RTNLGRP_NEXTHOP = 32
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1

SETTLE_SECONDS = 0.02  # a link that comes up brings several routes
REST_SECONDS = 1.0  # a routing daemon may change thousands a second: one call a second is enough


class RouteWatch:
    """Calls *changed* soon after a change, and at least a second after the last call. Main thread."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._events: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, *, wanted: bool) -> None:
        """Begin or stop to listen: without routed outputs a change of routes costs nothing. Raises OSError."""
        if not wanted:
            self.close()
        elif self._events is None:
            events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
            try:
                # The smallest buffer: an overflow is a notification as well (ENOBUFS), and costs nothing.
                events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                events.bind((0, GROUPS))
                with contextlib.suppress(OSError):  # the kernel has no next hops as objects
                    events.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NEXTHOP)
            except BaseException:
                events.close()
                raise
            self._events = events
            self._listen()

    def close(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None

    def _woken(self) -> None:
        """Do not listen again until *changed* was called."""
        loop = asyncio.get_running_loop()
        if self._events is not None:
            loop.remove_reader(self._events)
        self._timer = loop.call_later(SETTLE_SECONDS, self._look)

    def _look(self) -> None:
        """Empty the socket: its messages came before the look. Later ones wake us after the pause."""
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
                self._events.recv(1)  # recv(2) drops the rest of the message
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: there was no room for some
                continue
