"""Compile a configuration and the present links into a PlanSpec. Pure, so that every state can be tested."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from mcrelay.errors import NotBuiltError
from mcrelay.links.sources import sends_from
from mcrelay.model.link_faults import (
    ETHERNET_TYPE,
    LEAST_MTU,
    addresses_of,
    is_bare,
    no_address,
    no_ethernet,
    no_packets,
    no_tags,
    nobody_has,
    payload_max,
    port_of,
)
from mcrelay.model.notation import format_stream, name_output
from mcrelay.model.plan import InputSpec, OutputSpec, PlanSpec, RingSpec, RuleSpec
from mcrelay.model.ports import Ports, mapping, spans_of
from mcrelay.model.rule import PresetRule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mcrelay.model.link import Link
    from mcrelay.model.plan import OutputState, RuleState
    from mcrelay.model.ports import Port
    from mcrelay.model.rule import Config, Input, Output, Rule
    from mcrelay.model.stream import Address

LOOPBACK_TYPE = 772  # ARPHRD_LOOPBACK of linux/if_arp.h
UNBOUND_PORT = 9  # discard: what a socket for any port is made with, and sends nothing to
AUTO_PORTS = range(20000, 32768)  # below Linux's ephemeral ports (ip_local_port_range starts at 32768)


def compile_plan(config: Config, links: Mapping[str, Link]) -> PlanSpec:
    """Say for every rule what is to be done on the ``links`` (by name) that exist now.

    Raises NotBuiltError for a value that nothing here knows: no rule may run differently from what it says.
    """
    host = _Host(links)
    rules = _told_apart([_compile_rule(rule, host) for rule in config.rules.values()])
    live = [each for rule in rules for each in rule.inputs if each.live and not rule.searches]
    own = {each.iif for each in live if each.own}
    rings = {links[name].ifindex: _ring(config, links[name], name in own) for name in sorted({i.iif for i in live})}
    return PlanSpec(rules, rings, _ethernet(rules, links))


def _ethernet(rules: Sequence[RuleSpec], links: Mapping[str, Link]) -> dict[int, str]:
    """The links for which the kernel engine may build frames, and their hardware addresses."""
    asking = {each.oif for rule in rules if rule.engine == "kernel" for each in rule.outputs}
    used = (links.get(name) for name in sorted(filter(None, asking)))
    return {link.ifindex: link.mac for link in used if link and link.hardware == ETHERNET_TYPE and link.mac}


class _Host:
    """Facts about all links together that outputs need: computed once, not for every output."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        self.links = links

    @cached_property
    def addresses(self) -> frozenset[Address]:
        """Every address of this host."""
        return frozenset(each.ip for link in self.links.values() for each in addresses_of(link))

    def has(self, address: Address, link: Link | None) -> bool:
        """Whether an address is one of this host; a link-local one of IPv6 is one of its link."""
        if address.version == 6 and address.is_link_local and link is not None:
            return any(address == each.ip for each in link.addresses6)
        return address in self.addresses

    @cached_property
    def cuts(self) -> bool:
        """Whether any link cuts runs."""
        return any(link.cuts for link in self.links.values())


def _told_apart(rules: list[RuleSpec]) -> tuple[RuleSpec, ...]:
    """Refuse an input that another rule has by another name of its link: only here the names are resolved."""
    first: dict[tuple[object, ...], str] = {}
    told = []
    for rule in rules:
        inputs = []
        for each in rule.inputs:
            taken = _first(first, each, rule.name) if each.live else rule.name
            if taken != rule.name:
                reason = f"rule {taken} has the same input, by another name of link {each.iif}"
                inputs.append(replace(each, state="error", reason=reason))
            else:
                inputs.append(each)
        told.append(rule if tuple(inputs) == rule.inputs else replace(rule, inputs=tuple(inputs)))
    return tuple(told)


def _first(first: dict[tuple[object, ...], str], each: InputSpec, rule: str) -> str:
    """Who has an input's ports already, of the same groups and source; port any is another's."""
    stream = (each.ifindex, each.vlan, each.group, each.length, each.source)
    ports = each.port if isinstance(each.port, Ports) else [each.port]
    names = [first.setdefault((*stream, port), rule) for port in ports]
    return next((name for name in names if name != rule), rule)


def _ring(config: Config, link: Link, own: bool) -> RingSpec:
    loopback = link.hardware == LOOPBACK_TYPE  # there, all that is sent arrives as well
    return RingSpec(
        link.name,
        config.link(link.name, *link.altnames),
        loopback=loopback,
        incarnation=link.incarnation,
        bare=is_bare(link),
        own=own and not loopback,
        mtu=link.mtu,
    )


def _compile_rule(rule: Rule, host: _Host) -> RuleSpec:
    if len(rule.inputs) != 1:
        raise NotBuiltError("inputs", len(rule.inputs))
    return RuleSpec(
        name=rule.name,
        origin=rule.origin,
        description=rule.description,
        enabled=rule.enabled,
        inputs=tuple(_compile_input(rule, each, host) for each in rule.inputs),
        outputs=tuple(_compile_output(rule, each, host) for each in rule.outputs),
        exclusive=rule.exclusive,
        engine=rule.engine,
        searches=_searches(rule),
        health=rule.health,
    )


def _searches(rule: Rule) -> bool:
    return isinstance(rule, PresetRule) and rule.searches


def _compile_input(rule: Rule, entry: Input, host: _Host) -> InputSpec:
    stream = entry.stream
    name = stream.link or ""
    link = host.links.get(name)
    unicast = host.has(stream.address, link)
    state: RuleState = "active"
    reason = ""
    if not rule.enabled:
        state = "disabled"
    elif link is None:
        state, reason = "pending", f"link {name} does not exist"
    elif trouble := no_ethernet(link) if _searches(rule) else no_packets(link):
        state, reason = "error", trouble
    elif trouble := _trouble(link, stream.address):
        state, reason = "parked", trouble
    elif not stream.address.is_multicast and not unicast and not link.broadcasts(stream.address):
        state, reason = "parked", nobody_has(stream.address, link)
    else:
        reason = port_of(link)
    return InputSpec(
        text=format_stream(stream),
        iif=link.name if link else name,
        ifindex=link.ifindex if link else 0,
        group=stream.address,
        source=stream.source,
        port=_known_port(stream.port),
        length=stream.length,
        vlan=entry.vlan,
        allow=entry.allow,
        limit=entry.limit,
        incarnation=link.incarnation if link else 0,
        state=state,
        reason=reason,
        own=entry.own,
        unicast=unicast,
    )


def _compile_output(rule: Rule, output: Output, host: _Host) -> OutputSpec:
    """An output of the rule's one input: how many destinations it has is the input's to say."""
    taken = rule.inputs[0].stream
    stream = output.stream
    address = stream.address
    link = host.links.get(stream.link) if stream.link else None
    state: OutputState = "active"
    reason = ""
    source: Address | None = None
    vlan = output.vlan if isinstance(output.vlan, int) else 0
    if stream.link is not None:
        if link is None:
            state, reason = "parked", f"link {stream.link} does not exist"
        elif vlan and (trouble := no_tags(link)):
            state, reason = "error", trouble
        elif trouble := _trouble(link, address):
            state, reason = "parked", trouble
        elif not _can_send(link, address, keeps=output.source_address == "keep"):
            state, reason = "parked", no_address(link, address)
        elif address.is_multicast or vlan:  # for a host the route decides, also on this link
            source = sends_from(link, address)
    bound = address.version == 6 and source is not None  # of IPv4 the kernel is told without
    if not isinstance(output.source_address, str):
        source, bound = output.source_address, True
        if state == "active" and not host.has(source, link):
            state, reason = "parked", f"source address {source} is not an address of this host"
    # A routed output may leave by any link: if one of them cuts runs, it sends single datagrams.
    cut = link.cuts if link else stream.link is None and host.cuts
    text = name_output(output)
    port = _known_port(stream.port)
    many = taken.length is not None or not isinstance(taken.port, int)
    into_one = many and taken.port == "any" and isinstance(port, int)
    return OutputSpec(
        to=text,
        address=address,
        port=spans_of(port)[0][0] or UNBOUND_PORT,
        oif=link.name if link else stream.link,
        ifindex=link.ifindex if link else 0,
        source_address=source,
        bind_source=bound,
        source_port=_source_port(rule, output, text),
        exact_port=isinstance(output.source_port, int),
        ttl=output.ttl,
        dscp=output.dscp if isinstance(output.dscp, int) else None,
        df=output.whole,
        keep_address=output.source_address == "keep",
        keep_port=output.source_port == "keep",
        mac=link.mac if link and (vlan or "keep" in {output.source_address, output.source_port}) else "",
        vlan=vlan,
        burst=1 if cut else output.burst,
        payload_max=payload_max(link, address) if link and (address.is_multicast or vlan) else 0,
        incarnation=link.incarnation if link else 0,
        state=state,
        reason=reason,
        groups=stream.group_count,
        ports=port,
        addressed=many,
        port_map=mapping(taken.port, port) if many and not into_one else (),
        into_one=into_one,
    )


def _source_port(rule: Rule, output: Output, text: str) -> int:
    """Which port is bound: none where each datagram has its own."""
    if output.source_port == "keep":
        return 0
    return output.source_port if isinstance(output.source_port, int) else auto_port(rule.name, text)


def auto_port(rule: str, output: str) -> int:
    """The source port of an output that names none: the same after every restart, on every host."""
    return AUTO_PORTS[zlib.crc32(f"{rule} {output}".encode()) % len(AUTO_PORTS)]


def _can_send(link: Link, address: Address, *, keeps: bool) -> bool:
    """Whether a link has an address to send from; IPv4 needs none where each datagram brings its own."""
    if address.version == 4:
        return bool(link.addresses) or keeps
    return bool(sends_from(link, address) if address.is_multicast else link.addresses6)


def _trouble(link: Link, address: Address) -> str:
    if not link.up:
        return f"link {link.name} is down"
    if not link.carrier:
        return f"link {link.name} has no carrier"
    if link.mtu < LEAST_MTU[address.version]:
        return f"link {link.name} has no IPv{address.version}: its MTU is below {LEAST_MTU[address.version]}"
    return ""


def _known_port(port: Port | None) -> Port:
    """What a stream names; by now an output has its input's where it named none."""
    if port is None:
        raise NotBuiltError("port", port)
    return port
