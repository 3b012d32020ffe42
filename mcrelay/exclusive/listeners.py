"""Who else on this host listens to a stream, as far as /proc/net tells (proc(5)).

/proc/net does not show packet sockets of other programs, nor macvlan links of a link in other network namespaces.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from mcrelay.exclusive.droptable import DropMatch
    from mcrelay.model.stream import Address

PROC_NET = Path("/proc/net")
RAW_UDP = "0011"  # a raw socket's protocol number stands in the place of the port
ANY, ANY6 = "0" * 8, "0" * 32


@dataclass(frozen=True, slots=True)
class Listeners:
    """``users``: how many sockets have joined, by ifindex and group. ``bound``: address and inode of sockets, by port.

    ``raw``: the same of raw UDP sockets, which get every port. Addresses are as /proc writes them.
    """

    users: Mapping[tuple[int, Address], int]
    bound: Mapping[int, Collection[tuple[str, int]]]
    raw: Collection[tuple[str, int]] = ()

    def of(self, drop: DropMatch, own_users: int, own_inodes: Callable[[], Collection[int]]) -> str:
        """Say who else receives these datagrams; "" if nobody. ``own_users`` helper sockets of ours have joined."""
        if self.users.get((drop.ifindex, drop.group), 0) > own_users:
            return f"another program of this host has joined {drop.group} on {drop.link}"

        if self.have_open(drop.group, drop.port, own_inodes):
            return f"a socket of another program is bound to port {drop.port} and would get it (`ss -aunp` names it)"
        if _hear(self.raw, drop.group, own_inodes):
            return "a raw UDP socket of another program would get it (`ss -awnp` names it)"
        return ""

    def have_open(self, address: Address, port: int, own_inodes: Callable[[], Collection[int]]) -> bool:
        """Whether a socket of another program is bound so that it gets what is sent to that address and port."""
        return _hear(self.bound.get(port, ()), address, own_inodes)


def _hear(sockets: Collection[tuple[str, int]], address: Address, own_inodes: Callable[[], Collection[int]]) -> bool:
    near = _addresses(address) if sockets else set()
    found = {inode for bound, inode in sockets if bound in near}
    return bool(found) and not found <= set(own_inodes())


def read(root: Path = PROC_NET) -> Listeners | None:
    """All present listeners; None if /proc is not mounted."""
    try:
        users = _users((root / "igmp").read_text())
        sockets = _sockets((root / "udp").read_text())
        raw = _sockets((root / "raw").read_text()).get(RAW_UDP, [])
    except OSError:
        return None
    users |= _users6(_text(root / "igmp6"))
    raw = raw + _sockets(_text(root / "raw6")).get(RAW_UDP, [])
    for port, found in _sockets(_text(root / "udp6")).items():
        sockets.setdefault(port, []).extend(found)
    return Listeners(users, {int(port, 16): found for port, found in sockets.items()}, raw)


def _text(path: Path) -> str:
    """What is in a file that a kernel without IPv6 lacks."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    return ""


def own_inodes() -> set[int]:
    """The sockets of this process, as /proc/net numbers them."""
    inodes = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            found = os.fstat(int(each.name))
            if stat.S_ISSOCK(found.st_mode):
                inodes.add(found.st_ino)
    return inodes


def _users(text: str) -> dict[tuple[int, Address], int]:
    users: dict[tuple[int, Address], int] = {}
    ifindex = 0
    for line in text.splitlines()[1:]:
        fields = line.split()
        if not line[:1].isspace():
            ifindex = int(fields[0])
        else:
            group = IPv4Address(int(fields[0], 16).to_bytes(4, sys.byteorder))
            users[ifindex, group] = int(fields[1])
    return users


def _users6(text: str) -> dict[tuple[int, Address], int]:
    """The same of MLD: ifindex, name, group, users, ... (net/ipv6/mcast.c, igmp6_mc_seq_show)."""
    rows = [line.split() for line in text.splitlines()]
    return {(int(row[0]), IPv6Address(bytes.fromhex(row[2]))): int(row[3]) for row in rows}


def _sockets(text: str) -> dict[str, list[tuple[str, int]]]:
    sockets: dict[str, list[tuple[str, int]]] = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        sockets.setdefault(port, []).append((address, int(fields[9])))
    return sockets


def _addresses(group: Address) -> set[str]:
    """Bind addresses that receive datagrams for the group; each word is written in this host's order."""
    if group.version == 6:
        words = (group.packed[at : at + 4] for at in range(0, 16, 4))
        return {ANY6, "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)}
    mapped, word = (f"{int.from_bytes(part, sys.byteorder):08X}" for part in (b"\0\0\xff\xff", group.packed))
    return {ANY, ANY6, word, ANY6[:16] + mapped + word}
