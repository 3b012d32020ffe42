"""The subject of a notification of rtnetlink(7): kind, link number, names. Pure; the facts come from a request."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/rtnetlink.h, linux/if_link.h
LINK_TYPES = {16, 17}  # RTM_NEWLINK, RTM_DELLINK
ADDRESS_TYPES = {20, 21}  # RTM_NEWADDR, RTM_DELADDR
QUEUE_TYPES = {36, 37}  # RTM_NEWQDISC, RTM_DELQDISC
_IFLA_IFNAME, _IFLA_LINK, _IFLA_PROP_LIST, _IFLA_ALT_IFNAME = 3, 5, 52, 53
_TYPE_MASK = 0x3FFF  # less NLA_F_NESTED and NLA_F_NET_BYTEORDER
_HEADER, _IFINFO = 16, 16  # bytes of struct nlmsghdr, struct ifinfomsg


@dataclass(frozen=True, slots=True)
class Notice:
    """One message: ``names`` are the link's name and altnames, ``lower`` the link below it; of a link message only."""

    kind: int
    ifindex: int
    names: frozenset[str] = frozenset()
    lower: int = 0


def notices(data: bytes) -> Iterator[Notice]:
    """Read the messages of one recv(2). ifinfomsg, ifaddrmsg and tcmsg all have the ifindex at byte 4."""
    at = 0
    while at + _HEADER + 8 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if not _HEADER <= size <= len(data) - at:
            return
        (ifindex,) = struct.unpack_from("=i", data, at + _HEADER + 4)
        if kind in LINK_TYPES:
            names, lower = set(), 0
            for attribute, value in _attributes(data, at + _HEADER + _IFINFO, at + size):
                if attribute == _IFLA_IFNAME:
                    names.add(_text(value))
                elif attribute == _IFLA_LINK and len(value) == 4:
                    (lower,) = struct.unpack("=i", value)
                elif attribute == _IFLA_PROP_LIST:
                    names.update(
                        _text(name) for what, name in _attributes(value, 0, len(value)) if what == _IFLA_ALT_IFNAME
                    )
            yield Notice(kind, ifindex, frozenset(names), lower)
        else:
            yield Notice(kind, ifindex)
        at += (size + 3) & ~3


def _attributes(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= end:
        size, kind = struct.unpack_from("=HH", data, at)
        if not 4 <= size <= end - at:
            return
        yield kind & _TYPE_MASK, data[at + 4 : at + size]
        at += (size + 3) & ~3


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
