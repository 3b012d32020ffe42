"""Kernel settings from /proc. If /proc is not mounted, a setting counts as its default."""

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


def igmp_versions(path: Path = Path("/proc/net/igmp")) -> dict[str, int]:
    """The IGMP version the kernel speaks on each link now, by name; empty where /proc is not mounted.

    It falls back to what the querier speaks (RFC 3376, 7.2.1).
    """
    versions = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            if not line[:1].isspace() and len(fields) >= 5 and fields[-1].startswith("V"):
                versions[fields[1].rstrip(":")] = int(fields[-1][1:])
    return versions


def forced_mld_version(link: str, root: Path = Path("/proc/sys")) -> tuple[int, str]:
    """The MLD version that this host is told to speak on a link, 0 for none, and the key that says so.

    That of ``all`` counts, if it has one (mld_force_mld_version in linux/net/ipv6/mcast.c).
    """
    keys = [f"net/ipv6/conf/{each}/force_mld_version" for each in ("all", link)]
    return next(((version, key) for key in keys if (version := read(key, 0, root))), (0, ""))


def without_ipv6(link: str, root: Path = Path("/proc/sys")) -> bool:
    """Whether IPv6 is switched off on a link: the kernel then takes no IPv6 packet from it, and sends none."""
    return bool(read(f"net/ipv6/conf/{link}/disable_ipv6", 0, root))


def reverse_path_drops(path: Path = Path("/proc/net/netstat")) -> int | None:
    """Packets that the reverse-path filter of this network namespace has dropped; None if the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError):
        lines = [line.split() for line in path.read_text().splitlines() if line.startswith("TcpExt:")]
        names, numbers = lines
        return int(numbers[names.index("IPReversePathFilter")])
    return None


def rp_filter(link: str, root: Path = Path("/proc/sys")) -> int:
    """The reverse-path filter of a link: 0 off, 1 strict, 2 loose; the higher of ``all`` and its own counts."""
    return max(read(f"net/ipv4/conf/{each}/rp_filter", 0, root) for each in ("all", link))
