"""What is wrong with rules that can each be read: alone, against each other, and against the links of this machine.

Pure. Disabled rules take part, so that enabling one can never be what breaks a configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from mcrelay.config import circles, protocols, scopes, tags
from mcrelay.config.ends import In, Out, Where, complaint, named, needs_link, rule_key
from mcrelay.config.lines import key_text
from mcrelay.config.overlaps import Overlaps
from mcrelay.model import refusals
from mcrelay.model.address import LINK_LOCAL, scope_of
from mcrelay.model.link_faults import (
    OPEN_VSWITCH,
    addresses_of,
    is_bare,
    narrower,
    no_packets,
    nobody_has,
    port_fault,
    reports_from_nobody,
)
from mcrelay.model.notation import format_stream, name_output
from mcrelay.model.ports import HIGHEST_PORT, Ports, port_count
from mcrelay.model.rule import DEFAULT_LINK, PresetRule
from mcrelay.model.wording import counted

if TYPE_CHECKING:
    from mcrelay.errors import Complaint
    from mcrelay.model.address import Network
    from mcrelay.model.link import Link
    from mcrelay.model.rule import Config, Input, Rule
    from mcrelay.model.stream import Stream

MOST_GUESSES = 20  # links that are missing, and compared with all that there are
MOST_HELD = 64  # ports of an input that is no group: each costs a socket
MOST_STREAMS = 65536  # groups times ports that one input names: each has an entry in the table of the loop


def find(rules: Mapping[str, Rule], where: Where, kept: Mapping[str, Sequence[int]] | None = None) -> list[Complaint]:
    """Find everything wrong within and across rules.

    *where* gives the place of a key such as ``rules.x.outputs[1]``. A rule may lack an input or outputs that could not
    be read; the rest is checked. *kept* then gives, by rule, the place in the file of each output.
    """
    inputs = [In(rule, f"{rule_key(name)}.input", item) for name, rule in rules.items() for item in rule.inputs]
    outputs = []
    for name, rule in rules.items():
        places = (kept or {}).get(name, range(len(rule.outputs)))
        outputs += [Out(rule, f"{rule_key(name)}.outputs[{i}]", o) for i, o in zip(places, rule.outputs, strict=True)]
    checks: tuple[Iterable[Complaint], ...] = (
        (c for item in inputs for c in _of_input(item, where)),
        (c for item in outputs for c in _of_output(item, where)),
        _same_inputs(inputs, where),
        _mixed_joins(inputs, where),
        _same_outputs(outputs, where),
        circles.find(rules, inputs, outputs, where),
    )
    return [complaint for check in checks for complaint in check]


def link_warnings(config: Config, where: Where, existing: Collection[str]) -> list[Complaint]:
    """Warn of links that rules name and this machine does not have. A disabled rule gets no warning."""
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
            found.append(complaint(where, key, f"link {link} does not exist here", remedy, warning=True))
    return found


def _near(name: str, existing: Collection[str] | Mapping[str, Link]) -> str:
    """A link that may be meant: one with this address, or with a similar name."""
    if isinstance(existing, Mapping):
        for link in existing.values():
            if any(str(address.ip) == name for address in link.addresses):
                return link.name
    return next(iter(get_close_matches(name, sorted(existing), n=1)), "")


def master_complaints(rules: Iterable[Rule], where: Where, links: Mapping[str, Link]) -> list[Complaint]:
    """Refuse inputs on links that are ports of a bridge, bond or the like, which takes what arrives on them.

    A stream would come at first, and end when switches forget this host: it hears no query on a port. What can be
    taken from a port can be taken from its master.
    """
    found = []
    for rule in rules:
        for taken in rule.inputs if rule.enabled else ():
            link = links.get(taken.stream.link or "")
            if link is not None and (fault := port_fault(link)):
                problem, remedy = fault
                if link.master_kind != OPEN_VSWITCH:
                    remedy = f"{remedy}: {format_stream(replace(taken.stream, link=link.master))}"
                problem = f"{problem}, where this host hears no query, so the stream would end"
                found.append(complaint(where, f"{rule_key(rule.name)}.input", problem, remedy))
    return found


def port_privileges(config: Config, where: Where, reserved: Collection[int]) -> list[Complaint]:
    """Warn of source ports that need CAP_NET_BIND_SERVICE. It is not known here who will start the relay."""
    found = []
    for name, rule in config.rules.items():
        for index, output in enumerate(rule.outputs if rule.enabled else ()):
            if output.source_port in reserved:
                key = f"{rule_key(name)}.outputs[{index}]"
                problem = f"source port {output.source_port} is a reserved one and needs CAP_NET_BIND_SERVICE"
                found.append(complaint(where, key, problem, refusals.port_remedy(output.source_port), warning=True))
    return found


def capture_complaints(config: Config, where: Where, links: Mapping[str, Link]) -> list[Complaint]:
    """Refuse inputs on links that cannot be captured on (InfiniBand, ...); warn of those without an address."""
    found = []
    for name, rule in config.rules.items():
        for taken in rule.inputs if rule.enabled else ():
            link = links.get(taken.stream.link or "")
            key = f"{rule_key(name)}.input"
            if link is not None and (text := no_packets(link)):
                found.append(complaint(where, key, text, "take the input from a link that carries Ethernet or IP"))
            elif link is not None and not taken.stream.address.is_multicast:
                if not _reaches_host(taken.stream, link, links):
                    effect = "the rule stays parked until it is"
                    found.append(complaint(where, key, nobody_has(taken.stream.address, link), effect, warning=True))
            elif taken.stream.address.version == 6:
                continue
            elif link is not None and not link.addresses and not link.master and not is_bare(link):
                problem, advice = reports_from_nobody(link.name).split("; ", 1)
                found.append(complaint(where, key, problem, advice, warning=True))
    return found


def _reaches_host(stream: Stream, link: Link, links: Mapping[str, Link]) -> bool:
    own = (each.ip for other in links.values() for each in addresses_of(other))
    return link.broadcasts(stream.address) or stream.address in own


def narrow_warnings(config: Config, where: Where, links: Mapping[str, Link]) -> list[Complaint]:
    """Warn of outputs whose link has a smaller MTU than that of their input, where both are here."""
    found = []
    for name, rule in config.rules.items():
        ends = [(links.get(each.stream.link or ""), each.stream.address) for each in rule.inputs if rule.enabled]
        taken = [(link, address) for link, address in ends if link is not None]
        for index, output in enumerate(rule.outputs):
            link = links.get(output.stream.link or "")
            if link is not None and (said := narrower(link, output.stream.address, taken, df=output.whole)):
                found.append(complaint(where, f"{rule_key(name)}.outputs[{index}]", *said, warning=True))
    return found


def source_warnings(config: Config, where: Where, links: Mapping[str, Link]) -> list[Complaint]:
    """Warn of addresses that are kept and that receivers may have no route to: which they have is not known here.

    A source that is on the output's own link is every receiver's neighbour there.
    """
    found = []
    for name, rule in config.rules.items():
        taken = rule.inputs[0] if rule.inputs else None
        for index, output in enumerate(rule.outputs if rule.enabled else ()):
            if output.source_address != "keep":
                continue
            link = links.get(output.stream.link or "")
            if taken is None or not _are_neighbours(taken, link):
                whose = taken.stream.source if taken and taken.stream.source else "the senders"
                key = f"{rule_key(name)}.outputs[{index}]"
                problem = f"receivers without a route back to {whose} drop what keeps that address (rp_filter)"
                remedy = "give them a route by the link that it arrives on, or set net.ipv4.conf.LINK.rp_filter=0 there"
                found.append(complaint(where, key, problem, remedy, warning=True))
    return found


def _are_neighbours(taken: Input, link: Link | None) -> bool:
    """Whether all sources that an input lets in are in a subnet of the link."""
    if link is None:
        return False
    source = taken.stream.source
    if source is not None:
        return any(source in address.network for address in link.addresses)
    return bool(taken.allow) and all(
        any(_within(each, address.network) for address in link.addresses) for each in taken.allow or ()
    )


def _within(a: Network, b: Network) -> bool:
    return a.version == b.version and a.prefixlen >= b.prefixlen and a.network_address in b


def _whole(stream: Stream) -> str:
    """Write the stream, with an example in place of each missing part."""
    return format_stream(replace(stream, port=stream.port or 5000, link=stream.link or "eth0"))


def _of_input(item: In, where: Where) -> Iterator[Complaint]:
    stream, allow = item.stream, item.input.allow
    text = format_stream(stream)
    if stream.link is None:
        remedy = f"add the link that it arrives on, e.g. {_whole(stream)}"
        yield complaint(where, item.key, f"{text} names no link", remedy)
    if stream.port is None:
        yield complaint(where, item.key, f"{text} names no port", f"add it, e.g. {_whole(stream)}")
    if stream.source is not None and allow is not None and not any(stream.source in network for network in allow):
        problem = f"source {stream.source} is outside allow, so nothing would ever match"
        yield complaint(where, item.key, problem, "add it to allow, or leave allow out of this rule")
    if (most := stream.group_count * port_count(stream.port)) > MOST_STREAMS:
        problem = f"{text} is {most} streams: {stream.group_count} groups times {port_count(stream.port)} ports"
        remedy = f"a rule has {MOST_STREAMS} at most: say any for the port, or name fewer"
        yield complaint(where, item.key, problem, remedy)
    if not stream.address.is_multicast and (stream.port == "any" or port_count(stream.port) > MOST_HELD):
        problem = f"{text} is no group, and this host would have to keep {_ports_of(stream)} open for it"
        yield complaint(where, item.key, problem, f"name the ports that are used, {MOST_HELD} at most")
    if item.rule.health != "none" and (stream.length is not None or not isinstance(stream.port, int | None)):
        key = f"{rule_key(item.rule.name)}.health"
        problem = f"health looks at one stream, and {text} is many"
        yield complaint(where, key, problem, "write one rule for each stream that is to be looked at")
    if stream.port == "any" and item.rule.exclusive:
        key = f"{rule_key(item.rule.name)}.exclusive"
        problem = "exclusive would drop every UDP port of the group, also what other programs of this host listen to"
        yield complaint(where, key, problem, "name the ports, or leave exclusive out")
    yield from tags.of_input(item, where)
    yield from scopes.of_input(item, where)


def _ports_of(stream: Stream) -> str:
    return "every port" if stream.port == "any" else counted(port_count(stream.port), "port")


def _of_output(item: Out, where: Where) -> Iterator[Complaint]:
    stream = item.stream
    if needs_link(stream.address) and stream.link is None:
        remedy = f"add the link to send on, e.g. {_whole(stream)}"
        yield complaint(where, item.key, f"{format_stream(stream)} names no link", remedy)
    if stream.source is not None:
        bare = format_stream(replace(stream, source=None))
        remedy = f'write {{ to = "{bare}", source_address = "{stream.source}" }}'
        yield complaint(where, item.key, f"source {stream.source} stands in an output", remedy)
    yield from scopes.of_output(item, where)
    yield from tags.of_output(item, where)
    for taken in item.rule.inputs:
        if item.whole and circles.carries_on(taken, item.output):
            remedy = "send to another group, port or link"
            yield complaint(where, item.key, f"{name_output(item.output)} is the rule's own input", remedy)
        yield from _against_input(item, taken.stream, where)


def _against_input(item: Out, taken: Stream, where: Where) -> Iterator[Complaint]:
    """Check an output against an input of its own rule."""
    stream = item.stream
    if item.output.source_address == "keep" and stream.address.version != taken.address.version:
        families = f"IPv{taken.address.version}, and the output sends IPv{stream.address.version}"
        problem = f"the source address that is kept is of {families}"
        yield complaint(where, item.key, problem, "leave source_address out, or stay in one family")
    if not isinstance(item.rule, PresetRule) and (hint := protocols.hint(taken, item.output)):
        yield complaint(where, item.key, *hint, warning=True)
    crosses = stream.address.is_multicast and scope_of(stream.address) == LINK_LOCAL and stream.link != taken.link
    if crosses and item.output.ttl not in {1, 255} and not protocols.knows_ttl(stream):
        problem = f"{stream.address} is a link-local group, which no router forwards"
        yield complaint(where, item.key, problem, "say ttl = 1", warning=True)
    if stream.host_bits != taken.host_bits:
        text = format_stream(stream)
        length = stream.address.max_prefixlen - taken.host_bits
        if taken.length is None:
            problem, remedy = f"{text} is a range, and the input is not", "name one group, or a range as input"
        elif not stream.address.is_multicast:
            problem = f"{text} is one host, and the input is a range of groups"
            remedy = f"name a range of groups of the same length, here /{length}"
        else:
            problem = f"{text} is not as long a range as the input"
            remedy = f"both ends have the same length, here /{length}"
        yield complaint(where, item.key, problem, remedy)
    yield from _against_ports(item, taken, where)


def _against_ports(item: Out, taken: Stream, where: Where) -> Iterator[Complaint]:
    """An output keeps the port, or names as many as its input; port any may become one that is named."""
    sent = item.stream
    many = taken.length is not None or isinstance(taken.port, Ports) or taken.port == "any"
    for key, value in (("source_address", item.output.source_address), ("source_port", item.output.source_port)):
        if many and value == "keep":
            problem = f'{key} = "keep" is of outputs with one destination, and {format_stream(taken)} is many streams'
            yield complaint(where, item.key, problem, "write one rule for each stream whose sender is to be kept")
    if sent.port == "any" and taken.port != "any":
        yield complaint(where, item.key, "port any needs an input with port any", f"name a port, e.g. {taken.port}")
    elif (isinstance(sent.port, Ports) or isinstance(taken.port, Ports)) and None not in {sent.port, taken.port}:
        mine, theirs = port_count(sent.port), port_count(taken.port)
        if mine != theirs and sent.port != "any":
            of_input = "takes any" if taken.port == "any" else f"has {counted(theirs, 'port')}"
            problem = f"{format_stream(sent)} names {counted(mine, 'port')}, and the input {of_input}"
            remedy = (
                "leave the port out, then each is kept" if taken.port == "any" else "name as many, or leave them out"
            )
            yield complaint(where, item.key, problem, remedy)


def _same_inputs(inputs: Sequence[In], where: Where) -> Iterator[Complaint]:
    """Two rules for one datagram. Port any gives way to a port, and a range to what is longer than it."""
    seen: Overlaps[In] = Overlaps(item.stream for item in inputs)
    for item in inputs:
        s = item.stream
        if s.link is None or s.port is None:
            continue
        alike = (s.link, item.input.vlan, s.source, s.length, s.port == "any")
        other = next((each for _, each in seen.meeting(alike, s)), None)
        seen.add(alike, s, item)
        if other is None:
            continue
        whose = named(where, other.rule, other.key)
        problem, remedy = f"{whose} has the same input", "put all outputs into one rule"
        if other.stream.port != s.port:
            problem = f"{whose} takes some of these ports too: {format_stream(other.stream)}"
            remedy = "name each port in one rule alone"
        yield complaint(where, item.key, problem, remedy)


def _mixed_joins(inputs: Sequence[In], where: Where) -> Iterator[Complaint]:
    """Refuse a group that one link would join both for any source and for named ones, on any port or VLAN."""
    joins: dict[tuple[object, ...], list[In]] = {}
    for item in inputs:
        if item.stream.link is not None and item.stream.address.is_multicast:
            joins.setdefault((item.stream.link, item.stream.address, item.stream.length), []).append(item)
    for same in joins.values():
        first = same[0]
        others = [item for item in same if (item.stream.source is None) != (first.stream.source is None)]
        if others:
            yield _mixed(first, others, where)
    seen: Overlaps[In] = Overlaps(item.stream for item in inputs)
    for same in joins.values():
        item = same[0]
        for _, other in seen.meeting(item.stream.link, item.stream, ports=False):
            if (item.stream.source is None) != (other.stream.source is None):
                yield _mixed(other, [item], where)
                break
        seen.add(item.stream.link, item.stream, item)


def _mixed(first: In, others: Sequence[In], where: Where) -> Complaint:
    item = others[0]
    kinds = ("for any source", "for one source")
    mine, theirs = kinds if first.stream.source is not None else kinds[::-1]
    also = ", as does " + ", ".join(rule_key(o.rule.name) for o in others[1:]) if len(others) > 1 else ""
    groups = format_stream(replace(item.stream, source=None, port=None, link=None))
    problem = f"takes {groups} on {item.stream.link} {mine}{also}, but {named(where, first.rule, first.key)} {theirs}"
    remedy = "name a source in every rule for this group and link, or in none"
    return complaint(where, item.key, problem, remedy)


def _same_outputs(outputs: Sequence[Out], where: Where) -> Iterator[Complaint]:
    streams = [item.stream for item in outputs]
    first: Overlaps[Out] = Overlaps(streams)
    alone: Overlaps[Out] = Overlaps(streams)  # those whose rule does not share
    of_rule: Overlaps[Out] = Overlaps(streams)
    for item in outputs:
        if not item.whole:
            continue
        stream, lane = item.stream, (item.stream.link, item.output.vlan)
        own = (item.rule.name, *lane)
        text = name_output(item.output)
        twice = next((other for _, other in of_rule.meeting(own, stream)), None)
        of_rule.add(own, stream, item)
        if twice is not None:
            place = twice.key.rpartition(".")[2]
            part = "" if twice.stream == stream else "in part "
            yield complaint(where, item.key, f"{text} stands there already {part}as {place}", "remove one of the two")
            continue
        rivals = alone if item.rule.shared else first
        clash = next((other for _, other in rivals.meeting(lane, stream)), None)
        if clash is not None:
            problem = f"{named(where, clash.rule, clash.key)} sends to {_common(clash.stream, stream)} too"
            remedy = "send to another group or port, or say shared = true in both rules"
            yield complaint(where, item.key, problem, remedy)
        first.add(lane, stream, item)
        if not item.rule.shared:
            alone.add(lane, stream, item)


def _common(a: Stream, b: Stream) -> str:
    """Write what is in both: the longer prefix, with the fewer ports."""
    longer = a if a.host_bits < b.host_bits else b
    fewer = min(a.port, b.port, key=lambda port: port_count(port) or HIGHEST_PORT)
    return format_stream(replace(longer, port=fewer))
