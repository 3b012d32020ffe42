"""What a configuration holds: rules, their inputs and outputs, links' settings. Frozen values without behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network

    from mcrelay.model.rate import Rate
    from mcrelay.model.stream import Auto, Keep, Stream, Vlan

DEFAULT_CONTROL = "/run/mcrelay/mcrelay.sock"  # where the relay listens, and its clients ask


@dataclass(frozen=True, slots=True)
class Input:
    """One stream that a rule takes in. ``allow`` None lets every source in, ``limit`` None any rate."""

    stream: Stream
    vlan: Vlan = "none"
    allow: tuple[IPv4Network, ...] | None = None
    limit: Rate | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One destination of a rule, every option resolved: no value here still waits for a default.

    ``stream.port`` is filled in (an output without a port keeps the input's). ``ttl`` is 16 for multicast and 64
    for unicast where nothing was said.
    """

    stream: Stream
    source_address: IPv4Address | Auto | Keep = "auto"
    source_port: int | Auto | Keep = "auto"
    ttl: int | Keep | Literal["decrement"] = 16
    dscp: int | Keep = "keep"
    burst: int = 16
    df: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Datagrams of every input go to every output. ``origin`` tells whether a file or a command made it."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    description: str = ""
    exclusive: bool = False
    enabled: bool = True
    shared: bool = False
    reflect: bool = False
    engine: Literal["ring", "kernel"] = "ring"
    health: Literal["none", "rtp", "ts", "auto"] = "none"
    origin: Literal["file", "runtime"] = "file"


# No link with IPv4 has this name, which /proc/sys/net/ipv4/conf needs itself (linux/net/ipv4/devinet.c).
DEFAULT_LINK = "default"


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """``[links.NAME]``: how frames are captured on one link; with NAME "default" on every link that says nothing else.

    ``ring_bytes`` is the total for all workers, and memory that the kernel gives up as soon as the link is used.

    ``gro``: the kernel is asked to merge datagrams of a flow before they are captured.
    """

    profile: Literal["throughput", "latency"] = "throughput"
    ring_bytes: int = 32 << 20
    gro: bool = False


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """``[relay]``: the process as a whole. ``cpus`` empty means: not pinned."""

    workers: int = 1
    cpus: tuple[int, ...] = ()
    control: str = DEFAULT_CONTROL
    metrics: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration, already found free of complaints."""

    relay: RelaySettings = RelaySettings()
    links: dict[str, LinkSettings] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)

    def link(self, *names: str) -> LinkSettings:
        """Give the settings of a link with these names: its own, else those of ``[links.default]``."""
        known = (self.links[name] for name in (*names, DEFAULT_LINK) if name in self.links)
        return next(known, LinkSettings())
