"""What each key of the configuration may hold.

A check takes a value as TOML (or a command) gives it and returns it as the model has it, or raises SettingError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mcrelay.errors import SettingError
from mcrelay.model.address import host, parse_address, parse_network, parse_quad, parse_six, six
from mcrelay.model.rate import Rate, format_rate, parse_rate
from mcrelay.model.wording import written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mcrelay.model.address import Network
    from mcrelay.model.stream import Address

MIB = 1 << 20
MOST_RATE = 90_000_000_000  # a second: MOST of pyx/policer.pyx
LONGEST_CONTROL = 104  # bytes: sun_path has 108 with the closing NUL, and "-ro" goes into the sibling's name


def plain(value: Any) -> Any:
    """Give the value that a file has for one of the model."""
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if isinstance(value, Rate):
        return format_rate(value)
    return str(value)  # addresses and networks


@dataclass(frozen=True, slots=True)
class Check:
    """The check of one value. ``examples`` and ``words`` are legal values in TOML's form; tests try some for each key.

    ``later`` are words that are legal too, and not built yet: no remedy offers them. ``write`` is the way back.
    """

    read: Callable[[Any], Any]
    examples: Sequence[Any]
    words: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    write: Callable[[Any], Any] = plain

    def __call__(self, value: Any) -> Any:
        return self.read(value)


@dataclass(frozen=True, slots=True)
class Each:
    """The check of a list: ``item`` checks every element, ``whole`` the list of them."""

    item: Check
    whole: Callable[[Any], Any]
    example: str  # as TOML
    words: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    write: Callable[[Any], Any] = plain

    @property
    def examples(self) -> Sequence[Any]:
        """Legal lists, as TOML has them."""
        return [[value] for value in self.item.examples]


def checked(
    *examples: Any, words: tuple[str, ...] = (), later: tuple[str, ...] = (), write: Callable[[Any], Any] = plain
) -> Callable[[Callable[[Any], Any]], Check]:
    """Make a check of the function below, with examples of what it takes."""
    return lambda read: Check(read, examples, words, later, write)


@checked(True, False)
def flag(value: object) -> bool:
    """True or false; a number or a text is refused."""
    if isinstance(value, bool):
        return value
    raise SettingError(f"{written(value)} is neither true nor false", "write true or false, without quotes")


@checked("HDMI of the lobby")
def text(value: object) -> str:
    """Any text."""
    if isinstance(value, str):
        return value
    raise SettingError(f"{written(value)} is not text", "text stands in double quotes")


def number(low: int, high: int, example: str, *words: str, later: tuple[str, ...] = ()) -> Check:
    """Make the check of a whole number from *low* to *high*, or one of the *words*."""
    wanted = " or ".join([f"a number from {low} to {high}", *(f'"{word}"' for word in words)])

    def read(value: object) -> int | str:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        if isinstance(value, str) and value in (*words, *later):
            return value
        remedy = f"write {example}"
        if isinstance(value, str) and re.fullmatch("[0-9]{1,5}", value) and low <= int(value) <= high:
            remedy = f"write {int(value)}, without quotes"
        raise SettingError(f"{written(value)} is not {wanted}", remedy)

    return Check(read, range(low, high + 1), words, later)


def choice(*words: str, later: tuple[str, ...] = ()) -> Check:
    """Make the check of one of several words."""
    wanted = " or ".join(f'"{word}"' for word in words)

    def read(value: object) -> str:
        if isinstance(value, str) and value in (*words, *later):
            return value
        raise SettingError(f"{written(value)} is not known", f"write {wanted}")

    return Check(read, (), words, later)


_DSCP = number(0, 63, "e.g. 46 (which is EF)", "keep")


@checked(46, 0, 63, words=("keep",))
def dscp(value: object) -> int | str:
    """0 to 63 or "keep"; a name of RFC 4594 is translated in the remedy."""
    if isinstance(value, str) and (match := re.fullmatch("(?i)(ef)|cs([0-7])|af([1-4])([1-3])", value)):
        n = 46 if match[1] else 8 * int(match[2]) if match[2] else 8 * int(match[3]) + 2 * int(match[4])
        raise SettingError(f"{written(value)} is a name, and only numbers are known", f"write {n}")
    known: int | str = _DSCP(value)
    return known


@checked("192.0.2.1", words=("auto", "keep"))
def source_address(value: object) -> Address | Literal["auto", "keep"]:
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
    if address.is_unspecified or (address.version == 4 and int(address) >> 24 in {0, *range(0xF0, 0x100)}):
        raise SettingError(f"{address} is no host's address", remedy)
    return address


@checked("192.0.2.0/24", "0.0.0.0/0", "198.51.100.7")
def allowed(value: object) -> Network:
    """Check one element of ``allow``: a network of possible sources."""
    if not isinstance(value, str):
        raise SettingError(f"{written(value)} is not a network", 'write e.g. "192.0.2.0/24"')
    network = parse_network(value)
    if network.network_address.is_multicast:
        raise SettingError(
            f"{network} holds groups, and no source is one", 'list networks of senders, e.g. "192.0.2.0/24"'
        )
    return network


def allow(networks: list[Network]) -> tuple[Network, ...]:
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


def socket_path(example: str) -> Check:
    """Make the check of a socket's path: absolute, and short enough for a socket address."""

    def read(value: object) -> str:
        path: str = text(value)
        remedy = f'write e.g. "{example}"'
        if not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise SettingError(f"{written(path)} is not the full path of a socket", remedy)
        if (size := len(path.encode())) > LONGEST_CONTROL:
            raise SettingError(f"the path has {size} bytes, a socket's has {LONGEST_CONTROL} at most", remedy)
        return path

    return Check(read, (example, "/run/x.sock"))


@checked("127.0.0.1:19736", "[::1]:19736")
def metrics(value: object) -> str:
    """``ADDRESS:PORT`` to listen on; an IPv6 address stands in brackets."""
    bare, _, port = text(value).rpartition(":")
    remedy = 'write ADDRESS:PORT, e.g. "127.0.0.1:19736"'
    if six(str(value)) is not None or six(bare) is not None:
        raise SettingError(f"{written(value)} has no brackets", 'write [ADDRESS]:PORT, e.g. "[::1]:19736"')
    if not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise SettingError(f"{written(value)} has no port from 1 to 65535", remedy)
    if not (bare.startswith("[") and bare.endswith("]")):
        return f"{parse_quad(bare)}:{port}"
    address = parse_six(bare[1:-1])
    if address.is_link_local or address.is_multicast:
        problem = f"{address} is {'a group' if address.is_multicast else 'an address of one link alone'}"
        raise SettingError(problem, 'write an address that this host has on any link, e.g. "[::1]:19736"')
    return f"{host(address)}:{port}"


def _size(size: int) -> str | int:
    return f"{size // MIB}MiB" if size % MIB == 0 else size


@checked("32MiB", "1 MiB", "1GiB", 1048577, write=_size)
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


@checked("20kpps", "1", "20000", "1.5Mpps", "500Mbit", "33bit", "90Gpps")
def limit(value: object) -> Rate:
    """Read the most an input may bring, a bare number in datagrams a second: from 1 to 90 Gbit or Gpps, whole."""
    rate = parse_rate(str(value) if type(value) is int else text(value))
    if not 1 <= rate.number <= MOST_RATE:
        raise SettingError(f"{written(value)} is out of range", 'write e.g. "20kpps" or "500Mbit"')
    return rate


_VLAN = number(1, 4094, '"none"', "none", "any")


@checked(100, words=("none", "any"))
def vlan(value: object) -> int | str:
    """1 to 4094, "none" or "any"; VID 0 has a name of its own."""
    if type(value) is int and value == 0:
        raise SettingError("VLAN 0 means untagged", 'write "none"')
    vid: int | str = _VLAN(value)
    return vid


_TAG = number(1, 4094, "e.g. 100", "none")


@checked(100, words=("none",))
def tag(value: object) -> int | str:
    """1 to 4094, or "none"."""
    if type(value) is int and value == 0:
        raise SettingError("VLAN 0 is no VLAN", 'write "none", which sends without a tag')
    vid: int | str = _TAG(value)
    return vid
