"""A flow as a user names it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Keep: TypeAlias = Literal["keep"]
Auto: TypeAlias = Literal["auto"]
Ttl: TypeAlias = int | Literal["keep", "decrement"]
Vlan: TypeAlias = int | Literal["none", "any"]


@dataclass(frozen=True, slots=True)
class Stream:
    """A flow as a user names it: ``[SOURCE@]GROUP[/LEN][:PORT][%LINK]``.

    ``address`` is the group, or a host for a unicast output. ``length`` is the prefix length in bits when the text
    names a range, else None. ``port`` is 1-65535, ``"any"``, or None where the text has none.
    """

    address: Address
    port: int | Literal["any"] | None = None
    link: str | None = None
    source: Address | None = None
    length: int | None = None
