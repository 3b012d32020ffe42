"""Rules that feed each other: in a circle, or an input that is an output of ours on the same link. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeAlias

from mcrelay.config.ends import In, Out, complaint, named, rule_key
from mcrelay.config.overlaps import Overlaps, meet
from mcrelay.config.tags import reach
from mcrelay.model.notation import format_stream

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from mcrelay.config.ends import Where
    from mcrelay.errors import Complaint
    from mcrelay.model.rule import Input, Output, Rule

_Feeds: TypeAlias = dict[str, dict[str, tuple[Out, In]]]  # rule -> rule that it feeds -> the output that does so


def _would_hear(taken: Input, output: Output) -> bool:
    """Whether what the output sends is what the input takes, as far as the configuration tells.

    An "auto" address is not known here: it is not taken for the one source that an input names.
    """
    stream, source = taken.stream, output.source_address
    if not carries_on(taken, output):
        return False
    if stream.source is not None and source not in {"keep", stream.source}:
        return False
    outside = taken.allow is not None and isinstance(source, IPv4Address)
    return not (outside and not any(source in network for network in taken.allow or ()))


def carries_on(taken: Input, output: Output) -> bool:
    """Whether an input takes what an output sends, as far as group, port, link and VLAN say."""
    same = taken.stream.link == output.stream.link and meet(taken.stream, output.stream)
    return same and reach(taken, output)


def _feeds(inputs: Sequence[In], outputs: Sequence[Out]) -> _Feeds:
    """Find the rules whose output is another rule's input."""
    index: Overlaps[In] = Overlaps([*(each.stream for each in inputs), *(each.stream for each in outputs)])
    for taken in inputs:
        if taken.stream.link is not None and taken.stream.port is not None:
            index.add(taken.stream.link, taken.stream, taken)
    feeds: _Feeds = {}
    for sent in outputs:
        link = sent.stream.link
        if link is None or not sent.whole:
            continue
        if any(carries_on(own, sent.output) for own in sent.rule.inputs):
            continue  # that is said already
        for _, taken in index.meeting(link, sent.stream):
            if taken.rule is not sent.rule and _would_hear(taken.input, sent.output):
                feeds.setdefault(sent.rule.name, {}).setdefault(taken.rule.name, (sent, taken))
    return feeds


def _reach(graph: Mapping[str, Iterable[str]], start: str) -> dict[str, str]:
    """Every rule reachable from *start*, each with the rule before it on a shortest way."""
    before: dict[str, str] = {}
    border = [start]
    while border:
        reached = []
        for name in border:
            for after in graph.get(name, ()):
                if after not in before:
                    before[after] = name
                    reached.append(after)
        border = reached
    return before


def _peeled(graph: Mapping[str, Collection[str]], back: Mapping[str, Collection[str]]) -> set[str]:
    """Rules that are fed by no circle: rules that nothing feeds, and rules that only such rules feed."""
    waits = {name: len(before) for name, before in back.items()}
    ends = [name for name in graph if name not in waits]
    peeled = set(ends)
    while ends:
        for after in graph.get(ends.pop(), ()):
            waits[after] -= 1
            if not waits[after]:
                ends.append(after)
                peeled.add(after)
    return peeled


def find(rules: Mapping[str, Rule], inputs: Sequence[In], outputs: Sequence[Out], where: Where) -> Iterator[Complaint]:
    """Find each circle once, and every other input that is a rule's output on the same link."""
    feeds = _feeds(inputs, outputs)
    fed_by: dict[str, list[str]] = {}
    for name, others in feeds.items():
        for other in others:
            fed_by.setdefault(other, []).append(name)
    circle: dict[str, str] = {}  # rule -> the first rule of the circles to which it belongs
    chained = _peeled(feeds, fed_by) | _peeled(
        fed_by, feeds
    )  # a search from each rule of each circle would take too long
    for name in feeds:
        if name in circle or name in chained or name not in (forth := _reach(feeds, name)):
            continue
        together = forth.keys() & _reach(fed_by, name).keys()
        circle.update(dict.fromkeys(together, name))
        plain = next((n for n in rules if n in together and not rules[n].reflect), None)
        if plain is not None:
            yield _circle(feeds, plain, where)
        elif not any(_ends_by_itself(rules[each]) for each in together):
            problem = "rules that reflect each other without a limit allow one relay only"
            remedy = 'a second relay with the same rules returns everything: add a limit to one of them, e.g. "20kpps"'
            yield complaint(where, f"{rule_key(name)}.reflect", problem, remedy, warning=True)
    blamed = set()
    for name, others in feeds.items():
        for other, (sent, taken) in others.items():
            if (name in circle and circle[name] == circle.get(other)) or taken.key in blamed:
                continue
            blamed.add(taken.key)
            feeder = named(where, sent.rule, sent.key)
            problem = f"{feeder} sends to this on {sent.stream.link}, and a relay does not hear itself"
            source = f": {format_stream(sent.rule.inputs[0].stream)}" if sent.rule.inputs else ""
            yield complaint(where, taken.key, problem, f"take what {rule_key(name)} takes{source}")


def _ends_by_itself(rule: Rule) -> bool:
    """Whether this rule ends a datagram that goes round, or limits how many do."""
    return any(taken.limit for taken in rule.inputs) or any(sent.ttl == "decrement" for sent in rule.outputs)


def _circle(feeds: _Feeds, start: str, where: Where) -> Complaint:
    before = _reach(feeds, start)
    way = [start]
    while len(way) == 1 or way[-1] != start:
        way.append(before[way[-1]])
    way.reverse()
    sent, _ = feeds[start][way[1]]
    remedy = "relay in one direction only, or say reflect = true in each of them"
    return complaint(where, sent.key, f"rules feed each other in a circle: {' -> '.join(way)}", remedy)
