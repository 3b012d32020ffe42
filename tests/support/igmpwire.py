"""IGMP on a wire of the lab: what passes, and queries made by hand. Nothing of mcrelay's own but the parser."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from ipaddress import IPv4Address

from support.frames import ethernet, ipv4, ones_sum

from mcrelay.igmp.wire import parse

ETH_P_ALL = 3
PACKET_OUTGOING = 4
QUERIER = "192.0.2.254"  # in the relay's own network, so that the reverse-path filter lets it in


class Listener:
    """Hears every message of IGMP, or of what else *read* reads, that arrives on a link from now on."""

    def __init__(self, namespace, link: str, read=parse) -> None:
        self._read = read
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        with contextlib.suppress(PermissionError):  # in a user namespace
            self._socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE: a bystander's stream may pass
        self._socket.bind((link, ETH_P_ALL))
        self._socket.setblocking(False)
        self.heard = []  # (seconds of the clock, message)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def messages(self):
        """Everything heard so far."""
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # a link that went down says so once
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = self._socket.recvfrom(2048)
                if address[2] != PACKET_OUTGOING and (message := self._read(frame)) is not None:
                    self.heard.append((time.monotonic(), message))
        return [message for _, message in self.heard]

    def clear(self) -> None:
        self.messages()
        self.heard.clear()


def query_frame(version: int = 3, source: str = QUERIER, allowed: float = 0.5) -> bytes:
    """A general query; version 1 has no time in it."""
    code = 0 if version == 1 else round(allowed * 10)
    body = struct.pack("!BBHI", 0x11, code, 0, 0) + (struct.pack("!BBH", 2, 125, 0) if version == 3 else b"")
    body = body[:2] + struct.pack("!H", 0xFFFF - ones_sum(body)) + body[4:]
    packet = ipv4(body, source=source, group="224.0.0.1", ttl=1, protocol=2, options=b"\x94\x04\0\0")
    return ethernet(packet, padding=max(0, 46 - len(packet)))


def send_frame(namespace, link: str, frame: bytes) -> None:
    with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((link, 0))
        sock.send(frame)


def send_query(namespace, link: str, version: int = 3, source: str = QUERIER, allowed: float = 0.5) -> None:
    """Ask by hand, from any port of a network."""
    send_frame(namespace, link, query_frame(version, source, allowed))


def joined(namespace, link: str) -> set[str]:
    """Groups that the kernel has joined on a link."""
    shown = json.loads(namespace.run("ip", "-j", "maddr", "show", "dev", link).stdout)
    return {each["address"] for part in shown for each in part["maddr"] if each.get("family") == "inet"}


def answers(messages, group: str):
    """Reports that tell the present state of a group."""
    return [each for each in messages if IPv4Address(group) in getattr(each, "answers", ())]
