"""Stages of ``mcrelay doctor`` about what the relay sends: errors, the way out, and what comes back. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrelay.commands.table import digits
from mcrelay.commands.walk import moved
from mcrelay.relay.alarms import SAYINGS
from mcrelay.relay.losses import OUTPUT_SAYINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mcrelay.commands.evidence import Output, Way
    from mcrelay.commands.walk import Found, Walk
    from mcrelay.model.link import Link

HEADERS_BYTES = {4: 28, 6: 48}  # IP and UDP


def send(walk: Walk) -> Iterator[Found]:
    """What outputs did not send, and why."""
    counts = moved(walk.index.rules, walk.subject.rule)
    if not counts:
        yield "skipped", "there is no relay to ask" if walk.evidence.relay is None else "there are no counters"
        return
    sent = []
    for output in counts["outputs"]:
        for error, count in output["tx_errors"].items():
            if count and error != "parked":
                what, _, remedy = OUTPUT_SAYINGS.get(error, error).partition("; ")
                yield "broken", f"{digits(count)} to {output['to']} not sent ({error}): {what}", remedy
        sent.append(f"{digits(output['tx_packets'])} to {output['to']}")
    yield "ok", "; ".join(sent[:3])


def egress(walk: Walk) -> Iterator[Found]:
    """The way out: links, addresses, routes, gateways, MTU."""
    for each in walk.subject.outputs:
        way = walk.evidence.ways.get((each.link, str(each.address)))
        name = each.link or (way.link if way else "")
        link = walk.evidence.links.get(name)
        if each.link and link is None:
            yield "broken", f"there is no link {name} here", "see `ip link` for those that there are"
        elif link is not None and not link.up:
            yield "broken", f"{link.name} is down", f"ip link set {link.name} up"
        elif link is not None and not link.carrier:
            yield "broken", f"{link.name} has no carrier: nothing is plugged in, or the other end is down"
        elif link is not None and each.link and not _addresses(each, link):
            yield (
                "broken",
                f"{link.name} has no IPv{each.address.version} address to send from",
                f"ip address add ADDRESS/LENGTH dev {link.name}",
            )
        elif each.state != "active" and not walk.subject.disabled:
            yield "broken", f"{each.to}: {each.reason or each.state}", _route_remedy(each)
        elif link is not None and (large := _largest(walk)) > link.mtu - HEADERS_BYTES[each.address.version]:
            yield (
                "warning",
                f"datagrams of {large} bytes leave {link.name} in fragments: its MTU is {link.mtu}",
                f"ip link set {link.name} mtu {large + HEADERS_BYTES[each.address.version]}",
            )
        else:
            mtu = f", MTU {link.mtu}" if link else ""
            yield "ok", f"{each.to} leaves by {name or 'the route'}{_gateway(each, way)}{mtu}"


def _addresses(each: Output, link: Link) -> Sequence[object]:
    """What the link has to send from, in the output's family."""
    return link.addresses if each.address.version == 4 else link.addresses6


def _gateway(each: Output, way: Way | None) -> str:
    """The gateway of the route: what is sent to a group does not go by one, whatever a route for groups says."""
    if way is None or not way.gateway:
        return ""
    if each.address.is_multicast:
        return f", to the group itself and not by {way.gateway}, to which a route for groups leads"
    return f" by the gateway {way.gateway}"


def _route_remedy(each: Output) -> str:
    return f"ip route add {each.address}/{each.address.max_prefixlen} dev LINK" if "no route" in each.reason else ""


def _largest(walk: Walk) -> int:
    found = [0]
    for each in walk.subject.inputs:
        look = walk.look(each.link)
        found += [look.largest[flow] for flow in walk.flows(each) if look and not flow.fragment]
    return max(found)


def echo(walk: Walk) -> Iterator[Found]:
    """Whether what was sent comes back, or somebody else sends the same."""
    counts = moved(walk.index.rules, walk.subject.rule)
    if counts and counts["drops"].get("echo"):
        yield (
            "broken",
            f"{digits(counts['drops']['echo'])} withheld: {SAYINGS['echo']}",
            ("end the mirror, or give the second relay another output"),
        )
        return
    for each in walk.subject.outputs:
        seen = walk.index.flows if walk.look(each.link) else {}
        flows = [
            flow for (link, _), found in seen.items() if link == each.link for flow in found if each.sends_to(flow)
        ]
        others = {flow.source: None for flow in flows}
        if others and not any(i.link == each.link and i.takes(each.address) for i in walk.subject.inputs):
            names = ", ".join(map(str, list(others)[:3]))
            yield (
                "warning", f"{names} sends to {each.to.partition('%')[0]} on {each.link} too: perhaps a second relay",
                "stop one of them, or give this output another group",
            )  # fmt: skip
    yield "ok", "nobody else was seen to send to its outputs"
