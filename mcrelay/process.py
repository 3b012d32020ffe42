"""What a relaying process needs before its first thread."""

from __future__ import annotations

import contextlib
import faulthandler
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import OperationError

if TYPE_CHECKING:
    from .model import Config


def descriptor_limit() -> int:
    """How many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_descriptors() -> int:
    """How many more files this process may open; as many as the limit where /proc is not to be seen."""
    try:
        used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        used = 0
    return descriptor_limit() - used


def prepare() -> None:
    """Settle what the whole process needs. Raises OperationError without CAP_NET_RAW."""
    faulthandler.enable()
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        raise OperationError(
            "relaying needs CAP_NET_RAW: run it as root (in a container: with --cap-add NET_RAW), by the systemd unit, "
            "or by systemd-run -p AmbientCapabilities=CAP_NET_RAW"
        ) from None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a socket an output, a helper for 20 groups


def admin_uses(config: Config) -> list[str]:
    """What of this configuration needs CAP_NET_ADMIN."""
    uses = {"exclusive": any(rule.exclusive and rule.enabled for rule in config.rules.values())}
    uses["gro"] = any(settings.gro for settings in config.links.values())
    return [use for use, needed in uses.items() if needed]
