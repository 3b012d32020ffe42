"""What is wrong with rules that can each be read: alone, against each other, and against the links of this machine.

Pure. Disabled rules take part, so that enabling one can never be what breaks a configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, TypeAlias

from mcrelay.config import protocols
from mcrelay.config.lines import key_text
from mcrelay.config.schema import not_yet
from mcrelay.errors import Complaint
from mcrelay.model import refusals
from mcrelay.model.link_faults import narrower, no_ethernet, port_of, reports_from_nobody
from mcrelay.model.notation import EXAMPLE, format_stream
from mcrelay.model.rule import DEFAULT_LINK

if TYPE_CHECKING:
    from mcrelay.model.link import Link
    from mcrelay.model.rule import Config, Input, Output, Rule
    from mcrelay.model.stream import Address, Stream

Place: TypeAlias = tuple[str, int]
Where: TypeAlias = Callable[[str], Place]

_LINK_LOCAL = IPv4Network("224.0.0.0/24")
_SOURCE_SPECIFIC = IPv4Network("232.0.0.0/8")
MOST_GUESSES = 20  # links that are missing, and compared with all that there are


@dataclass(frozen=True, slots=True)
class _In:
    rule: Rule
    key: str
    input: Input

    @property
    def stream(self) -> Stream:
        return self.input.stream


@dataclass(frozen=True, slots=True)
class _Out:
    rule: Rule
    key: str
    output: Output

    @property
    def stream(self) -> Stream:
        return self.output.stream

    @property
    def target(self) -> tuple[object, ...] | None:
        """What makes two outputs the same one; None while a part of it is missing."""
        s = self.stream
        missing = s.port is None or (s.address.is_multicast and s.link is None)
        return None if missing else (s.address, s.length, s.port, s.link)


_Feeds: TypeAlias = dict[str, dict[str, tuple[_Out, _In]]]  # rule -> rule that its output is an input of -> by which


def rule_key(name: str) -> str:
    """Give the key path of a rule."""
    return key_text(("rules", name))


def find(rules: Mapping[str, Rule], where: Where, kept: Mapping[str, Sequence[int]] | None = None) -> list[Complaint]:
    """Find everything wrong within and across rules.

    *where* gives the place of a key such as ``rules.x.outputs[1]``. Rules may lack an input or outputs that could not
    be read: what is there is checked. *kept* then tells, by rule, which place in the file each output had.
    """
    inputs = [_In(rule, f"{rule_key(name)}.input", item) for name, rule in rules.items() for item in rule.inputs]
    outputs = []
    for name, rule in rules.items():
        places = (kept or {}).get(name, range(len(rule.outputs)))
        outputs += [_Out(rule, f"{rule_key(name)}.outputs[{i}]", o) for i, o in zip(places, rule.outputs, strict=True)]
    checks: tuple[Iterable[Complaint], ...] = (
        (c for item in inputs for c in _of_input(item, where)),
        (c for item in outputs for c in _of_output(item, where)),
        _same_inputs(inputs, where),
        _mixed_joins(inputs, where),
        _same_outputs(outputs, where),
        _feeding(rules, inputs, outputs, where),
    )
    return [complaint for check in checks for complaint in check]


def link_warnings(config: Config, where: Where, existing: Collection[str]) -> list[Complaint]:
    """Warn of links that rules name and this machine does not have; a disabled rule waits for nothing."""
    wanted = [(key_text(("links", name)), name, "its settings wait") for name in config.links if name != DEFAULT_LINK]
    for name, rule in config.rules.items():
        if rule.enabled:
            wanted += [(f"{rule_key(name)}.input", i.stream.link or "", "the rule stays pending") for i in rule.inputs]
            for index, o in enumerate(rule.outputs):
                wanted.append((f"{rule_key(name)}.outputs[{index}]", o.stream.link or "", "this output stays parked"))
    found = []
    guesses: dict[str, str] = {}
    for key, link, effect in wanted:
        if link and link not in existing:
            if link not in guesses and len(guesses) < MOST_GUESSES:
                guesses[link] = _near(link, existing)
            near = guesses.get(link)
            hint = f" (did you mean {near}?)" if near else ""
            remedy = f"{effect} until it appears{hint}"
            found.append(_complaint(where, key, f"link {link} does not exist here", remedy, warning=True))
    return found


def _near(name: str, existing: Collection[str] | Mapping[str, Link]) -> str:
    """A link that may be meant: one that has this for its address, or a name nearly like it."""
    if isinstance(existing, Mapping):
        for link in existing.values():
            if any(str(address.ip) == name for address in link.addresses):
                return link.name
    return next(iter(get_close_matches(name, sorted(existing), n=1)), "")


def port_warnings(config: Config, where: Where, links: Mapping[str, Link]) -> list[Complaint]:
    """Warn of inputs on links that are ports of a bridge, bond or the like, which takes what arrives on them."""
    found = []
    for name, rule in config.rules.items():
        for taken in rule.inputs if rule.enabled else ():
            link = links.get(taken.stream.link or "")
            if link is not None and (text := port_of(link)):
                effect = "else the stream ends when switches forget this host, which hears no query on a port"
                found.append(_complaint(where, f"{rule_key(name)}.input", text, effect, warning=True))
    return found


def port_privileges(config: Config, where: Where, reserved: Collection[int]) -> list[Complaint]:
    """Warn of source ports that only CAP_NET_BIND_SERVICE opens: who starts the relay is not known here."""
    found = []
    for name, rule in config.rules.items():
        for index, output in enumerate(rule.outputs if rule.enabled else ()):
            if output.source_port in reserved:
                key = f"{rule_key(name)}.outputs[{index}]"
                problem = f"source port {output.source_port} is a reserved one and needs CAP_NET_BIND_SERVICE"
                found.append(_complaint(where, key, problem, refusals.port_remedy(output.source_port), warning=True))
    return found


def capture_complaints(config: Config, where: Where, links: Mapping[str, Link]) -> list[Complaint]:
    """Refuse inputs on links that cannot be captured on (tun, wireguard, ppp); warn of those without an address."""
    found = []
    for name, rule in config.rules.items():
        for taken in rule.inputs if rule.enabled else ():
            link = links.get(taken.stream.link or "")
            key = f"{rule_key(name)}.input"
            if link is not None and (text := no_ethernet(link)):
                found.append(_complaint(where, key, text, "take the input from an Ethernet link"))
            elif link is not None and not link.addresses and not link.master:
                problem, advice = reports_from_nobody(link.name).split("; ", 1)
                found.append(_complaint(where, key, problem, advice, warning=True))
    return found


def narrow_warnings(config: Config, where: Where, links: Mapping[str, Link]) -> list[Complaint]:
    """Warn of outputs whose link has a smaller MTU than that of their input, where both are here."""
    found = []
    for name, rule in config.rules.items():
        taken = (links.get(each.stream.link or "") for each in rule.inputs if rule.enabled)
        widest = max((link.mtu for link in taken if link is not None), default=0)
        for index, output in enumerate(rule.outputs):
            link = links.get(output.stream.link or "")
            if link is not None and link.mtu < widest:
                key = f"{rule_key(name)}.outputs[{index}]"
                found.append(_complaint(where, key, *narrower(link, widest, df=output.df), warning=True))
    return found


def _complaint(where: Where, key: str, problem: str, remedy: str, *, warning: bool = False) -> Complaint:
    file, line = where(key)
    return Complaint(file, line, key, problem, remedy, warning)


def _named(where: Where, rule: Rule, key: str) -> str:
    """Name another rule and where it stands."""
    file, line = where(key)
    return f"{rule_key(rule.name)} ({file}:{line})" if line else rule_key(rule.name)


def _whole(stream: Stream) -> str:
    """Write the stream with an example for what it lacks."""
    return format_stream(replace(stream, port=stream.port or 5000, link=stream.link or "eth0"))


def _of_input(item: _In, where: Where) -> Iterator[Complaint]:
    stream, allow = item.stream, item.input.allow
    text = format_stream(stream)
    if not stream.address.is_multicast:
        problem = f"{stream.address} is {_no_group(stream.address)}"
        yield _complaint(where, item.key, problem, f"name the group to receive, e.g. {EXAMPLE}")
        return
    if stream.link is None:
        remedy = f"add the link that it arrives on, e.g. {_whole(stream)}"
        yield _complaint(where, item.key, f"{text} names no link", remedy)
    if stream.port is None:
        yield _complaint(where, item.key, f"{text} names no port", f"add it, e.g. {_whole(stream)}")
    if stream.source is not None and allow is not None and not any(stream.source in network for network in allow):
        problem = f"source {stream.source} is outside allow, so nothing would ever match"
        yield _complaint(where, item.key, problem, "add it to allow, or leave allow out of this rule")
    if stream.source is None and stream.address in _SOURCE_SPECIFIC:
        problem = f"{stream.address} is for source-specific multicast, and routers ignore a join there without a source"
        remedy = f"name the source, e.g. {_whole(replace(stream, source=IPv4Address('192.0.2.1')))}"
        yield _complaint(where, item.key, problem, remedy, warning=True)


def _no_group(address: Address) -> str:
    """Say what an input's address is that is no group, as far as the address alone tells."""
    if int(address) & 0xFF == 0xFF:  # 2.255.255.255 of Art-Net, 192.0.2.255
        return "a broadcast address, and broadcast input is not supported"
    return "a host, and unicast input is not supported"


def _of_output(item: _Out, where: Where) -> Iterator[Complaint]:
    stream = item.stream
    if stream.address.is_multicast and stream.link is None:
        remedy = f"add the link to send on, e.g. {_whole(stream)}"
        yield _complaint(where, item.key, f"{format_stream(stream)} names no link", remedy)
    if stream.source is not None:
        bare = format_stream(replace(stream, source=None))
        remedy = f'write {{ to = "{bare}", source_address = "{stream.source}" }}'
        yield _complaint(where, item.key, f"source {stream.source} stands in an output", remedy)
    for taken in item.rule.inputs:
        yield from _against_input(item, taken.stream, where)


def _against_input(item: _Out, taken: Stream, where: Where) -> Iterator[Complaint]:
    """Check an output against an input of its own rule."""
    stream = item.stream
    if item.target is not None and stream.link == taken.link and _overlap(stream, taken):
        remedy = "send to another group, port or link"
        yield _complaint(where, item.key, f"{format_stream(stream)} is the rule's own input", remedy)
    if hint := protocols.hint(taken, item.output):
        yield _complaint(where, item.key, *hint, warning=True)
    crosses = stream.address in _LINK_LOCAL and stream.link != taken.link
    if crosses and item.output.ttl not in {1, 255} and not protocols.knows_ttl(stream):
        problem = f"{stream.address} is a link-local group, which no router forwards"
        yield _complaint(where, item.key, problem, "say ttl = 1", warning=True)
    if stream.length != taken.length and not _refused("range", stream, taken):
        text = format_stream(stream)
        if taken.length is None:
            problem, remedy = f"{text} is a range, and the input is not", "name one group, or a range as input"
        else:
            problem = f"{text} is not as long a range as the input"
            remedy = f"both ends have the same length, here /{taken.length}"
        yield _complaint(where, item.key, problem, remedy)
    if stream.port == "any" and taken.port != "any" and not _refused("any", stream):
        yield _complaint(where, item.key, "port any needs an input with port any", f"name a port, e.g. {taken.port}")


def _refused(feature: str, *streams: Stream) -> bool:
    """Whether the feature is refused already at one of the streams; one complaint of it is enough."""
    return any(not_yet(feature, stream) is not None for stream in streams)


def _same_inputs(inputs: Iterable[_In], where: Where) -> Iterator[Complaint]:
    first: dict[tuple[object, ...], _In] = {}
    for item in inputs:
        s = item.stream
        if s.link is None or s.port is None:
            continue
        other = first.setdefault((s.link, item.input.vlan, s.source, s.address, s.length, s.port), item)
        if other is not item:
            problem = f"{_named(where, other.rule, other.key)} has the same input"
            yield _complaint(where, item.key, problem, "put all outputs into one rule")


def _mixed_joins(inputs: Iterable[_In], where: Where) -> Iterator[Complaint]:
    """One link joins a group for any source or for named ones, whatever the port and VLAN."""
    joins: dict[tuple[object, ...], list[_In]] = {}
    for item in inputs:
        if item.stream.link is not None and item.stream.address.is_multicast:
            joins.setdefault((item.stream.link, item.stream.address, item.stream.length), []).append(item)
    for same in joins.values():
        first = same[0]
        others = [item for item in same if (item.stream.source is None) != (first.stream.source is None)]
        if not others:
            continue
        kinds = ("for any source", "for one source")
        mine, theirs = kinds if first.stream.source is not None else kinds[::-1]
        also = ", as does " + ", ".join(rule_key(o.rule.name) for o in others[1:]) if len(others) > 1 else ""
        problem = (
            f"takes {first.stream.address} on {first.stream.link} {mine}{also}, "
            f"but {_named(where, first.rule, first.key)} {theirs}"
        )
        yield _complaint(
            where, others[0].key, problem, "name a source in every rule for this group and link, or in none"
        )


def _same_outputs(outputs: Iterable[_Out], where: Where) -> Iterator[Complaint]:
    first: dict[tuple[object, ...], _Out] = {}
    alone: dict[tuple[object, ...], _Out] = {}  # the first whose rule does not share
    of_rule: dict[tuple[object, ...], _Out] = {}
    for item in outputs:
        if item.target is None:
            continue
        text = format_stream(item.stream)
        if (twice := of_rule.setdefault((item.rule.name, *item.target), item)) is not item:
            place = twice.key.rpartition(".")[2]
            yield _complaint(where, item.key, f"{text} stands there already as {place}", "remove one of the two")
            continue
        clash = (alone if item.rule.shared else first).get(item.target)
        if clash is not None:
            problem = f"{_named(where, clash.rule, clash.key)} sends to {text} too"
            remedy = "send to another group or port, or say shared = true in both rules"
            yield _complaint(where, item.key, problem, remedy)
        first.setdefault(item.target, item)
        if not item.rule.shared:
            alone.setdefault(item.target, item)


def _overlap(a: Stream, b: Stream) -> bool:
    """Whether one datagram can be of both, links and sources aside."""
    ports = a.port == b.port or "any" in {a.port, b.port}
    shift = 32 - min(a.length or 32, b.length or 32)
    return ports and int(a.address) >> shift == int(b.address) >> shift


def _would_hear(taken: Input, output: Output) -> bool:
    """Whether what the output sends is what the input takes, as far as the configuration tells.

    An "auto" address is not known here: it is not taken for the one source that an input names.
    """
    stream, source = taken.stream, output.source_address
    if stream.link != output.stream.link or not _overlap(stream, output.stream) or taken.vlan not in {"none", "any"}:
        return False
    if stream.source is not None and source not in {"keep", stream.source}:
        return False
    outside = taken.allow is not None and isinstance(source, IPv4Address)
    return not (outside and not any(source in network for network in taken.allow or ()))


def _feeds(inputs: Iterable[_In], outputs: Iterable[_Out]) -> _Feeds:
    """Find the rules whose output is another rule's input."""
    exact: dict[tuple[object, ...], list[_In]] = {}
    ranges: dict[str, list[_In]] = {}
    for taken in inputs:
        s = taken.stream
        if s.link is not None and s.port is not None:
            exact.setdefault((s.link, s.address), []).append(taken)
            if s.length is not None:
                ranges.setdefault(s.link, []).append(taken)
    feeds: _Feeds = {}
    for sent in outputs:
        link = sent.stream.link
        if link is None or sent.target is None:
            continue
        near = exact.get((link, sent.stream.address), []) + ranges.get(link, [])
        if sent.stream.length is not None:
            near = [taken for (name, _), items in exact.items() if name == link for taken in items]
        if any(_overlap(own.stream, sent.stream) and own.stream.link == link for own in sent.rule.inputs):
            continue  # the rule's own input: that is said already
        for taken in near:
            if taken.rule is not sent.rule and _would_hear(taken.input, sent.output):
                feeds.setdefault(sent.rule.name, {}).setdefault(taken.rule.name, (sent, taken))
    return feeds


def _reach(graph: Mapping[str, Iterable[str]], start: str) -> dict[str, str]:
    """Every rule that can be come to from *start*, each with the one before it on a shortest way."""
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
    """Rules that no circle comes before: those that nothing leads to, and what only they lead to."""
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


def _feeding(
    rules: Mapping[str, Rule], inputs: Iterable[_In], outputs: Iterable[_Out], where: Where
) -> Iterator[Complaint]:
    """Each circle once, and every other input that is a rule's output on the same link."""
    feeds = _feeds(inputs, outputs)
    fed_by: dict[str, list[str]] = {}
    for name, others in feeds.items():
        for other in others:
            fed_by.setdefault(other, []).append(name)
    circle: dict[str, str] = {}  # rule -> the first rule of the circles that it is part of
    chained = _peeled(feeds, fed_by) | _peeled(fed_by, feeds)  # to go along each of them from each would take too long
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
            yield _complaint(where, f"{rule_key(name)}.reflect", problem, remedy, warning=True)
    blamed = set()
    for name, others in feeds.items():
        for other, (sent, taken) in others.items():
            if (name in circle and circle[name] == circle.get(other)) or taken.key in blamed:
                continue
            blamed.add(taken.key)
            feeder = _named(where, sent.rule, sent.key)
            problem = f"{feeder} sends to this on {sent.stream.link}, and a relay does not hear itself"
            source = f": {format_stream(sent.rule.inputs[0].stream)}" if sent.rule.inputs else ""
            yield _complaint(where, taken.key, problem, f"take what {rule_key(name)} takes{source}")


def _ends_by_itself(rule: Rule) -> bool:
    """Whether a datagram that goes round by this rule is stopped some time, or many of them are slowed down."""
    return any(taken.limit for taken in rule.inputs) or any(sent.ttl == "decrement" for sent in rule.outputs)


def _circle(feeds: _Feeds, start: str, where: Where) -> Complaint:
    before = _reach(feeds, start)
    way = [start]
    while len(way) == 1 or way[-1] != start:
        way.append(before[way[-1]])
    way.reverse()
    sent, _ = feeds[start][way[1]]
    remedy = "relay in one direction only, or say reflect = true in each of them"
    return _complaint(where, sent.key, f"rules feed each other in a circle: {' -> '.join(way)}", remedy)
