"""Memberships: helper sockets that make the kernel join groups and that nobody ever reads.

A join is what makes the kernel answer IGMP queries and program the link's MAC filter. The helper sockets are never
bound to a port: an unbound one is in no UDP hash, so nothing is queued on it. Each takes as many groups as the
kernel allows (net.ipv4.igmp_max_memberships, 20; net.core.optmem_max), then another is opened: no sysctl to change.
IPv6 has no such number, and the same memory (about 2300 groups): what a group fails by is then ENOMEM.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mcrelay.errors import MembershipError
from mcrelay.model import refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from mcrelay.model.link import LinkId, Membership
    from mcrelay.model.stream import Address

# linux/in.h; struct group_req and group_source_req hold sockaddr_storage aligned to 8 bytes
MCAST_JOIN_GROUP = 42
MCAST_LEAVE_GROUP = 45
MCAST_JOIN_SOURCE_GROUP = 46
MCAST_LEAVE_SOURCE_GROUP = 47

_LIMITS = {  # by IP version
    4: "net.ipv4.igmp_max_memberships, net.ipv4.igmp_max_msf and net.core.optmem_max",
    6: "net.core.optmem_max and net.ipv6.mld_max_msf",
}
FULL = {errno.ENOBUFS, errno.ENOMEM}  # the count, or optmem_max
GONE = {errno.ENODEV, errno.EADDRNOTAVAIL, errno.EINVAL}  # leaving what a dead link took along


class HelperSocket(Protocol):
    """The part of socket.socket a pool needs: tests pass a kernel of their own."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Keeper(Protocol):
    """Keeps helper sockets over a restart, so that no leave is sent: systemd's fd store (linux.systemd.Notifier)."""

    def store(self, fd: int, name: str) -> None: ...
    def forget(self, name: str) -> None: ...


def open_helper(version: int = 4) -> socket.socket:
    """A UDP socket of that IP version with the smallest receive buffer there is. Not bound, not to be read."""
    helper = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    helper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # socket(7): raised to the kernel's minimum
    return helper


@dataclass(slots=True, eq=False)
class _Helper:
    socket: HelperSocket
    name: str  # in the keeper's hands; unlike that of any other helper, also of the process before
    held: set[Membership] = field(default_factory=set)
    groups: Counter[Address] = field(default_factory=Counter)


class _Pool:
    """The helpers of one link and family. A look-up costs the same for any number of them: groups may be thousands.

    Dicts without values keep an order, and lose a member from the middle of it at no cost.
    """

    def __init__(self) -> None:
        self._holders: dict[Membership, _Helper] = {}
        self._helpers: dict[_Helper, None] = {}
        self._room: dict[
            _Helper, None
        ] = {}  # helpers with room: not those that refused a group and have left none since
        self._by_group: dict[Address, dict[_Helper, None]] = {}

    def __iter__(self) -> Iterator[_Helper]:
        return iter(self._helpers)

    def __len__(self) -> int:
        return len(self._helpers)

    def holder(self, membership: Membership) -> _Helper:
        """The helper that has joined it."""
        return self._holders[membership]

    def candidates(self, membership: Membership) -> Iterator[_Helper]:
        """Helpers worth a try, as long as each one refuses: the last that holds the group, then those with room.

        The last of these is tried first, and is not asked again for another group until it has left one. Where it holds
        the group already there is none: to look through all the others for each source of a group would take too long.
        """
        group = membership.group
        if membership.source is not None and group in self._by_group:
            yield next(reversed(self._by_group[group]))  # if it refuses, only this group's sources are too many
        while self._room and group not in (helper := next(reversed(self._room))).groups:
            yield helper
            self._room.popitem()

    def add(self, helper: _Helper, membership: Membership) -> None:
        """The helper has joined it."""
        if helper not in self._helpers:
            self._helpers[helper] = self._room[helper] = None
        helper.held.add(membership)
        helper.groups[membership.group] += 1
        self._holders[membership] = helper
        self._by_group.setdefault(membership.group, {})[helper] = None

    def remove(self, membership: Membership) -> _Helper | None:
        """Its helper has left it; the helper, if it holds nothing any more."""
        helper = self._holders.pop(membership)
        helper.held.remove(membership)
        helper.groups[membership.group] -= 1
        if not helper.groups[membership.group]:
            del helper.groups[membership.group]
            del self._by_group[membership.group][helper]
            if not self._by_group[membership.group]:
                del self._by_group[membership.group]
        if helper.held:
            self._room[helper] = None
            return None
        self._room.pop(helper, None)
        del self._helpers[helper]
        return helper


@dataclass(frozen=True, slots=True)
class _Sums:
    joined: frozenset[Membership]
    users: Counter[tuple[int, Address]]


class Memberships:
    """What this process has joined. Every method belongs to the main thread.

    Helper sockets belong to one link each: when a link goes away its sockets go with it, because the kernel's entries
    of a dead link still count against a socket (net/ipv4/igmp.c).
    """

    def __init__(self, opener: Callable[[int], HelperSocket] = open_helper, keeper: Keeper | None = None) -> None:
        self._open = opener
        self._keeper = keeper
        self._serial = itertools.count()
        self._pools: dict[tuple[LinkId, int], _Pool] = {}  # by IP version too
        self._failed: dict[Membership, str] = {}
        self._sums: _Sums | None = None  # cached: every look needs it, and there may be thousands

    @property
    def joined(self) -> frozenset[Membership]:
        """Every membership that the kernel has accepted. The same object until something changes."""
        return self._summed().joined

    @property
    def users(self) -> Mapping[tuple[int, Address], int]:
        """Number of helper sockets that have joined, by ifindex and group: our share of /proc/net/igmp."""
        return self._summed().users

    def _summed(self) -> _Sums:
        if self._sums is None:
            helpers = [(link.ifindex, helper) for (link, _), pool in self._pools.items() for helper in pool]
            self._sums = _Sums(
                frozenset(each for _, helper in helpers for each in helper.held),
                Counter((ifindex, group) for ifindex, helper in helpers for group in helper.groups),
            )
        return self._sums

    @property
    def failed(self) -> dict[Membership, str]:
        """Every wanted membership the kernel refused, and why."""
        return dict(self._failed)

    @property
    def sockets(self) -> int:
        """Helper sockets open now."""
        return sum(map(len, self._pools.values()))

    def reconcile(
        self,
        wanted: Collection[Membership],
        links: Collection[LinkId],
        links6: Collection[LinkId] | None = None,
        *,
        retry: bool = False,
    ) -> None:
        """Leave what is no longer wanted, join what is missing; a refusal is remembered, not raised.

        ``links`` are those that exist, ``links6`` those with IPv6, if not all of them: sockets of others are closed
        before anything is joined on a link that may have their number. What failed is tried again only when ``retry``
        says so: a kernel that refuses a fresh socket will refuse the next one too.
        """
        existing = {(link, 4) for link in links} | {(link, 6) for link in (links if links6 is None else links6)}
        for key in self._pools.keys() - existing:
            self._sums = None
            for helper in self._pools.pop(key):
                self._discard(helper)
        have, wanted = self.joined, frozenset(wanted)
        for membership in sorted(have - wanted, key=_order):
            self._leave(membership)
        self._failed = {each: why for each, why in self._failed.items() if each in wanted and not retry}
        for membership in sorted(wanted - have - self._failed.keys(), key=_order):
            try:
                self._join(membership)
            except MembershipError as error:
                self._failed[membership] = str(error)

    def close(self) -> None:
        """Close every helper; the kernel sends the leaves, unless a keeper holds the sockets too."""
        for pool in self._pools.values():
            for helper in pool:
                helper.socket.close()
        self._pools.clear()
        self._failed.clear()
        self._sums = None

    def _join(self, membership: Membership) -> None:
        pool = self._pools.setdefault(_pool_key(membership), _Pool())
        for helper in pool.candidates(membership):
            if self._try(pool, helper, membership):
                return
        try:
            fresh = _Helper(self._open(membership.group.version), f"helper-{os.getpid()}-{next(self._serial)}")
        except OSError as error:
            raise MembershipError(refusals.of_join(_describe(membership), error)) from error
        with contextlib.ExitStack() as refused:
            refused.callback(fresh.socket.close)
            if not self._try(pool, fresh, membership):
                limits = _LIMITS[membership.group.version]
                raise MembershipError(
                    f"{_describe(membership)}: the kernel's membership limit refuses it even on a fresh socket; "
                    f"see sysctl {limits}"
                )
            refused.pop_all()
        if self._keeper is not None:
            self._keeper.store(fresh.socket.fileno(), fresh.name)

    def _try(self, pool: _Pool, helper: _Helper, membership: Membership) -> bool:
        """True when the socket took it, False when the socket is full. Raises MembershipError for the rest."""
        try:
            set_member(helper.socket, membership, join=True)
        except OSError as error:
            if error.errno in FULL:
                return False
            raise MembershipError(refusals.of_join(_describe(membership), error)) from error
        pool.add(helper, membership)
        self._sums = None
        return True

    def _leave(self, membership: Membership) -> None:
        pool = self._pools[_pool_key(membership)]
        try:
            set_member(pool.holder(membership).socket, membership, join=False)
        except OSError as error:
            if error.errno not in GONE:
                raise
        self._sums = None
        if (idle := pool.remove(membership)) is not None:
            self._discard(idle)

    def _discard(self, helper: _Helper) -> None:
        if self._keeper is not None:
            self._keeper.forget(helper.name)
        helper.socket.close()


def _pool_key(membership: Membership) -> tuple[LinkId, int]:
    return membership.link, membership.group.version


def _order(membership: Membership) -> tuple[int, int, int]:
    return (membership.ifindex, int(membership.group), int(membership.source or 0))


def set_member(helper: HelperSocket, membership: Membership, *, join: bool) -> None:
    """Join or leave by ifindex, never by address (ip(7), IP_ADD_MEMBERSHIP, resolves those by route)."""
    level = socket.IPPROTO_IP if membership.group.version == 4 else socket.IPPROTO_IPV6
    request = struct.pack("@I4x", membership.ifindex) + _sockaddr(membership.group)
    if membership.source is None:
        option = MCAST_JOIN_GROUP if join else MCAST_LEAVE_GROUP
    else:
        option = MCAST_JOIN_SOURCE_GROUP if join else MCAST_LEAVE_SOURCE_GROUP
        request += _sockaddr(membership.source)
    helper.setsockopt(level, option, request)


def _sockaddr(address: Address) -> bytes:
    """A struct sockaddr_storage (linux/in.h, linux/in6.h)."""
    if address.version == 4:
        return struct.pack("@H2x4s120x", socket.AF_INET, address.packed)
    return struct.pack("@H6x16s104x", socket.AF_INET6, address.packed)


def _describe(membership: Membership) -> str:
    return f"joining {membership.group}" + (f" from {membership.source}" if membership.source else "")
