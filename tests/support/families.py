"""The two families, as the parameter of tests that are the same for both: addresses of a cable's ends, and streams."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mcrelay.model.address import host, parse_address


@dataclass(frozen=True)
class Family:
    """``left`` and ``right`` are the ends' addresses, ``other`` another one of the left; ``length`` of their network.

    ``groups`` is the first of many groups, which are a /26 of IPv4.
    """

    name: str
    left: str
    right: str
    other: str
    length: int
    groups: str

    @property
    def is_ipv6(self) -> bool:
        return self.name == "IPv6"

    @property
    def stream(self) -> str:
        return self.at(1)

    def at(self, number: int) -> str:
        """The stream to the group of that number."""
        return f"{host(parse_address(self.groups) + number)}:5000%eth0"

    def from_(self, source: str, number: int = 1) -> str:
        """The same of one source alone."""
        return f"{self.written(source)}@{self.at(number)}"

    def range_of(self, bits: int) -> str:
        """The stream to as many groups as that many bits count, from the first on."""
        length = (128 if self.is_ipv6 else 32) - bits
        return f"{self.written(self.groups)}/{length}:5000%eth0"

    @staticmethod
    def written(address: str) -> str:
        """An address as it stands before a port."""
        return host(parse_address(address))


IPV4 = Family("IPv4", "192.0.2.1", "192.0.2.2", "192.0.2.9", 24, "233.252.0.0")
IPV6 = Family("IPv6", "2001:db8::1", "2001:db8::2", "2001:db8::9", 64, "ff1e::")
both_families = pytest.mark.parametrize("family", [IPV4, IPV6], ids=lambda family: family.name)
