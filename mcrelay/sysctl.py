"""Kernel settings, read where they can be: /proc may not be mounted, and then a setting is taken to be its default."""

from __future__ import annotations

from pathlib import Path


def read(key: str, default: int, root: Path = Path("/proc/sys")) -> int:
    """The number under ``key``, written with slashes as a link's name may hold dots: net/ipv4/conf/eth0.7/rp_filter."""
    try:
        return int((root / key).read_text())
    except (OSError, ValueError):
        return default


def rp_filter(link: str, root: Path = Path("/proc/sys")) -> int:
    """The reverse-path filter of a link: 0 off, 1 strict, 2 loose; the higher of ``all`` and its own counts."""
    return max(read(f"net/ipv4/conf/{each}/rp_filter", 0, root) for each in ("all", link))
