"""What an output sends from: its socket, the source that the kernel has chosen, and whether a new socket is needed."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from mcrelay.engine.captures import CoreAddress, in_core
from mcrelay.model.ports import spans_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcrelay._core.egress import EgressSocket
    from mcrelay.model.plan import OutputSpec
    from mcrelay.model.state import Endpoint
    from mcrelay.model.stream import Address


class Ends(NamedTuple):
    """What comes from us: source address and port, destination address and port."""

    source: CoreAddress
    source_port: int
    group: CoreAddress
    port: int


@dataclass(slots=True)
class Egress:
    """``endpoint`` is what its datagrams come from, as the kernel chose it when the socket was made."""

    spec: OutputSpec
    socket: EgressSocket
    endpoint: Endpoint

    @property
    def source(self) -> Address:
        """The source address of its datagrams."""
        return self.endpoint.address

    @property
    def source_port(self) -> int:
        """Their source port."""
        return self.endpoint.port

    @property
    def sent(self) -> Ends:
        """The ends of its datagrams; of many, the first."""
        return Ends(in_core(self.source), self.source_port, in_core(self.spec.address), self.spec.port)


def rerouted(egress: Egress) -> bool:
    """Whether the route would now choose another source address than the one that the socket has."""
    if egress.spec.source_address is not None or egress.spec.vlan:
        return False
    source = source_of(egress.spec, egress.socket.source_port)
    return source is not None and source != egress.socket.local_address


def source_of(spec: OutputSpec, port: int) -> Address | None:
    """Ask the kernel with a socket that is made like the output's, so that rules and routes treat it the same.

    None if the kernel gives no answer: a new socket would not help, and the output counts its errors.
    """
    six = spec.address.version == 6
    family = socket.AF_INET6 if six else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        if spec.oif:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, spec.oif.encode())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if six:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, (spec.dscp or 0) << 2)
        else:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, (spec.dscp or 0) << 2)
        link = (0, spec.ifindex) if six else ()
        probe.bind((str(spec.source_address or ""), port, *link))  # the port chooses one of several paths
        probe.connect((str(spec.address), spec.port, *link))
        return ip_address(probe.getsockname()[0].partition("%")[0])
    return None


def ports_sent_to(output: OutputSpec) -> Iterable[int]:
    """Every port that datagrams of an output have; 0 where that is any."""
    if not output.addressed or output.into_one:
        return [output.port]
    return (
        [0]
        if output.ports == "any"
        else (port for low, high in spans_of(output.ports) for port in range(low, high + 1))
    )


def number_of(mac: str) -> int:
    """Give a MAC address as the core has it; 0 where there is none."""
    return int(mac.replace(":", "") or "0", 16)


def device_of(output: OutputSpec) -> str:
    """The key of a GsoState: outputs of one link share it, a routed output has its own."""
    return output.oif or f"the route to {output.address}"
