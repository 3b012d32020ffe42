"""What each configuration key may hold: one check per key, and the list of what is not built yet.

A check takes a value as TOML (or a command) gives it and returns it as the model has it, or raises SettingError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mcrelay.errors import SettingError
from mcrelay.model.notation import parse_address, parse_network
from mcrelay.model.rate import parse_rate
from mcrelay.model.rule import DEFAULT_CONTROL

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network

    from mcrelay.model.rate import Rate

Check: TypeAlias = Callable[[Any], Any]

MIB = 1 << 20
MOST_RATE = 90_000_000_000  # a second: MOST of pyx/policer.pyx
LONGEST_CONTROL = 104  # bytes: sun_path has 108 with the closing NUL, and "-ro" goes into the sibling's name

# Known and not built yet: key, which values of it, how the complaint calls it, what to do instead. Its line goes when
# relay/compile.py knows the value: until then it raises NotBuiltError. (IPv6 is refused where streams are read.)
NOT_YET: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    ("range", lambda stream: stream.length is not None, "a range of groups", "write one rule for each group"),
    ("any", lambda stream: stream.port == "any", "port any", "write one rule for each port"),
    (
        "inputs",
        lambda _: True,
        "inputs",
        (
            "write one rule for each input, with shared = true where they share an output (where two inputs carry the"
            " same datagrams, receivers then get each of them twice: name one of the two)"
        ),
    ),
    ("source_address", lambda v: v == "keep", 'source_address = "keep"', 'use "auto" or an address of this host'),
    ("source_port", lambda v: v == "keep", 'source_port = "keep"', 'use "auto" or a number'),
    ("ttl", lambda v: v == "keep", 'ttl = "keep"', "use a number from 1 to 255"),
    ("ttl", lambda v: v == "decrement", 'ttl = "decrement"', "use a number from 1 to 255"),
    ("engine", lambda v: v != "ring", 'engine = "{}"', "leave it out: the ring relays everything"),
    ("health", lambda v: v != "none", 'health = "{}"', "leave it out"),
    (
        "vlan",
        lambda v: v != "none",
        "vlan = {}",
        "make the VLAN a link (ip link add ... type vlan) and name that in input",
    ),
)


@dataclass(frozen=True, slots=True)
class Each:
    """A key that holds a list: ``item`` checks every element, ``whole`` the list of them."""

    item: Check
    whole: Check
    example: str


def not_yet(key: str, value: Any) -> SettingError | None:
    """Return why a legal value is refused all the same, or None where it is built."""
    for name, test, what, remedy in NOT_YET:
        if name == key and test(value):
            return SettingError(f"{what.format(written(value))} is not supported yet", remedy)
    return None


def counted(number: int, noun: str) -> str:
    """Write a number of things: 1 rule, 2 rules."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def written(value: object) -> str:
    """Show a value about as TOML writes it, on one line and not too long."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    text = text if len(text) <= 48 else f"{text[:45]}..."
    if not isinstance(value, str):
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in json.dumps(text, ensure_ascii=False))


def flag(value: object) -> bool:
    """True or false, and nothing that only looks like it."""
    if isinstance(value, bool):
        return value
    raise SettingError(f"{written(value)} is neither true nor false", "write true or false, without quotes")


def text(value: object) -> str:
    """Any text."""
    if isinstance(value, str):
        return value
    raise SettingError(f"{written(value)} is not text", "text stands in double quotes")


def number(key: str, low: int, high: int, example: str, *words: str) -> Check:
    """Make the check of a whole number from *low* to *high*, or one of the *words*."""
    wanted = " or ".join([f"a number from {low} to {high}", *_built(key, words)])

    def check(value: object) -> int | str:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        if isinstance(value, str) and value in words:
            return value
        remedy = f"write {example}"
        if isinstance(value, str) and re.fullmatch("[0-9]{1,5}", value) and low <= int(value) <= high:
            remedy = f"write {int(value)}, without quotes"
        raise SettingError(f"{written(value)} is not {wanted}", remedy)

    return check


def choice(key: str, *words: str) -> Check:
    """Make the check of one of several words."""
    wanted = " or ".join(_built(key, words))

    def check(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise SettingError(f"{written(value)} is not known", f"write {wanted}")

    return check


def _built(key: str, words: tuple[str, ...]) -> list[str]:
    """Quote the words that a remedy may offer: those that are not refused in the next breath."""
    return [f'"{word}"' for word in words if not_yet(key, word) is None]


def dscp(value: object) -> int | str:
    """0 to 63 or "keep"; a name of RFC 4594 is translated in the remedy."""
    if isinstance(value, str) and (match := re.fullmatch("(?i)(ef)|cs([0-7])|af([1-4])([1-3])", value)):
        n = 46 if match[1] else 8 * int(match[2]) if match[2] else 8 * int(match[3]) + 2 * int(match[4])
        raise SettingError(f"{written(value)} is a name, and only numbers are known", f"write {n}")
    checked: int | str = _DSCP(value)
    return checked


def source_address(value: object) -> IPv4Address | Literal["auto", "keep"]:
    """Check for "auto", "keep", or an address that a host can have."""
    if value == "auto" or value == "keep":  # noqa: PLR1714 -- mypy narrows these
        return value
    if not isinstance(value, str):
        raise SettingError(f"{written(value)} is not an address", 'write "auto" or an address of this host in quotes')
    address = parse_address(value)
    remedy = 'write "auto" or an address of this host, e.g. "192.0.2.1"'
    if address.is_multicast:
        raise SettingError(f"{address} is a group, and no host sends from one", remedy)
    if address.is_loopback:
        raise SettingError(f"{address} is a loopback address, which receivers drop", remedy)
    if int(address) >> 24 == 0 or int(address) >> 28 == 0xF:
        raise SettingError(f"{address} is no host's address", remedy)
    return address


def allowed(value: object) -> IPv4Network:
    """Check one element of ``allow``: a network of possible sources."""
    if not isinstance(value, str):
        raise SettingError(f"{written(value)} is not a network", 'write e.g. "192.0.2.0/24"')
    network = parse_network(value)
    if network.network_address.is_multicast:
        raise SettingError(
            f"{network} holds groups, and no source is one", 'list networks of senders, e.g. "192.0.2.0/24"'
        )
    return network


def allow(networks: list[IPv4Network]) -> tuple[IPv4Network, ...]:
    """Check the whole list: an empty one would let nothing in."""
    if not networks:
        raise SettingError("an empty list lets no source in", "list networks, or leave it out to let every source in")
    return tuple(networks)


def cpus(numbers: list[int]) -> tuple[int, ...]:
    """Check that every CPU stands once."""
    twice = sorted({n for n in numbers if numbers.count(n) > 1})
    if twice:
        raise SettingError(f"CPU {twice[0]} stands in it twice", "name each CPU once")
    return tuple(numbers)


def control(value: object) -> str:
    """Check the control socket's path: absolute, and short enough for a socket address."""
    path = text(value)
    remedy = f'write e.g. "{DEFAULT_CONTROL}"'
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise SettingError(f"{written(path)} is not the full path of a socket", remedy)
    if (size := len(path.encode())) > LONGEST_CONTROL:
        raise SettingError(f"the path has {size} bytes, a socket's has {LONGEST_CONTROL} at most", remedy)
    return path


def metrics(value: object) -> str:
    """``ADDRESS:PORT`` to listen on."""
    quad, _, port = text(value).rpartition(":")
    remedy = 'write ADDRESS:PORT, e.g. "127.0.0.1:19736"'
    if not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise SettingError(f"{written(value)} has no port from 1 to 65535", remedy)
    return f"{parse_address(quad)}:{port}"


def ring(value: object) -> int:
    """Read a size in bytes, or with KiB, MiB or GiB: from 1 MiB to 1 GiB."""
    size = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and (match := re.fullmatch("([0-9]{1,10}) ?(KiB|MiB|GiB)", value)):
        size = int(match[1]) << {"KiB": 10, "MiB": 20, "GiB": 30}[match[2]]
    if size is None:
        near = re.fullmatch(r"(?i)([0-9]{1,10})\s*([kmg])(?:i?b)?", value) if isinstance(value, str) else None
        remedy = f'write "{near[1]}{near[2].upper()}iB"' if near else 'write e.g. "32MiB"'
        raise SettingError(f"{written(value)} is not a size", remedy)
    if not MIB <= size <= 1024 * MIB:
        raise SettingError(f"{written(value)} is out of range", 'a ring has from "1MiB" to "1GiB", e.g. "32MiB"')
    return size


def limit(value: object) -> Rate:
    """Read the most an input may bring: a whole rate from 1 to 90 Gbit or Gpps, what the policer counts to."""
    rate = parse_rate(text(value))
    if not 1 <= rate.number <= MOST_RATE:
        raise SettingError(f"{written(value)} is out of range", 'write e.g. "20kpps" or "500Mbit"')
    return rate


def vlan(value: object) -> int | str:
    """1 to 4094, "none" or "any"; VID 0 has a name of its own."""
    if type(value) is int and value == 0:
        raise SettingError("VLAN 0 means untagged", 'write "none"')
    checked: int | str = _VLAN(value)
    return checked


_DSCP = number("dscp", 0, 63, "e.g. 46 (which is EF)", "keep")
_VLAN = number("vlan", 1, 4094, '"none"', "none", "any")

RELAY: dict[str, Check | Each] = {
    "workers": number("workers", 1, 256, "workers = 1"),
    "cpus": Each(number("cpus", 0, 8191, "the number of a CPU, e.g. 2"), cpus, "[2]"),
    "control": control,
    "metrics": metrics,
}
LINK: dict[str, Check | Each] = {"profile": choice("profile", "throughput", "latency"), "ring": ring, "gro": flag}
INPUT: dict[str, Check | Each] = {"vlan": vlan, "allow": Each(allowed, allow, '["192.0.2.0/24"]'), "limit": limit}
OUTPUT: dict[str, Check | Each] = {
    "source_address": source_address,
    "source_port": number("source_port", 1, 65535, '"auto" or e.g. 20000', "auto", "keep"),
    "ttl": number("ttl", 1, 255, "e.g. 16", "keep", "decrement"),
    "dscp": dscp,
    "df": flag,
    "burst": number("burst", 1, 64, "e.g. 16"),
}
FLAGS: dict[str, Check | Each] = dict.fromkeys(("exclusive", "enabled", "shared", "reflect"), flag)
CHOICES: dict[str, Check | Each] = {
    "engine": choice("engine", "ring", "kernel"),
    "health": choice("health", "none", "rtp", "ts", "auto"),
}
RULE: dict[str, Check | Each] = {"description": text, **INPUT, **OUTPUT, **FLAGS, **CHOICES}
