"""The kernel engine's program, as this build has it: the loader of the core, and the object beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mcrelay._core

try:
    from mcrelay._core import program
except ImportError:  # made without clang or libbpf-dev
    _CODE = b""
else:
    _CODE = Path(mcrelay._core.__file__).with_name("relay.bpf.o").read_bytes()  # now: an upgrade may take it away

if TYPE_CHECKING:
    from mcrelay._core.program import KernelProgram

BUILT = bool(_CODE)


def wait_for_packets() -> None:
    """Return when no packet is on its way that was when this was called. Raises OSError where nobody can tell."""
    program.wait_for_packets()


def load(sizes: dict[str, int]) -> KernelProgram:
    """Have the kernel check the program and make its maps, with so many entries each. Raises OSError."""
    return program.KernelProgram(_CODE, sizes)
