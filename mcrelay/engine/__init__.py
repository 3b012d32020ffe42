"""The interface of an engine, which forwards. `ring` is the engine in userspace; callers know only this interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from mcrelay.model.plan import PlanSpec
    from mcrelay.model.state import (
        CounterKey,
        Endpoint,
        Explanation,
        FrameLosses,
        HealthCount,
        Refusals,
        RelayTimes,
        Snapshot,
    )


class Engine(Protocol):
    """Forwards by its latest plan. Every method belongs to the main thread and returns at once.

    Only ``apply`` takes time: it returns when every worker uses the new plan; until then the one before holds.
    """

    def start(self) -> None:
        """Start the threads. Raises UsageError for CPUs that cannot be used, OperationError for threads."""

    async def apply(self, spec: PlanSpec) -> Refusals:
        """Forward by ``spec``. Unchanged parts keep their sockets and counters and lose nothing.

        The filters admit new groups before the plan is published, and shut out old ones after it. The answer names what
        the kernel has refused; a refusal affects nothing else.
        """

    def drop_originals(self, rules: Collection[str]) -> None:
        """Drop the originals of these rules where the engine has them: nobody else on this host wants them."""

    def ask_again(self) -> None:
        """Forget what errors have taught (a path's MTU, a device that takes no runs): the kernel is asked again."""

    def rerouted(self) -> bool:
        """Whether the plan has to be applied again because a route has changed."""

    def check(self) -> None:
        """Raise OperationError if a worker has ended."""

    def wake(self) -> None:
        """Let idle workers turn once, so that ``turns`` moves."""

    @property
    def turns(self) -> tuple[int, ...]:
        """Turns of each worker: the watchdog is fed while they move."""

    def snapshot(self) -> Snapshot:
        """Read every counter."""

    def health(self) -> dict[CounterKey, HealthCount]:
        """What was found in the streams of inputs whose rule asks for it."""

    def relay_times(self) -> dict[str, RelayTimes]:
        """How long the datagrams of each rule were in the relay, as far as it can tell."""

    def engine_reasons(self) -> dict[str, str]:
        """For each rule that asks for another engine: why the ring has it, "" if it does not."""

    def endpoints(self) -> dict[CounterKey, Endpoint]:
        """Source address and port of each output that can send."""

    def drops(self) -> dict[str, dict[str, int]]:
        """Datagrams dropped, by rule and reason; only rules that dropped any."""

    def errors(self) -> dict[CounterKey, dict[str, int]]:
        """Datagrams not sent, by output and reason; only outputs that failed with any."""

    def lost_frames(self) -> dict[str, list[FrameLosses]]:
        """Frames that were not relayed, by link, each with the group of the last."""

    def last_packet_times(self) -> dict[str, float | None]:
        """Unix seconds of the newest datagram of each rule."""

    def explain(self, frame: bytes, ifindex: int, tci: int | None = None) -> Explanation | None:
        """The decision on a frame that arrives on that link; None if nothing is captured there."""

    def links_without_runs(self) -> list[str]:
        """Links whose device has refused a run since the last call, each once."""

    def close(self) -> None:
        """Stop forwarding, and close everything."""
