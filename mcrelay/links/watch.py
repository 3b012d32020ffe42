"""Links as they are now, and word of every change: rtnetlink through pyroute2 (rtnetlink(7)).

Level-triggered: a notification only says which link to look at again; the facts always come from a dump that began
after it, so a repeated notification does no harm, and a lost one none for long. What concerns no link that is followed
costs next to nothing: a host may have thousands that come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from mcrelay.linux.rtnetlink import ADDRESS_TYPES, LINK_TYPES, Notice, notices
from mcrelay.model.link import Link, LinkTable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from ipaddress import IPv4Address

# linux/rtnetlink.h, linux/if.h, linux/if_addr.h
RTMGRP_LINK = 0x1
RTMGRP_TC = 0x8
RTMGRP_IPV4_IFADDR = 0x10
IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFA_F_SECONDARY = 0x1
RTN_UNICAST = 1
DUMP_TRIES = 10  # something changes during each of them
DUMP_LASTS_SECONDS = 300.0  # while netlink says nothing of the links that are followed
# Queueing disciplines that cut a GSO frame into packets, may drop some of them, and still report success
# (linux/net/sched: tbf_segment of sch_tbf.c; sch_cake.c, sch_taprio.c, sch_netem.c).
CUTS_RUNS = {"tbf", "cake", "taprio", "netem"}
TAKES_NO_FRAMES = {"vrf"}  # kinds of masters whose ports go on receiving: they share routes alone
TAKES_FRAMES = {"macvlan", "macvtap", "ipvlan", "ipvtap"}  # kinds of links whose frames come from the link below them


class LinkWatch:
    """The netlink sockets of this process. Use as an async context manager; main thread only."""

    def __init__(self, changed: Callable[[], None], netlink: Callable[[], Any] = AsyncIPRoute) -> None:
        self._changed = changed
        self._make_netlink = netlink
        self._netlink: Any = None  # pyroute2 has no hints
        self._open = contextlib.AsyncExitStack()
        self._events: socket.socket
        self._links: dict[str, Link] = {}  # the last dump
        self._dumped = 0.0  # when it began
        self._quiet = False  # nothing has changed since of what is followed
        self._complete = False  # nor of any other link
        self._names: frozenset[str] | None = None  # of the links that are followed; None: every link
        self._all_addresses = True

    async def __aenter__(self) -> LinkWatch:
        """Subscribe first: a change during the first dump is then noticed."""
        self._netlink = self._make_netlink()
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._events.bind((0, RTMGRP_LINK | RTMGRP_TC | RTMGRP_IPV4_IFADDR))
        asyncio.get_running_loop().add_reader(self._events, self._drain)
        await self._open.enter_async_context(self._netlink)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close both sockets."""
        asyncio.get_running_loop().remove_reader(self._events)
        self._events.close()
        await self._open.aclose()

    def follow(self, names: Collection[str] | None, *, all_addresses: bool = False) -> None:
        """Be woken by these links alone, what they are ports of, and what is made on top of them; None: by every link.

        With *all_addresses* an address of any other link counts too.
        """
        wanted = None if names is None else frozenset(names)
        if not self._complete and self._names is not None and (wanted is None or not wanted <= self._names):
            self._quiet = False  # what was said of the new ones was not listened to
        self._names, self._all_addresses = wanted, all_addresses

    async def dump(self, *, fresh: bool = False, complete: bool = False) -> dict[str, Link]:
        """Every link by name, with its IPv4 addresses in the kernel's order, primary ones first.

        A dump during which something changed may lack what did not change: it is asked for again. Unless it must be
        *fresh*, the last one serves again if netlink has said nothing since of the links that are followed, or of any
        if it has to be *complete*: every change of a rule asks, and word of what a person has done to a link is here by
        the time that ip(8) has ended. Raises OSError.
        """
        self._read()
        now = time.monotonic()
        told = self._complete if complete else self._quiet
        if not fresh and told and now - self._dumped < DUMP_LASTS_SECONDS:
            return self._links
        for _ in range(DUMP_TRIES):
            self._quiet = self._complete = True
            try:
                self._links, self._dumped = await self._dump(), now
            except NetlinkDumpInterrupted:
                continue
            except BaseException:
                self._quiet = self._complete = False
                raise
            return self._links
        self._quiet = self._complete = False
        raise OSError(errno.EAGAIN, f"links change too fast: {DUMP_TRIES} dumps were interrupted")

    async def _dump(self) -> dict[str, Link]:
        addresses: dict[int, list[tuple[bool, IPv4Interface, int]]] = {}
        async for message in await self._netlink.addr("dump", family=socket.AF_INET):
            local = message.get("local") or message.get("address")
            flags = message.get("flags") or 0
            entry = (bool(flags & IFA_F_SECONDARY), IPv4Interface(f"{local}/{message['prefixlen']}"), message["scope"])
            addresses.setdefault(message["index"], []).append(entry)
        cutting = {}
        async for message in await self._netlink.tc("dump"):
            if (kind := message.get("kind")) in CUTS_RUNS:
                cutting[message["index"]] = kind
        links = {}
        masters, uppers, lowers = {}, {}, {}
        async for message in await self._netlink.link("dump"):
            held = sorted(addresses.get(message["index"], []), key=lambda entry: entry[0])
            link = _link(message, held)
            links[link.name] = link
            slave = message.get(("linkinfo", "slave_kind")) or ""
            if (master := message.get("master")) and slave not in TAKES_NO_FRAMES:
                masters[link.name] = (master, slave)
            beneath = message.get("link") if message.get(("linkinfo", "kind")) != "veth" else None  # that is its peer
            if cutting and beneath and message.get("link_netnsid") is None:
                lowers[link.ifindex] = beneath
            if message.get(("linkinfo", "kind")) in TAKES_FRAMES and message.get("link_netnsid") is None:
                uppers[message.get("link")] = link.name
        if masters or uppers:
            names = {link.ifindex: name for name, link in links.items()}
            for name, link in links.items():
                ifindex, slave = masters.get(name, (0, ""))
                master, upper = names.get(ifindex, ""), uppers.get(link.ifindex, "")
                links[name] = replace(link, master=master, master_kind=slave, upper=upper)
        if cutting:
            for name, link in links.items():
                if kind := _first_below(link.ifindex, lowers, cutting):
                    links[name] = replace(link, cuts=kind)
        return LinkTable(links)

    async def route_to(self, address: IPv4Address) -> int | None:
        """The ifindex of the link by which the kernel would send to ``address``; None without a route."""
        with contextlib.suppress(NetlinkError):
            for message in await self._netlink.route("get", dst=str(address)):
                if message["type"] == RTN_UNICAST:
                    route: int | None = message.get("oif")
                    return route
        return None

    def _drain(self) -> None:
        """Wake whoever looks, if it concerns a link that is followed."""
        if self._read():
            self._changed()

    def _read(self) -> bool:
        """Take in every notification there is; whether one concerns us. ENOBUFS (an overflow) may have been one."""
        concerned = False
        try:
            while data := self._events.recv(65536):
                self._complete = False
                concerned = concerned or any(map(self._concerns, notices(data)))
        except BlockingIOError:
            pass  # no more of them
        except OSError:
            self._complete, concerned = False, True
        if concerned:
            self._quiet = False
        return concerned

    def _concerns(self, notice: Notice) -> bool:
        if self._names is None or notice.names & self._names:
            return True
        if notice.kind in ADDRESS_TYPES and self._all_addresses:
            return True
        followed = [self._links[name] for name in self._names if name in self._links]
        near = {link.ifindex for link in followed}
        if notice.ifindex in near or notice.lower in near:
            return True
        beside = {name for link in followed for name in (link.master, link.upper) if name}
        return bool(notice.names & beside) or notice.kind not in LINK_TYPES | ADDRESS_TYPES


def _link(message: Any, held: list[tuple[bool, IPv4Interface, int]]) -> Link:
    flags = message["flags"]
    return Link(
        name=message.get("ifname"),
        ifindex=message["index"],
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        operstate=str(message.get("operstate") or "UNKNOWN"),
        mtu=message.get("mtu"),
        addresses=tuple(address for _, address, _ in held),
        hardware=message["ifi_type"],
        mac=message.get("address") or "",
        carrier_losses=message.get("carrier_down_count") or 0,
        altnames=_altnames(message),
        scopes=tuple(scope for _, _, scope in held),
    )


def _first_below(ifindex: int, lowers: Mapping[int, int], found: Mapping[int, str]) -> str:
    """What is found for a link, or else for the first link below it."""
    passed: set[int] = set()
    while ifindex and ifindex not in found and ifindex not in passed:
        passed.add(ifindex)
        ifindex = lowers.get(ifindex, 0)
    return found.get(ifindex, "")


def _altnames(message: Any) -> tuple[str, ...]:
    properties = message.get("prop_list")
    return tuple(properties.get_attrs("IFLA_ALT_IFNAME")) if properties else ()


def links_now() -> dict[str, Link]:
    """Every link by name, for a command that looks once. Needs no privilege; raises OSError."""

    async def look() -> dict[str, Link]:
        async with LinkWatch(lambda: None) as watch:
            return await watch.dump()

    return asyncio.run(look())
