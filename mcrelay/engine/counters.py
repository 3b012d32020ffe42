"""The registry: the counters of every input and output, and what all workers and all rings of a link add up to. Pure.

The counters are the core's, one writer each; whoever makes the registry says how they are made and called.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from mcrelay.model.state import CounterKey, CounterNames, InputCount, OutputCount, RingCount

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    Begun: TypeAlias = "list[tuple[list[Counters], list[Counters]]]"  # of a new output, and of an input of its rule


class Counters(Protocol):
    """One worker's counters of one thing: mcrelay._core.counters.CounterBlock."""

    @property
    def fields(self) -> tuple[str, ...]:
        """What they are called, in the order in which they are read."""

    def read(self) -> tuple[int, ...]:
        """Each as it is now; the worker goes on."""


C = TypeVar("C", bound=Counters)


class CounterRegistry(Generic[C]):
    """Who has which counters, and for how long: an input or output as long as a rule names it, a link for ever.

    An input has the fields ``rx_packets``, ``rx_bytes``, ``last_packet_ns`` and the drops; an output ``tx_packets``,
    ``tx_bytes``, ``since_packets`` (what its rule had let through before) and the errors. What an input counted stays
    its rule's when the rule has another input: outputs go on, so the sum of what was received has to.
    """

    def __init__(
        self, make_input: Callable[[], list[C]], make_output: Callable[[], list[C]], names: CounterNames
    ) -> None:
        self._make_input = make_input
        self._make_output = make_output
        self._names = names
        self._inputs: dict[CounterKey, list[C]] = {}  # one a worker
        self._outputs: dict[CounterKey, list[C]] = {}
        self._retired: dict[str, InputCount] = {}  # of inputs that a rule has no more, by rule
        self._before: dict[CounterKey, int] = {}  # what these had let through when an output began
        self._past: dict[str, RingCount] = {}  # of closed rings, by link

    def input(self, slot: CounterKey) -> list[C]:
        """Counters of an input, one a worker; made when first asked for."""
        return _held(self._inputs, slot, self._make_input)

    def output(self, slot: CounterKey) -> list[C]:
        """Counters of an output, one a worker; made when first asked for."""
        return _held(self._outputs, slot, self._make_output)

    def begin(self, outputs: Iterable[CounterKey]) -> list[tuple[list[C], list[C]]]:
        """Make counters for those of the outputs that have none.

        Returns each with the counters of each input of its rule, one a worker: what these have let through at the
        moment when a worker begins with the output is to be noted there.
        """
        new = [slot for slot in outputs if slot not in self._outputs]
        inputs: dict[str, list[list[C]]] = {}
        if new:
            for (rule, _), held in self._inputs.items():
                inputs.setdefault(rule, []).append(held)
        for slot in new:
            self._outputs[slot] = self._make_output()
            retired = self._retired.get(slot[0])
            self._before[slot] = retired.rx_packets - sum(retired.drops.values()) if retired else 0
        return [(self._outputs[slot], held) for slot in new for held in inputs.get(slot[0], ())]

    def prune(self, inputs: Collection[CounterKey], outputs: Collection[CounterKey]) -> None:
        """Forget the inputs and outputs that are not among these, and the rules that have none of these inputs."""
        rules = {rule for rule, _ in inputs}
        for slot, held in self._inputs.items():
            if slot not in inputs and slot[0] in rules:
                count = self._input_count(held)
                before = self._retired.get(slot[0])
                self._retired[slot[0]] = _sum_of_inputs([before, count]) if before else count
        self._retired = {rule: count for rule, count in self._retired.items() if rule in rules}
        self._before = {slot: count for slot, count in self._before.items() if slot in outputs}
        self._inputs = {slot: held for slot, held in self._inputs.items() if slot in inputs}
        self._outputs = {slot: held for slot, held in self._outputs.items() if slot in outputs}

    def retire(self, ifname: str, count: RingCount) -> None:
        """A link's rings are closed: what they had counted stays the link's."""
        self._past[ifname] = self.ring(ifname, count)

    def inputs(self) -> dict[CounterKey, InputCount]:
        """The sum of every input."""
        return {slot: self._input_count(held) for slot, held in self._inputs.items()}

    def retired(self) -> dict[str, InputCount]:
        """The sum of what each rule's former inputs had counted."""
        return dict(self._retired)

    def outputs(self) -> dict[CounterKey, OutputCount]:
        """The sum of every output."""
        return {slot: self._output_count(held, self._before.get(slot, 0)) for slot, held in self._outputs.items()}

    def ring(self, ifname: str, count: RingCount) -> RingCount:
        """The sum of a link whose open rings have counted this much."""
        past = self._past.get(ifname)
        if past is None:
            return count
        return replace(
            count,
            rx_frames=past.rx_frames + count.rx_frames,
            dropped=past.dropped + count.dropped,
            frames=_sum([past.frames, count.frames]),
            refused_fragments=_sum([past.refused_fragments, count.refused_fragments]),
        )

    def drops(self) -> dict[str, dict[str, int]]:
        """Datagrams that rules dropped, by rule and reason, of the rules that dropped any."""
        parts: dict[str, list[dict[str, int]]] = {}
        for (rule, _), held in self._inputs.items():
            if drops := _any_of(self._names.drops, held):
                parts.setdefault(rule, []).append(drops)
        for rule, count in self._retired.items():
            if any(count.drops.values()):
                parts.setdefault(rule, []).append(count.drops)
        return {rule: _sum(drops) for rule, drops in parts.items()}

    def errors(self) -> dict[CounterKey, dict[str, int]]:
        """Datagrams that outputs did not send, by output and reason, of the outputs that failed with any."""
        found = ((slot, _any_of(self._names.send_errors, held)) for slot, held in self._outputs.items())
        return {slot: errors for slot, errors in found if errors}

    def _input_count(self, held: Sequence[Counters]) -> InputCount:
        counts = _read(held, newest="last_packet_ns")
        last_ns = counts["last_packet_ns"]
        drops = _chosen(self._names.drops, counts)
        return InputCount(counts["rx_packets"], counts["rx_bytes"], last_ns / 1e9 if last_ns else None, drops)

    def _output_count(self, held: Sequence[Counters], before: int) -> OutputCount:
        counts = _read(held)
        errors = _chosen(self._names.send_errors, counts)
        return OutputCount(counts["tx_packets"], counts["tx_bytes"], before + counts["since_packets"], errors)


def total(parts: Iterable[Sequence[int]]) -> list[int]:
    """Add up, each counter by itself."""
    return [sum(counts) for counts in zip(*parts, strict=True)]


def _read(held: Sequence[Counters], newest: str = "") -> dict[str, int]:
    """The counters of one thing by name, added up over the workers; of ``newest`` the largest."""
    parts = [each.read() for each in held]
    counts = dict(zip(held[0].fields, total(parts), strict=True))
    if newest:
        counts[newest] = max(part[held[0].fields.index(newest)] for part in parts)
    return counts


def _any_of(names: tuple[str, ...], held: Sequence[Counters]) -> dict[str, int]:
    """These counters by name; empty if all are 0. Asked of everything all the time, and nearly always all are."""
    places = _places(held[0].fields, names)
    for each in held:
        counts = each.read()
        if any(map(counts.__getitem__, places)):
            return _chosen(names, _read(held))
    return {}


@cache
def _places(fields: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(fields.index(name) for name in names)


def _chosen(names: Sequence[str], counts: dict[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in names}


def _sum(parts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(each[name] for each in parts) for name in parts[0]}


def _sum_of_inputs(parts: Sequence[InputCount]) -> InputCount:
    """Add up counters of inputs; the time of the last datagram is the newest."""
    return InputCount(
        sum(each.rx_packets for each in parts),
        sum(each.rx_bytes for each in parts),
        max((each.last_packet_time for each in parts if each.last_packet_time is not None), default=None),
        _sum([each.drops for each in parts]),
    )


def _held(shelf: dict[CounterKey, list[C]], slot: CounterKey, make: Callable[[], list[C]]) -> list[C]:
    found = shelf.get(slot)
    if found is None:
        found = shelf[slot] = make()
    return found
