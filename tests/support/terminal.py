"""A command on a terminal: what it draws, frame by frame, and keys for it (pty(7))."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

HOME = "\033[H"  # with which a full-screen command begins each frame
SEQUENCE = re.compile(r"\033(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])")


class Terminal:
    """A terminal of a size, with a command in it."""

    def __init__(self, *command: str, columns: int = 80, lines: int = 24, environment: dict[str, str] | None = None):
        self._master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.resize(columns, lines)
        values = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **(environment or {})}
        values = {key: value for key, value in values.items() if key not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=values, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self._slave = slave
        self.drawn = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def frames(self) -> list[list[str]]:
        """The lines of each whole frame, without what colours them."""
        parts = self.drawn.split(HOME)[1:]
        return [SEQUENCE.sub("", part).replace("\r", "").split("\n") for part in parts[:-1]]

    def wait_for(self, condition, what: str, seconds: float = 20) -> list[str]:
        """Take what is drawn until a frame fulfils *condition*; returns that frame."""
        until = time.monotonic() + seconds
        seen = len(self.frames())
        while time.monotonic() < until:
            self._read(0.1)
            frames = self.frames()
            for frame in frames[max(0, seen - 1) :]:
                if condition(frame):
                    return frame
            seen = len(frames)
        raise AssertionError(
            f"waited {seconds} s for {what}; last:\n" + "\n".join((self.frames() or [[self.drawn]])[-1])
        )

    def end(self, seconds: float = 10) -> int:
        """Wait for the end of the command; returns its exit code."""
        until = time.monotonic() + seconds
        while self.process.poll() is None:
            self._read(0.05)
            assert time.monotonic() < until, f"no end within {seconds} s"
        self._read(0.05)
        return self.process.returncode

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.press("\x03")

    @property
    def settings(self) -> list:
        """How the terminal is set now (termios(3))."""
        return termios.tcgetattr(self._slave)

    def _read(self, seconds: float) -> None:
        with contextlib.suppress(OSError):  # nobody has the other end open
            while select.select([self._master], [], [], seconds)[0]:
                self.drawn += os.read(self._master, 65536).decode(errors="replace")
                seconds = 0.0
