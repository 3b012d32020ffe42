"""Where mcrelay looks for system programs such as nft, ip and bridge."""

from __future__ import annotations

import os

SBIN = "/usr/sbin:/sbin"  # an ordinary user's PATH may lack these


def search_path() -> str:
    """PATH, followed by the folders that it may lack."""
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:{SBIN}"
