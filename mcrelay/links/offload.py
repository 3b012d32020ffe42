"""Receive offloads of a link and the timers of its NAPI instances, by netlink: no ethtool, no /sys.

Families ``ethtool`` (linux/ethtool_netlink.h) and ``netdev`` (linux/netdev.h; its NAPI_SET is of Linux 6.13).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mcrelay.linux.genl import attribute, attributes, nest, number

if TYPE_CHECKING:
    from collections.abc import Mapping

FEATURES_GET, FEATURES_SET = 11, 12
FEATURES_HEADER, FEATURES_WANTED, FEATURES_ACTIVE = 1, 3, 4
HEADER_IFINDEX = 1
BITSET_BITS, BITS_BIT, BIT_NAME, BIT_VALUE = 3, 1, 2, 3

NAPI_GET, NAPI_SET = 11, 14
NAPI_IFINDEX, NAPI_ID, NAPI_DEFER, NAPI_FLUSH = 1, 2, 5, 6


class Netlink(Protocol):
    """The part of genl.GenericNetlink that this module uses."""

    def call(self, family: str, command: int, *payload: bytes, dump: bool = False) -> list[dict[int, bytes]]: ...


class Timers(NamedTuple):
    """``defer``: how many empty polls a NAPI instance waits; ``flush_ns``: how long GRO holds frames."""

    defer: int
    flush_ns: int


def features(netlink: Netlink, ifindex: int) -> set[str]:
    """The features that are active on a link. Raises OSError."""
    (found,) = netlink.call("ethtool", FEATURES_GET, _header(ifindex))
    bits = dict(attributes(found.get(FEATURES_ACTIVE, b""))).get(BITSET_BITS, b"")
    return {dict(attributes(bit))[BIT_NAME].rstrip(b"\0").decode() for _, bit in attributes(bits)}


def set_features(netlink: Netlink, ifindex: int, wanted: Mapping[str, bool]) -> None:
    """Switch features on or off; others stay. A device may refuse to change one without an error. Raises OSError."""
    bits = [
        nest(BITS_BIT, attribute(BIT_NAME, name.encode() + b"\0"), *([attribute(BIT_VALUE, b"")] if on else []))
        for name, on in wanted.items()
    ]
    netlink.call("ethtool", FEATURES_SET, _header(ifindex), nest(FEATURES_WANTED, nest(BITSET_BITS, *bits)))


def napis(netlink: Netlink, ifindex: int) -> dict[int, Timers] | None:
    """The NAPI instances of a link: none while it is down. None before Linux 6.13, which alone sets their timers.

    Raises OSError.
    """
    try:
        found = netlink.call("netdev", NAPI_GET, number(NAPI_IFINDEX, ifindex), dump=True)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EOPNOTSUPP}:  # before 6.3 and 6.8
            return None
        raise
    if any(NAPI_FLUSH not in each for each in found):
        return None
    return {_number(each[NAPI_ID]): Timers(_number(each[NAPI_DEFER]), _number(each[NAPI_FLUSH])) for each in found}


def set_timers(netlink: Netlink, napi: int, timers: Timers) -> None:
    """Set the timers of a NAPI instance. Raises OSError: EPERM in a user namespace."""
    values = (number(NAPI_ID, napi), number(NAPI_DEFER, timers.defer), number(NAPI_FLUSH, timers.flush_ns))
    netlink.call("netdev", NAPI_SET, *values)


def _header(ifindex: int) -> bytes:
    return nest(FEATURES_HEADER, number(HEADER_IFINDEX, ifindex))


def _number(value: bytes) -> int:
    """GRO_FLUSH_TIMEOUT is a "uint": 4 bytes, or 8 where it needs them."""
    return int(struct.unpack("=Q" if len(value) == 8 else "=I", value)[0])
