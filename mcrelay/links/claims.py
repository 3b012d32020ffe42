"""Who else uses a setting of a link, by names of abstract sockets, which belong to a network namespace (unix(7)).

The kernel removes a name with its process, whatever ends it: the last of several relays knows that it is the last.
"""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

UNIX = Path("/proc/self/net/unix")


class Claims:
    """The claims of this process, by setting. Main thread."""

    def __init__(self, names: Path = UNIX) -> None:
        self._names = names
        self._held: dict[str, tuple[socket.socket, str]] = {}

    def make(self, what: str, note: str) -> None:
        """Claim *what*, with a *note* (letters and digits) for others to read. Does nothing if no name can be bound."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        with contextlib.suppress(OSError):
            for number in range(1000):
                name = f"mcrelay/{what}/{note}/{number}"
                with contextlib.suppress(FileExistsError, OSError):
                    sock.bind(f"\0{name}")
                    self._held[what] = (sock, name)
                    return
        sock.close()

    def of_others(self, what: str) -> list[str]:
        """The notes of all others who claim *what*; none if /proc cannot be read."""
        try:
            text = self._names.read_text()
        except OSError:
            return []
        own = self._held[what][1] if what in self._held else ""
        found = re.findall(rf"@(mcrelay/{re.escape(what)}/(\w+)/\d+)$", text, re.MULTILINE)
        return [note for name, note in found if name != own]

    def drop(self, what: str) -> None:
        """Release the claim."""
        if what in self._held:
            self._held.pop(what)[0].close()
