"""What the tests have already: the descriptor store of a service manager, and settings that are put back."""

from __future__ import annotations

import sys

import tools

sys.path.append(str(tools.ROOT / "tests"))

from support.manager import Manager
from support.settings import changed

__all__ = ["Manager", "changed"]
