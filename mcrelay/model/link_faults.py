"""Why a link cannot capture or send, in words for a person. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from ipaddress import IPv4Interface, IPv6Interface

    from mcrelay.model.link import Link
    from mcrelay.model.stream import Address

OPEN_VSWITCH = "openvswitch"
HEADER_BYTES = {4: 28, 6: 48}  # by family: IP and UDP
LEAST_MTU = {4: 68, 6: 1280}  # RFC 791, RFC 8200; below it Linux removes addresses and memberships from the link
ETHERNET_TYPE = 1  # ARPHRD_ETHER of linux/if_arp.h
ETHERNET_TYPES = {ETHERNET_TYPE, 772}  # and ARPHRD_LOOPBACK: frames begin with an Ethernet header
# ARPHRD_PPP, _RAWIP, _TUNNEL, _SIT, _IPGRE, and _NONE of tun and WireGuard: they begin with an IP header
BARE_TYPES = {512, 519, 768, 776, 778, 65534}


def reports_from_nobody(name: str) -> str:
    """Warn of a link without an IPv4 address, which can still join (RFC 3376, 4.2.13)."""
    return (
        f"{name} has no IPv4 address, so its reports come from 0.0.0.0, which some snooping switches ignore; give it "
        f"one, any will do: ip address add 169.254.1.1/16 dev {name}"
    )


def addresses_of(link: Link) -> Iterator[IPv4Interface | IPv6Interface]:
    """Those of either family that a link can be sent to by."""
    yield from link.addresses
    yield from link.addresses6


def nobody_has(address: Address, link: Link) -> str:
    """Say that an input's address, which is no group, is none that this host would take a datagram for."""
    return f"{address} is no address of this host, and no broadcast address of {link.name}"


def is_bare(link: Link) -> bool:
    """Whether packets of a link come without a link-layer header."""
    return link.hardware in BARE_TYPES


def no_packets(link: Link) -> str:
    """Say why a link cannot be captured on; nothing if it can."""
    return "" if is_bare(link) else no_ethernet(link)


def no_ethernet(link: Link) -> str:
    """Say why a link's frames have no Ethernet header; nothing if they have. ``hardware``: linux/if_arp.h."""
    if link.hardware in ETHERNET_TYPES:
        return ""
    return f"link {link.name} carries no Ethernet frames (ARPHRD {link.hardware})"


def no_tags(link: Link) -> str:
    """Say why no frame with a VLAN tag can be sent on a link; nothing if one can."""
    if link.hardware == ETHERNET_TYPE and link.mac:
        return ""
    return f"link {link.name} is no Ethernet link, and its packets have no VLAN tag"


def port_of(link: Link) -> str:
    """Say whose port a link is, and where to take its frames instead; nothing if it is no port."""
    fault = port_fault(link)
    return ": ".join(fault) if fault else ""


def port_fault(link: Link) -> tuple[str, str] | None:
    """Say whose port a link is, and what to do; None if it is no port."""
    if not link.master:
        return None
    if link.master_kind == OPEN_VSWITCH:  # the master is the datapath, which cannot be an input
        bridge = f"its bridge (ovs-vsctl port-to-br {link.name} names it)"
        return f"{link.name} is a port of an Open vSwitch", f"take the input from {bridge}"
    return f"{link.name} is a port of {link.master}", f"take the input from {link.master}"


def payload_max(link: Link, address: Address) -> int:
    """Bytes of the largest datagram to or from that address that a link takes whole."""
    return link.mtu - HEADER_BYTES[address.version]


def narrower(
    link: Link, destination: Address, taken: Sequence[tuple[Link, Address]], *, df: bool
) -> tuple[str, str] | None:
    """Say what happens to datagrams that fit the MTU of an input and not that of this link; None if all fit.

    *taken* are the inputs: a link and an address each. Where the input is of IPv4 and the output of IPv6, whose header
    is longer, both links may have one MTU.
    """
    largest = payload_max(link, destination)
    if largest >= max((payload_max(*each) for each in taken), default=0):
        return None
    widest = max(each.mtu for each, _ in taken)
    fate = "are counted as lost (mtu)" if df else "leave in fragments"
    sizes = f"is {link.mtu}, that of the input {widest}"
    if link.mtu >= widest:
        sizes = f"is {link.mtu}, as that of the input, and IPv6 has the longer header"
    problem = f"the MTU of {link.name} {sizes}: datagrams of more than {largest} bytes {fate}"
    return problem, f"raise the MTU of {link.name}"


def no_address(link: Link, destination: Address) -> str:
    """Say why nothing can be sent there from a link without an address that does for it."""
    text = f"link {link.name} has no IPv{destination.version} address to send from"
    if destination.version == 6 and link.addresses6:
        text = f"link {link.name} has no link-local address to send to {destination} from"
    if destination.version == 6 and link.tentative:
        return f"{text} yet: duplicate address detection is not done with {link.tentative[0]}"
    if destination.version == 6 and link.refused:
        return f"{text}: another host has {link.refused[0]} (duplicate address detection failed)"
    if link.master and link.master_kind != OPEN_VSWITCH:
        text += f": it is a port of {link.master}, so send on {link.master}"
    return text
