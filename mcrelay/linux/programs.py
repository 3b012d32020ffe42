"""The system's programs that mcrelay runs, such as nft, ip and bridge: where they are looked for."""

from __future__ import annotations

import os

SBIN = "/usr/sbin:/sbin"  # where they are, which an ordinary user's PATH may lack


def search_path() -> str:
    """PATH, and then the folders that it may lack."""
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:{SBIN}"
