"""What traffic there is: sizes, streams, outputs, rules."""

from __future__ import annotations

from dataclasses import dataclass


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
    superframes: bool = False  # the source's link passes them on whole: what a host with UDP GRO or USO gets
    flood: int = 0  # datagrams a second to groups that no rule wants, beside it

    @property
    def mean_bytes(self) -> float:
        """The payload of the average datagram."""
        parts = [int(part) for part in self.sizes.replace("-", ",").split(",")]
        return sum(parts) / len(parts)


ONE = Workload("1316", "1 stream, 1316 B")
ALL = (
    ONE,
    Workload("64", "1 stream, 64 B", sizes="64"),
    Workload("mixed", "1 stream, 64/570/1400 B in turn", sizes="64,570,1400"),
    Workload("random", "1 stream, 80-400 B at random", sizes="80-400"),
    Workload("100-streams", "100 streams, 1316 B", streams=100),
    Workload("1000-streams", "1000 thin streams, 1316 B", streams=1000),
    Workload("fanout-10", "fan-out 10, 1316 B", outputs=10),
    Workload("fanout-50", "fan-out 50, 1316 B", outputs=50),
    Workload("100-rules", "100 rules, one busy", idle_rules=99),
    Workload("10000-rules", "10 000 rules, one busy", idle_rules=9999),
    Workload("superframes", "superframes of 48 from a UDP_SEGMENT sender", run=48, superframes=True),
    Workload("flood", "10 000/s beside 500 000/s of unmatched groups", flood=500_000),
)
