"""What a relaying process needs before its first thread."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from mcrelay.errors import OperationError
from mcrelay.linux import capabilities, procfs
from mcrelay.linux.capabilities import KERNEL_ENGINE

if TYPE_CHECKING:
    from mcrelay.model.rule import Config


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
        raise OperationError(f"relaying needs CAP_NET_RAW: {_how_to_get_it()}") from None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a socket an output, a helper for 20 groups


def _how_to_get_it() -> str:
    """What is missing is seen: the capability itself, or that an ordinary user has it in effect."""
    if os.geteuid() and capabilities.may_be_had(capabilities.CAP_NET_RAW):
        return (
            f"uid {os.geteuid()} may be given it and has not got it (a container with another user: --cap-add gives an"
            " ordinary user nothing). Start it as root, without --user or runAsUser: it goes on as an ordinary user by"
            " itself; or put it into the ambient set: setpriv --inh-caps +net_raw --ambient-caps +net_raw, systemd's"
            " AmbientCapabilities=CAP_NET_RAW"
        )
    return (
        "run it as root (in a container: with --cap-add NET_RAW), by the systemd unit, or by systemd-run"
        " -p AmbientCapabilities=CAP_NET_RAW"
    )


def reserved_ports(config: Config) -> list[int]:
    """Source ports of this configuration that only CAP_NET_BIND_SERVICE opens (ip_unprivileged_port_start of ip(7))."""
    start = procfs.read("net/ipv4/ip_unprivileged_port_start", 1024)
    outputs = [each for rule in config.rules.values() if rule.enabled for each in rule.outputs]
    return sorted(
        {each.source_port for each in outputs if isinstance(each.source_port, int) and each.source_port < start}
    )


def admin_uses(config: Config) -> list[str]:
    """What of this configuration needs CAP_NET_ADMIN."""
    uses = {"exclusive": any(rule.exclusive and rule.enabled for rule in config.rules.values())}
    uses["gro"] = any(settings.gro for settings in config.links.values())
    uses[KERNEL_ENGINE] = any(rule.engine == "kernel" and rule.enabled for rule in config.rules.values())
    return [use for use, needed in uses.items() if needed]
