"""What the kernel lost since a look, by its own counters: said where a test of a relay fails, and often why it did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcrelay.commands.lab import Namespace

NET = Path("/proc/thread-self/net")
SOFTNET = Path("/proc/net/softnet_stat")
LOST = re.compile(r"(Udp|Ip).*(ReasmFails|ReasmTimeout|FragFails|Discards|InErrors|BufErrors|CsumErrors|MemErrors)")


class KernelLosses:
    """Make it before the traffic, and ask it after."""

    def __init__(self, namespaces: Iterable[Namespace]) -> None:
        self._namespaces = tuple(namespaces)
        self._before = self._read()

    def __str__(self) -> str:
        """Name what is not as it was; a datagram may be in several counters."""
        grown = {key: now - self._before.get(key, 0) for key, now in self._read().items()}
        said = ", ".join(f"{key} {count}" for key, count in grown.items() if count)
        return f"lost by the kernel meanwhile: {said or 'nothing that it counts'}"

    def _read(self) -> dict[str, int]:
        """The queue between veth ends is of the whole machine: what others send takes room in it (net/core/dev.c)."""
        found = {"backlog of all": sum(int(line.split()[1], 16) for line in SOFTNET.read_text().splitlines())}
        for namespace in self._namespaces:
            place = namespace.name.rpartition("-")[2]
            found |= {f"{place} {key}": count for key, count in namespace.call(_read_here).items()}
        return found


def _read_here() -> dict[str, int]:
    found = {}
    for line in (NET / "snmp6").read_text().splitlines():
        key, count = line.split()[:2]
        found[key] = int(count)
    rows = [line.split() for line in (NET / "snmp").read_text().splitlines()]
    for names, counts in zip(rows[::2], rows[1::2], strict=True):
        found |= {names[0][:-1] + name: int(count) for name, count in zip(names[1:], counts[1:], strict=True)}
    found = {key: count for key, count in found.items() if LOST.fullmatch(key)}
    for line in (NET / "dev").read_text().splitlines()[2:]:
        link, _, rest = line.partition(":")
        counts = rest.split()
        found |= {f"{link.strip()} rx_dropped": int(counts[3]), f"{link.strip()} tx_dropped": int(counts[11])}
    return found
