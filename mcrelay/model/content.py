"""A guess at what a multicast datagram carries, from its payload, group and port; and the sessions that SAP announces.

Everything here is hostile input: nothing is believed for its length, and text is made printable. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from mcrelay.model.transport import is_transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.model.stream import Address

# RFC 3551, table 4 and 5
PAYLOAD_TYPES = {
    0: "PCMU", 3: "GSM", 4: "G.723", 8: "PCMA", 9: "G.722", 10: "L16 stereo", 11: "L16 mono", 14: "MPEG audio",
    18: "G.729", 26: "JPEG", 31: "H.261", 32: "MPEG video", 33: "MPEG-TS", 34: "H.263",
}  # fmt: skip
RTP_HEADER_BYTES = 12
PTP_MESSAGES = {
    0: "Sync", 1: "Delay_Req", 2: "Pdelay_Req", 3: "Pdelay_Resp", 8: "Follow_Up", 9: "Delay_Resp", 11: "Announce",
    12: "Signaling", 13: "Management",
}  # fmt: skip
KNOWN_PORTS = {
    ("224.0.0.252", 5355): "LLMNR",
    ("224.0.0.9", 520): "RIP",
    ("224.0.0.2", 1985): "HSRP",
    ("224.0.0.102", 1985): "HSRP",
    ("239.255.255.250", 3702): "WS-Discovery",
    ("239.255.255.253", 427): "SLP",
    ("224.0.1.187", 5683): "CoAP",
    ("224.0.1.1", 123): "NTP",
}
TEXT_MAX = 48  # letters of anything that a sender has written


@dataclass(frozen=True, slots=True)
class Content:
    """What a datagram seems to be. ``sure`` is False if one datagram is no proof and others must agree (RTP)."""

    kind: str
    detail: str = ""
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Session:
    """An announced stream: its destination, its sender if the announcement names one, and its title."""

    name: str
    group: Address
    port: int
    source: Address | None = None
    media: str = ""


@dataclass(frozen=True, slots=True)
class RtpHeader:
    """The part of an RTP header that tells one stream from another (RFC 3550, 5.1)."""

    payload_type: int
    sequence: int
    ssrc: int
    payload: bytes

    def follows(self, before: RtpHeader) -> bool:
        """Whether this packet can come next in the same stream; a few may be lost or late."""
        return self.ssrc == before.ssrc and (self.sequence - before.sequence) % 65536 in {*range(1, 17)}


def guess(payload: bytes, group: Address, port: int) -> Content | None:
    """The content of one datagram; None where nothing is recognised."""
    for reader in READERS:
        if (found := reader(payload, group, port)) is not None:
            return found
    known = KNOWN_PORTS.get((str(group), port))
    return Content(known) if known else None


def read_rtp(payload: bytes) -> RtpHeader | None:
    """Return the RTP header if the payload can have one. Return None for anything else, RTCP among it."""
    if len(payload) < RTP_HEADER_BYTES or payload[0] >> 6 != 2 or 200 <= payload[1] <= 207:
        return None
    begin = RTP_HEADER_BYTES + 4 * (payload[0] & 15)
    if payload[0] & 0x10:
        begin += 4 + 4 * int.from_bytes(payload[begin + 2 : begin + 4], "big")
    if begin > len(payload):
        return None
    sequence, _, ssrc = struct.unpack_from("!HII", payload, 2)
    return RtpHeader(payload[1] & 0x7F, sequence, ssrc, payload[begin:])


def sessions(payload: bytes, port: int) -> list[Session]:
    """What a SAP announcement announces (RFC 2974), as its SDP says it (RFC 4566); nothing for a deletion."""
    if port != 9875 or len(payload) < 8 or payload[0] >> 5 != 1 or payload[0] & 0x07:  # deleted, encrypted, compressed
        return []
    begin = 8 + 4 * payload[1] + (12 if payload[0] & 0x10 else 0)
    body = payload[begin:]
    head, _, rest = body.partition(b"\0")
    text = rest if head == b"application/sdp" else body
    return _sdp(text[:4096].decode("utf-8", "replace"))


def _sdp(text: str) -> list[Session]:
    """Each medium with its own address, or else the session's."""
    if not text.startswith("v=0"):
        return []
    name, common, source = "", None, None
    media: list[dict[str, str]] = []
    for line in text.splitlines()[:200]:
        key, _, value = line.partition("=")
        if key == "s":
            name = printable(value)
        elif key == "c" and media:
            media[-1]["address"] = value
        elif key == "c":
            common = value
        elif key == "m":
            media.append({"medium": value})
        elif key == "a" and value.startswith("rtpmap:") and media:
            media[-1].setdefault("encoding", printable(value.partition(" ")[2]))
        elif key == "a" and value.startswith("source-filter:"):
            source = value.split()[-1]
    found = []
    for each in media[:16]:
        words = each["medium"].split()
        group = _address((each.get("address") or common or "").split("/")[0].split(" ")[-1])
        number = words[1].split("/")[0] if len(words) > 1 else ""
        if (
            group is not None
            and group.is_multicast
            and number.isascii()
            and number.isdigit()
            and 0 < int(number) < 65536
        ):
            sender = _address(source or "")
            found.append(Session(name, group, int(number), sender, each.get("encoding", printable(words[0]))))
    return found


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def printable(text: str) -> str:
    """Text from the network, on one line and cut to a bound."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return clean if len(clean) <= TEXT_MAX else f"{clean[: TEXT_MAX - 3]}..."


def _mdns(payload: bytes, group: Address, port: int) -> Content | None:
    if str(group) not in {"224.0.0.251", "ff02::fb"} or port != 5353 or len(payload) < 12:
        return None
    flags, questions, answers = struct.unpack_from("!HHH", payload, 2)
    name = _dns_name(payload, 12) if questions or answers else ""
    return Content("mDNS", f"{'answer' if flags & 0x8000 else 'question'} {name}".strip())


def _dns_name(payload: bytes, at: int) -> str:
    labels: list[str] = []
    for _ in range(16):
        if at >= len(payload) or not payload[at]:
            break
        size = payload[at]
        if size >= 0xC0 and at + 1 < len(payload):
            at = int.from_bytes(payload[at : at + 2], "big") & 0x3FFF
            continue
        labels.append(payload[at + 1 : at + 1 + size].decode("utf-8", "replace"))
        at += 1 + size
    return printable(".".join(labels))


def _ssdp(payload: bytes, group: Address, port: int) -> Content | None:
    if port != 1900 or not payload.startswith((b"NOTIFY ", b"M-SEARCH ", b"HTTP/1.1 ")):
        return None
    for line in payload[:1500].decode("utf-8", "replace").splitlines()[1:]:
        key, _, value = line.partition(":")
        if key.strip().upper() in {"NT", "ST"}:
            return Content("SSDP", f"{payload.split(b' ')[0].decode()} {printable(value)}")
    return Content("SSDP", payload.split(b" ")[0].decode())


def _ptp(payload: bytes, group: Address, port: int) -> Content | None:
    if port not in {319, 320} or len(payload) < 34 or payload[1] & 0x0F not in {1, 2}:
        return None
    kind = PTP_MESSAGES.get(payload[0] & 0x0F, f"message {payload[0] & 0x0F}")
    if payload[1] & 0x0F == 1:
        return Content("PTP", "version 1")
    return Content("PTP", f"{kind}, domain {payload[4]}, clock {payload[20:28].hex()}")


def _sap(payload: bytes, group: Address, port: int) -> Content | None:
    if port != 9875 or len(payload) < 8 or payload[0] >> 5 != 1:
        return None
    found = sessions(payload, port)
    named = ", ".join(f"{each.name} at {each.group}:{each.port} {each.media}".strip() for each in found[:2])
    return Content("SAP", named)


def _sacn(payload: bytes, group: Address, port: int) -> Content | None:
    """ANSI E1.31, 5 and 6."""
    if len(payload) < 115 or payload[4:16] != b"ASC-E1.17\0\0\0":
        return None
    name = payload[44:108].partition(b"\0")[0].decode("utf-8", "replace")
    return Content("sACN", f"universe {int.from_bytes(payload[113:115], 'big')} {printable(name)}".strip())


def _artnet(payload: bytes, group: Address, port: int) -> Content | None:
    if len(payload) < 10 or payload[:8] != b"Art-Net\0":
        return None
    operation = int.from_bytes(payload[8:10], "little")
    if operation == 0x5000 and len(payload) >= 16:  # ArtDmx
        return Content("Art-Net", f"universe {int.from_bytes(payload[14:16], 'little')}")
    return Content("Art-Net", f"operation 0x{operation:04x}")


def _moldudp(payload: bytes, group: Address, port: int) -> Content | None:
    """MoldUDP64 1.00: its message lengths add up to the datagram exactly."""
    if len(payload) < 20 or not all(0x20 <= byte < 0x7F for byte in payload[:10]):
        return None
    sequence, count = struct.unpack_from("!QH", payload, 10)
    at = 20
    if count != 0xFFFF:
        for _ in range(count):
            at += 2 + int.from_bytes(payload[at : at + 2], "big")
            if at > len(payload):
                return None
    if at != len(payload) or not 0 < sequence < 1 << 48:
        return None
    return Content("MoldUDP64", f"session {printable(payload[:10].decode('ascii'))}")


def _transport(payload: bytes, group: Address, port: int) -> Content | None:
    return Content("MPEG-TS") if is_transport(payload) else None


def _rtcp(payload: bytes, group: Address, port: int) -> Content | None:
    """RFC 3550, 6.1: a compound packet, whose lengths add up to the datagram exactly."""
    at = 0
    while at + 4 <= len(payload) and payload[at] >> 6 == 2 and 200 <= payload[at + 1] <= 207:
        at += 4 + 4 * int.from_bytes(payload[at + 2 : at + 4], "big")
    return Content("RTCP") if at and at == len(payload) else None


def _rtp(payload: bytes, group: Address, port: int) -> Content | None:
    header = read_rtp(payload)
    if header is None:
        return None
    kind = PAYLOAD_TYPES.get(header.payload_type)
    inside = "MPEG-TS" if is_transport(header.payload) else kind
    detail = f"payload type {header.payload_type}" + (f", {inside}" if inside else "")
    return Content("RTP", detail, sure=False)


READERS: tuple[Callable[[bytes, Address, int], Content | None], ...] = (
    _mdns, _ssdp, _ptp, _sap, _sacn, _artnet, _transport, _moldudp, _rtcp, _rtp,
)  # fmt: skip
