"""What traffic there is: sizes, streams, outputs, rules."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the bench. ``sizes`` are payload bytes: 1316, a cycle 64,570,1400 or a random range 80-400."""

    name: str
    title: str
    sizes: str = "1316"
    streams: int = 1
    outputs: int = 1
    idle_rules: int = 0
    run: int = 16  # datagrams the sender hands over at once
    runs: bool = False  # each run to one of the streams, which costs the sender less; else they take turns singly
    ranged: bool = False  # one rule, with a range of as many groups as there are streams
    ingress: int = 4  # the IP version of what comes in
    egress: int = 4  # and of what goes out
    superframes: bool = False  # the source's link passes them on whole: what a host with UDP GRO or USO gets

    @property
    def traffic(self) -> Workload:
        """What of it is the sender's: the same for every number of outputs and rules."""
        return replace(self, name="", title="", outputs=1, idle_rules=0, egress=self.ingress)

    @property
    def ipv6(self) -> bool:
        """Whether any of it is IPv6."""
        return 6 in {self.ingress, self.egress}

    @property
    def alike(self) -> bool:
        """Whether a sender can hand over a run as one UDP_SEGMENT message: one stream, one size."""
        return self.streams == 1 and self.sizes.isdecimal()


ONE = Workload("1316", "1 stream, 1316 B")
SMALL = Workload("64", "1 stream, 64 B", sizes="64")
MIXED = Workload("mixed", "1 stream, 64/570/1400 B in turn", sizes="64,570,1400")
RANDOM = Workload("random", "1 stream, 80-400 B at random", sizes="80-400")
MANY = Workload("streams-100", "100 streams, 1316 B", streams=100)
THIN = Workload("streams-1000", "1000 thin streams, 1316 B", streams=1000)
RANGE = Workload("range-4096", "a range of 4096 groups", streams=4096, ranged=True)
FANOUT_10 = Workload("fanout-10", "fan-out 10, 1316 B", outputs=10)
FANOUT_50 = Workload("fanout-50", "fan-out 50, 1316 B", outputs=50)
RULES_100 = Workload("rules-100", "100 rules, one busy", idle_rules=99)
RULES_10000 = Workload("rules-10000", "10 000 rules, one busy", idle_rules=9999)
SUPERFRAMES = Workload("superframes", "superframes of 48 x 1316 B", run=48, superframes=True)
V4_TO_V4 = Workload("v4-v4", "IPv4 to IPv4, 1316 B")
V6_TO_V6 = Workload("v6-v6", "IPv6 to IPv6, 1316 B", ingress=6, egress=6)
V4_TO_V6 = Workload("v4-v6", "IPv4 to IPv6, 1316 B", egress=6)
V6_TO_V4 = Workload("v6-v4", "IPv6 to IPv4, 1316 B", ingress=6)
FLOOD = Workload("flood", "10 000/s beside 500 000/s unmatched")
FLOOD_RATE = 500_000
