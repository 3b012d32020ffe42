"""The part of generic netlink that the receive offloads need: a request and its answer (linux/genetlink.h)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NETLINK_GENERIC = 16  # linux/netlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
CONTROLLER, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_GENERIC_HEADER = struct.Struct("=BBH")  # command, version, 0
_ATTRIBUTE = struct.Struct("=HH")  # length, type
ANSWER_SECONDS = 1.0  # the kernel answers within the call; this bounds the unforeseen


def attribute(kind: int, value: bytes) -> bytes:
    """Build one attribute."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + b"\0" * (-size % 4)


def nest(kind: int, *values: bytes) -> bytes:
    """Build an attribute that holds others."""
    return attribute(kind | NLA_F_NESTED, b"".join(values))


def number(kind: int, value: int) -> bytes:
    """Build an attribute of 32 bits."""
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Read attributes, one after the other, as (type, value)."""
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size:
            return
        yield kind & NLA_TYPE_MASK, data[_ATTRIBUTE.size : size]
        data = data[size + -size % 4 :]


class GenericNetlink:
    """One socket; each call waits for its answer, which the kernel gives before ``send`` returns."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self._socket.settimeout(ANSWER_SECONDS)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._families: dict[str, int] = {}

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def call(self, family: str, command: int, *payload: bytes, dump: bool = False) -> list[dict[int, bytes]]:
        """Ask, and return the attributes of each message of the answer. Raises OSError; ENOENT: no such family."""
        number_of = self._families.get(family)
        if number_of is None:
            name = attribute(CTRL_ATTR_FAMILY_NAME, family.encode() + b"\0")
            found = self._ask(CONTROLLER, CTRL_CMD_GETFAMILY, name, NLM_F_ACK)
            number_of = self._families[family] = struct.unpack("=H", found[0][CTRL_ATTR_FAMILY_ID])[0]
        return self._ask(number_of, command, b"".join(payload), NLM_F_DUMP if dump else NLM_F_ACK)

    def _ask(self, family: int, command: int, payload: bytes, flags: int) -> list[dict[int, bytes]]:
        self._sequence += 1
        body = _GENERIC_HEADER.pack(command, 1, 0) + payload
        head = _HEADER.pack(_HEADER.size + len(body), family, NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.send(head + body)
        found: list[dict[int, bytes]] = []
        while True:
            for kind, sequence, message in _messages(self._socket.recv(1 << 16)):
                if sequence != self._sequence:
                    continue  # the rest of an earlier answer
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", message)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return found
                found.append(dict(attributes(message[_GENERIC_HEADER.size :])))


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    while len(data) >= _HEADER.size:
        size, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if size < _HEADER.size:
            raise OSError(errno.EPROTO, "a netlink message shorter than its header")
        yield kind, sequence, data[_HEADER.size : size]
        data = data[size + -size % 4 :]
