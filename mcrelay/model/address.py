"""Addresses and networks of both families as people write them, and how far a group reaches. Pure."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from mcrelay.errors import NotationError

if TYPE_CHECKING:
    from mcrelay.model.stream import Address

Network: TypeAlias = IPv4Network | IPv6Network

INTERFACE_LOCAL, LINK_LOCAL = 1, 2  # scopes of groups: RFC 7346, 2
SCOPES = {1: "interface-local", 2: "link-local", 3: "realm-local", 4: "admin-local", 5: "site-local"}
SCOPES |= {8: "organization-local", 14: "global"}
LINK_LOCAL_GROUPS = IPv4Network("224.0.0.0/24")
SOURCE_SPECIFIC = IPv4Network("232.0.0.0/8")

_QUAD = re.compile(r"[0-9]+(\.[0-9]+){3}")
_QUAD_AND_PORT = re.compile(r"([0-9]+(?:\.[0-9]+){3})\.([0-9]+)")  # as tcpdump prints it
_LONGEST_SIX = 45  # characters


def refuse(problem: str, remedy: str) -> NoReturn:
    """Raise what every reader of the notation raises."""
    raise NotationError(problem, remedy)


def shown(text: str) -> str:
    """Quote text for a message, so that it stays on one line whatever it holds."""
    return repr(text if len(text) <= 48 else f"{text[:45]}...")


def number(digits: str, highest: int) -> int | None:
    """Return 0 to *highest* (of five digits at most), or None for anything else, a leading zero among it."""
    if not re.fullmatch("0|[1-9][0-9]{0,4}", digits) or int(digits) > highest:
        return None
    return int(digits)


def host(address: Address) -> str:
    """Write an address as it stands before a port: IPv6 in brackets."""
    return f"[{address}]" if isinstance(address, IPv6Address) else str(address)


def parse_address(text: str) -> Address:
    """Read an address of either family; IPv6 has no brackets here."""
    return parse_six(text) if ":" in text else parse_quad(text)


def parse_quad(text: str) -> IPv4Address:
    """Read a dotted quad, strictly: four decimal numbers to 255 without leading zeros."""
    if match := _QUAD_AND_PORT.fullmatch(text):
        refuse(f"{shown(text)} has five numbers", f"a port stands after a colon: {match[1]}:{match[2]}")
    if not _QUAD.fullmatch(text):
        refuse(
            f"{shown(text)} is not an IPv4 address", "write four numbers, e.g. 233.252.0.1 (names are not looked up)"
        )
    for octet in text.split("."):
        if len(octet) > 1 and octet[0] == "0":
            refuse(f"{shown(octet)} in {shown(text)} has a leading zero", f"write {octet.lstrip('0') or '0'}")
        if len(octet) > 3 or int(octet) > 255:
            refuse(f"{shown(octet)} in {shown(text)} is more than 255", "each of the four numbers is 0 to 255")
    return IPv4Address(text)


def parse_six(text: str) -> IPv6Address:
    """Read an IPv6 address (RFC 4291, 2.2) without a zone; one that holds an IPv4 address is written as that."""
    address = six(text)
    if address is None:
        bare, zone, name = text.removeprefix("[").removesuffix("]").partition("%")
        if zone and six(bare) is not None:
            refuse(f"{shown('%' + name)} follows the address", f"a link stands at the end of a stream: [{bare}]%{name}")
        if six(bare) is not None:
            refuse(f"{shown(text)} stands in brackets", f"they are for streams, so write {bare}")
        refuse(f"{shown(text)} is not an IPv6 address", "write e.g. 2001:db8::5 (names are not looked up)")
    if address.ipv4_mapped is not None:
        refuse(f"{shown(text)} holds an IPv4 address", f"write {address.ipv4_mapped}")
    return address


def six(text: str) -> IPv6Address | None:
    """Read an IPv6 address; None where the text is none, or has a zone."""
    if len(text) > _LONGEST_SIX or "%" in text or "/" in text:
        return None
    try:
        return IPv6Address(text)
    except ValueError:
        return None


def parse_network(text: str) -> Network:
    """Read ``ADDRESS/LENGTH``, or an address alone as a network of one."""
    written, slash, digits = text.strip().partition("/")
    address = parse_address(written)
    if not slash:
        return ip_network(address)
    length = number(digits, address.max_prefixlen)
    if length is None:
        example = "192.0.2.0/24" if address.version == 4 else "2001:db8::/32"
        refuse(f"length {shown(digits)} is not a number from 0 to {address.max_prefixlen}", f"write e.g. {example}")
    return network(address, length)


def network(address: Address, length: int) -> Network:
    """Make a network of an address that has no host bits set."""
    whole = ip_network((address, length), strict=False)
    if whole.network_address != address:
        refuse(f"{address}/{length} has host bits set", f"the network is {whole}, one address alone is {address}")
    return whole


def scope_of(group: Address) -> int:
    """How far a group reaches, as RFC 7346 counts: 2 is the link. IPv4 has a range for it, and no other scopes."""
    if isinstance(group, IPv6Address):
        return int(group) >> 112 & 0xF
    return LINK_LOCAL if group in LINK_LOCAL_GROUPS else 14


def is_source_specific(group: Address) -> bool:
    """Whether routers take only joins that name a source (RFC 4607, 1): 232.0.0.0/8, and ff3X::/32 for each X."""
    if isinstance(group, IPv4Address):
        return group in SOURCE_SPECIFIC
    return int(group) >> 116 == 0xFF3 and int(group) >> 96 & 0xFFFF == 0
