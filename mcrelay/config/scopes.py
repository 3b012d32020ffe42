"""What the addresses of an end say of themselves: its family, how far its group reaches, the prefix within it. Pure."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from mcrelay.config.ends import complaint
from mcrelay.model.address import INTERFACE_LOCAL, LINK_LOCAL, host, is_source_specific, scope_of
from mcrelay.model.notation import format_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay.config.ends import In, Out, Where
    from mcrelay.errors import Complaint
    from mcrelay.model.stream import Address

_DOCUMENTATION = (IPv6Network("2001:db8::/32"), IPv6Network("3fff::/20"))  # RFC 3849, RFC 9637
_LONGEST_PREFIX = 64  # bits of a group's network prefix: RFC 3306, 4
_EMBEDDED, _PREFIXED, _TRANSIENT = 4, 2, 1  # flags of a group: RFC 3956, 3306 and 4291
_SENDERS = {4: "192.0.2.1", 6: "2001:db8::5"}
LOOPBACK = "lo"


def of_input(item: In, where: Where) -> Iterator[Complaint]:
    """What is wrong with the addresses of an input."""
    stream, allow = item.stream, item.input.allow
    if allow is not None and all(network.version != stream.address.version for network in allow):
        problem = f"allow names no IPv{stream.address.version} network, so nothing would ever match"
        yield complaint(where, item.key, problem, "name networks of the stream's own family, or leave allow out")
    yield from _of_group(item, where)
    if stream.source is None and is_source_specific(stream.address):
        problem = f"{stream.address} is for source-specific multicast, and routers ignore a join there without a source"
        sender: Address = IPv4Address("192.0.2.1") if stream.address.version == 4 else IPv6Address("2001:db8::5")
        whole = replace(stream, source=sender, port=stream.port or 5000, link=stream.link or "eth0")
        yield complaint(where, item.key, problem, f"name the source, e.g. {format_stream(whole)}", warning=True)
    if stream.source is not None:
        yield from _documented(item, stream.source, "names the sender", where)
        yield from _beyond_the_link(item, stream.source, where)


def of_output(item: Out, where: Where) -> Iterator[Complaint]:
    """What is wrong with the addresses of an output."""
    stream, sender = item.stream, item.output.source_address
    yield from _of_group(item, where)
    if not stream.address.is_multicast:
        yield from _documented(item, stream.address, "is sent to", where)
    if isinstance(sender, str):
        return
    family = stream.address.version
    if sender.version != family:
        problem = f"source_address {sender} is of IPv{sender.version}, and the output of IPv{family}"
        yield complaint(where, item.key, problem, f"name an IPv{family} address of this host, e.g. {_SENDERS[family]}")
    elif family == 6 and sender.is_link_local != _stays(stream.address):
        if sender.is_link_local:
            problem = f"source_address {sender} is a link-local one, and {stream.address} goes beyond the link"
            remedy = "name a global address of this host, or leave it out"
        else:
            problem = f"{stream.address} stays on the link, and source_address {sender} is no link-local address"
            remedy = "leave it out: the link's own is used"
        yield complaint(where, item.key, problem, remedy)


def _stays(address: Address) -> bool:
    """Whether what is sent there never goes beyond the link."""
    return scope_of(address) <= LINK_LOCAL if address.is_multicast else address.is_link_local


def _of_group(item: In | Out, where: Where) -> Iterator[Complaint]:
    stream = item.stream
    group = stream.address
    if not isinstance(group, IPv6Address) or not group.is_multicast:
        return
    if scope_of(group) == INTERFACE_LOCAL and stream.link != LOOPBACK:
        wider = f"[{IPv6Address(int(group) + (1 << 112))}]"
        problem = f"{group} is an interface-local group, which never leaves a host"
        yield complaint(where, item.key, problem, f"name a group of wider scope, e.g. {wider}, which is the link's")
    if trouble := _of_prefix(group):
        remedy = "routers may refuse it: name a group without a prefix, e.g. [ff15::1234], or of a prefix that is yours"
        yield complaint(where, item.key, trouble, remedy, warning=True)


def _of_prefix(group: IPv6Address) -> str:
    """What RFC 3306 and RFC 3956 do not allow in the prefix that a group says it has; nothing if it has none.

    It is ff, flags, scope, eight bits (of them four the number of the rendezvous point), the prefix's length in eight,
    64 bits of prefix, 32 of a group number.
    """
    flags = int(group) >> 116 & 0xF
    if not flags & (_PREFIXED | _EMBEDDED):
        return ""
    length = int(group) >> 96 & 0xFF
    prefix = int(group) >> 32 & ((1 << 64) - 1)
    if not flags & _TRANSIENT or not flags & _PREFIXED:
        return f"the flags of {group} contradict each other: one with a prefix begins with ff3 or ff7"
    if length > _LONGEST_PREFIX:
        return f"{group} says a prefix of {length} bits, and {_LONGEST_PREFIX} have room (RFC 3306)"
    if prefix & ((1 << (64 - length)) - 1):
        return f"{group} has more of a prefix than the {length} bits that it says (RFC 3306)"
    if flags & _EMBEDDED and not (length and int(group) >> 104 & 0xF):
        return f"{group} names no rendezvous point, as its flags say (RFC 3956)"
    return ""


def _beyond_the_link(item: In, source: Address, where: Where) -> Iterator[Complaint]:
    group = item.stream.address
    if group.version == 6 and _stays(group) and not source.is_link_local and item.stream.link != LOOPBACK:
        problem = f"{group} stays on the link, where hosts send from a link-local address, and {source} is none"
        yield complaint(where, item.key, problem, "name the sender's address that begins with fe80", warning=True)


def _documented(item: In | Out, address: Address, what: str, where: Where) -> Iterator[Complaint]:
    if any(address in network for network in _DOCUMENTATION):
        problem = f"{host(address)} {what}, and is an address for documentation, which no host has"
        yield complaint(where, item.key, problem, "name the real address", warning=True)
