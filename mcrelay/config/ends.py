"""The ends of rules with the keys under which they stand, for checks that compare them; and how a complaint is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeAlias

from mcrelay.config.lines import key_text
from mcrelay.errors import Complaint

if TYPE_CHECKING:
    from mcrelay.model.rule import Input, Output, Rule
    from mcrelay.model.stream import Address, Stream

EVERYBODY = IPv4Address("255.255.255.255")  # RFC 919

Place: TypeAlias = tuple[str, int]
Where: TypeAlias = Callable[[str], Place]


@dataclass(frozen=True, slots=True)
class In:
    """An input of a rule."""

    rule: Rule
    key: str
    input: Input

    @property
    def stream(self) -> Stream:
        return self.input.stream


@dataclass(frozen=True, slots=True)
class Out:
    """An output of a rule."""

    rule: Rule
    key: str
    output: Output

    @property
    def stream(self) -> Stream:
        return self.output.stream

    @property
    def whole(self) -> bool:
        """Whether all of it is there, so that it can be told from others."""
        s = self.stream
        return s.port is not None and (s.link is not None or not needs_link(s.address))


def needs_link(address: Address) -> bool:
    """Whether an output to that address has to name its link: no route says which one is meant."""
    return address.is_multicast or address == EVERYBODY or (address.version == 6 and address.is_link_local)


def rule_key(name: str) -> str:
    """Give the key path of a rule."""
    return key_text(("rules", name))


def complaint(where: Where, key: str, problem: str, remedy: str, *, warning: bool = False) -> Complaint:
    """Complain of a key, at its place."""
    file, line = where(key)
    return Complaint(file, line, key, problem, remedy, warning)


def named(where: Where, rule: Rule, key: str) -> str:
    """Name another rule and where it stands."""
    file, line = where(key)
    return f"{rule_key(rule.name)} ({file}:{line})" if line else rule_key(rule.name)
