"""Talk with systemd (sd_notify(3), sd_listen_fds(3)): state, watchdog, and sockets that outlive a restart."""

from __future__ import annotations

import array
import os
import socket
import time
from itertools import zip_longest

from mcrelay.linux.installed import unpacked

FIRST_FD = 3  # SD_LISTEN_FDS_START of sd-daemon.h


WAITING_MAX = 4096  # most messages that wait for a manager that does not read; each may hold a helper socket
LASTING = (
    "READY",
    "STOPPING",
    "FDSTORE",
)  # the beginnings of messages that wait; others are out of date when they arrive


class Notifier:
    """The notify socket, connected once: after a change of user the path may refuse us. Without one, nothing is sent.

    Nothing here waits for the manager. Its queue may be full (net.unix.max_dgram_qlen, 10). A message that it must get
    is then kept in order and sent by a later ``send`` or ``flush``; a message about the present state is dropped.
    """

    def __init__(self, path: str | None = None) -> None:
        path = os.environ.get("NOTIFY_SOCKET") if path is None else path
        self._socket: socket.socket | None = None
        self._waiting: list[tuple[str, tuple[int, ...]]] = []
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)

    def send(self, *lines: str, fds: tuple[int, ...] = ()) -> None:
        """Send assignments such as ``READY=1``. A manager that is gone is ignored."""
        if self._socket is None:
            return
        self._waiting.append(("\n".join(lines), fds))
        self.flush()
        if self._waiting and not lines[0].startswith(LASTING):
            self._waiting.pop()
        del self._waiting[WAITING_MAX:]

    def flush(self) -> None:
        """Send the waiting messages for which the manager has room."""
        while self._waiting and self._socket is not None:
            text, fds = self._waiting[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                # Not socket.send_fds: that of Python 3.11 ignores its flags, and would wait.
                self._socket.sendmsg([text.encode()], rights, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            self._waiting.pop(0)

    def close(self) -> None:
        """Say nothing from now on."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._waiting.clear()

    def reloading(self) -> None:
        """A reload begins; the ``READY=1`` at its end belongs to it by the time stamp."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def store(self, fd: int, name: str) -> None:
        """Let the manager hold a duplicate of ``fd`` until the unit is stopped: a restart then sends no IGMP leave."""
        self.send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=(fd,))

    def forget(self, name: str) -> None:
        """Let the manager close its duplicate."""
        unsent = [each for each in self._waiting if f"\nFDNAME={name}\n" in f"{each[0]}\n"]
        if unsent:  # it never had one, and the number may belong to another file by now
            for each in unsent:
                self._waiting.remove(each)
            return
        self.send("FDSTOREREMOVE=1", f"FDNAME={name}")


class Watchdog:
    """Tells the manager that we live, as long as every worker's loop turns: the event loop alone relays nothing.

    ``seconds`` is how often the manager wants to hear of it at least (sd_watchdog_enabled(3)), 0 if not at all.
    """

    def __init__(self, notifier: Notifier) -> None:
        usec = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) in _our_pids()
        self.seconds = int(usec) / 1e6 if usec.isdigit() and ours else 0.0
        self._notifier = notifier
        self._turns: tuple[int, ...] = ()

    def feed(self, turns: tuple[int, ...]) -> None:
        """Send the message if each worker's loop has turned since the last one."""
        if all(now != before for now, before in zip_longest(turns, self._turns)):
            self._notifier.send("WATCHDOG=1")
            self._turns = turns


def take_inherited() -> list[tuple[str, int]]:
    """(name, fd) of each descriptor that the manager held for us. Our children do not inherit them."""
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    ours = os.environ.pop("LISTEN_PID", "") in _our_pids()
    if not ours or not count.isdigit():
        return []
    fds = range(FIRST_FD, FIRST_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    names += ["unknown"] * (len(fds) - len(names))
    return list(zip(names, fds, strict=False))


def _our_pids() -> set[str]:
    """The pids that the manager may use for us: it knows only the parent of the one-file executable."""
    return {str(os.getpid())} | ({str(os.getppid())} if unpacked() else set())
