"""What this host itself sends to groups of rules on their input links: a capture does not see it, and nor do people.

An encoder on the relay's own host, or a macvlan child of the input link: tcpdump shows the stream, and nothing arrives.
Per input link one more packet socket that is not read counts such frames (packet(7), PACKET_STATISTICS); its filter is
over with the first two instructions for whatever arrives. Main thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from mcrelay.linux import bpf
from mcrelay.model.link import LinkId

if TYPE_CHECKING:
    from collections.abc import Collection

    from mcrelay.model.plan import PlanSpec

log = logging.getLogger(__name__)

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
SO_ATTACH_FILTER = 26
QUIET_SECONDS = 5.0  # without another: it is over
DESTINATION_AT = 30  # of an IPv4 packet in an Ethernet frame
QUEUED_MAX = 16  # frames that a receive buffer of the smallest size may hold

Groups = frozenset[IPv4Address]


@dataclass(slots=True)
class _Count:
    name: str
    groups: Groups
    socket: socket.socket
    frames: int = 0
    looked: int = 0  # frames, at the last look
    said: int = 0  # frames, when it was said that some are sent
    moved: float | None = None  # when the count moved last, None while it rests

    def count(self) -> int:
        """Add up what came since the last time: the kernel counts from 0 again after each reading."""
        with contextlib.suppress(OSError):  # the link is gone
            packets, _ = struct.unpack("=II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            self.frames += packets
        return self.frames

    def queued(self) -> set[IPv4Address]:
        """The groups of the few frames that found room in the socket."""
        found = set()
        with contextlib.suppress(OSError):
            for _ in range(QUEUED_MAX):
                frame = self.socket.recv(DESTINATION_AT + 4)
                found.add(IPv4Address(frame[DESTINATION_AT:]))
        return found


class OutgoingCounts:
    """The counts of all input links, by name."""

    def __init__(self) -> None:
        self._counts: dict[LinkId, _Count] = {}
        self._kept: dict[str, int] = {}  # what links had counted that were made again

    def reconcile(self, spec: PlanSpec) -> None:
        """Count on the links of the plan."""
        wanted = _wanted(spec)
        for link, held in list(self._counts.items()):
            if link not in wanted or wanted[link][0] != held.name:
                self._kept[held.name] = self._kept.get(held.name, 0) + held.count()
                self._counts.pop(link).socket.close()
        for link, (name, groups) in wanted.items():
            with contextlib.suppress(OSError):  # without it, a diagnosis is missing and nothing else
                if link not in self._counts:
                    self._counts[link] = _Count(name, groups, _open(link.ifindex, groups))
                elif self._counts[link].groups != groups:  # closing a packet socket takes the kernel a while
                    _attach(self._counts[link].socket, groups)
                    self._counts[link].groups = groups

    def look(self, spec: PlanSpec, now: float) -> None:
        """Say when this host begins to send to a rule's group, and when it has ended."""
        for link, held in self._counts.items():
            before, held.looked = held.looked, held.count()
            if held.looked > before:
                groups = held.queued()
                if held.moved is None:
                    held.said = before
                    log.warning(
                        "link=%s%s %s", held.name, _whose(spec, link.ifindex, groups), SAYING.format(link=held.name)
                    )
                held.moved = now
            elif held.moved is not None and now - held.moved >= QUIET_SECONDS:
                held.moved = None
                log.info("link=%s this host's own sending ended frames=%d", held.name, held.looked - held.said)

    def frames(self) -> dict[str, int]:
        """By link: frames of a rule's group that this host has sent there."""
        found = dict(self._kept)
        for held in self._counts.values():
            found[held.name] = found.get(held.name, 0) + held.count()
        return found

    def close(self) -> None:
        """Count nothing any more."""
        for held in self._counts.values():
            held.socket.close()
        self._counts.clear()


SAYING = (
    "this host itself sends to it on its input link, and what a host sends there it does not capture; "
    "of a program here: route its group to lo and take the input from %lo; "
    "of a macvlan on {link}: take the input from another macvlan beside it"
)


def _wanted(spec: PlanSpec) -> dict[LinkId, tuple[str, Groups]]:
    """Name and groups of live inputs by link, less what outputs of ours send on that link."""
    sent = {(each.ifindex, each.address) for rule in spec.rules for each in rule.outputs}
    found: dict[int, set[IPv4Address]] = {}
    for rule in spec.rules:
        for each in rule.inputs:
            ring = spec.rings.get(each.ifindex)
            if each.live and ring is not None and not ring.loopback and (each.ifindex, each.group) not in sent:
                found.setdefault(each.ifindex, set()).add(each.group)
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
    held = ctypes.create_string_buffer(program)
    filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))  # struct sock_fprog
    counting.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)


def _whose(spec: PlanSpec, ifindex: int, groups: Collection[IPv4Address]) -> str:
    names = [
        rule.name for rule in spec.rules for each in rule.inputs if each.ifindex == ifindex and each.group in groups
    ]
    said = "".join(f" group={group}" for group in sorted(groups)[:1])
    return said + "".join(f" rule={name}" for name in dict.fromkeys(names[:3])) + ":"
