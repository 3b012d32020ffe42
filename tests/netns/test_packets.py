"""What arrives, what leaves, field by field, and what is counted: one row for each kind of packet.

A row is a description, a configuration, the frames that a source sends (by hand or by scapy), the frames that reach
the sink with every header field, in order of their destination, and the counters that are not 0.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from support.frames import (
    GROUP,
    PORT,
    SOURCE,
    Superframe,
    ethernet,
    frame,
    group_mac,
    ipv4,
    ones_sum,
    parts,
    six,
    six_parts,
    superframe,
    tagged,
    udp,
)  # fmt: skip
from support.relay import RelayUnderTest, assert_adds_up, relaying
from support.traffic import assert_exact, receiver, report, send
from support.ways import Way

from mcrelay.commands.lab import standard_lab
from mcrelay.control.client import ask
from mcrelay.relay.compile import auto_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

pytestmark = pytest.mark.net

OUT0 = "198.51.100.1"  # of the relay, where it sends
AUXDATA_BYTES = 64
PACKET_VNET_HDR = 15
PACKET_AUXDATA, VLAN_VALID = 8, 0x10  # linux/if_packet.h: TP_STATUS_VLAN_VALID
VID = 0x0FFF


@dataclass(frozen=True)
class Seen:
    """A frame at the sink, every field of it but the IP ID; the checksums are right, or it is not one of these.

    Of IPv6 the TTL is the hop limit and ``tos`` the traffic class; the flow label is 0, and nothing is in fragments.

    ``vlan`` 0 is untagged; ``offset`` counts bytes. The source port of a rule's output nobody chose one for is
    ``auto_port(rule, output)``.
    """

    group: str
    port: int
    payload: bytes
    source: str = OUT0
    source_port: int = 0
    ttl: int = 16
    tos: int = 0
    df: bool = False
    vlan: int = 0
    more: bool = False
    offset: int = 0
    mac: bytes = b""

    def __post_init__(self) -> None:
        if not self.mac:
            object.__setattr__(self, "mac", group_mac(self.group))


@dataclass(frozen=True)
class Row:
    """``counts``: of each rule its statistics, and of in0 its frames by verdict, as far as they are not 0.

    ``prepare`` changes the lab before the relay has been asked for anything. The rows run with one relay each, on links
    with that ``mtu``.
    """

    what: str
    config: str
    arrives: Iterable[bytes]
    leaves: Iterable[Seen] = ()
    counts: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] = lambda relay: None
    mtu: int = 1500
    ipv6: bool = False


def one(to: str, taken: str = f"{GROUP}:{PORT}%in0", keys: str = "", of_output: str = "") -> str:
    """A configuration of one rule, called x."""
    return f'[rules.x]\ninput = "{taken}"\noutputs = [{{ to = "{to}"{of_output} }}]\n{keys}'


def out(to: str, group: str, port: int, payload: bytes, **fields) -> Seen:
    """What rule x sends to its output ``to``."""
    return Seen(group, port, payload, source_port=auto_port("x", to), **fields)


def rules(*, more: str = "", **ends: tuple[str, str]) -> str:
    """A configuration of a rule for each name: its input, and its output."""
    return more + "".join(
        f'[rules.{name}]\ninput = "{taken}"\noutputs = ["{to}"]\n' for name, (taken, to) in ends.items()
    )


def of(name: str, to: str, group: str, port: int, payload: bytes, **fields) -> Seen:
    """What a rule of that name sends to its output ``to``."""
    return Seen(group, port, payload, source_port=auto_port(name, to), **fields)


RELAY_MAC, SINK_MAC, EVERYBODY = b"\2\0\0\0\0\xa1", b"\2\0\0\0\0\xa2", b"\xff" * 6


def named(relay) -> None:
    """Give the relay's input and the sink their MAC addresses, and let the relay know the sink's."""
    lab = relay.lab
    lab.relay.ip(f"link set in0 address {RELAY_MAC.hex(':')}")
    lab.sink.ip(f"link set eth0 address {SINK_MAC.hex(':')}")
    lab.relay.ip(f"neigh replace 198.51.100.2 lladdr {SINK_MAC.hex(':')} dev out0")


def to_host(payload: bytes, address: str, port: int, mac: bytes = RELAY_MAC, source_port: int = 40000) -> bytes:
    """A frame to an address that is no group."""
    body = udp(payload, group=address, port=port, source_port=source_port)
    return ethernet(ipv4(body, group=address), to=mac)


def taken_whole(what: str, address: str, mac: bytes) -> Row:
    """A rule that takes what is sent to an address that is no group, and nothing else."""
    return Row(
        what,
        one(TO, f"{address}:7000%in0"),
        [to_host(b"this", address, 7000, mac), to_host(b"another port", address, 7001, mac)],
        [out(TO, "239.10.0.1", 5004, b"this")],
        {"x": {"rx_packets": 1, "rx_bytes": 4}, "frames": {"relayed": 1, "no_match": 1}},
        named,
    )


def sent_to(what: str, to: str, mac: bytes, keys: str = "") -> Row:
    """A group that leaves for an address that is none."""
    address, port = to.partition("%")[0].split(":")
    return Row(
        what,
        one(to, keys=keys),
        [frame(b"a"), frame(b"two")],  # no run: the second is the longer one
        [out(to, address, int(port), payload, ttl=64, mac=mac) for payload in (b"a", b"two")],
        {"x": {"rx_packets": 2, "rx_bytes": 4}, "frames": {"relayed": 2}},
        named,
    )


TO = "239.10.0.1:5004%out0"
BACK = "198.51.100.2:48689%out0"
IN_PARTS = udp(b"x" * 32, group="192.0.2.1", port=7000)
RANGE = "239.10.0.0/24:5004%out0"
LIST = "239.10.0.1:7000,7010-7011,7006%out0"
ROWS = [
    Row(
        "a datagram of the rule's group and port leaves from the relay's address, all else is counted",
        one(TO),
        [frame(b"one"), frame(b"two", ttl=1, tos=0xB8), frame(b"other", port=PORT + 1)],
        [out(TO, "239.10.0.1", 5004, b"one"), out(TO, "239.10.0.1", 5004, b"two", tos=0xB8)],
        {"x": {"rx_packets": 2, "rx_bytes": 6}, "frames": {"relayed": 2, "no_match": 1}},
    ),
    taken_whole("unicast to an address of the input link is taken", "192.0.2.1", RELAY_MAC),
    taken_whole("unicast to an address of another link of the host is taken", "198.51.100.1", RELAY_MAC),
    taken_whole("a broadcast to every host is taken", "255.255.255.255", EVERYBODY),
    taken_whole("a broadcast of the link's network is taken", "192.0.2.255", EVERYBODY),
    taken_whole("a broadcast of a network that the host has no address in is taken", "2.255.255.255", EVERYBODY),
    Row(
        "unicast to the host in fragments is put together",
        one(TO, "192.0.2.1:7000%in0"),
        [
            ethernet(ipv4(IN_PARTS[:24], group="192.0.2.1", fragment=0x2000), to=RELAY_MAC),
            ethernet(ipv4(IN_PARTS[24:], group="192.0.2.1", fragment=3), to=RELAY_MAC),
        ],
        [out(TO, "239.10.0.1", 5004, b"x" * 32)],
        {"x": {"rx_packets": 1, "rx_bytes": 32}, "frames": {"relayed": 2}},
        named,
    ),
    Row(
        "a broadcast of a source that is not let in is counted",
        one(TO, "255.255.255.255:7000%in0", 'allow = ["192.168.168.66"]'),
        [to_host(b"no", "255.255.255.255", 7000, EVERYBODY)],
        [],
        {"x": {"rx_packets": 1, "rx_bytes": 2, "drops": {"source": 1}}, "frames": {"dropped": 1}},
    ),
    sent_to("a broadcast to every host of a link leaves", "255.255.255.255:5004%out0", EVERYBODY),
    sent_to("a broadcast of a network leaves by its link", "198.51.100.255:5004%out0", EVERYBODY),
    sent_to("a broadcast of a network leaves by its route", "198.51.100.255:5004", EVERYBODY),
    Row(
        "the way back of an HDMI extender: a keepalive, broadcast from port 48689, reaches the sender",
        one(BACK, "255.255.255.255:48689%in0", "source_port = 48689"),
        [to_host(b"keepalive", "255.255.255.255", 48689, EVERYBODY, 48689)],
        [Seen("198.51.100.2", 48689, b"keepalive", source_port=48689, ttl=64, mac=SINK_MAC)],
        {"x": {"rx_packets": 1, "rx_bytes": 9}, "frames": {"relayed": 1}},
        named,
    ),
    Row(
        "each group of a range goes to the group in its place",
        rules(x=("226.2.2.0/24:2068%in0", RANGE)),
        [frame(f"to {i}".encode(), group=f"226.2.2.{i}") for i in (255, 0, 7, 7)],
        [out(RANGE, f"239.10.0.{i}", 5004, f"to {i}".encode()) for i in (255, 0, 7, 7)],
        {"x": {"rx_packets": 4, "rx_bytes": 18}, "frames": {"relayed": 4}},
    ),
    Row(
        "of a range that loses some, each group says what of it was not let in",
        rules(x=("226.2.2.0/30:2068%in0", "239.10.0.0/30:5004%out0")) + 'allow = ["192.168.168.0/24"]\n',
        [frame(b"in", group="226.2.2.1"), frame(b"out", group="226.2.2.2", source="10.0.0.9")],
        [out("239.10.0.0/30:5004%out0", "239.10.0.1", 5004, b"in")],
        {"x": {"rx_packets": 2, "rx_bytes": 5, "drops": {"source": 1}}, "frames": {"relayed": 1, "dropped": 1}},
    ),
    Row(
        "port any is kept",
        rules(x=(f"{GROUP}:any%in0", "239.10.0.1%out0")),
        [frame(b"a", port=1), frame(b"b", port=65535), frame(b"c", port=2068, tos=0x88, ttl=9)],
        [
            out("239.10.0.1:any%out0", "239.10.0.1", 1, b"a"),
            out("239.10.0.1:any%out0", "239.10.0.1", 65535, b"b"),
            out("239.10.0.1:any%out0", "239.10.0.1", 2068, b"c", tos=0x88),
        ],
        {"x": {"rx_packets": 3, "rx_bytes": 3}, "frames": {"relayed": 3}},
    ),
    Row(
        "port any becomes the one that an output names",
        rules(x=(f"{GROUP}:any%in0", TO)),
        [frame(b"a", port=1), frame(b"b", port=65535)],
        [out(TO, "239.10.0.1", 5004, b"a"), out(TO, "239.10.0.1", 5004, b"b")],
        {"x": {"rx_packets": 2, "rx_bytes": 2}, "frames": {"relayed": 2}},
    ),
    Row(
        "a list and a range of ports are mapped in their order, and others are no match",
        rules(x=(f"{GROUP}:5000-5002,4000%in0", LIST)),
        [frame(str(port).encode(), port=port) for port in (4000, 5000, 5001, 5002, 5003, 4001)],
        [
            out(LIST, "239.10.0.1", 7006, b"4000"),
            out(LIST, "239.10.0.1", 7000, b"5000"),
            out(LIST, "239.10.0.1", 7010, b"5001"),
            out(LIST, "239.10.0.1", 7011, b"5002"),
        ],
        {"x": {"rx_packets": 4, "rx_bytes": 16}, "frames": {"relayed": 4, "no_match": 2}},
    ),
    Row(
        "a range with ports that are kept, TTL and DSCP as the rule says",
        rules(x=("226.2.2.0/31:5000,5002%in0", "239.10.0.6/31%out0")) + 'ttl = "decrement"\ndscp = 46\ndf = true\n',
        [
            frame(b"a", group="226.2.2.0", port=5002, ttl=9),
            frame(b"b", group="226.2.2.1", port=5000, ttl=3, tos=0x28),
            frame(b"c", group="226.2.2.1", port=5000, ttl=1),
        ],
        [
            out("239.10.0.6/31:5000,5002%out0", "239.10.0.6", 5002, b"a", ttl=8, tos=0xB8, df=True),
            out("239.10.0.6/31:5000,5002%out0", "239.10.0.7", 5000, b"b", ttl=2, tos=0xB8, df=True),
        ],
        {"x": {"rx_packets": 3, "rx_bytes": 3, "tx_errors": [{"ttl": 1}]}, "frames": {"relayed": 3}},
    ),
    Row(
        "a port goes before any, a group before a range, and a shorter range before one that holds it",
        rules(
            wide=("226.2.2.0/24:2068%in0", "239.10.1.0/24%out0"),
            near=("226.2.2.0/29:2068%in0", "239.10.2.0/29%out0"),
            one=("226.2.2.2:2068%in0", "239.10.3.1%out0"),
            any=("226.2.2.2:any%in0", "239.10.4.1%out0"),
            anywide=("226.2.2.0/28:any%in0", "239.10.5.0/28%out0"),
        ),
        [
            frame(b"one", group="226.2.2.2"),
            frame(b"near", group="226.2.2.3"),
            frame(b"wide", group="226.2.2.9"),
            frame(b"any", group="226.2.2.2", port=9),
            frame(b"anywide", group="226.2.2.3", port=9),
            frame(b"none", group="226.2.2.16", port=9),
        ],
        [
            of("wide", "239.10.1.0/24:2068%out0", "239.10.1.9", 2068, b"wide"),
            of("near", "239.10.2.0/29:2068%out0", "239.10.2.3", 2068, b"near"),
            of("one", "239.10.3.1:2068%out0", "239.10.3.1", 2068, b"one"),
            of("any", "239.10.4.1:any%out0", "239.10.4.1", 9, b"any"),
            of("anywide", "239.10.5.0/28:any%out0", "239.10.5.3", 9, b"anywide"),
        ],
        {
            "wide": {"rx_packets": 1, "rx_bytes": 4},
            "near": {"rx_packets": 1, "rx_bytes": 4},
            "one": {"rx_packets": 1, "rx_bytes": 3},
            "any": {"rx_packets": 1, "rx_bytes": 3},
            "anywide": {"rx_packets": 1, "rx_bytes": 7},
            "frames": {"relayed": 5, "no_match": 1},
        },
    ),
    Row(
        "a fragmented datagram of a range is mapped as a whole one",
        rules(x=("226.2.2.0/24:any%in0", "239.10.0.0/24%out0")),
        parts(bytes(1200), 600, group="226.2.2.8", port=77),
        [out("239.10.0.0/24:any%out0", "239.10.0.8", 77, bytes(1200))],
        {"x": {"rx_packets": 1, "rx_bytes": 1200}, "frames": {"relayed": 3}},
    ),
]


ADDRESS, SOURCE_PORTS = ', source_address = "keep"', ', source_port = "keep"'
KEPT = ADDRESS + SOURCE_PORTS
A, B = SOURCE, "10.77.0.9"  # senders whom nothing here has a route to
TWO_SENDERS = [
    frame(b"one of A", source_port=7001),
    frame(b"two of A", source_port=7001),
    frame(b"of B", source=B, source_port=7001),
    frame(b"A, another port", source_port=7002),
    frame(b"A again", source_port=7001),
]


def kept(what: str, keys: str, ends: Callable[[str, int], tuple[str, int]], to: str = TO, **fields) -> Row:
    """What two senders send leaves from ``ends`` of their own address and port."""
    address, port = to.partition("%")[0].split(":")
    sent = [(A, 7001, b"one of A"), (A, 7001, b"two of A"), (B, 7001, b"of B"), (A, 7002, b"A, another port")]
    sent.append((A, 7001, b"A again"))
    return Row(
        what,
        one(to, of_output=keys),
        TWO_SENDERS,
        [Seen(address, int(port), payload, *ends(source, own), **fields) for source, own, payload in sent],
        {"x": {"rx_packets": 5, "rx_bytes": 42}, "frames": {"relayed": 5}},
        named,
    )


NARROW = 1000  # bytes: an MTU of out0


def narrow(relay, mtu: int = NARROW) -> None:
    relay.lab.relay.ip(f"link set out0 mtu {mtu}")
    relay.wait_for(lambda: f"the MTU of out0 is {mtu}" in relay.log.read_text(), "the relay to know the MTU")


def narrow_six(relay) -> None:
    """IPv6 needs 1280."""
    narrow(relay, 1300)


def without_address(relay) -> None:
    relay.lab.relay.ip("addr flush dev out0")
    ask(relay.socket, "reload")  # the reply comes when the links are looked at again


OVER = bytes(range(250)) * 5
OVER_UDP = udp(OVER, source=B, source_port=7001, group="239.10.0.1", port=5004)
ROWS += [
    kept("a kept address leaves from the port of the rule", f"{ADDRESS}, source_port = 4321", lambda a, _: (a, 4321)),
    kept("a kept port leaves from the relay's address", SOURCE_PORTS, lambda _, port: (OUT0, port)),
    kept("both ends are kept, to the very group that is taken", KEPT, lambda *ends: ends, f"{GROUP}:{PORT}%out0"),
    kept("both ends are kept to a host", KEPT, lambda *ends: ends, "198.51.100.2:5004", ttl=64, mac=SINK_MAC),
    Row(
        "a hundred ports are kept beside six that send runs, for which there are eight sockets",
        one(TO, of_output=KEPT),
        [frame(b"port", source_port=30000 + i) for i in range(100)]
        + [frame(b"%d " % i * 300, source_port=7000 + i // 10) for i in range(60)],
        [Seen("239.10.0.1", 5004, b"port", A, 30000 + i) for i in range(100)]
        + [Seen("239.10.0.1", 5004, b"%d " % i * 300, A, 7000 + i // 10) for i in range(60)],
        {"x": {"rx_packets": 160, "rx_bytes": 51_400}, "frames": {"relayed": 160}},
    ),
    Row(
        "ends, TTL and DSCP are kept together, on a run and beside it",
        one(TO, of_output=f'{KEPT}, ttl = "decrement", df = true'),
        [frame(b"%d" % (i // 9), source_port=7001, ttl=9, tos=0xB9) for i in range(12)] + [frame(b"", ttl=1)],
        [Seen("239.10.0.1", 5004, b"%d" % (i // 9), A, 7001, ttl=8, tos=0xB8, df=True) for i in range(12)],
        {"x": {"rx_packets": 13, "rx_bytes": 12, "tx_errors": [{"ttl": 1}]}, "frames": {"relayed": 13}},
    ),
    Row(
        "a kept address that no host has is counted, and holds nobody up",
        one(TO, of_output=KEPT),
        [frame(b"nobody", source="0.0.0.0"), frame(b"a group", source="239.9.9.9"), frame(b"B", source=B)],
        [Seen("239.10.0.1", 5004, b"B", B, 40000)],
        {"x": {"rx_packets": 3, "rx_bytes": 14, "tx_errors": [{"noaddr": 2}]}, "frames": {"relayed": 3}},
    ),
    Row(
        "kept ends and a datagram larger than the output's MTU: it leaves in fragments",
        one(TO, of_output=KEPT),
        [frame(OVER, source=B, source_port=7001)],
        [
            Seen("239.10.0.1", 5004, OVER_UDP[8:976], B, 7001, more=True),
            Seen("239.10.0.1", 0, OVER_UDP[976:], B, offset=976),
        ],
        {"x": {"rx_packets": 1, "rx_bytes": 1250}, "frames": {"relayed": 1}},
        narrow,
    ),
    Row(
        "a link without an address sends what keeps its own",
        one(TO, of_output=KEPT),
        [frame(b"A", source_port=7001), frame(b"B", source=B, source_port=7001)],
        [Seen("239.10.0.1", 5004, b"A", A, 7001), Seen("239.10.0.1", 5004, b"B", B, 7001)],
        {"x": {"rx_packets": 2, "rx_bytes": 2}, "frames": {"relayed": 2}},
        without_address,
    ),
]


def in_vlan(vlan: object, to: str = TO, name: str = "x") -> str:
    """A rule that takes the group in a VLAN: a number, or a word in quotes."""
    return f'[rules.{name}]\ninput = {{ from = "{GROUP}:{PORT}%in0", vlan = {vlan} }}\noutputs = ["{to}"]\n'


TAGGED = [
    frame(b"untagged"),
    tagged(frame(b"priority"), 5 << 13),
    tagged(frame(b"of 100"), 100),
    tagged(frame(b"of 100, priority 5"), 5 << 13 | 100),
    tagged(frame(b"of 200"), 200),
    tagged(tagged(frame(b"two tags"), 7), 100),
]
ALSO = "239.10.0.2:5004%out0"


def seen(to: str, *payloads: bytes, rule: str = "x") -> list[Seen]:
    address = to.partition(":")[0]
    return [Seen(address, 5004, payload, source_port=auto_port(rule, to)) for payload in payloads]


ROWS += [
    Row(
        "a rule without a VLAN takes no tag but a priority's",
        one(TO),
        TAGGED,
        seen(TO, b"untagged", b"priority"),
        {"x": {"rx_packets": 2, "rx_bytes": 16}, "frames": {"relayed": 2, "vlan": 4}},
    ),
    Row(
        "a rule of a VLAN takes that alone, whatever its priority",
        in_vlan(100),
        TAGGED,
        seen(TO, b"of 100", b"of 100, priority 5"),
        {"x": {"rx_packets": 2, "rx_bytes": 24}, "frames": {"relayed": 2, "no_match": 2, "vlan": 2}},
    ),
    Row(
        "a rule of any VLAN takes what has one tag or none",
        in_vlan('"any"'),
        TAGGED,
        seen(TO, b"untagged", b"priority", b"of 100", b"of 100, priority 5", b"of 200"),
        {"x": {"rx_packets": 5, "rx_bytes": 46}, "frames": {"relayed": 5, "vlan": 1}},
    ),
    Row(
        "of a VLAN and any VLAN the one that names it takes a frame",
        in_vlan('"any"') + in_vlan(100, ALSO, "y"),
        TAGGED,
        seen(TO, b"untagged", b"priority", b"of 200") + seen(ALSO, b"of 100", b"of 100, priority 5", rule="y"),
        {
            "x": {"rx_packets": 3, "rx_bytes": 22},
            "y": {"rx_packets": 2, "rx_bytes": 24},
            "frames": {"relayed": 5, "vlan": 1},
        },
    ),
]


VLAN = ", vlan = 100"
LOW_BITS = "239.138.0.1:5004%out0"  # of its 28 bits the MAC address has 23, and of IPv6's 112 it has 32
IN0, THERE = "192.0.2.1", "239.10.0.1:5004%in0"  # of the relay, and where it sends to on its input's link


@dataclass(frozen=True)
class Ends:
    """What comes in and what leaves in VLAN 100, each of its family: all is said in IPv4."""

    way: Way

    @property
    def own(self) -> str:
        """The relay's address, where it sends."""
        return self.way.sink(OUT0)

    @property
    def keeps(self) -> bool:
        """Whether a source address may be kept: not into another family."""
        return self.way.taken == self.way.sent

    @property
    def name(self) -> str:
        return "" if not self.way.has_ipv6 else f", IPv{self.way.taken} to IPv{self.way.sent}"

    def one(self, to: str, taken: str = f"{GROUP}:{PORT}%in0", *, of_output: str = "") -> str:
        """A rule into the VLAN."""
        return one(self.way.output(to), self.way.input(taken), of_output=VLAN + of_output)

    def port(self, to: str) -> int:
        """What rule x sends from, to an output that it has been given no port for."""
        return auto_port("x", f"{self.way.output(to)} vlan 100")

    def came(
        self, payload: bytes, *, ttl: int = 16, tos: int = 0, group: str = GROUP, source: str = A, **ports
    ) -> bytes:
        """A frame to the relay; ``source`` may be an address of the family itself."""
        source = source if ":" in source else self.way.source(source)
        ends = {"source": source, "group": self.way.source(group), **ports}
        if self.way.taken == 6:
            return six(payload, hops=ttl, traffic_class=tos, **ends)
        return frame(payload, ttl=ttl, tos=tos, **ends)

    def came_in_parts(self, payload: bytes, size: int) -> list[bytes]:
        ends = {"source": self.way.source(A), "group": self.way.source(GROUP)}
        return (six_parts if self.way.taken == 6 else parts)(payload, size, **ends)

    def left(self, payload: bytes, to: str = TO, *, df: bool = False, **fields) -> Seen:
        """What rule x sends."""
        address, port = to.partition("%")[0].split(":")
        fields = {"source": self.own, "source_port": self.port(to), "vlan": 100, **fields}
        return Seen(self.way.sink(address), int(port), payload, df=df and self.way.sent == 4, **fields)

    def cut(self, payload: bytes, unit: int) -> list[Seen]:
        """The parts of a datagram, so many bytes behind the IPv4 header in each."""
        body = bytes(8) + payload
        found = [self.left(body[8:unit], more=True)]
        for at in range(unit, len(body), unit):
            more = at + unit < len(body)
            found.append(Seen("239.10.0.1", 0, body[at : at + unit], vlan=100, offset=at, more=more))
        return found


def vlan_rows(ends: Ends) -> list[Row]:
    """Outputs with a VLAN, which send either family."""
    came, left, way = ends.came, ends.left, ends.way
    prepare = narrow_six if way.sent == 6 else narrow
    most = 1300 - 48 if way.sent == 6 else NARROW - 28  # bytes of the largest payload
    nobody = ("::", "ff15::9") if way.taken == 6 else ("0.0.0.0", "239.9.9.9")
    there, back = way.output(THERE), way.input(f"{GROUP}:{PORT}%in0")
    senders = ((A, 7001, b"one of A"), (A, 7001, b"two of A"), (B, 7001, b"of B"), (A, 7002, b"another port of A"))
    span = "239.10.0.6/31:7000,7005%out0"
    over = bytes(range(250)) * 6
    rows = [
        Row(
            "an output with a VLAN sends tagged frames, with the TTL and DSCP of the rule",
            ends.one(TO, of_output=", ttl = 7, dscp = 46, df = true"),
            [came(b"one", ttl=3, tos=0x21), came(b""), came(b"odd")],
            [left(payload, ttl=7, tos=0xB8, df=True) for payload in (b"one", b"", b"odd")],
            {"x": {"rx_packets": 3, "rx_bytes": 6}, "frames": {"relayed": 3}},
        ),
        Row(
            "a kept DSCP and a TTL that is counted down are each frame's own, and ECN is not copied",
            ends.one(TO, of_output=', ttl = "decrement"'),
            [came(b"a", ttl=9, tos=0xB9), came(b"b", ttl=1), came(b"c", ttl=2)],
            [left(b"a", ttl=8, tos=0xB8), left(b"c", ttl=1)],
            {"x": {"rx_packets": 3, "rx_bytes": 3, "tx_errors": [{"ttl": 1}]}, "frames": {"relayed": 3}},
        ),
        Row(
            "a TTL that is kept is each frame's own in a VLAN",
            ends.one(TO, of_output=', ttl = "keep", dscp = 0'),
            [came(b"a", ttl=255, tos=0xB9), came(b"b", ttl=1)],
            [left(b"a", ttl=255), left(b"b", ttl=1)],
            {"x": {"rx_packets": 2, "rx_bytes": 2}, "frames": {"relayed": 2}},
        ),
        Row(
            "the same stream leaves untagged and in two VLANs, each from a port of its own",
            f'[rules.x]\ninput = "{back}"\noutputs = ["{way.output(TO)}", {{ to = "{way.output(TO)}", vlan = 100 }},'
            f' {{ to = "{way.output(TO)}", vlan = 4094 }}]\n',
            [came(b"a"), came(b"b")],
            [
                left(payload, source_port=auto_port("x", f"{way.output(TO)}{name}"), vlan=vlan)
                for name, vlan in (("", 0), (" vlan 100", 100), (" vlan 4094", 4094))
                for payload in (b"a", b"b")
            ],
            {"x": {"rx_packets": 2, "rx_bytes": 2}, "frames": {"relayed": 2}},
        ),
        Row(
            "a tagged frame goes to the MAC address of its group, which has 23 bits of it",
            ends.one(LOW_BITS),
            [came(b"a")],
            [left(b"a", LOW_BITS, mac=bytes.fromhex("3333ef8a0001" if way.sent == 6 else "01005e0a0001"))],
            {"x": {"rx_packets": 1, "rx_bytes": 1}, "frames": {"relayed": 1}},
        ),
        Row(
            "a port is kept in a VLAN",
            ends.one(TO, of_output=SOURCE_PORTS),
            [came(payload, source=source, source_port=port) for source, port, payload in senders],
            [left(payload, source_port=port) for _, port, payload in senders],
            {"x": {"rx_packets": 4, "rx_bytes": 37}, "frames": {"relayed": 4}},
        ),
        Row(
            "a range and its ports are mapped into a VLAN",
            ends.one(span, "226.2.2.0/31:5000,5002%in0"),
            [came(b"a", group="226.2.2.0", port=5002), came(b"b", group="226.2.2.1", port=5000)],
            [
                left(payload, f"{group}:{port}%out0", source_port=ends.port(span))
                for group, port, payload in (("239.10.0.6", 7005, b"a"), ("239.10.0.7", 7000, b"b"))
            ],
            {"x": {"rx_packets": 2, "rx_bytes": 2}, "frames": {"relayed": 2}},
        ),
        Row(
            "a run and what is put together leave in a VLAN datagram by datagram",
            ends.one(TO),
            [came(b"%03d" % i) for i in range(200)] + ends.came_in_parts(bytes(1400), 600),
            [left(b"%03d" % i) for i in range(200)] + [left(bytes(1400))],
            {"x": {"rx_packets": 201, "rx_bytes": 2000}, "frames": {"relayed": 203}},
        ),
        Row(
            "what an output sends in a VLAN is an echo where it comes back, and what somebody else sends there is not",
            f'[rules.x]\ninput = "{back}"\noutputs = [{{ to = "{there}", vlan = 100 }}]\nreflect = true\n'
            f'[rules.y]\ninput = {{ from = "{there}", vlan = 100 }}\noutputs = ["{back}"]\nreflect = true\n',
            [
                tagged(
                    Ends(Way(way.sent, way.sent)).came(
                        b"a", group="239.10.0.1", port=5004, source=own, source_port=ends.port(THERE)
                    ),
                    100,
                )
                for own in (IN0, A)
            ],
            [],
            {
                "x": {},
                "y": {"rx_packets": 2, "rx_bytes": 2, "drops": {"echo": 1}},
                "frames": {"relayed": 1, "dropped": 1},
            },
        ),
        Row(
            "with df what is larger than the MTU is counted, also in a VLAN",
            ends.one(TO, of_output=", df = true"),
            [came(over[:most]), came(over[: most + 1]), came(b"after")],
            [left(over[:most], df=True), left(b"after", df=True)],
            {
                "x": {"rx_packets": 3, "rx_bytes": 2 * most + 6, "tx_errors": [{"mtu": 1}]},
                "frames": {"relayed": 3},
            },
            prepare,
        ),
    ]
    if way.sent == 6:
        rows.append(
            Row(
                "what is larger than the MTU is counted in a VLAN without df, too",
                ends.one(TO),
                [came(over[:most]), came(over[: most + 1]), came(b"after")],
                [left(over[:most]), left(b"after")],
                {
                    "x": {"rx_packets": 3, "rx_bytes": 2 * most + 6, "tx_errors": [{"mtu": 1}]},
                    "frames": {"relayed": 3},
                },
                prepare,
            )
        )
    else:
        rows += [
            Row(
                "a broadcast leaves in a VLAN",
                ends.one("255.255.255.255:5004%out0"),
                [came(b"a")],
                [left(b"a", "255.255.255.255:5004%out0", ttl=64, mac=EVERYBODY)],
                {"x": {"rx_packets": 1, "rx_bytes": 1}, "frames": {"relayed": 1}},
            ),
            Row(
                "what is larger than the MTU leaves in a VLAN in fragments",
                ends.one(TO),
                [came(OVER[:972]), came(OVER[:973]), came(OVER)],
                [left(OVER[:972]), *ends.cut(OVER[:973], 976), *ends.cut(OVER, 976)],
                {"x": {"rx_packets": 3, "rx_bytes": 972 + 973 + 1250}, "frames": {"relayed": 3}},
                prepare,
            ),
        ]
    if ends.keeps:
        rows.append(
            Row(
                "both ends are kept in a VLAN, and an address that no host has is counted",
                ends.one(TO, of_output=KEPT),
                [came(payload, source=source, source_port=port) for source, port, payload in senders]
                + [came(b"nobody", source=nobody[0]), came(b"a group", source=nobody[1])],
                [left(payload, source=way.source(source), source_port=port) for source, port, payload in senders],
                {"x": {"rx_packets": 6, "rx_bytes": 50, "tx_errors": [{"noaddr": 2}]}, "frames": {"relayed": 6}},
            )
        )
    return [replace(row, what=row.what + ends.name, ipv6=way.has_ipv6) for row in rows]


ROWS += [row for ends in ((4, 4), (6, 6), (4, 6), (6, 4)) for row in vlan_rows(Ends(Way(*ends)))]


JUMBO = bytes(range(251)) * 36
WHOLE = b"".join(b"%04d" % i * 329 for i in range(50))[:65490]  # 49 datagrams of 1316 bytes and one of 1006
CUT = [WHOLE[at : at + 1316] for at in range(0, len(WHOLE), 1316)]
PLAIN = udp(OVER, source=OUT0, source_port=auto_port("x", TO), group="239.10.0.1", port=5004)
ROWS += [
    Row(
        "jumbo frames to an MTU of 9000 leave as they came, and what is larger came and leaves in fragments",
        one(TO),
        [frame(JUMBO[:size]) for size in (8972, 8971, 1473)] + parts(JUMBO[:9000], 8980),
        [out(TO, "239.10.0.1", 5004, JUMBO[:size]) for size in (8972, 8971, 1473)]
        + [
            out(TO, "239.10.0.1", 5004, JUMBO[:8968], more=True),
            Seen("239.10.0.1", 0, JUMBO[8968:9000], offset=8976),
        ],
        {"x": {"rx_packets": 4, "rx_bytes": 8972 + 8971 + 1473 + 9000}, "frames": {"relayed": 5}},
        mtu=9000,
    ),
    Row(
        "a superframe of 64 KiB leaves as the datagrams that are in it",
        one(TO),
        [superframe(WHOLE, 1316), superframe(WHOLE[:2000], 1000)],
        [out(TO, "239.10.0.1", 5004, piece) for piece in [*CUT, WHOLE[:1000], WHOLE[1000:2000]]],
        {"x": {"rx_packets": 52, "rx_bytes": 65490 + 2000}, "frames": {"relayed": 2}},
    ),
    Row(
        "what Ethernet pads short frames with is no part of a datagram, and neither is any other tail",
        one(TO),
        [frame(b"", padding=18), frame(b"x", padding=17), frame(b"y", padding=300), tagged(frame(b"z", padding=40), 0)],
        [out(TO, "239.10.0.1", 5004, payload) for payload in (b"", b"x", b"y", b"z")],
        {"x": {"rx_packets": 4, "rx_bytes": 3}, "frames": {"relayed": 4}},
    ),
    Row(
        "what is larger than the MTU of the output leaves in fragments, and the rest as it came",
        one(TO),
        [frame(OVER[:972]), frame(OVER), frame(OVER[:5])],
        [
            out(TO, "239.10.0.1", 5004, OVER[:972]),
            out(TO, "239.10.0.1", 5004, PLAIN[8:976], more=True),
            Seen("239.10.0.1", 0, PLAIN[976:], offset=976),
            out(TO, "239.10.0.1", 5004, OVER[:5]),
        ],
        {"x": {"rx_packets": 3, "rx_bytes": 972 + 1250 + 5}, "frames": {"relayed": 3}},
        narrow,
    ),
    Row(
        "with df what is larger than the MTU of the output is counted as such, and nothing else is lost",
        one(TO, of_output=", df = true"),
        [frame(OVER[:972]), *[frame(OVER)] * 3, superframe(OVER[:973] * 2, 973), frame(OVER[:5])],
        [out(TO, "239.10.0.1", 5004, OVER[:972], df=True), out(TO, "239.10.0.1", 5004, OVER[:5], df=True)],
        {
            "x": {"rx_packets": 7, "rx_bytes": 972 + 3 * 1250 + 2 * 973 + 5, "tx_errors": [{"mtu": 5}]},
            "frames": {"relayed": 6},
        },
        narrow,
    ),
]


class Sink:
    """Every UDP frame of either family, or part of one, that reaches a link, whatever it is tagged with."""

    def __init__(self, namespace, link: str) -> None:
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(263, PACKET_AUXDATA, 1)  # SOL_PACKET
        self._socket.bind((link, 3))
        self._socket.setblocking(False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def seen(self) -> list[Seen]:
        """What came since the last call."""
        found = []
        while True:
            try:
                data, control, *_ = self._socket.recvmsg(65600, AUXDATA_BYTES)
            except BlockingIOError:
                return found
            if data[12:14] == b"\x08\x00" and data[23] == socket.IPPROTO_UDP:
                found.append(read(data, tag_of(control)))
            elif data[12:14] == b"\x86\xdd" and data[20] in {socket.IPPROTO_UDP, socket.IPPROTO_FRAGMENT}:
                found.append(read_six(data, tag_of(control)))


def tag_of(control) -> int:
    """The VLAN id that the kernel took off (struct tpacket_auxdata of linux/if_packet.h); 0 without a tag."""
    status, _, _, _, _, tci, _ = struct.unpack("=IIIHHHH", control[0][2])
    return tci & VID if status & VLAN_VALID else 0


def read(data: bytes, vlan: int) -> Seen:
    """Take a frame to pieces; what no correct sender writes fails here."""
    header, total, word = (data[14] & 15) * 4, *struct.unpack_from("!H2xH", data, 16)
    assert header == 20
    assert ones_sum(data[14:34]) == 0xFFFF, "the checksum of the IPv4 header"
    body = data[34 : 14 + total]
    offset, more = (word & 0x1FFF) * 8, bool(word & 0x2000)
    source, group = socket.inet_ntoa(data[26:30]), socket.inet_ntoa(data[30:34])
    source_port = port = 0
    payload = body
    if not offset:
        source_port, port, length = struct.unpack_from("!3H", body)
        payload = body[8:]
        if not more:
            assert length == len(body)
            assert_sum_holds(data[26:34], body, vlan)
    return Seen(
        group, port, payload, source, source_port, data[22], data[15], bool(word & 0x4000), vlan, more, offset, data[:6]
    )  # fmt: skip


def read_six(data: bytes, vlan: int) -> Seen:
    """The same of IPv6: nothing is between its header and UDP's."""
    word, length, kind, hops = struct.unpack_from("!IHBB", data, 14)
    assert (word >> 28, word & 0xFFFFF, kind) == (6, 0, socket.IPPROTO_UDP), "the version, and a flow label of 0"
    assert len(data) == 54 + length
    body = data[54:]
    source_port, port, said, checksum = struct.unpack_from("!4H", body)
    assert said == length
    assert checksum, "IPv6 has no datagram without a checksum"
    assert_sum_holds(data[22:54], body, vlan)
    source, group = (str(ip_address(data[at : at + 16])) for at in (22, 38))
    tos = word >> 20 & 0xFF
    return Seen(group, port, body[8:], source, source_port, hops, tos, vlan=vlan, mac=data[:6])


def assert_sum_holds(addresses: bytes, body: bytes, vlan: int) -> None:
    """A veth leaves the sum to nobody: what the kernel made has that of the addresses alone (CHECKSUM_PARTIAL), or the
    right one. A frame of our own making is right."""
    pseudo = addresses + struct.pack("!HH", socket.IPPROTO_UDP, len(body))
    partial = not vlan and body[6:8] == ones_sum(pseudo).to_bytes(2, "big")
    assert ones_sum(pseudo + body) == 0xFFFF or partial, "the checksum of the datagram"


def by_destination(frames: Iterable[Seen]) -> list[Seen]:
    """Frames to one destination stay in order; of several, nothing is promised."""
    return sorted(frames, key=lambda each: (ip_address(each.group).packed, each.port, each.source, each.source_port))


def counted(stats) -> dict[str, Any]:
    """What rules and in0 have counted, without what is 0, and without times and rates."""
    found: dict[str, Any] = {}
    for rule in stats["rules"]:
        numbers = {key: rule[key] for key in ("rx_packets", "rx_bytes") if rule[key]}
        drops = {reason: count for reason, count in rule["drops"].items() if count}
        errors = [{reason: count for reason, count in each["tx_errors"].items() if count} for each in rule["outputs"]]
        found[rule["name"]] = numbers | ({"drops": drops} if drops else {})
        if any(errors):
            found[rule["name"]]["tx_errors"] = errors
    frames = next(each["frames"] for each in stats["links"] if each["ifname"] == "in0")
    return found | {"frames": {verdict: count for verdict, count in frames.items() if count}}


def put(namespace, frames: Iterable[bytes]) -> None:
    """Send frames as they are by eth0; a superframe by a socket that says what is left for the device to do."""
    with contextlib.ExitStack() as stack:
        raw, whole = (
            stack.enter_context(namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)) for _ in (frame, superframe)
        )
        whole.setsockopt(263, PACKET_VNET_HDR, 1)  # SOL_PACKET
        for each in (raw, whole):
            each.bind(("eth0", 0))
        for each in frames:
            (whole if isinstance(each, Superframe) else raw).send(each)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_packets(row):
    with (
        relaying(row.config, mtu=row.mtu, ipv6=row.ipv6, segmentation=False) as relay,
        Sink(relay.lab.sink, "eth0") as sink,
    ):
        row.prepare(relay)
        states = (each["state"] for rule in relay.show("rules") for each in (rule, *rule["inputs"], *rule["outputs"]))
        assert set(states) == {"active"}
        put(relay.lab.source, row.arrives)
        expected = sum(row.counts["frames"].values())
        relay.wait_for(lambda: sum(relay.link()["frames"].values()) >= expected, f"{expected} frames to be counted")
        stats = relay.at_rest()
        assert by_destination(sink.seen()) == by_destination(row.leaves)
        assert counted(stats) == row.counts
        assert_adds_up(stats)


@pytest.mark.parametrize(("keys", "fate"), [("", "leave in fragments"), ("df = true", "are counted as lost (mtu)")])
def test_an_output_with_a_smaller_mtu_than_the_input_is_said_at_the_start(tmp_path, keys, fate):
    with standard_lab() as lab:
        lab.relay.ip("link set out0 mtu 1000")
        relay = RelayUnderTest(lab, one(TO, keys=keys), tmp_path)
        relay.start()
        said = f"warns rule=x output={TO}: the MTU of out0 is {NARROW}, that of the input 1500: "
        said += f"datagrams of more than 972 bytes {fate}"
        assert relay.log.read_text().count(said) == 1
        relay.stop()


def test_runs_form_also_where_the_source_is_kept():
    """One message for many datagrams: with a device that takes superframes the sink sees few frames."""
    with relaying(one(TO, of_output=KEPT)) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 1600)
        before = frames_in(relay)
        send(relay.lab.source, f"{GROUP}:{PORT}%eth0", "--count", 1600, "--gso", 16, "--rate", 20_000)
        assert_exact(report(sink), 1600)
        assert_adds_up(relay.at_rest())
        assert frames_in(relay) - before < 400


def frames_in(relay) -> int:
    """Frames that the sink's link has received: a superframe is one."""
    found = relay.lab.sink.run("ip", "-j", "-s", "link", "show", "dev", "eth0").stdout
    return json.loads(found)[0]["stats64"]["rx"]["packets"]
