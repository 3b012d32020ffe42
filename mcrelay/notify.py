"""Tell systemd how we are (sd_notify(3)): one datagram to $NOTIFY_SOCKET, nothing when there is none."""

from __future__ import annotations

import os
import socket


class Notifier:
    """The notify socket, connected once: after a change of user the path may refuse us."""

    def __init__(self, path: str | None = None) -> None:
        path = os.environ.get("NOTIFY_SOCKET") if path is None else path
        self._socket: socket.socket | None = None
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)

    def send(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``; a manager that does not listen is not our trouble."""
        if self._socket is None:
            return
        try:
            self._socket.send("\n".join(lines).encode(), socket.MSG_DONTWAIT)
        except OSError:
            self._socket.close()
            self._socket = None
