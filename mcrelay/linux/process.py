"""The set-up of a relaying process before its first thread."""

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
from mcrelay.model.refusals import no_descriptors

if TYPE_CHECKING:
    from mcrelay.model.rule import Config

FEWEST_DESCRIPTORS = 16  # what the loop of events, netlink and the threads beside them open: no rule can report it


def descriptor_limit() -> int:
    """How many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_descriptors() -> int:
    """How many more files this process may open; the whole limit where /proc is not mounted."""
    try:
        used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        used = 0
    return descriptor_limit() - used


def prepare() -> None:
    """Set what concerns the whole process. Raises OperationError without CAP_NET_RAW or room for what it opens."""
    faulthandler.enable()
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        raise OperationError(f"relaying needs CAP_NET_RAW: {_how_to_get_it()}") from None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a socket an output, a helper for 20 groups
    if free_descriptors() < FEWEST_DESCRIPTORS:
        raise OperationError(no_descriptors(descriptor_limit()))


def _how_to_get_it() -> str:
    """Tell apart the two causes: the capability is missing, or an ordinary user does not have it in effect."""
    if os.geteuid() and capabilities.may_be_had(capabilities.CAP_NET_RAW):
        return (
            f"uid {os.geteuid()} may be given it and has not got it. Start it as root (sudo): it goes on as an ordinary"
            " user by itself. In a container: without --user or runAsUser, as --cap-add gives an ordinary user nothing."
            " Or put it into the ambient set: `setpriv --inh-caps +net_raw --ambient-caps +net_raw`,"
            " AmbientCapabilities=CAP_NET_RAW in a unit"
        )
    return (
        "run it as root (in a container: with --cap-add NET_RAW), by the systemd unit, or by systemd-run"
        " -p AmbientCapabilities=CAP_NET_RAW"
    )


def reserved_ports(config: Config) -> list[int]:
    """Ports of this configuration that only CAP_NET_BIND_SERVICE opens (ip_unprivileged_port_start of ip(7)).

    They are source ports of outputs, and those of inputs that are no group, which may be this host's own.
    """
    start = procfs.read("net/ipv4/ip_unprivileged_port_start", 1024)
    rules = [rule for rule in config.rules.values() if rule.enabled]
    ports = [each.source_port for rule in rules for each in rule.outputs]
    own = [each.stream for rule in rules for each in rule.inputs if not each.stream.address.is_multicast]
    return sorted({port for port in [*ports, *(each.port for each in own)] if isinstance(port, int) and port < start})


def admin_uses(config: Config) -> list[str]:
    """The keys of this configuration that need CAP_NET_ADMIN."""
    uses = {"exclusive": any(rule.exclusive and rule.enabled for rule in config.rules.values())}
    uses["gro"] = any(settings.gro for settings in config.links.values())
    uses[KERNEL_ENGINE] = any(rule.engine == "kernel" and rule.enabled for rule in config.rules.values())
    return [use for use, needed in uses.items() if needed]
