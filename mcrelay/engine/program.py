"""The kernel engine's program of this build: the core's loader, and the object file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mcrelay._core

try:
    from mcrelay._core import program
except ImportError:  # made without clang or libbpf-dev
    _CODE = b""
else:
    _CODE = (
        Path(mcrelay._core.__file__).with_name("relay.bpf.o").read_bytes()
    )  # read now: an upgrade may remove the file

if TYPE_CHECKING:
    from mcrelay._core.program import KernelProgram

BUILT = bool(_CODE)


def probe_hook() -> None:
    """Raise OSError where this kernel has no hook for the program: EPERM, or EINVAL before Linux 6.6."""
    program.probe_hook()


def wait_for_packets() -> None:
    """Wait until the packets that are in the program now have left it. Raises OSError if the kernel cannot tell."""
    program.wait_for_packets()


def detach(link: int) -> None:
    """Take the program off the network interface that a link has it on, now. Raises OSError."""
    program.detach(link)


def read_counters(map_fd: int, index: int, words: int, newest: int = -1) -> tuple[int, ...]:
    """Counters of each CPU, added up; the maximum for the one at ``newest``. Raises OSError for another layout."""
    return program.read_counters(map_fd, index, words, newest)


def load(sizes: dict[str, int]) -> KernelProgram:
    """Load the program and make its maps, with so many entries each. Raises OSError."""
    return program.KernelProgram(_CODE, sizes)
