"""Which address of a link its multicast leaves with: pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcrelay.model.link import Link

LINK_LOCAL_GROUPS = IPv4Network("224.0.0.0/24")
UNIVERSE, LINK, HOST = 0, 253, 254  # RT_SCOPE_* of linux/rtnetlink.h: the larger, the less far an address is known


def sends_from(link: Link, group: IPv4Address) -> IPv4Address | None:
    """Choose the address as the kernel does for a socket that chose the link, and never one of another link.

    That is the first one known everywhere (scope global), or on the link for a group that stays on it; of narrower
    scope where there is no such one, for which the kernel itself would take another link's (inet_select_addr in
    linux/net/ipv4/devinet.c). None for a link without an address.
    """
    scopes = link.scopes or (UNIVERSE,) * len(link.addresses)
    for limit in (LINK, HOST) if group in LINK_LOCAL_GROUPS else (UNIVERSE, LINK, HOST):
        for address, scope in zip(link.addresses, scopes, strict=True):
            if scope <= limit:
                return address.ip
    return None
