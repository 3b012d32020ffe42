"""Whether the installed version still runs: a package upgrade leaves a running relay alone."""

from __future__ import annotations

import sys
from pathlib import Path


def unpacked() -> bool:
    """Whether this is the one-file executable: its parent unpacked it, and others know the parent's pid."""
    return bool(getattr(sys, "frozen", False)) and Path(sys.executable).parent not in Path(__file__).parents


class Installed:
    """Remembers the executable as it is now; ``replaced`` says that another one has taken its place."""

    def __init__(self, path: Path | None = None) -> None:
        own = Path(sys.executable) if getattr(sys, "frozen", False) else Path(__file__).parents[1] / "__init__.py"
        self._path = path or own
        self._was = self._identity()

    @property
    def replaced(self) -> bool:
        """False also while the file is missing: removed, or in the middle of an upgrade."""
        now = self._identity()
        return None not in {now, self._was} and now != self._was

    def _identity(self) -> tuple[int, int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
