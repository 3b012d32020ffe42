"""What forwards, behind one interface. `ring` is the engine in userspace; who uses an engine knows this face alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from mcrelay.model.plan import PlanSpec
    from mcrelay.model.state import CounterKey, Endpoint, Explanation, FrameLosses, Refusals, Snapshot


class Engine(Protocol):
    """Forwards by the last plan that it was given. Every method belongs to the main thread and returns at once.

    ``apply`` alone takes time: it returns when everything goes by the new plan, and until then the one before holds.
    """

    def start(self) -> None:
        """Be ready for a plan. Raises UsageError for CPUs that cannot be had, OperationError for threads."""

    async def apply(self, spec: PlanSpec) -> Refusals:
        """Go by ``spec``; what is the same as before keeps its sockets and counters and loses nothing.

        What is new is let in before the plan is published, and what is gone is shut out after it. What the kernel
        refuses is in the answer and touches nothing else.
        """

    def drop_originals(self, rules: Collection[str]) -> None:
        """Of these rules nobody else on this host wants what is relayed: where it need not climb on, it is dropped."""

    def ask_again(self) -> None:
        """Have what an error taught be asked of the kernel again: a path's MTU, a device that takes no runs."""

    def rerouted(self) -> bool:
        """Whether the plan has to be applied again because a route is another one."""

    def check(self) -> None:
        """Raise OperationError if something that forwards has ended."""

    def wake(self) -> None:
        """Let whatever waits for datagrams turn once, so that ``turns`` moves."""

    @property
    def turns(self) -> tuple[int, ...]:
        """Turns of each thread that forwards: the watchdog is fed while they move."""

    def snapshot(self) -> Snapshot:
        """Read every counter."""

    def engine_reasons(self) -> dict[str, str]:
        """Of rules that ask for another engine than the ring: why the ring has them, empty where it does not."""

    def endpoints(self) -> dict[CounterKey, Endpoint]:
        """What each output that can send sends from."""

    def drops(self) -> dict[str, dict[str, int]]:
        """Datagrams dropped, by rule and reason, of the rules that dropped any."""

    def errors(self) -> dict[CounterKey, dict[str, int]]:
        """Datagrams not sent, by output and reason, of the outputs that failed with any."""

    def lost_frames(self) -> dict[str, list[FrameLosses]]:
        """Frames that were not relayed, by link, each with the group of the last."""

    def last_packet_times(self) -> dict[str, float | None]:
        """When the newest datagram of each rule came: Unix seconds."""

    def explain(self, frame: bytes, ifindex: int, tci: int | None = None) -> Explanation | None:
        """What would be done with a frame that comes in by that link; None where it captures nothing."""

    def links_without_runs(self) -> list[str]:
        """Links whose device has refused a run since the last call; each is named once."""

    def close(self) -> None:
        """Forward no more, and give everything back."""
