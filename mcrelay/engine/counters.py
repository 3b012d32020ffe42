"""The registry: the counters of every input and output, and their sums over workers and over a link's rings. Pure.

The counters belong to the core, with one writer each. The maker of the registry gives their constructor and names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from mcrelay.model.state import CounterKey, CounterNames, InputCount, OutputCount, RingCount

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    Begun: TypeAlias = "list[tuple[list[Counters], list[Counters]]]"  # of a new output, and of an input of its rule


class Counters(Protocol):
    """One worker's counters of one thing: mcrelay._core.counters.CounterBlock."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Their names, in the order in which they are read."""

    @property
    def groups(self) -> int:
        """Of how many groups they are: more than 1 for a range."""

    def read(self) -> tuple[int, ...]:
        """Each as it is now, of all groups together; the worker goes on."""

    def read_groups(self) -> dict[int, tuple[int, ...]]:
        """Of each group that has counted anything, by its place in the range."""


_SENT = ("tx_packets", "tx_bytes", "since_packets", "tx_fragmented")

C = TypeVar("C", bound=Counters)
Count = TypeVar("Count", InputCount, OutputCount)


class CounterRegistry(Generic[C]):
    """Owns the counters: those of an input or output as long as a rule names it, those of a link for ever.

    An input has the fields ``rx_packets``, ``rx_bytes``, ``last_packet_ns`` and the drops; an output ``tx_packets``,
    ``tx_bytes``, ``since_packets`` (what its rule had let through before), ``tx_fragmented`` and the errors. A rule
    keeps the counts of a former input: its outputs go on, so the sum of what was received has to.
    """

    def __init__(
        self, make_input: Callable[[int], list[C]], make_output: Callable[[int], list[C]], names: CounterNames
    ) -> None:
        self._make_input = make_input
        self._make_output = make_output
        self._names = names
        self._no_input = InputCount(0, 0, None, dict.fromkeys(names.drops, 0))  # of all that rest: most of many do
        self._no_output = OutputCount(0, 0, 0, dict.fromkeys(names.send_errors, 0))
        self._inputs: dict[CounterKey, list[C]] = {}  # one a worker
        self._outputs: dict[CounterKey, list[C]] = {}
        self._retired: dict[str, InputCount] = {}  # sums of a rule's former inputs, by rule
        self._before: dict[CounterKey, int] = {}  # what these had let through when an output began
        self._past: dict[str, RingCount] = {}  # of closed rings, by link

    def input(self, slot: CounterKey, groups: int = 1) -> list[C]:
        """Counters of an input, one a worker; made when first asked for, for each of so many groups."""
        return _held(self._inputs, slot, self._make_input, groups)

    def output(self, slot: CounterKey, groups: int = 1) -> list[C]:
        """Counters of an output, one a worker; made when first asked for, for each of so many groups."""
        return _held(self._outputs, slot, self._make_output, groups)

    def begin(
        self, outputs: Iterable[CounterKey], groups: Mapping[CounterKey, int] | None = None
    ) -> list[tuple[list[C], list[C]]]:
        """Make counters for those of the outputs that have none; *groups* says of which there are more than one.

        Returns each with the counters of each input of its rule, one for each worker. The caller notes there what these
        have let through when a worker begins with the output.
        """
        new = [slot for slot in outputs if slot not in self._outputs]
        inputs: dict[str, list[list[C]]] = {}
        if new:
            for (rule, _), held in self._inputs.items():
                inputs.setdefault(rule, []).append(held)
        for slot in new:
            self._outputs[slot] = self._make_output((groups or {}).get(slot, 1))
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
        """Keep the counts of a link's rings that are closed."""
        self._past[ifname] = self.ring(ifname, count)

    def inputs(self) -> dict[CounterKey, InputCount]:
        """The sum of every input."""
        return {slot: self._input_count(held) for slot, held in self._inputs.items()}

    def last_packet_times(self) -> dict[str, float | None]:
        """Unix seconds of the newest datagram of each rule that had any. Reads one counter: it is called often."""
        times: dict[str, float | None] = {
            rule: count.last_packet_time for rule, count in self._retired.items() if count.last_packet_time is not None
        }
        for (rule, _), held in self._inputs.items():
            place = _place(held[0].fields, "last_packet_ns")
            if newest := max([each.read()[place] for each in held]):
                times[rule] = max(newest / 1e9, times.get(rule) or 0.0)
        return times

    def retired(self) -> dict[str, InputCount]:
        """The sum of each rule's former inputs."""
        return dict(self._retired)

    def outputs(self) -> dict[CounterKey, OutputCount]:
        """The sum of every output."""
        return {slot: self._output_count(held, self._before.get(slot, 0)) for slot, held in self._outputs.items()}

    def input_groups(self) -> dict[CounterKey, dict[int, InputCount]]:
        """Of every input that is a range: its groups that have counted anything, by place."""
        return _groups(self._inputs, self._input_count)

    def output_groups(self) -> dict[CounterKey, dict[int, OutputCount]]:
        """The same of every output that is a range; ``since_packets`` is the output's as a whole, and not here."""
        return _groups(self._outputs, lambda held: self._output_count(held, 0))

    def ring(self, ifname: str, count: RingCount) -> RingCount:
        """The sum of a link, with the counts of its open rings."""
        past = self._past.get(ifname)
        return count if past is None else ring_sum(past, count)

    def drops(self) -> dict[str, dict[str, int]]:
        """Datagrams that rules dropped, by rule and reason; only rules that dropped any."""
        parts: dict[str, list[dict[str, int]]] = {}
        for (rule, _), held in self._inputs.items():
            if drops := _any_of(self._names.drops, held):
                parts.setdefault(rule, []).append(drops)
        for rule, count in self._retired.items():
            if any(count.drops.values()):
                parts.setdefault(rule, []).append(count.drops)
        return {rule: _sum(drops) for rule, drops in parts.items()}

    def errors(self) -> dict[CounterKey, dict[str, int]]:
        """Datagrams that outputs did not send, by output and reason; only outputs that failed with any."""
        found = ((slot, _any_of(self._names.send_errors, held)) for slot, held in self._outputs.items())
        return {slot: errors for slot, errors in found if errors}

    def _input_count(self, held: Sequence[Counters]) -> InputCount:
        counts, fields = _read(held, newest="last_packet_ns"), held[0].fields
        if not counts:
            return self._no_input
        packets, size, last_ns = _chosen(fields, ("rx_packets", "rx_bytes", "last_packet_ns"))(counts)
        drops = dict(zip(self._names.drops, _chosen(fields, self._names.drops)(counts), strict=True))
        return InputCount(packets, size, last_ns / 1e9 if last_ns else None, drops)

    def _output_count(self, held: Sequence[Counters], before: int) -> OutputCount:
        counts, fields = _read(held), held[0].fields
        if not counts:
            return self._no_output if not before else replace(self._no_output, since_packets=before)
        packets, size, since, cut = _chosen(fields, ("tx_packets", "tx_bytes", "since_packets", "tx_fragmented"))(
            counts
        )
        errors = dict(zip(self._names.send_errors, _chosen(fields, self._names.send_errors)(counts), strict=True))
        return OutputCount(packets, size, before + since, errors, cut)


@dataclass(frozen=True, slots=True)
class _OfGroup:
    """What one worker has counted of one group: Counters that do not change."""

    fields: tuple[str, ...]
    counts: tuple[int, ...]
    groups: int = 1

    def read(self) -> tuple[int, ...]:
        return self.counts

    def read_groups(self) -> dict[int, tuple[int, ...]]:
        return {}


def _groups(
    shelf: Mapping[CounterKey, Sequence[Counters]], count: Callable[[Sequence[Counters]], Count]
) -> dict[CounterKey, dict[int, Count]]:
    found: dict[CounterKey, dict[int, Count]] = {}
    for slot, held in shelf.items():
        if held[0].groups > 1:
            parts: dict[int, list[Counters]] = {}
            for each in held:
                for group, counts in each.read_groups().items():
                    parts.setdefault(group, []).append(_OfGroup(each.fields, counts))
            found[slot] = {group: count(parts[group]) for group in sorted(parts)}
    return found


def named(counters: Counters) -> dict[str, int]:
    """The counters of one worker by name."""
    return dict(zip(counters.fields, counters.read(), strict=True))


def total(parts: Iterable[Sequence[int]]) -> list[int]:
    """Add up, each counter by itself."""
    return [*map(sum, zip(*parts, strict=True))]


def _read(held: Sequence[Counters], newest: str = "") -> Sequence[int]:
    """The counters of one input or output, summed over the workers; the maximum for ``newest``. Empty if all are 0."""
    moved = [part for part in [each.read() for each in held] if any(part)]
    if len(moved) <= 1:
        return moved[0] if moved else ()
    counts = total(moved)
    if newest:
        place = _place(held[0].fields, newest)
        counts[place] = max([part[place] for part in moved])
    return counts


def _any_of(names: tuple[str, ...], held: Sequence[Counters]) -> dict[str, int]:
    """These counters by name; empty if all are 0, which is the usual case and must be cheap."""
    chosen = _chosen(held[0].fields, names)
    for each in held:
        if any(chosen(each.read())):
            return dict(zip(names, chosen(_read(held)), strict=True))
    return {}


@cache
def _chosen(fields: tuple[str, ...], names: tuple[str, ...]) -> Callable[[Sequence[int]], tuple[int, ...]]:
    """Takes those of some names out of counters in the order of *fields*. Of more than one name."""
    return itemgetter(*map(fields.index, names))


@cache
def _place(fields: tuple[str, ...], name: str) -> int:
    return fields.index(name)


def ring_sum(other: RingCount, count: RingCount) -> RingCount:
    """What both have counted; the near misses, and whether the filter is coarse, are those of ``count``."""
    return replace(
        count,
        rx_frames=other.rx_frames + count.rx_frames,
        dropped=other.dropped + count.dropped,
        frames=_sum([other.frames, count.frames]),
        refused_fragments=_sum([other.refused_fragments, count.refused_fragments]),
    )


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


def _held(shelf: dict[CounterKey, list[C]], slot: CounterKey, make: Callable[[int], list[C]], groups: int) -> list[C]:
    found = shelf.get(slot)
    if found is None:
        found = shelf[slot] = make(groups)
    return found
