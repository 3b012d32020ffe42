"""Compile a configuration against the links as they are into a PlanSpec: pure, so that every state can be tested."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import cached_property
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from mcrelay.errors import NotBuiltError
from mcrelay.links.sources import sends_from
from mcrelay.model.link_faults import IPV4_UDP_BYTES, no_address, no_ethernet, port_of
from mcrelay.model.notation import format_stream
from mcrelay.model.plan import InputSpec, OutputSpec, PlanSpec, RingSpec, RuleSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mcrelay.model.link import Link
    from mcrelay.model.plan import OutputState, RuleState
    from mcrelay.model.rule import Config, Input, Output, Rule
    from mcrelay.model.stream import Stream

ETHERNET_TYPE = 1  # ARPHRD_ETHER of linux/if_arp.h
LOOPBACK_TYPE = 772  # ARPHRD_LOOPBACK of linux/if_arp.h
LEAST_MTU = 68  # RFC 791; below it Linux takes addresses and memberships off the link
AUTO_PORTS = range(20000, 32768)  # below Linux's ephemeral ports (ip_local_port_range starts at 32768)


def compile_plan(config: Config, links: Mapping[str, Link]) -> PlanSpec:
    """Say for every rule what is to be done on the ``links`` (by name) that exist now.

    Raises NotBuiltError for a value that nothing here knows what to do with: no rule may run otherwise than it says.
    """
    host = _Host(links)
    rules = _told_apart([_compile_rule(rule, host) for rule in config.rules.values()])
    live = {each.iif for rule in rules for each in rule.inputs if each.live}
    rings = {links[name].ifindex: _ring(config, links[name]) for name in sorted(live)}
    return PlanSpec(rules, rings, _ethernet(rules, links))


def _ethernet(rules: Sequence[RuleSpec], links: Mapping[str, Link]) -> dict[int, str]:
    """Whose frames the kernel engine may build for itself, and from which address."""
    asking = {each.oif for rule in rules if rule.engine == "kernel" for each in rule.outputs}
    used = (links.get(name) for name in sorted(filter(None, asking)))
    return {link.ifindex: link.mac for link in used if link and link.hardware == ETHERNET_TYPE and link.mac}


class _Host:
    """What outputs need to know of all links together: gone through once, and not for every output."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        self.links = links

    @cached_property
    def addresses(self) -> frozenset[IPv4Address]:
        """Every address of this host."""
        return frozenset(each.ip for link in self.links.values() for each in link.addresses)

    @cached_property
    def cuts(self) -> bool:
        """Whether any link cuts runs."""
        return any(link.cuts for link in self.links.values())


def _told_apart(rules: list[RuleSpec]) -> tuple[RuleSpec, ...]:
    """Refuse an input that another rule has by another name of its link: only here is it known whose name it is."""
    first: dict[tuple[object, ...], str] = {}
    told = []
    for rule in rules:
        inputs = []
        for each in rule.inputs:
            taken = first.setdefault((each.ifindex, each.group, each.source, each.port), rule.name) if each.live else ""
            if each.live and taken != rule.name:
                reason = f"rule {taken} has the same input, by another name of link {each.iif}"
                inputs.append(replace(each, state="error", reason=reason))
            else:
                inputs.append(each)
        told.append(rule if tuple(inputs) == rule.inputs else replace(rule, inputs=tuple(inputs)))
    return tuple(told)


def _ring(config: Config, link: Link) -> RingSpec:
    return RingSpec(
        link.name,
        config.link(link.name, *link.altnames),
        loopback=link.hardware == LOOPBACK_TYPE,
        incarnation=link.incarnation,
        mtu=link.mtu,
    )


def _compile_rule(rule: Rule, host: _Host) -> RuleSpec:
    if len(rule.inputs) != 1:
        raise NotBuiltError("inputs", len(rule.inputs))
    if rule.health != "none":
        raise NotBuiltError("health", rule.health)
    return RuleSpec(
        name=rule.name,
        origin=rule.origin,
        description=rule.description,
        enabled=rule.enabled,
        inputs=tuple(_compile_input(rule, each, host.links) for each in rule.inputs),
        outputs=tuple(_compile_output(rule, each, host) for each in rule.outputs),
        exclusive=rule.exclusive,
        engine=rule.engine,
    )


def _compile_input(rule: Rule, entry: Input, links: Mapping[str, Link]) -> InputSpec:
    stream = entry.stream
    _one_group(stream)
    if entry.vlan != "none":
        raise NotBuiltError("vlan", entry.vlan)
    name = stream.link or ""
    link = links.get(name)
    state: RuleState = "active"
    reason = ""
    if not rule.enabled:
        state = "disabled"
    elif link is None:
        state, reason = "pending", f"link {name} does not exist"
    elif trouble := no_ethernet(link):
        state, reason = "error", trouble
    elif trouble := _trouble(link):
        state, reason = "parked", trouble
    else:
        reason = port_of(link)
    return InputSpec(
        text=format_stream(stream),
        iif=link.name if link else name,
        ifindex=link.ifindex if link else 0,
        group=_ipv4(stream.address),
        source=_ipv4(stream.source) if stream.source else None,
        port=_known_number("port", stream.port),
        allow=entry.allow,
        limit=entry.limit,
        incarnation=link.incarnation if link else 0,
        state=state,
        reason=reason,
    )


def _compile_output(rule: Rule, output: Output, host: _Host) -> OutputSpec:
    stream = output.stream
    _one_group(stream)
    for key, value in (("source_address", output.source_address), ("source_port", output.source_port)):
        if value == "keep":
            raise NotBuiltError(key, value)
    address = _ipv4(stream.address)
    link = host.links.get(stream.link) if stream.link else None
    state: OutputState = "active"
    reason = ""
    source: IPv4Address | None = None
    if stream.link is not None:
        if link is None:
            state, reason = "parked", f"link {stream.link} does not exist"
        elif trouble := _trouble(link):
            state, reason = "parked", trouble
        elif not link.addresses:
            state, reason = "parked", no_address(link)
        elif address.is_multicast:  # a host's is chosen by the route, also on this link
            source = sends_from(link, address)
    asked = isinstance(output.source_address, IPv4Address)
    if isinstance(output.source_address, IPv4Address):
        source = output.source_address
        if state == "active" and source not in host.addresses:
            state, reason = "parked", f"source address {source} is not an address of this host"
    # A routed output may leave by any link: where one of them cuts, it does not risk it.
    cut = link.cuts if link else stream.link is None and host.cuts
    text = format_stream(stream)
    return OutputSpec(
        to=text,
        address=address,
        port=_known_number("port", stream.port),
        oif=link.name if link else stream.link,
        ifindex=link.ifindex if link else 0,
        source_address=source,
        bind_source=asked,
        source_port=output.source_port if isinstance(output.source_port, int) else auto_port(rule.name, text),
        exact_port=isinstance(output.source_port, int),
        ttl=output.ttl,
        dscp=output.dscp if isinstance(output.dscp, int) else None,
        df=output.df,
        burst=1 if cut else output.burst,
        payload_max=link.mtu - IPV4_UDP_BYTES if link and address.is_multicast else 0,
        incarnation=link.incarnation if link else 0,
        state=state,
        reason=reason,
    )


def auto_port(rule: str, output: str) -> int:
    """The source port of an output nobody chose one for: the same after every restart, on every host."""
    return AUTO_PORTS[zlib.crc32(f"{rule} {output}".encode()) % len(AUTO_PORTS)]


def _trouble(link: Link) -> str:
    if not link.up:
        return f"link {link.name} is down"
    if not link.carrier:
        return f"link {link.name} has no carrier"
    if link.mtu < LEAST_MTU:
        return f"link {link.name} has no IPv4: its MTU is below {LEAST_MTU}"
    return ""


def _ipv4(address: object) -> IPv4Address:
    """The configuration admits IPv4 alone so far."""
    if not isinstance(address, IPv4Address):
        raise NotBuiltError("IPv6", address)
    return address


def _known_number(key: str, value: object) -> int:
    """A number, resolved by now; the words that may stand in its place are not built yet."""
    if not isinstance(value, int):
        raise NotBuiltError(key, value)
    return value


def _one_group(stream: Stream) -> None:
    if stream.length is not None:
        raise NotBuiltError("a range of groups", format_stream(stream))
