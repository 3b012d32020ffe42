"""A service manager for tests: hears sd_notify, keeps what is stored, and starts the next process with it."""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

from support.traffic import MCRELAY

if TYPE_CHECKING:
    from pathlib import Path

# Runs inside the namespace: puts the kept fds where sd_listen_fds(3) wants them, then becomes the command.
LAUNCHER = """
import os, sys
fds, names, command = eval(sys.argv[1]), sys.argv[2], sys.argv[3:]
high = [os.dup2(fd, 200 + i, inheritable=False) for i, fd in enumerate(fds)]
for fd in fds:
    os.close(fd)
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
if fds:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execvp(command[0], command)
"""


class Manager:
    """systemd's side of the notify socket. ``told`` holds every message; ``kept`` the fd store.

    While ``attentive`` is not set it forgets nothing that it is asked to: a manager may have much else to do.
    """

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify.sock")
        self.told: list[str] = []
        self.kept: dict[str, int] = {}
        self.attentive = threading.Event()
        self.attentive.set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.attentive.set()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.path)
        self._thread.join()
        self._socket.close()
        self.drop()

    def _listen(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self._socket, 4096, 16)
            if not data:
                return
            message = data.decode()
            pairs = dict(line.split("=", 1) for line in message.splitlines())
            for fd in fds:
                self.kept[pairs["FDNAME"]] = fd
            if "FDSTOREREMOVE" in pairs:
                self.attentive.wait()
            if "FDSTOREREMOVE" in pairs and pairs["FDNAME"] in self.kept:
                os.close(self.kept.pop(pairs["FDNAME"]))
            self.told.append(message)

    def drop(self) -> None:
        """The unit is stopped: the store goes."""
        while self.kept:
            os.close(self.kept.popitem()[1])

    def command(self, *command: str) -> tuple[list[str], tuple[int, ...]]:
        """How to start the process with what is kept, and the fds to pass to it."""
        fds = tuple(self.kept.values())
        names = ":".join(self.kept)
        return [sys.executable, "-c", LAUNCHER, str(list(fds)), names, *command], fds


def start_again(relay, manager: Manager, environment: dict[str, str]) -> None:
    """What systemd does: the next process gets what the store holds."""
    run = [*MCRELAY, "run", "-c", str(relay.config), "--socket", relay.socket]
    command, fds = manager.command("env", *(f"{key}={value}" for key, value in environment.items()), *run)
    with relay.log.open("a") as log:
        relay.process = relay.lab.relay.popen(*command, stderr=log, pass_fds=fds)
