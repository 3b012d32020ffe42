"""A flow as a user names it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from mcrelay.model.ports import Port

Address: TypeAlias = IPv4Address | IPv6Address
Keep: TypeAlias = Literal["keep"]
Auto: TypeAlias = Literal["auto"]
Ttl: TypeAlias = int | Literal["keep", "decrement"]
Vlan: TypeAlias = int | Literal["none", "any"]


@dataclass(frozen=True, slots=True)
class Stream:
    """A flow as a user names it: ``[SOURCE@]GROUP[/LEN][:PORTS][%LINK]``.

    ``address`` is the group, or a host for a unicast output. ``length`` is the prefix length in bits when the text
    names a range, else None. ``port`` is 1-65535, several of these, ``"any"``, or None where the text has none.
    """

    address: Address
    port: Port | None = None
    link: str | None = None
    source: Address | None = None
    length: int | None = None

    @property
    def host_bits(self) -> int:
        """How many low bits of the address stand for any value: 0 for one address, 8 for 256 groups."""
        return 0 if self.length is None else self.address.max_prefixlen - self.length

    @property
    def group_count(self) -> int:
        """How many addresses it names."""
        return 1 << self.host_bits
