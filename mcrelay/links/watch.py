"""Links as they are now, and notice of every change: rtnetlink(7) through pyroute2.

Level-triggered: a notification only says which link to look at again, and the facts come from a request made after it.
So a repeated notification does no harm, and a lost one does none for long. A notification about a link that is not
followed costs next to nothing, and any other costs one request for that link: a host may have thousands of links.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl import RTM_GETADDR
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from mcrelay.links.known import CUTS_RUNS, HOLDS_NOTHING, Held, KnownLinks, Near, address_of, facts_of
from mcrelay.linux.rtnetlink import ADDRESS_TYPES, LINK_TYPES, QUEUE_TYPES, Notice, notices
from mcrelay.model.link import LinkTable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mcrelay.model.link import Link
    from mcrelay.model.stream import Address

# linux/rtnetlink.h
RTMGRP_LINK = 0x1
RTMGRP_TC = 0x8
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100
RTN_UNICAST = 1
DUMP_TRIES = 10  # so many dumps in a row, with a change during each
DUMP_LASTS_SECONDS = 300.0  # unless netlink names the links
SINGLE_LINKS = 32  # for more links than this, a dump of all costs no more


# With NETLINK_GET_STRICT_CHK the kernel obeys a request for one link. pyroute2 has no type hints.
STRICT: Callable[[], Any] = partial(AsyncIPRoute, strict_check=True)
ADDRESS_REQUEST: Callable[[], Any] = ifaddrmsg


class LinkWatch:
    """The netlink sockets of this process. Use as an async context manager; main thread only."""

    def __init__(self, changed: Callable[[], None], netlink: Callable[[], Any] = STRICT) -> None:
        self._changed = changed
        self._make_netlink = netlink
        self._netlink: Any = None  # pyroute2 has no type hints
        self._open = contextlib.AsyncExitStack()
        self._events: socket.socket
        self._turn = asyncio.Lock()  # an answer must not be mixed up with a later one
        self._known = KnownLinks()
        self._links: dict[str, Link] = LinkTable({})  # the links made from it
        self._dumped = 0.0  # when the last dump began
        self._unsure = True  # a dump is needed: there was none yet, or notifications are missing
        self._stale: set[int] = set()  # followed links that netlink has named since the last request
        self._queues = False  # it has named a queueing discipline
        self._complete = False  # no notification was ignored since the last dump
        self._names: frozenset[str] | None = None  # names of the followed links; None: every link
        self._near = Near()  # the ifindexes that matter to them
        self._all_addresses = True

    async def __aenter__(self) -> LinkWatch:
        """Subscribe first: a change during the first dump is then noticed."""
        self._netlink = self._make_netlink()
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._events.bind((0, RTMGRP_LINK | RTMGRP_TC | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        asyncio.get_running_loop().add_reader(self._events, self._drain)
        await self._open.enter_async_context(self._netlink)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close both sockets."""
        asyncio.get_running_loop().remove_reader(self._events)
        self._events.close()
        await self._open.aclose()

    def follow(self, names: Collection[str] | None, *, all_addresses: bool = False) -> None:
        """Wake up only for these links, their masters, and links made on top of them; None: for every link.

        With *all_addresses* a changed address of any other link wakes too.
        """
        wanted = None if names is None else frozenset(names)
        more = self._names is not None and (wanted is None or not wanted <= self._names)
        if not self._complete and (more or all_addresses > self._all_addresses):
            self._unsure = True  # notifications about the new ones were ignored until now
        if wanted != self._names:
            self._names, self._near = wanted, self._known.near(wanted or ())
        self._all_addresses = all_addresses

    async def dump(self, *, fresh: bool = False, complete: bool = False) -> dict[str, Link]:
        """Every link by name, with its addresses in the kernel's order, primary ones first.

        Unless it must be *fresh*, the answer is the last dump, with a request for each followed link that netlink has
        named since. There is a new dump if those are too many, if notifications were lost, if the answers contradict
        the known facts, and, for a *complete* answer, if netlink has named a link that is not followed. Every change
        of a rule asks: a notification is here by the time that the ip(8) that caused it has ended. Raises OSError.
        """
        async with self._turn:
            self._read()
            sure = not self._unsure and (self._complete or not complete)
            lasts = time.monotonic() - self._dumped < DUMP_LASTS_SECONDS
            if not fresh and sure and lasts and await self._look_again():
                return self._links
            return await self._look_at_all()

    async def _look_at_all(self) -> dict[str, Link]:
        """Dump all links. A dump that a change interrupted may lack unchanged links, so it is repeated."""
        for _ in range(DUMP_TRIES):
            begin = time.monotonic()
            self._forget_notices()
            self._unsure, self._complete = False, True
            try:
                known = await self._dump()
            except NetlinkDumpInterrupted:
                continue
            except BaseException:
                self._unsure, self._complete = True, False
                raise
            if (table := known.table()) is not None:
                self._known, self._links, self._dumped = known, table, begin
                self._near = known.near(self._names or ())
                return table
        self._unsure, self._complete = True, False
        raise OSError(errno.EAGAIN, f"links change too fast: {DUMP_TRIES} dumps were interrupted")

    async def _look_again(self) -> bool:
        """Ask for the links that netlink has named since the last look; False if a dump is needed."""
        stale, queues = self._stale, self._queues
        if not stale and not queues:
            return True
        self._forget_notices()
        if len(stale) > SINGLE_LINKS:
            return False
        try:
            await self._ask(stale, queues=queues)
        except NetlinkError:  # an interrupted dump too
            return False
        except BaseException:
            self._unsure = True
            raise
        table = self._known.table()
        if table is None:
            return False
        if table != self._links:
            self._links = table
        return True

    def _forget_notices(self) -> None:
        """Forget the notifications so far: the coming request answers them."""
        self._stale, self._queues = set(), False

    async def _ask(self, stale: Iterable[int], *, queues: bool) -> None:
        """Ask for single links, and for links that begin to matter by the answers: their notifications were ignored."""
        asked: set[int] = set()
        before = self._near
        while wanted := set(stale) - asked:
            asked |= wanted
            for ifindex in sorted(wanted):
                queues |= await self._ask_for(ifindex, heard=ifindex in before.below or self._names is None)
            self._near = self._known.near(self._names or ())
            stale = self._near.all - before.all
        if queues:
            self._known.cut(await self._cutting())

    async def _ask_for(self, ifindex: int, *, heard: bool) -> bool:
        """Ask for one link. Returns whether the queue below its root may have changed, unless that was *heard*."""
        old = self._known.get(ifindex)
        try:
            (message,) = await self._netlink.link("get", index=ifindex)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
            self._known.drop(ifindex)
            return False
        facts = facts_of(message, (await self._addresses(ifindex)).get(ifindex, ()))
        self._known.put(facts)
        same = heard and old is not None and old.queue == facts.queue
        return not same and facts.queue not in HOLDS_NOTHING

    async def _dump(self) -> KnownLinks:
        """Ask for every link."""
        addresses = await self._addresses()
        cutting = await self._cutting()
        messages = [message async for message in await self._netlink.link("dump")]
        return KnownLinks((facts_of(each, addresses.get(each["index"], ())) for each in messages), cutting)

    async def _addresses(self, ifindex: int = 0) -> dict[int, list[Held]]:
        """The addresses of one link or of all, by ifindex. A kernel before 4.20 gives all of them in any case."""
        if ifindex:
            asked = ADDRESS_REQUEST()
            asked["family"], asked["index"] = socket.AF_UNSPEC, ifindex
            answer = await self._netlink.nlm_request(asked, RTM_GETADDR)
        else:
            answer = await self._netlink.addr("dump", family=socket.AF_UNSPEC)
        found: dict[int, list[Held]] = {}
        async for message in answer:
            found.setdefault(message["index"], []).append(address_of(message))
        return found

    async def _cutting(self) -> dict[int, str]:
        """By ifindex, the queueing disciplines that cut runs; the kernel cannot be asked for those of one link."""
        answer = await self._netlink.tc("dump")
        return {each["index"]: each.get("kind") async for each in answer if each.get("kind") in CUTS_RUNS}

    async def route_to(self, address: Address) -> int | None:
        """The ifindex of the link by which the kernel would send to ``address``; None without a route."""
        with contextlib.suppress(NetlinkError):
            for message in await self._netlink.route("get", dst=str(address)):
                if message["type"] == RTN_UNICAST:
                    route: int | None = message.get("oif")
                    return route
        return None

    def _drain(self) -> None:
        """Wake the waiting look, if a notification concerns a followed link."""
        if self._read():
            self._changed()

    def _read(self) -> bool:
        """Read every waiting notification. Returns whether one concerns us; an overflow (ENOBUFS) counts as one."""
        concerned = False
        try:
            while data := self._events.recv(65536):
                for notice in notices(data):
                    concerned |= self._note(notice)
        except BlockingIOError:
            pass  # no more of them
        except OSError:
            self._unsure, self._complete, concerned = True, False, True
        return concerned

    def _note(self, notice: Notice) -> bool:
        """Remember which links to ask for. Returns whether there are any. Filters and classes of tc(8) do not count."""
        if notice.kind not in LINK_TYPES | ADDRESS_TYPES | QUEUE_TYPES:
            return False
        if not self._concerns(notice):
            self._complete = False
            return False
        if notice.kind in QUEUE_TYPES:
            self._queues = True
        else:
            self._stale.add(notice.ifindex)
        return True

    def _concerns(self, notice: Notice) -> bool:
        if self._names is None:
            return True
        if notice.kind in QUEUE_TYPES:
            return notice.ifindex in self._near.below
        if notice.kind in ADDRESS_TYPES and self._all_addresses:
            return True
        return bool(notice.names & self._names) or notice.ifindex in self._near.all or notice.lower in self._near.own


def links_now() -> dict[str, Link]:
    """Every link by name, for a command that looks once. Needs no privilege; raises OSError."""

    async def look() -> dict[str, Link]:
        async with LinkWatch(lambda: None) as watch:
            return await watch.dump()

    return asyncio.run(look())
