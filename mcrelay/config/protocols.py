"""What well-known protocols want of a relay, by group and port: what would pass the relay and be of no use. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcrelay.model.rule import Output
    from mcrelay.model.stream import Stream

MDNS = (IPv4Address("224.0.0.251"), 5353)
MDNS_TTLS = {1, 255, "keep"}  # 1 stays on the link too, and common responders look at neither
AES67 = (IPv4Network("239.69.0.0/16"), 5004)  # the range that Dante and RAVENNA devices use
PTP_PORTS = {319, 320}  # IEEE 1588-2019, annex C: event and general messages
SD_PORT = 30490  # SOME/IP-SD; the group is chosen by the car's maker

# Requests go to the group, answers by unicast to who asked.
SEARCHED = {
    (IPv4Address("239.255.255.250"), 1900): "SSDP",  # UPnP Device Architecture 2.0, 1.3.3
    (IPv4Address("239.255.255.250"), 3702): "WS-Discovery",  # OASIS WS-Discovery 1.1, 3.1.1
    (IPv4Address("239.255.255.253"), 427): "SLP",  # RFC 2608, 6
    (IPv4Address("224.0.0.252"), 5355): "LLMNR",  # RFC 4795, 2
    (IPv4Address("224.0.1.187"), 5683): "CoAP",  # RFC 7252, 8
}


def hint(taken: Stream, output: Output) -> tuple[str, str] | None:
    """Return what receivers would make of a rule's output, and the remedy; None where nothing is known against it.

    A protocol of questions is told by the group and port of the input, where the questions go; one whose receivers
    look at the header, by those of the output.
    """
    sent = output.stream
    if taken.port in PTP_PORTS and taken.address.is_multicast:
        return (
            f"port {taken.port} is PTP, and a relay delays each message by a time that nobody knows: clocks go wrong",
            "let a boundary clock, or a switch that knows PTP, carry the time across",
        )
    if (sent.address, sent.port) == MDNS:
        return _mdns(output)
    if (protocol := _searched(taken)) and not _keeps_sender(output):
        return (
            f"{protocol} is answered by unicast to who asks: that is the relay then, and the answers end there",
            f"announcements arrive; to search as well, run a proxy for {protocol} in place of this rule",
        )
    if _is_aes67(sent) and output.source_port not in {sent.port, "keep"}:
        return (
            f"{sent.address}:{sent.port} is AES67, and some receivers want the destination's port as source port",
            f"say source_port = {sent.port}",
        )
    return None


def knows_ttl(stream: Stream) -> bool:
    """Whether the hint of this output says which TTL it wants."""
    return (stream.address, stream.port) == MDNS


def _mdns(output: Output) -> tuple[str, str] | None:
    """RFC 6762: answers from another port are ignored (6), questions from one are answered to the relay alone (6.7)."""
    wrong, right = [], []
    if output.ttl not in MDNS_TTLS:
        wrong.append("may ignore a TTL other than 255")  # 11
        right.append("ttl = 255")
    if output.source_port not in {MDNS[1], "keep"}:
        wrong.append("ignore a source port other than 5353")
        right.append("source_port = 5353")
    if not wrong:
        return None
    return f"{MDNS[0]} is mDNS, and receivers {' and '.join(wrong)}", f"say {' and '.join(right)}"


def _searched(taken: Stream) -> str:
    if taken.address.is_multicast and taken.port == SD_PORT:
        return "SOME/IP-SD"
    return next((name for (group, port), name in SEARCHED.items() if (group, port) == (taken.address, taken.port)), "")


def _keeps_sender(output: Output) -> bool:
    """Whether an answer goes to who asked in truth: where its address and port are kept, the network routes it."""
    return output.source_address == "keep" and output.source_port == "keep"


def _is_aes67(sent: Stream) -> bool:
    network, port = AES67
    return sent.port == port and isinstance(sent.address, IPv4Address) and sent.address in network
