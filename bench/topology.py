"""Where it is measured: source --- relay --- sink, three namespaces and a veth pair between each two.

::

    source eth0 -------- in0 relay out0 -------- eth0 sink
    192.0.2.2/24   192.0.2.1/24   198.51.100.1/24   198.51.100.2/24
    2001:db8:1::2/64   2001:db8:1::1/64   2001:db8:2::1/64   2001:db8:2::2/64

The source is one that the relay's kernel has a route back to: kernel forwarding would refuse any other. No bridge: what
is to be measured is the relay. Each path under test has a site of its own and stays up in it; one that nobody sends to
costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcrelay.commands.lab import Lab, Namespace

Group = IPv4Address | IPv6Address
IN_GROUP, IN_PORT = IPv4Address("239.1.0.0"), 5000  # of the first stream; the others follow
OUT_GROUP, OUT_PORT = IPv4Address("239.2.0.0"), 6000  # output j of stream i: group i x outputs + j
IN_GROUPS: dict[int, Group] = {4: IN_GROUP, 6: IPv6Address("ff1e::1:0")}  # by the IP version of the workload
OUT_GROUPS: dict[int, Group] = {4: OUT_GROUP, 6: IPv6Address("ff1e::2:0")}
IDLE_GROUP = IPv4Address("239.64.0.0")  # of rules that get nothing
FLOOD_GROUP = IPv4Address("239.128.0.0")  # of traffic that no rule wants
SOURCE, RELAY_IN, RELAY_OUT, SINK = "192.0.2.2", "192.0.2.1", "198.51.100.1", "198.51.100.2"
NEVER = 1 << 30


@dataclass(slots=True)
class Site:
    """Three namespaces; ``outs`` links between relay and sink: more than one only where kernel forwarding fans out."""

    source: Namespace
    relay: Namespace
    sink: Namespace
    outs: int

    def segmentation(self, *, source: bool, relay: bool) -> None:
        """Let the links out of source and relay cut UDP superframes (veth then passes them on whole), or the kernel."""
        for namespace, links, on in (
            (self.source, ["eth0"], source),
            (self.relay, [f"out{i}" for i in range(self.outs)], relay),
        ):
            for link in links:
                namespace.run("ethtool", "-K", link, "tx-udp-segmentation", "on" if on else "off")


def written(group: Group, port: int, *, count: int = 1) -> str:
    """Write group and port as mcrelay takes them, or a range of so many groups."""
    address = f"[{group}]" if group.version == 6 else f"{group}"
    length = f"/{group.max_prefixlen - (count - 1).bit_length()}" if count > 1 else ""
    return f"{address}{length}:{port}"


def build(lab: Lab, name: str, *, outs: int = 1, ipv6: bool = False) -> Site:
    """Make a site in *lab*; its links are up. IPv6 is there if it is wanted: its own traffic would only disturb."""
    source, relay, sink = lab.add(f"{name}-source", f"{name}-relay", f"{name}-sink", ipv6=ipv6)
    lab.veth(
        (source, "eth0", relay, "in0"),
        *((relay, f"out{i}", sink, f"eth{i}") for i in range(outs)),
    )
    source.ip(f"addr add {SOURCE}/24 dev eth0", "link set eth0 up", "route add 224.0.0.0/4 dev eth0")
    relay.ip(
        f"addr add {RELAY_IN}/24 dev in0",
        "link set in0 up",
        *(f"addr add 198.51.{100 + i}.1/24 dev out{i}" for i in range(outs)),
        *(f"link set out{i} up" for i in range(outs)),
    )
    sink.ip(
        *(f"addr add 198.51.{100 + i}.2/24 dev eth{i}" for i in range(outs)),
        *(f"link set eth{i} up" for i in range(outs)),
        "route add 224.0.0.0/4 dev eth0",
    )
    if ipv6:
        source.ip("addr add 2001:db8:1::2/64 dev eth0")
        relay.ip(
            "addr add 2001:db8:1::1/64 dev in0",
            *(f"addr add 2001:db8:2:{i}::1/64 dev out{i}" for i in range(outs)),
        )
        sink.ip(*(f"addr add 2001:db8:2:{i}::2/64 dev eth{i}" for i in range(outs)))
    relay.sysctl({"ipv4.igmp_max_memberships": 20000})  # for the peers; mcrelay needs no such thing
    for namespace in (source, relay, sink):
        namespace.wait_until_up()
    site = Site(source, relay, sink, outs)
    site.segmentation(source=False, relay=False)
    return site
