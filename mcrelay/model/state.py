"""What an engine tells of itself: every counter, read at one moment, and what the kernel refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Literal

CounterKey = tuple[str, str]  # (rule, input or output text): what counters and sockets are kept under

FrameLosses = dict[str, tuple[int, IPv4Address | None]]  # of one ring, by verdict: count, and the group of the last


@dataclass(frozen=True, slots=True)
class CounterNames:
    """What the counters are called, in their order."""

    verdicts: tuple[str, ...]
    drops: tuple[str, ...]
    send_errors: tuple[str, ...]
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an output sends from, as the kernel chose it."""

    address: IPv4Address
    port: int


@dataclass(frozen=True, slots=True)
class Refusals:
    """What the kernel refused while a plan was made: reasons by ifindex, and by (rule, output)."""

    rings: dict[int, str] = field(default_factory=dict)
    outputs: dict[CounterKey, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputCount:
    """Counters of one input; ``last_packet_time`` is Unix seconds or None."""

    rx_packets: int
    rx_bytes: int
    last_packet_time: float | None
    drops: dict[str, int]


@dataclass(frozen=True, slots=True)
class OutputCount:
    """Counters of one output; ``since_packets`` is what its rule had let through (rx - drops) before it began."""

    tx_packets: int
    tx_bytes: int
    since_packets: int
    tx_errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class RingCount:
    """Frames of one link, also of rings that it had before. ``coarse``: the filter passes more than it should.

    ``kernel_frames`` are those that the kernel engine took, which no ring has seen; ``refused_fragments``, by reason,
    the frames of the verdict ``fragment``.
    """

    rx_frames: int
    dropped: int
    frames: dict[str, int]
    coarse: bool
    kernel_frames: int = 0
    misses: tuple[NearMiss, ...] = ()
    refused_fragments: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NearMiss:
    """Frames of a rule's group that no rule took, alike but for their source; ``source`` and time are the last one's.

    ``port`` is None where the frame names none (a fragment), ``vlan`` 0 without a tag.
    """

    group: IPv4Address
    source: IPv4Address
    port: int | None
    vlan: int
    verdict: str
    packets: int
    last_time: float


@dataclass(frozen=True, slots=True)
class WorkerCount:
    """One worker: CPU time of its thread, and the generation of the plan that it goes by."""

    number: int
    cpu_seconds: float
    generation: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the loop does with a frame: its verdict; the rule and the input that take it, if any; why they drop it."""

    verdict: str
    rule: str | None = None
    input: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it; counters of rules that never had a plan are absent.

    ``retired`` is, by rule, what inputs counted that the rule had before and has no more. ``names`` are those of the
    counters, for whoever has to show zeros.
    """

    names: CounterNames
    inputs: dict[CounterKey, InputCount]
    retired: dict[str, InputCount]
    outputs: dict[CounterKey, OutputCount]
    rings: dict[str, RingCount]
    sndbufs: dict[str, int]  # bytes the kernel granted, by output link
    workers: list[WorkerCount]


@dataclass(frozen=True, slots=True)
class FeatureState:
    """State of an optional feature: on, off (there is nothing to apply it to), or refused.

    ``on`` with a reason: it works only partly.
    """

    state: Literal["on", "off", "refused"]
    reason: str = ""
