"""Frames that this host sends to the groups of rules on their input links: the rings do not capture them.

The sender may be an encoder on the relay's own host, or a macvlan child of the input link: tcpdump shows the stream,
and nothing arrives. One more packet socket on each input link, which is not read, counts such frames (packet(7),
PACKET_STATISTICS). Its filter ends after two instructions for every received frame. Main thread.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

from mcrelay.linux import bpf
from mcrelay.linux.packets import attach
from mcrelay.model.link import LinkId

if TYPE_CHECKING:
    from collections.abc import Collection

    from mcrelay.model.plan import PlanSpec
    from mcrelay.model.stream import Address

log = logging.getLogger(__name__)

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
QUIET_SECONDS = 5.0  # without another frame, the sending has ended
ETHERTYPE_AT, IPV6 = 12, b"\x86\xdd"  # in an Ethernet frame
DESTINATION_AT, DESTINATION_AT_SIX = slice(30, 34), slice(38, 54)
QUEUED_MAX = 16  # most frames that a receive buffer of the smallest size may hold

Groups: TypeAlias = "frozenset[Address]"


@dataclass(slots=True)
class _Count:
    name: str
    groups: Groups
    socket: socket.socket
    frames: int = 0
    looked: int = 0  # frames, at the last look
    said: int = 0  # frames, when the start of the sending was logged
    moved: float | None = None  # when the count last moved, None while it rests

    def count(self) -> int:
        """Add up what came since the last time: the kernel counts from 0 again after each reading."""
        with contextlib.suppress(OSError):  # the link is gone
            packets, _ = struct.unpack("=II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            self.frames += packets
        return self.frames

    def queued(self) -> set[Address]:
        """The groups of the few frames for which the socket had room."""
        found: set[Address] = set()
        with contextlib.suppress(OSError):
            for _ in range(QUEUED_MAX):
                frame = self.socket.recv(DESTINATION_AT_SIX.stop)
                six = frame[ETHERTYPE_AT : ETHERTYPE_AT + 2] == IPV6
                found.add(ip_address(frame[DESTINATION_AT_SIX if six else DESTINATION_AT]))
        return found


class OutgoingCounts:
    """The counts of all input links, by name."""

    def __init__(self) -> None:
        self._counts: dict[LinkId, _Count] = {}
        self._kept: dict[str, int] = {}  # counts of links that were made anew

    def reconcile(self, spec: PlanSpec) -> None:
        """Count on the links of the plan."""
        wanted = _wanted(spec)
        for link, held in list(self._counts.items()):
            if link not in wanted or wanted[link][0] != held.name:
                self._kept[held.name] = self._kept.get(held.name, 0) + held.count()
                self._counts.pop(link).socket.close()
        for link, (name, groups) in wanted.items():
            with contextlib.suppress(OSError):  # without it, only a diagnosis is missing
                if link not in self._counts:
                    self._counts[link] = _Count(name, groups, _open(link.ifindex, groups))
                elif self._counts[link].groups != groups:  # closing a packet socket takes the kernel a while
                    _attach(self._counts[link].socket, groups)
                    self._counts[link].groups = groups

    def look(self, spec: PlanSpec, now: float) -> None:
        """Log when this host begins to send to a rule's group, and when it ends."""
        for link, held in self._counts.items():
            before, held.looked = held.looked, held.count()
            if held.looked > before:
                groups = held.queued()
                if held.moved is None:
                    held.said = before
                    log.warning(
                        "began link=%s%s %s",
                        held.name,
                        _whose(spec, link.ifindex, groups),
                        SAYING.format(link=held.name),
                    )
                held.moved = now
            elif held.moved is not None and now - held.moved >= QUIET_SECONDS:
                held.moved = None
                log.info("ended link=%s frames=%d: this host's own sending", held.name, held.looked - held.said)

    def frames(self) -> dict[str, int]:
        """Frames of a rule's group that this host has sent, by link."""
        found = dict(self._kept)
        for held in self._counts.values():
            found[held.name] = found.get(held.name, 0) + held.count()
        return found

    def close(self) -> None:
        """Close the sockets."""
        for held in self._counts.values():
            held.socket.close()
        self._counts.clear()


SAYING = (
    "this host itself sends to it on its input link, and what a host sends there it does not capture unless the rule "
    "says own = true, or of a program here: route its group to lo and take the input from %lo; "
    "of a macvlan on {link}: take the input from another macvlan beside it"
)


def _wanted(spec: PlanSpec) -> dict[LinkId, tuple[str, Groups]]:
    """Name and groups of live inputs by link, without those that are captured or that our own outputs send to."""
    sent = {
        (each.ifindex, each.address + i) for rule in spec.rules for each in rule.outputs for i in range(each.groups)
    }
    found: dict[int, set[Address]] = {}
    for rule in spec.rules:
        for each in rule.inputs:
            ring = spec.rings.get(each.ifindex)
            captured = ring is None or ring.loopback or ring.bare or each.own
            if each.live and not captured:
                theirs = {group for group in each.groups if (each.ifindex, group) not in sent}
                if theirs:
                    found.setdefault(each.ifindex, set()).update(theirs)
    return {
        LinkId(ifindex, spec.rings[ifindex].incarnation): (spec.rings[ifindex].ifname, frozenset(groups))
        for ifindex, groups in found.items()
    }


def _open(ifindex: int, groups: Groups) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # socket(7): raised to the kernel's minimum
        _attach(opened, groups)
        opened.bind((socket.if_indextoname(ifindex), ETH_P_ALL))
    except BaseException:
        opened.close()
        raise
    return opened


def _attach(counting: socket.socket, groups: Groups) -> None:
    program, _ = bpf.fitting_filter(groups, outgoing=True)
    attach(counting, program)


def _whose(spec: PlanSpec, ifindex: int, groups: Collection[Address]) -> str:
    names = [
        rule.name
        for rule in spec.rules
        for each in rule.inputs
        if each.ifindex == ifindex and any(map(each.takes, groups))
    ]
    said = "".join(f" group={group}" for group in sorted(groups, key=int)[:1])
    return said + "".join(f" rule={name}" for name in dict.fromkeys(names[:3])) + ":"
