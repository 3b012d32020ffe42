"""What a configuration holds: rules, their inputs and outputs, links' settings. Frozen values without behaviour.

A field that is a key of the configuration has the key's row as its metadata (model/option): check, flag and texts.
Files, ``[defaults]``, flags, what is written and compared, mcrelay.toml(5) and their tests are made from the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mcrelay.model import values
from mcrelay.model.option import option
from mcrelay.model.rate import Rate, format_rate
from mcrelay.model.values import Each, choice, flag, number

if TYPE_CHECKING:
    from mcrelay.model.address import Network
    from mcrelay.model.stream import Address, Auto, Keep, Stream, Ttl, Vlan

DEFAULT_CONTROL = "/run/mcrelay/mcrelay.sock"  # where the relay listens, and its clients ask
GROUP_TTL, HOST_TTL = 16, 64


def default_ttl(stream: Stream) -> int:
    """Give the TTL of what is sent to a group, or to a host, where nothing is said."""
    return GROUP_TTL if stream.address.is_multicast else HOST_TTL


@dataclass(frozen=True, slots=True)
class Input:
    """One stream that a rule takes in. ``allow`` None lets every source in, ``limit`` None any rate."""

    stream: Stream
    vlan: Vlan = field(
        default="none",
        metadata=option(
            values.vlan,
            "N|none|any",
            help="VLAN that the input arrives in.",
            manual='"none" (untagged), a VLAN id, or "any" (tagged or not). The switch has to flood a VLAN by itself.',
        ),
    )
    allow: tuple[Network, ...] | None = field(
        default=None,
        metadata=option(
            Each(values.allowed, values.allow, '["192.0.2.0/24"]'),
            "NET",
            help="Let only these sources in; may repeat.",
            manual="Networks whose sources are let in, a list.",
            default_words="any source",
            unlimited=["0.0.0.0/0"],
        ),
    )
    limit: Rate | None = field(
        default=None,
        metadata=option(
            values.limit,
            "RATE",
            help="Drop what the input brings beyond this rate, e.g. 20kpps or 500Mbit.",
            manual='Drop what comes beyond this rate, e.g. "20kpps" or "500Mbit"; of a range, of each of its groups.',
            default_words="no limit",
            unlimited=format_rate(Rate(values.MOST_RATE, "pps")),
        ),
    )
    own: bool = field(
        default=False,
        kw_only=True,
        metadata=option(
            flag,
            help="Take what other programs of this host send on the link too.",
            manual="true: take what other programs of this host send on the input's link too, not what arrives alone.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Output:
    """One destination of a rule, every option resolved: no value here still waits for a default.

    ``stream.port`` is filled in (an output without a port keeps the input's), and so is ``ttl`` (``default_ttl``).
    """

    stream: Stream
    source_address: Address | Auto | Keep = field(
        default="auto",
        metadata=option(
            values.source_address,
            "A.B.C.D|keep",
            help="Source address of what is sent.",
            manual='"auto" (of the link, or of the route), an address of this host, or "keep": as it came.',
            default_help="the link's own",
        ),
    )
    source_port: int | Auto | Keep = field(
        default="auto",
        metadata=option(
            number(1, 65535, '"auto" or e.g. 20000', "auto", "keep"),
            "N|keep",
            help="Source port of what is sent.",
            manual='"auto" (20000 and more, always the same for a rule and output), a number, or "keep": as it came.',
            default_help="20000 and more, always the same",
        ),
    )
    ttl: Ttl = field(
        default=GROUP_TTL,
        metadata=option(
            number(1, 255, "e.g. 16", "keep", "decrement"),
            "N|keep|decrement",
            help="TTL of what is sent.",
            manual='1 to 255, "keep", or "decrement": one less than arrived; what has none left is counted (ttl).',
            default_for=default_ttl,
            default_words=f"{GROUP_TTL} multicast, {HOST_TTL} unicast",
        ),
    )
    dscp: int | Keep = field(
        default="keep",
        metadata=option(values.dscp, "N|keep", help="DSCP of what is sent.", manual='"keep", or 0 to 63.'),
    )
    df: bool = field(
        default=False,
        kw_only=True,
        metadata=option(
            flag,
            help="Set don't-fragment on what is sent; what is larger than the path is counted (mtu).",
            manual="true: set don't-fragment; what is larger than the path is not sent, and counted (mtu).",
        ),
    )
    vlan: int | Literal["none"] = field(
        default="none",
        kw_only=True,
        metadata=option(
            values.tag,
            "N|none",
            manual='"none" (untagged), or the VLAN whose tag is sent; at the output alone, a rule\'s is of its input.'
            " With IPv6, what is larger than the MTU is not sent, and counted (mtu).",
            inherited=False,
        ),
    )
    burst: int = field(
        default=16,
        metadata=option(
            number(1, 64, "e.g. 16"),
            "N",
            help="Longest run of datagrams sent at once.",
            manual="Longest run of datagrams that is sent as one message, 1 to 64.",
        ),
    )

    @property
    def whole(self) -> bool:
        """Whether nothing it sends is cut. Frames with a tag are made here, and of IPv6 there are no parts made."""
        return self.df or (self.vlan != "none" and self.stream.address.version == 6)


@dataclass(frozen=True, slots=True)
class Rule:
    """Datagrams of every input go to every output. ``origin`` tells whether a file or a command made it."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    description: str = field(
        default="",
        metadata=option(values.text, "TEXT", help="What the rule is for."),
    )
    exclusive: bool = field(
        default=False,
        metadata=option(
            flag,
            help="Nothing else on this host listens: the kernel drops what is relayed.",
            manual="Nothing else on this host listens: the kernel drops what is relayed after capture.",
        ),
    )
    enabled: bool = field(
        default=True,
        metadata=option(
            flag, flag="disabled", help="Define the rule without running it.", manual="Whether the rule relays."
        ),
    )
    shared: bool = field(
        default=False,
        metadata=option(
            flag,
            help="Another rule that says so too may send to the same outputs.",
            manual="Another rule that says so too may send to the same output.",
        ),
    )
    reflect: bool = field(
        default=False,
        metadata=option(
            flag,
            help="Allow rules that feed each other in a circle; own frames are dropped.",
            manual="Allow rules that feed each other in a circle; frames that come from us are dropped.",
        ),
    )
    engine: Literal["ring", "kernel"] = field(
        default="ring",
        metadata=option(
            choice("ring", "kernel"),
            "ring|kernel",
            help="What forwards.",
            manual='"ring", or "kernel": an eBPF program (Linux 6.6); `show rules` says where it cannot.',
        ),
    )
    health: Literal["none", "rtp", "ts", "auto"] = field(
        default="none",
        metadata=option(
            choice("none", "rtp", "ts", "auto"),
            "none|rtp|ts|auto",
            help="What the input's stream is looked at for.",
            manual='What the stream is looked at for: "none", "rtp", "ts" (MPEG-TS, also in RTP) or "auto" (both).',
        ),
    )
    origin: Literal["file", "runtime"] = "file"


@dataclass(frozen=True, slots=True)
class PresetRule(Rule):
    """A rule that a preset stands for. ``preset`` is the name of its table.

    ``searches``: it carries questions that are answered by unicast to who asked.
    """

    preset: str = ""
    searches: bool = False


# No link with IPv4 has this name, which /proc/sys/net/ipv4/conf needs itself (linux/net/ipv4/devinet.c).
DEFAULT_LINK = "default"


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """``[links.NAME]``: how frames are captured on one link; with NAME "default" on every link that says nothing else.

    ``ring_bytes`` is the total for all workers, and memory that the kernel gives up as soon as the link is used.

    ``gro``: the kernel is asked to merge datagrams of a flow before they are captured.
    """

    profile: Literal["throughput", "latency"] = field(
        default="throughput",
        metadata=option(
            choice("throughput", "latency"), manual='"throughput", or "latency": a short wait for a price in CPU time.'
        ),
    )
    ring_bytes: int = field(
        default=32 << 20,
        metadata=option(
            values.ring,
            key="ring",
            manual='Memory of the receive ring, from "1MiB" to "1GiB", taken for each input link.',
        ),
    )
    gro: bool = field(
        default=False,
        metadata=option(
            flag, manual="Let the kernel merge datagrams of a flow before they are captured: less work, some latency."
        ),
    )


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """``[relay]``: the process as a whole. ``cpus`` empty means: not pinned."""

    workers: int = field(
        default=1,
        metadata=option(
            number(1, 256, "workers = 1"), manual="Threads that forward; each group belongs to one of them."
        ),
    )
    cpus: tuple[int, ...] = field(
        default=(),
        metadata=option(
            Each(number(0, 8191, "the number of a CPU, e.g. 2"), values.cpus, "[2]"),
            manual="CPUs for the workers, e.g. [2].",
            default_words="any",
        ),
    )
    control: str = field(
        default=DEFAULT_CONTROL,
        metadata=option(
            values.socket_path(DEFAULT_CONTROL),
            manual="Path of the control socket; the read-only one stands beside it.",
            default_words=DEFAULT_CONTROL,
        ),
    )
    metrics: str | None = field(
        default=None,
        metadata=option(
            values.metrics,
            manual='Address and port for Prometheus, e.g. "127.0.0.1:19736" or "[::1]:19736".',
            default_words="off",
        ),
    )


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
