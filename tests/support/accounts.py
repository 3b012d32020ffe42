"""Who the tests run as."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _why_not() -> str:
    if os.geteuid() != 0:
        return "only root can become somebody else"
    if Path("/proc/self/uid_map").read_text().split()[2] == "1":
        return "this user namespace knows no other user"
    return ""


as_root = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "-")
