"""The families that tests of the relay run for: their texts are IPv4's, and say the same of IPv6 where a test asks.

What goes in and what comes out may be of different families. A text is translated by where it stands: by the link that
a stream of the configuration names, or by the namespace that sends or listens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

QUAD = r"\d+\.\d+\.\d+\.\d+"
STREAM = re.compile(rf'"((?:{QUAD}@)?{QUAD}(?:/\d+)?(?::[\w,-]+)?(?:%\w+)?)"')
NETWORKS = {
    "192.168.168": "2001:db8:168::",
    "192.0.2": "2001:db8:1::",
    "198.51.100": "2001:db8:100::",
    "203.0.113": "2001:db8:113::",
}


def six(quad: str) -> str:
    """The IPv6 address that stands for one of IPv4: of the standard lab, of a group, or of nobody."""
    network, _, last = quad.rpartition(".")
    if network in NETWORKS:
        return str(IPv6Address(f"{NETWORKS[network]}{last}"))
    first, _, middle = network.rpartition(".")
    if first == "198.18":
        return str(IPv6Address(f"2001:db8:{100 + int(middle)}::{last}"))
    address = IPv4Address(quad)
    return str(IPv6Address((0xFF15 << 112 if address.is_multicast else 0x20010DB8FFFF << 80) | int(address)))


def _translated(stream: str, family: int) -> str:
    if family == 4:
        return stream
    ends, percent, link = stream.partition("%")
    ends = re.sub(rf"({QUAD})(?:/(\d+))?", lambda m: f"[{six(m[1])}]" + (f"/{96 + int(m[2])}" if m[2] else ""), ends)
    return ends + percent + link


@dataclass(frozen=True)
class Way:
    """The IP version of what is taken in, and of what is sent."""

    taken: int = 4
    sent: int = 4

    @property
    def has_ipv6(self) -> bool:
        return 6 in {self.taken, self.sent}

    @property
    def largest(self) -> int:
        """Bytes of the largest datagram that is not cut on either side, whose links have an MTU of 1500."""
        return 1452 if self.has_ipv6 else 1472

    def input(self, stream: str) -> str:
        """A stream of an input."""
        return _translated(stream, self.taken)

    def output(self, stream: str) -> str:
        """A stream of an output."""
        return _translated(stream, self.sent)

    def source(self, address: str) -> str:
        """An address of the side that is taken from, as the kernel writes it."""
        return address if self.taken == 4 else six(address)

    def sink(self, address: str) -> str:
        """The same of the side that is sent to."""
        return address if self.sent == 4 else six(address)

    def config(self, text: str) -> str:
        """The streams of a configuration, those without a link being outputs; all else stays as it is."""
        return STREAM.sub(lambda match: f'"{self._by_link(match[1])}"', text)

    def rule(self, table: dict[str, Any]) -> dict[str, Any]:
        """The same of a rule as commands give it."""
        outputs = [
            {**each, "to": self.output(each["to"])} if isinstance(each, dict) else self.output(each)
            for each in table["outputs"]
        ]
        return {**table, "input": self.input(table["input"]), "outputs": outputs}

    def network(self, network: str) -> str:
        """A network of the side that is taken from: one of the standard lab."""
        return network if self.taken == 4 else f"{NETWORKS[network.rpartition('.')[0]]}/64"

    def at(self, namespace: Any, stream: str) -> str:
        """A stream as it is sent or heard in a namespace of the standard lab."""
        place = namespace.name.rpartition("-")[2]
        if place == "source":
            return self.input(stream)
        return self.output(stream) if place.startswith("sink") else stream

    def _by_link(self, stream: str) -> str:
        link = stream.partition("%")[2]
        if link.startswith(("in", "late")):
            return self.input(stream)
        return self.output(stream) if not link or link.startswith("out") else stream


used = Way()  # set by the fixtures of tests/netns/conftest.py


def way() -> Way:
    """That of the test that runs."""
    return used
