"""MLD on a wire of the lab: queries made by hand, joins by a plain socket, and the monitors alone at work."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from ipaddress import IPv6Address

from scapy.layers.inet6 import ICMPv6MLQuery, ICMPv6MLQuery2, IPv6, IPv6ExtHdrHopByHop, RouterAlert
from scapy.layers.l2 import Ether
from support.igmpwire import send_frame
from support.traffic import wait_for

from mcrelay.igmp.monitors import Monitors
from mcrelay.igmp.protocol import MLD
from mcrelay.links.watch import LinkWatch
from mcrelay.model.link import Membership

QUERIER = "fe80::ff"
MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP = 42, 46  # linux/in.h
LOOK_SECONDS = 0.2


def send_query(namespace, link: str, version: int = 2, source: str = QUERIER, allowed: float = 0.5) -> None:
    """Ask by hand, from any port of a network."""
    message = (ICMPv6MLQuery if version == 1 else ICMPv6MLQuery2)(mrd=round(allowed * 1000))
    alert = IPv6ExtHdrHopByHop(options=[RouterAlert(value=0)])
    packet = IPv6(src=source, dst="ff02::1", hlim=1) / alert / message
    send_frame(namespace, link, bytes(Ether(src="02:00:00:00:00:01", dst="33:33:00:00:00:01") / packet))


def join(namespace, link: str, group: str, source: str | None = None) -> socket.socket:
    """A socket that has joined and is never read."""
    helper = namespace.socket(socket.AF_INET6)
    request = struct.pack("@I4x", namespace.ifindex(link)) + _sockaddr(group)
    if source:
        request += _sockaddr(source)
    helper.setsockopt(socket.IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP if source else MCAST_JOIN_GROUP, request)
    return helper


def _sockaddr(address: str) -> bytes:
    return struct.pack("@HHI16s104x", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, address))


class Watching:
    """The monitor of MLD of one link, at work in a thread of its own."""

    def __init__(self, namespace, link: str, limits, joined) -> None:
        self.namespace, self.link = namespace, link
        self.warnings: dict[str, str] = {}
        self.querier = None
        self._limits, self._joined = limits, joined
        self._stop = threading.Event()
        self._thread = threading.Thread(target=namespace.call, args=(lambda: asyncio.run(self._run()),))

    def __enter__(self):
        self._thread.start()
        time.sleep(3 * LOOK_SECONDS)
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(10)

    def wait_for(self, kind: str, *, gone: bool = False, seconds: float = 5) -> str:
        """The text of a warning of that kind, as soon as there is one; or "" when it has *gone*."""
        wait_for(lambda: (kind in self.warnings) is not gone, f"{'end of ' * gone}{kind}", seconds)
        return self.warnings.get(kind, "")

    async def _run(self) -> None:
        monitors = Monitors(self._limits)
        async with LinkWatch(lambda: None) as watch:
            while not self._stop.is_set():
                links = await watch.dump()
                index = links[self.link].ifindex if self.link in links else 0
                joined = {
                    Membership(index, IPv6Address(group), IPv6Address(source) if source else None)
                    for group, source in self._joined
                }
                monitors.reconcile({(self.link, MLD)}, links, frozenset(joined))
                monitors.tick()
                await monitors.explain(links, watch.route_to)
                for monitor in monitors:
                    self.warnings = {each.kind: each.text for each in monitor.warnings}
                    self.querier = monitor.querier
                await asyncio.sleep(LOOK_SECONDS)
        monitors.close()
