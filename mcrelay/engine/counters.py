"""The registry: the counters of every input and output, and what all workers and all rings of a link add up to. Pure.

The counters are the core's, one writer each; whoever makes the registry says how they are made and called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from mcrelay.model.state import CounterKey, CounterNames, InputCount, OutputCount, RingCount

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence


class Counters(Protocol):
    """One worker's counters of one thing: mcrelay._core.counters.Block."""

    def read(self) -> tuple[int, ...]:
        """Each as it is now; the worker goes on."""


C = TypeVar("C", bound=Counters)


class CounterRegistry(Generic[C]):
    """Who has which counters, and for how long: an input or output as long as a rule names it, a link for ever.

    An input's are datagrams, bytes, the time of the last in ns, then the drops; an output's are datagrams, bytes, what
    its rule had let through before, then the errors. What an input counted stays its rule's when the rule has another
    input: outputs go on, so the sum of what was received has to.
    """

    def __init__(
        self, make_input: Callable[[], list[C]], make_output: Callable[[], list[C]], names: CounterNames
    ) -> None:
        self._make_input = make_input
        self._make_output = make_output
        self._names = names
        self._inputs: dict[CounterKey, list[C]] = {}  # one a worker
        self._outputs: dict[CounterKey, list[C]] = {}
        self._retired: dict[str, list[int]] = {}  # of inputs that a rule has no more, by rule
        self._before: dict[CounterKey, int] = {}  # what these had let through when an output began
        self._past: dict[str, list[int]] = {}  # of closed rings, by link

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
            self._before[slot] = _passed(self._retired.get(slot[0]))
        return [(self._outputs[slot], held) for slot in new for held in inputs.get(slot[0], ())]

    def prune(self, inputs: Collection[CounterKey], outputs: Collection[CounterKey]) -> None:
        """Forget the inputs and outputs that are not among these, and the rules that have none of these inputs."""
        rules = {rule for rule, _ in inputs}
        for slot, held in self._inputs.items():
            if slot not in inputs and slot[0] in rules:
                parts = [each.read() for each in held]
                if before := self._retired.get(slot[0]):
                    parts.append(tuple(before))
                self._retired[slot[0]] = _summed(parts)
        self._retired = {rule: words for rule, words in self._retired.items() if rule in rules}
        self._before = {slot: count for slot, count in self._before.items() if slot in outputs}
        self._inputs = {slot: held for slot, held in self._inputs.items() if slot in inputs}
        self._outputs = {slot: held for slot, held in self._outputs.items() if slot in outputs}

    def retire(self, ifname: str, words: Sequence[int]) -> None:
        """A link's rings are closed: what they had counted (received, dropped, then the verdicts) stays the link's."""
        past = self._past.get(ifname)
        self._past[ifname] = total([past, words]) if past else list(words)

    def inputs(self) -> dict[CounterKey, InputCount]:
        """The sum of every input."""
        return {slot: self._input_count([each.read() for each in held]) for slot, held in self._inputs.items()}

    def retired(self) -> dict[str, InputCount]:
        """The sum of what each rule's former inputs had counted."""
        return {rule: self._input_count([words]) for rule, words in self._retired.items()}

    def outputs(self) -> dict[CounterKey, OutputCount]:
        """The sum of every output."""
        return {slot: self._output_count(held, self._before.get(slot, 0)) for slot, held in self._outputs.items()}

    def ring(self, ifname: str, words: Sequence[int], *, coarse: bool) -> RingCount:
        """The sum of a link whose open rings have counted this much."""
        past = self._past.get(ifname)
        received, dropped, *frames = total([past, words]) if past else words
        return RingCount(received, dropped, _named(self._names.verdicts, frames), coarse)

    def drops(self) -> dict[str, dict[str, int]]:
        """Datagrams that rules dropped, by rule and reason, of the rules that dropped any."""
        found: dict[str, dict[str, int]] = {}
        parts = [(rule, each.read()[3:]) for (rule, _), held in self._inputs.items() for each in held]
        parts += [(rule, tuple(words[3:])) for rule, words in self._retired.items()]
        for rule, drops in parts:
            if any(drops):
                counts = found.setdefault(rule, dict.fromkeys(self._names.drops, 0))
                for reason, count in zip(self._names.drops, drops, strict=True):
                    counts[reason] += count
        return found

    def errors(self) -> dict[CounterKey, dict[str, int]]:
        """Datagrams that outputs did not send, by output and reason, of the outputs that failed with any."""
        found: dict[CounterKey, dict[str, int]] = {}
        for slot, held in self._outputs.items():
            parts = [each.read()[3:] for each in held]
            if any(map(any, parts)):
                found[slot] = _named(self._names.send_errors, total(parts))
        return found

    def _input_count(self, parts: Sequence[Sequence[int]]) -> InputCount:
        packets, size, last_ns, *drops = _summed(parts)
        return InputCount(packets, size, last_ns / 1e9 if last_ns else None, _named(self._names.drops, drops))

    def _output_count(self, held: Sequence[Counters], before: int) -> OutputCount:
        packets, size, since, *errors = total(each.read() for each in held)
        return OutputCount(packets, size, before + since, _named(self._names.send_errors, errors))


def total(parts: Iterable[Sequence[int]]) -> list[int]:
    """Add up, each counter by itself."""
    return [sum(counts) for counts in zip(*parts, strict=True)]


def _summed(inputs: Sequence[Sequence[int]]) -> list[int]:
    """Add up counters of inputs; the time of the last datagram is the newest."""
    packets, size, _, *drops = total(inputs)
    return [packets, size, max(each[2] for each in inputs), *drops]


def _passed(words: Sequence[int] | None) -> int:
    """Datagrams that an input let through: received, less the drops."""
    return words[0] - sum(words[3:]) if words else 0


def _held(shelf: dict[CounterKey, list[C]], slot: CounterKey, make: Callable[[], list[C]]) -> list[C]:
    found = shelf.get(slot)
    if found is None:
        found = shelf[slot] = make()
    return found


def _named(names: Sequence[str], counts: Sequence[int]) -> dict[str, int]:
    return dict(zip(names, counts, strict=True))
