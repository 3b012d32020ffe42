"""Kernel settings, read where they can be: /proc may not be mounted, and then a setting is taken to be its default."""

from __future__ import annotations

import contextlib
from pathlib import Path


def read(key: str, default: int, root: Path = Path("/proc/sys")) -> int:
    """The number under ``key``, written with slashes as a link's name may hold dots: net/ipv4/conf/eth0.7/rp_filter."""
    try:
        return int((root / key).read_text())
    except (OSError, ValueError):
        return default


def forced_igmp_version(link: str, root: Path = Path("/proc/sys")) -> tuple[int, str]:
    """The IGMP version that this host is told to speak on a link, 0 for none, and the key that says so.

    The lower of ``all`` and the link's own counts (IGMP_V1_SEEN and IGMP_V2_SEEN in linux/net/ipv4/igmp.c).
    """
    keys = [f"net/ipv4/conf/{each}/force_igmp_version" for each in ("all", link)]
    told = [(version, key) for key in keys if (version := read(key, 0, root))]
    return min(told, default=(0, ""))


def reverse_path_drops(path: Path = Path("/proc/net/netstat")) -> int | None:
    """How many packets the reverse-path filter of this network namespace has dropped; None where that is not told."""
    with contextlib.suppress(OSError, ValueError):
        lines = [line.split() for line in path.read_text().splitlines() if line.startswith("TcpExt:")]
        names, numbers = lines
        return int(numbers[names.index("IPReversePathFilter")])
    return None


def rp_filter(link: str, root: Path = Path("/proc/sys")) -> int:
    """The reverse-path filter of a link: 0 off, 1 strict, 2 loose; the higher of ``all`` and its own counts."""
    return max(read(f"net/ipv4/conf/{each}/rp_filter", 0, root) for each in ("all", link))
