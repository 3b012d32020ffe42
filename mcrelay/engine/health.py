"""The registry of the streams that are looked at: who looks for what, and what all workers have found. Pure.

The looking is the core's, one writer a worker. The kernel gives a group to one worker, so where something is no sum,
the worker has the say that saw the newest datagram.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from mcrelay.engine.counters import named
from mcrelay.model.state import CounterKey, HealthCount, RtpCount, TransportCount

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mcrelay.engine.counters import Counters

SILENT_SECONDS = 1.0  # as in health.pxd


class Looker(Protocol):
    """One worker's look at one stream: mcrelay._core.health.HealthState."""

    @property
    def stream(self) -> Counters:
        """What there is to count of any stream."""

    @property
    def rtp(self) -> Counters | None:
        """What there is to count of RTP; None where it is not looked for."""

    @property
    def transport(self) -> Counters | None:
        """What there is to count of an MPEG transport stream; likewise."""

    def continuity_errors(self) -> dict[int, int]:
        """By PID."""


L = TypeVar("L", bound=Looker)


class HealthRegistry(Generic[L]):
    """Who looks at which input, for as long as a rule names it and looks for the same in it."""

    def __init__(self, make: Callable[[bool, bool], list[L]]) -> None:
        """*make* makes what looks for RTP, for transport streams, or for both: one a worker."""
        self._make = make
        self._held: dict[CounterKey, tuple[str, list[L]]] = {}

    def of(self, slot: CounterKey, kind: str) -> list[L]:
        """Who looks at an input for "rtp", "ts" or "auto" (both), one a worker; made when first asked for."""
        held = self._held.get(slot)
        if held is None or held[0] != kind:
            held = self._held[slot] = (kind, self._make(kind != "ts", kind != "rtp"))
        return held[1]

    def prune(self, inputs: Collection[CounterKey]) -> None:
        """Forget the inputs that are not among these."""
        self._held = {slot: held for slot, held in self._held.items() if slot in inputs}

    def read(self, now: float) -> dict[CounterKey, HealthCount]:
        """What was found in each input by *now*, Unix seconds."""
        return {slot: _health(held, now) for slot, (_, held) in self._held.items()}


def _health(held: Sequence[Looker], now: float) -> HealthCount:
    parts = [named(each.stream) for each in held]
    newest = max(range(len(held)), key=lambda i: parts[i]["last_packet_ns"])
    last = parts[newest]["last_packet_ns"] / 1e9
    silence = now - last if last and now - last > SILENT_SECONDS else 0.0
    return HealthCount(
        rtp=_rtp([named(each.rtp) for each in held if each.rtp is not None], newest, over=silence > 0),
        transport=_transport(held, newest),
        silent=silence > 0 or not last,
        silences=sum(part["silences"] for part in parts) + (silence > 0),
        silence_seconds=sum(part["silence_ns"] for part in parts) / 1e9 + silence,
        unrecognised=sum(part["unrecognised"] for part in parts),
    )


def _rtp(parts: Sequence[dict[str, int]], newest: int, *, over: bool) -> RtpCount | None:
    """What is missing does not come any more once a silence has begun: the core counts it when that ends."""
    if not parts:
        return None
    now = parts[newest]
    sums = {name: sum(part[name] for part in parts) for name in now}
    clock = now["clock_rate"] or None
    return RtpCount(
        packets=sums["packets"],
        lost=sums["lost"] + (now["missing"] if over else 0),
        duplicated=sums["duplicated"],
        reordered=sums["reordered"],
        restarts=sums["restarts"],
        ssrc_changes=sums["ssrc_changes"],
        foreign=sums["foreign"],
        ssrc=now["ssrc"] if now["packets"] else None,
        payload_type=now["payload_type"] if now["packets"] else None,
        clock_rate=clock,
        jitter=now["jitter_ns"] / 1e9 if clock else None,
        jitter_most=now["jitter_most_ns"] / 1e9 if clock else None,
    )


def _transport(held: Sequence[Looker], newest: int) -> TransportCount | None:
    parts = [named(each.transport) for each in held if each.transport is not None]
    if not parts:
        return None
    now = parts[newest]
    by_pid: dict[int, int] = {}
    for each in held:
        for pid, errors in each.continuity_errors().items():
            by_pid[pid] = by_pid.get(pid, 0) + errors
    return TransportCount(
        packets=sum(part["packets"] for part in parts),
        continuity_errors=sum(part["continuity_errors"] for part in parts),
        continuity_errors_by_pid=by_pid,
        sync_errors=sum(part["sync_errors"] for part in parts),
        transport_errors=sum(part["transport_errors"] for part in parts),
        pcr_gaps=sum(part["pcr_gaps"] for part in parts),
        bit_rate=now["bit_rate"] or None,
        pcr_jitter=now["pcr_jitter_ns"] / 1e9 if now["pcr_jitter_most_ns"] else None,
        pcr_jitter_most=now["pcr_jitter_most_ns"] / 1e9 if now["pcr_jitter_most_ns"] else None,
    )
