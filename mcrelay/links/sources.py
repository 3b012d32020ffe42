"""The source address of multicast that leaves by a link. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from mcrelay.model.address import LINK_LOCAL, scope_of

if TYPE_CHECKING:
    from mcrelay.model.link import Link
    from mcrelay.model.stream import Address

UNIVERSE, LINK, HOST = 0, 253, 254  # RT_SCOPE_* of linux/rtnetlink.h: a larger number is a narrower scope


def sends_from(link: Link, group: Address) -> Address | None:
    """Choose the address that what is sent to a group by a link has; None where the link has none that does.

    Of IPv6, a group that stays on the link takes the link-local address, and a wider one the first that is none, or
    the link-local one where there is no other (RFC 6724, 5, rule 2: the scope has to reach as far, if it can).
    """
    if isinstance(group, IPv4Address):
        return _of_four(link, group)
    wider = [each.ip for each in link.addresses6 if not each.is_link_local] if scope_of(group) > LINK_LOCAL else []
    return wider[0] if wider else link.link_local


def _of_four(link: Link, group: IPv4Address) -> IPv4Address | None:
    """Choose the address as the kernel does for a socket bound to the link, but never an address of another link.

    That is the first one with scope global, or with scope link for a group that stays on the link. Without such an
    address it is one of narrower scope, where the kernel would take another link's (inet_select_addr in
    linux/net/ipv4/devinet.c). None for a link without an address.
    """
    scopes = link.scopes or (UNIVERSE,) * len(link.addresses)
    for limit in (LINK, HOST) if scope_of(group) == LINK_LOCAL else (UNIVERSE, LINK, HOST):
        for address, scope in zip(link.addresses, scopes, strict=True):
            if scope <= limit:
                return address.ip
    return None
