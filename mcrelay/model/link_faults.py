"""What is wrong with a link that is to be captured on or sent by, in words for a person. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcrelay.model.link import Link

OPEN_VSWITCH = "openvswitch"
IPV4_UDP_BYTES = 28  # of headers
ETHERNET_TYPES = {1, 772}  # ARPHRD_ETHER and ARPHRD_LOOPBACK of linux/if_arp.h: what starts with an Ethernet header


def reports_from_nobody(name: str) -> str:
    """A link without an IPv4 address joins all the same (RFC 3376, 4.2.13)."""
    return (
        f"{name} has no IPv4 address, so its reports come from 0.0.0.0, which some snooping switches ignore; give it "
        f"one, any will do: ip address add 169.254.1.1/16 dev {name}"
    )


def no_ethernet(link: Link) -> str:
    """Say why a link cannot be captured on; nothing if it can. ``hardware``: linux/if_arp.h."""
    if link.hardware in ETHERNET_TYPES:
        return ""
    return f"link {link.name} carries no Ethernet frames (ARPHRD {link.hardware})"


def port_of(link: Link) -> str:
    """Say whose port a link is, and where its frames are to be had; nothing if it is nobody's."""
    if not link.master:
        return ""
    if link.master_kind == OPEN_VSWITCH:  # the master is the datapath, and takes no input itself
        bridge = f"its bridge (ovs-vsctl port-to-br {link.name} names it)"
        return f"{link.name} is a port of an Open vSwitch: take the input from {bridge}"
    return f"{link.name} is a port of {link.master}: take the input from {link.master}"


def narrower(link: Link, widest: int, *, df: bool) -> tuple[str, str]:
    """Say what becomes of datagrams that fit the MTU of their input, which is *widest*, and not that of this link."""
    fate = "are counted as lost (mtu)" if df else "leave in fragments"
    largest = link.mtu - IPV4_UDP_BYTES
    problem = (
        f"the MTU of {link.name} is {link.mtu}, that of the input {widest}: datagrams of more than {largest} bytes"
    )
    return f"{problem} {fate}", f"raise the MTU of {link.name}"


def no_address(link: Link) -> str:
    """Say why nothing can be sent from a link without an address."""
    text = f"link {link.name} has no IPv4 address to send from"
    if link.master and link.master_kind != OPEN_VSWITCH:
        text += f": it is a port of {link.master}, so send on {link.master}"
    return text
