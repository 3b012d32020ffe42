"""The state of an engine: every counter, read at one moment, and what the kernel refused."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mcrelay.model.stream import Address

CounterKey = tuple[str, str]  # (rule, text of the input or output): the key of counters and sockets

FrameLosses = dict[str, "tuple[int, Address | None]"]  # of one ring, by verdict: count, and the group of the last


@dataclass(frozen=True, slots=True)
class CounterNames:
    """What the counters are called, in their order."""

    verdicts: tuple[str, ...]
    drops: tuple[str, ...]
    send_errors: tuple[str, ...]
    refusals: tuple[str, ...] = ()
    times: tuple[float, ...] = ()  # seconds: the bounds of RelayTimes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an output sends from, as the kernel chose it."""

    address: Address
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
class RelayTimes:
    """How long the datagrams of a rule were in the relay, from the ring's time stamp until they were sent.

    ``datagrams`` are those of each bucket by its bound (seconds, the last is infinite), which are in no smaller one;
    ``seconds`` is the sum. What is sent together counts with the time of the one that came first.
    """

    datagrams: dict[float, int]
    seconds: float

    @property
    def within(self) -> dict[str, int]:
        """The datagrams that took no longer, by bound, as Prometheus writes a histogram: the last bound is "+Inf"."""
        return dict(zip(map(_bound, self.datagrams), accumulate(self.datagrams.values()), strict=True))


@functools.cache  # the bounds of every rule are the same few
def _bound(seconds: float) -> str:
    return "+Inf" if seconds == math.inf else f"{seconds:g}"


@dataclass(frozen=True, slots=True)
class RtpCount:
    """An RTP stream as it arrived (RFC 3550). Times are seconds.

    ``packets`` are those of the stream, duplicates and late ones too; ``reordered`` came after a later one,
    ``restarts`` are new sequences of the same SSRC, ``foreign`` single datagrams of another. ``ssrc``,
    ``payload_type`` and ``clock_rate`` (Hz) are None while there is no stream, or its clock is not known: then there
    is no ``jitter`` either, nor the ``jitter_most`` that there was.
    """

    packets: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    restarts: int = 0
    ssrc_changes: int = 0
    foreign: int = 0
    ssrc: int | None = None
    payload_type: int | None = None
    clock_rate: int | None = None
    jitter: float | None = None
    jitter_most: float | None = None


@dataclass(frozen=True, slots=True)
class TransportCount:
    """An MPEG transport stream as it arrived (ISO/IEC 13818-1): packets of 188 bytes, and errors.

    ``continuity_errors_by_pid`` has the first 32 PIDs with errors. ``bit_rate`` (bits a second, by the stream's own
    clock) and the jitter of its clock (seconds) are None while they are not known.
    """

    packets: int = 0
    continuity_errors: int = 0
    continuity_errors_by_pid: dict[int, int] = field(default_factory=dict)
    sync_errors: int = 0
    transport_errors: int = 0
    pcr_gaps: int = 0
    bit_rate: int | None = None
    pcr_jitter: float | None = None
    pcr_jitter_most: float | None = None


@dataclass(frozen=True, slots=True)
class HealthCount:
    """What an input's stream was found to be. ``rtp`` or ``transport`` is None where it is not looked for.

    ``silences`` are times of more than a second without a datagram, ``silence_seconds`` their sum: a silence that
    lasts counts. ``silent``: it is so now, or nothing has come yet.
    """

    rtp: RtpCount | None
    transport: TransportCount | None
    silent: bool = True
    silences: int = 0
    silence_seconds: float = 0.0
    unrecognised: int = 0


def no_health(kind: str) -> HealthCount:
    """What is known of a stream from which nothing has come; *kind* is what its rule says: "rtp", "ts" or "auto"."""
    return HealthCount(None if kind == "ts" else RtpCount(), None if kind == "rtp" else TransportCount())


@dataclass(frozen=True, slots=True)
class OutputCount:
    """Counters of one output; ``since_packets`` is what its rule had let through (rx - drops) before it began.

    ``tx_fragmented`` are those of ``tx_packets`` that the MTU of the way out had cut.
    """

    tx_packets: int
    tx_bytes: int
    since_packets: int
    tx_errors: dict[str, int]
    tx_fragmented: int = 0


@dataclass(frozen=True, slots=True)
class AnswerCount:
    """Answers by unicast to who searched: given, not to be given, or too late; and how many sockets wait for more."""

    passed: int
    failed: int
    late: int
    waiting: int


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
    """Frames of a rule's group that no rule took, equal but for their source. ``source`` and time are the last one's.

    ``port`` is None where the frame names none (a fragment), ``vlan`` 0 without a tag.
    """

    group: Address
    source: Address
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
    """The loop's decision on a frame: verdict, the rule and input that take it if any, and the reason of a drop."""

    verdict: str
    rule: str | None = None
    input: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every counter at one moment; rules that never had a plan are absent.

    ``retired`` holds, by rule, the counts of inputs that the rule no longer has. ``names`` are the names of the
    counters, so that zeros can be shown. ``input_groups`` and ``output_groups`` are of ranges: the groups that
    have counted anything, by place.
    """

    names: CounterNames
    inputs: dict[CounterKey, InputCount]
    retired: dict[str, InputCount]
    outputs: dict[CounterKey, OutputCount]
    rings: dict[str, RingCount]
    sndbufs: dict[str, int]  # bytes the kernel granted, by output link
    workers: list[WorkerCount]
    answers: dict[str, AnswerCount] = field(default_factory=dict)  # of rules that search
    input_groups: dict[CounterKey, dict[int, InputCount]] = field(default_factory=dict)
    output_groups: dict[CounterKey, dict[int, OutputCount]] = field(default_factory=dict)

    @property
    def last_packet_times(self) -> dict[str, float]:
        """Unix seconds of the newest datagram of each rule that had any."""
        times: dict[str, float] = {}
        parts = [(rule, count) for (rule, _), count in self.inputs.items()]
        for rule, count in (*parts, *self.retired.items()):
            if count.last_packet_time is not None:
                times[rule] = max(count.last_packet_time, times.get(rule, 0.0))
        return times


@dataclass(frozen=True, slots=True)
class FeatureState:
    """State of an optional feature: on, off (nothing uses it), or refused.

    ``on`` with a reason: it works only partly.
    """

    state: Literal["on", "off", "refused"]
    reason: str = ""
