"""Who else on this host listens to a stream, as far as the kernel tells (proc(5), /proc/net).

Not to be seen there, and so not known: packet sockets of other programs, and macvlan links of this one that live in
another network namespace.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from mcrelay.exclusive.droptable import DropMatch

PROC_NET = Path("/proc/net")
RAW_UDP = "0011"  # a raw socket's protocol stands where a port would
ANY, ANY6 = "0" * 8, "0" * 32


@dataclass(frozen=True, slots=True)
class Listeners:
    """``users``: how many sockets have joined, by ifindex and group. ``bound``: address and inode of sockets, by port.

    ``raw``: the same of raw UDP sockets, which get every port. Addresses are as /proc writes them.
    """

    users: Mapping[tuple[int, IPv4Address], int]
    bound: Mapping[int, Collection[tuple[str, int]]]
    raw: Collection[tuple[str, int]] = ()

    def of(self, drop: DropMatch, own_users: int, own_inodes: Callable[[], Collection[int]]) -> str:
        """Say who would miss these datagrams; nothing if nobody. ``own_users`` helper sockets of ours have joined."""
        if self.users.get((drop.ifindex, drop.group), 0) > own_users:
            return f"another program of this host has joined {drop.group} on {drop.link}"

        def hears(sockets: Collection[tuple[str, int]]) -> bool:
            near = _addresses(drop.group) if sockets else set()
            found = {inode for address, inode in sockets if address in near}
            return bool(found) and not found <= set(own_inodes())

        if hears(self.bound.get(drop.port, ())):
            return f"a socket of another program is bound to port {drop.port} and would get it (`ss -aunp` names it)"
        if hears(self.raw):
            return "a raw UDP socket of another program would get it (`ss -awnp` names it)"
        return ""


def read(root: Path = PROC_NET) -> Listeners | None:
    """Everybody who listens now; None where that cannot be known, as /proc is not mounted."""
    try:
        users = _users((root / "igmp").read_text())
        sockets = _sockets((root / "udp").read_text())
        raw = _sockets((root / "raw").read_text()).get(RAW_UDP, [])
    except OSError:
        return None
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        for port, found in _sockets((root / "udp6").read_text()).items():
            sockets.setdefault(port, []).extend(found)
    return Listeners(users, {int(port, 16): found for port, found in sockets.items()}, raw)


def own_inodes() -> set[int]:
    """The sockets of this process, as /proc/net numbers them."""
    inodes = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            found = os.fstat(int(each.name))
            if stat.S_ISSOCK(found.st_mode):
                inodes.add(found.st_ino)
    return inodes


def _users(text: str) -> dict[tuple[int, IPv4Address], int]:
    users = {}
    ifindex = 0
    for line in text.splitlines()[1:]:
        fields = line.split()
        if not line[:1].isspace():
            ifindex = int(fields[0])
        else:
            group = IPv4Address(int(fields[0], 16).to_bytes(4, sys.byteorder))
            users[ifindex, group] = int(fields[1])
    return users


def _sockets(text: str) -> dict[str, list[tuple[str, int]]]:
    sockets: dict[str, list[tuple[str, int]]] = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        sockets.setdefault(port, []).append((address, int(fields[9])))
    return sockets


def _addresses(group: IPv4Address) -> set[str]:
    """Bind addresses that receive datagrams for the group; each word is written in this host's order."""
    mapped, word = (f"{int.from_bytes(part, sys.byteorder):08X}" for part in (b"\0\0\xff\xff", group.packed))
    return {ANY, ANY6, word, ANY6[:16] + mapped + word}
