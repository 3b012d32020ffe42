"""What well-known protocols need of a relay, by group and port: what would be relayed and then be useless. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import TYPE_CHECKING

from mcrelay.config.presets import PRESETS
from mcrelay.model.ports import names_port

if TYPE_CHECKING:
    from mcrelay.model.rule import Output
    from mcrelay.model.stream import Address, Stream

MDNS_PORT = 5353
MDNS = ((IPv4Address("224.0.0.251"), MDNS_PORT), (IPv6Address("ff02::fb"), MDNS_PORT))  # RFC 6762, 3
MDNS_TTLS = {1, 255, "keep"}  # 1 stays on the link too, and common responders look at neither
AES67 = (IPv4Network("239.69.0.0/16"), 5004)  # the range that Dante and RAVENNA devices use
PTP_PORTS = (319, 320)  # IEEE 1588-2019, annex C: event and general messages
SD_PORT = 30490  # SOME/IP-SD; the group is chosen by the car's maker

# Requests go to the group, answers by unicast to who asked.
SEARCHED: dict[tuple[Address, int], str] = {
    (IPv4Address("239.255.255.250"), 1900): "SSDP",  # UPnP Device Architecture 2.0, 1.3.3
    (IPv4Address("239.255.255.250"), 3702): "WS-Discovery",  # OASIS WS-Discovery 1.1, 3.1.1
    (IPv6Address("ff02::c"), 1900): "SSDP",  # UPnP Device Architecture 2.0, annex A.3, for the link and the site
    (IPv6Address("ff05::c"), 1900): "SSDP",
    (IPv6Address("ff02::c"), 3702): "WS-Discovery",
    (IPv6Address("ff02::1:3"), 5355): "LLMNR",  # RFC 4795, 2
    (IPv6Address("ff02::fd"), 5683): "CoAP",  # RFC 7252, 12.8
    (IPv6Address("ff05::fd"), 5683): "CoAP",
    (IPv4Address("239.255.255.253"), 427): "SLP",  # RFC 2608, 6
    (IPv4Address("224.0.0.252"), 5355): "LLMNR",  # RFC 4795, 2
    (IPv4Address("224.0.1.187"), 5683): "CoAP",  # RFC 7252, 8
}


def hint(taken: Stream, output: Output) -> tuple[str, str] | None:
    """Return why receivers could not use a rule's output, and the remedy; None if nothing is known against it.

    A protocol of questions is recognised by the group and port of the input. A protocol whose receivers check the
    header is recognised by those of the output.
    """
    sent = output.stream
    if taken.address.is_multicast and (ptp := [port for port in PTP_PORTS if _names(taken, port)]):
        return (
            f"port {ptp[0]} is PTP, and a relay delays each message by a time that nobody knows: clocks go wrong",
            "let a boundary clock, or a switch that knows PTP, carry the time across",
        )
    if knows_ttl(sent):
        return _mdns(output)
    if (protocol := _searched(taken)) and not _keeps_sender(output):
        proxy = f"run a proxy for {protocol} in place of this rule"
        return (
            f"{protocol} is answered by unicast to who asks: that is the relay then, and the answers end there",
            f"announcements arrive; to search as well, {_preset(taken)}{proxy}",
        )
    if _is_aes67(sent) and output.source_port not in {AES67[1], "keep"}:
        return (
            f"{sent.address}:{AES67[1]} is AES67, and some receivers want the destination's port as source port",
            f"say source_port = {AES67[1]}",
        )
    return None


def knows_ttl(stream: Stream) -> bool:
    """Whether the hint for this output names a TTL."""
    return any(_is(stream, *each) for each in MDNS)


def _mdns(output: Output) -> tuple[str, str] | None:
    """RFC 6762: answers from another port are ignored (6), questions from one are answered to the relay alone (6.7)."""
    wrong, right = [], []
    if output.ttl not in MDNS_TTLS:
        wrong.append("may ignore a TTL other than 255")  # 11
        right.append("ttl = 255")
    if output.source_port not in {MDNS_PORT, "keep"}:
        wrong.append("ignore a source port other than 5353")
        right.append("source_port = 5353")
    if not wrong:
        return None
    return f"{output.stream.address} is mDNS, and receivers {' and '.join(wrong)}", f"say {' and '.join(right)}"


def _searched(taken: Stream) -> str:
    if taken.address.is_multicast and _names(taken, SD_PORT):
        return "SOME/IP-SD"
    return next((name for (group, port), name in SEARCHED.items() if _is(taken, group, port)), "")


def _names(stream: Stream, port: int) -> bool:
    """Whether the stream says this port; any says none."""
    return stream.port != "any" and names_port(stream.port, port)


def _is(stream: Stream, group: Address, port: int) -> bool:
    """Whether the stream is, or has among others, this group and port. A range is no single protocol's."""
    return stream.address == group and stream.length is None and _names(stream, port)


def _preset(taken: Stream) -> str:
    """Name the preset that brings answers back, if there is one."""
    name = next((name for name, each in PRESETS.items() if each.searches and _is(taken, each.group, each.port)), "")
    return f'say preset = "{name}" with links = [...], or ' if name else ""


def _keeps_sender(output: Output) -> bool:
    """Whether an answer goes to the real asker: with a kept address and port, the network routes it."""
    return output.source_address == "keep" and output.source_port == "keep"


def _is_aes67(sent: Stream) -> bool:
    network, port = AES67
    return _names(sent, port) and isinstance(sent.address, IPv4Address) and sent.address in network
