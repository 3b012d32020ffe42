"""Ethernet frames for tests, field by field, wrong where a test asks for it (RFC 894, 791, 8200, 768)."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address, ip_address

SOURCE, GROUP = "192.168.168.55", "226.2.2.2"
SIX_SOURCE, SIX_GROUP = "2001:db8:168::55", "ff3e::226:2:2:2"
SOURCE_PORT, PORT = 40000, 2068


def number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")


def ones_sum(data: bytes) -> int:
    """RFC 1071, plainly: the sum that a correct header or datagram brings to 0xffff."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def udp(payload, *, source=SOURCE, group=GROUP, source_port=SOURCE_PORT, port=PORT, length=None, checksum=None):
    """A UDP datagram; ``checksum`` None is the right one."""
    length = 8 + len(payload) if length is None else length
    header = struct.pack("!4H", source_port, port, length, 0)
    pseudo = ip_address(source).packed + ip_address(group).packed + struct.pack("!2H", 17, length)
    if checksum is None:
        checksum = 0xFFFF - ones_sum(pseudo + header + payload) or 0xFFFF
    return header[:6] + struct.pack("!H", checksum) + payload


def ipv4(
    body, *, source=SOURCE, group=GROUP, tos=0, ttl=16, fragment=0x4000, protocol=17, options=b"", version=4,
    header_words=None, total=None, checksum=None, identification=7,
):  # fmt: skip
    """An IPv4 packet; ``fragment`` is the flags and offset word, 0x4000 (don't fragment) unless said."""
    words = 5 + len(options) // 4 if header_words is None else header_words
    total = 20 + len(options) + len(body) if total is None else total
    first = version << 4 | words
    head = struct.pack("!BBHHHBBH", first, tos, total & 0xFFFF, identification, fragment, ttl, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(group) + options
    if checksum is None:
        checksum = 0xFFFF - ones_sum(head)
    return head[:10] + struct.pack("!H", checksum) + head[12:] + body


def ipv6(
    body, *, source=SIX_SOURCE, group=SIX_GROUP, traffic_class=0, label=0, hops=16, headers=(), last=17, version=6,
    length=None,
):  # fmt: skip
    """An IPv6 packet; ``headers`` are extension headers as (kind, bytes without the kind of the next one)."""
    kinds = [kind for kind, _ in headers] + [last]
    between = b"".join(bytes([after]) + rest for after, (_, rest) in zip(kinds[1:], headers, strict=True))
    length = len(between) + len(body) if length is None else length
    first = version << 28 | traffic_class << 20 | label
    head = struct.pack("!IHBB", first, length & 0xFFFF, kinds[0], hops)
    return head + IPv6Address(source).packed + IPv6Address(group).packed + between + body


def six(payload=b"payload", *, padding=0, **fields):
    """A whole valid IPv6 frame with that payload; addresses, ports and headers may be chosen."""
    ends = {key: fields.get(key, value) for key, value in (("source", SIX_SOURCE), ("group", SIX_GROUP))}
    ports = {key: fields.pop(key) for key in ("source_port", "port", "checksum") if key in fields}
    packet = ipv6(udp(payload, **ends, **ports), **fields)
    return ethernet(packet, to=group_mac(ends["group"]), ethertype=0x86DD, padding=padding)


def six_part(body: bytes, start: int, end: int, *, more=None, identification=7, before=(), first=17, **fields) -> bytes:
    """A frame with that part of what follows the fragment header; ``first`` is what that says comes next."""
    more = end < len(body) if more is None else more
    header = (44, bytes([0]) + struct.pack("!HI", start | more, identification))
    packet = ipv6(body[start:end], headers=(*before, header), last=first, **fields)
    return ethernet(packet, to=group_mac(fields.get("group", SIX_GROUP)), ethertype=0x86DD)


def six_parts(payload: bytes, size: int, *, behind=b"", first=17, checksum=None, **fields) -> list[bytes]:
    """The frames of an IPv6 datagram, ``size`` bytes in each; ``behind`` are headers before UDP in the first."""
    ends = {key: fields.get(key, value) for key, value in (("source", SIX_SOURCE), ("group", SIX_GROUP))}
    body = behind + udp(payload, checksum=checksum, **ends)
    step = size // 8 * 8
    return [six_part(body, at, min(at + step, len(body)), first=first, **fields) for at in range(0, len(body), step)]


def group_mac(group: str) -> bytes:
    """RFC 1112, 6.4; RFC 2464, 7."""
    if ":" in group:
        return b"\x33\x33" + IPv6Address(group).packed[12:]
    return (0x01005E000000 | number(group) & 0x7FFFFF).to_bytes(6, "big")


def ethernet(packet, *, to=None, ethertype=0x0800, padding=0):
    to = group_mac(GROUP) if to is None else to
    return to + bytes.fromhex("020000000001") + struct.pack("!H", ethertype) + packet + b"\xee" * padding


def frame(payload=b"payload", *, padding=0, **fields):
    """A whole valid frame with that payload; addresses and ports may be chosen."""
    ends = {key: fields[key] for key in ("source", "group") if key in fields}
    ports = {key: fields.pop(key) for key in ("source_port", "port") if key in fields}
    return ethernet(
        ipv4(udp(payload, **ends, **ports), **fields), to=group_mac(fields.get("group", GROUP)), padding=padding
    )


class Superframe(bytes):
    """A frame that holds several datagrams, as a sender leaves it to its device, behind a struct virtio_net_hdr."""


def superframe(payload: bytes, segment: int, **fields) -> Superframe:
    """Datagrams of ``segment`` bytes, the last one shorter. The checksum of each is the device's to finish."""
    group, port = fields.get("group", GROUP), fields.pop("port", PORT)
    pseudo = ip_address(SOURCE).packed + ip_address(group).packed + struct.pack("!2H", 17, 8 + len(payload))
    packet = ipv4(udp(payload, group=group, port=port, checksum=ones_sum(pseudo)), **fields)
    # flags: NEEDS_CSUM; gso_type: UDP_L4; hdr_len, gso_size, csum_start, csum_offset (linux/virtio_net.h)
    return Superframe(struct.pack("<BBHHHH", 1, 5, 42, segment, 34, 6) + ethernet(packet, to=group_mac(group)))


def part(body: bytes, start: int, end: int, *, more=None, **fields) -> bytes:
    """A frame with that part of an IPv4 payload; ``more`` to come unless it is the end of it."""
    more = end < len(body) if more is None else more
    packet = ipv4(body[start:end], fragment=more << 13 | start // 8, **fields)
    return ethernet(packet, to=group_mac(fields.get("group", GROUP)))


def parts(payload: bytes, size: int, *, checksum=None, **fields) -> list[bytes]:
    """The frames of a datagram with that payload, in order, where ``size`` bytes fit behind an IPv4 header."""
    ends = {key: fields[key] for key in ("source", "group") if key in fields}
    ports = {key: fields.pop(key) for key in ("source_port", "port") if key in fields}
    body = udp(payload, checksum=checksum, **ends, **ports)
    step = size // 8 * 8
    return [part(body, at, min(at + step, len(body)), **fields) for at in range(0, len(body), step)]


def tagged(untagged: bytes, tci: int, tpid: int = 0x8100) -> bytes:
    """IEEE 802.1Q: tag control information after the addresses; a provider's tag has another EtherType."""
    return untagged[:12] + struct.pack("!HH", tpid, tci) + untagged[12:]
