"""What is wrong with VLANs that inputs take and outputs send with, on links that are no VLAN links. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrelay.config.ends import EVERYBODY, In, Out, Where, complaint, rule_key
from mcrelay.model.link_faults import no_tags
from mcrelay.model.notation import format_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mcrelay.errors import Complaint
    from mcrelay.model.link import Link
    from mcrelay.model.rule import Config, Input, Output


def reach(taken: Input, output: Output) -> bool:
    """Whether the input takes frames that are tagged as the output's are."""
    return taken.vlan in {output.vlan, "any"}


def of_input(item: In, where: Where) -> Iterator[Complaint]:
    """Check an input that takes tagged frames."""
    if item.input.vlan == "none":
        return
    as_link = _as_link(item.stream.link, item.input.vlan)
    if item.rule.exclusive:
        problem = "exclusive drops what has the group and port, in whatever VLAN"
        yield complaint(where, item.key, problem, f"leave exclusive out, or {as_link}")
    if getattr(item.rule, "searches", False):
        yield complaint(where, item.key, "a preset that awaits answers takes untagged frames", as_link)


def of_output(item: Out, where: Where) -> Iterator[Complaint]:
    """Check an output that sends tagged frames: they go to a MAC address that can be told from the group alone."""
    vlan, address = item.output.vlan, item.stream.address
    if vlan == "none":
        return
    as_link = _as_link(item.stream.link, vlan)
    if not address.is_multicast and address != EVERYBODY:
        problem = f"who has {address} in VLAN {vlan} is not known on a link outside it"
        yield complaint(where, item.key, problem, f"{as_link}, and send to {address} by that")


def warnings(config: Config, where: Where) -> list[Complaint]:
    """Warn of groups in a VLAN that is no link: the kernel joins on the link, and so untagged."""
    found = []
    for name, rule in config.rules.items():
        for taken in rule.inputs if rule.enabled else ():
            group, vlan = taken.stream.address, taken.vlan
            if isinstance(vlan, int) and group.is_multicast:
                problem = f"no report goes out in VLAN {vlan}: a switch that snoops has to flood {group} to this host"
                remedy = f"have it flood, or {_as_link(taken.stream.link, vlan)}, which joins in it"
                found.append(complaint(where, f"{rule_key(name)}.input", problem, remedy, warning=True))
    return found


def link_complaints(config: Config, where: Where, links: Mapping[str, Link]) -> list[Complaint]:
    """Refuse tagged frames on links that are no Ethernet."""
    found = []
    for name, rule in config.rules.items():
        for index, output in enumerate(rule.outputs if rule.enabled else ()):
            link = links.get(output.stream.link or "")
            if output.vlan != "none" and link is not None and (text := no_tags(link)):
                remedy = f"send {format_stream(output.stream)} without vlan"
                found.append(complaint(where, f"{rule_key(name)}.outputs[{index}]", text, remedy))
    return found


def _as_link(link: str | None, vlan: int | str) -> str:
    return f"make the VLAN a link (ip link add link {link or 'LINK'} type vlan id {vlan})"
