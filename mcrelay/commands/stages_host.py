"""Stages of ``mcrelay doctor`` about the relay, its privileges and the links that it listens on. Pure."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from mcrelay.igmp import advice
from mcrelay.igmp.protocol import MLD
from mcrelay.model.link_faults import is_bare, no_packets, port_of, reports_from_nobody
from mcrelay.model.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay.commands.evidence import Subject
    from mcrelay.commands.walk import Found, Walk
    from mcrelay.model.link import Link

MERGING = ("rx-udp-gro-forwarding", "rx-gro-list")  # receive offloads that make one frame of several datagrams


def relay(walk: Walk) -> Iterator[Found]:
    """Whether a relay runs, answers, and is the installed one."""
    relay = walk.evidence.relay
    if relay is None and walk.evidence.silent:
        yield "broken", walk.evidence.trouble.partition(";")[0], "journalctl -u mcrelay; then systemctl restart mcrelay"
        return
    if relay is None:
        yield "skipped", f"{walk.evidence.trouble or 'none is asked'}; this host is looked at without it"
        return
    version = relay.version.get("version", "?")
    if relay.version.get("restart_due"):
        yield "warning", f"mcrelay {version} runs, and another build is installed", "systemctl restart mcrelay"
    else:
        yield "ok", f"mcrelay {version} runs with {counted(len(relay.rules), 'rule')}"


def privileges(walk: Walk) -> Iterator[Found]:
    """What the relay and this look may do, and what the kernel offers."""
    evidence, subject = walk.evidence, walk.subject
    told = [each.reason for each in subject.inputs if "CAP_NET_RAW" in each.reason]
    if told:
        yield "broken", told[0], "run the relay as root, or give it CAP_NET_RAW: systemctl edit mcrelay"
    elif not evidence.may_look and evidence.relay is None:
        yield (
            "broken",
            "this user has no CAP_NET_RAW, without which nothing is captured",
            f"sudo mcrelay doctor {_named(subject)}",
        )
    elif not evidence.may_look:
        yield (
            "warning", "the relay may capture, and this look may not: no frame and no IGMP was seen",
            f"sudo mcrelay doctor {_named(subject)}",
        )  # fmt: skip
    elif not evidence.features.udp_segment:
        yield "warning", "this kernel has no UDP_SEGMENT: each datagram is sent by itself", "use Linux 4.18 or newer"
    else:
        yield "ok", "CAP_NET_RAW, UDP_SEGMENT"


def _named(subject: Subject) -> str:
    return subject.rule or subject.inputs[0].text


def link(walk: Walk) -> Iterator[Found]:
    """The links that the rule listens on."""
    for each in walk.subject.inputs:
        link = walk.evidence.links.get(each.link)
        if link is None:
            yield "broken", f"there is no link {each.link} here", "see `ip link` for those that there are"
        elif fault := no_packets(link):
            yield "broken", fault, "take the input from the link below it, if there is one"
        elif not link.up:
            yield "broken", f"{link.name} is down", f"ip link set {link.name} up"
        elif not link.carrier:
            yield "broken", f"{link.name} has no carrier: nothing is plugged in, or the other end is down"
        elif fault := port_of(link):
            yield "broken", fault.partition(": ")[0], fault.partition(": ")[2]
        elif isinstance(each.group, IPv6Address) and (faults := _ipv6_faults(walk, link)):
            kind, text = faults.popitem()
            what, _, remedy = text.rpartition(". ")
            yield (
                ("broken" if kind == "ipv6-disabled" else "warning"),
                what or text,
                remedy.rpartition(": ")[2] if what else "",
            )
        elif each.group.version == 4 and not link.addresses and not is_bare(link):
            what, _, remedy = reports_from_nobody(link.name).partition("; give it one, any will do: ")
            yield "warning", what, remedy
        else:
            held = link.addresses if each.group.version == 4 else link.addresses6
            address = ", ".join(map(str, held[:2]))
            kind = walk.evidence.kinds.get(link.name, "")
            above = f", below {link.upper}" if link.upper else ""
            yield "ok", f"{link.name} is up, with carrier, {address}, MTU {link.mtu}{kind and f', a {kind}'}{above}"


def _ipv6_faults(walk: Walk, link: Link) -> dict[str, str]:
    """Why this host's reports of IPv6 groups are not heeded there."""
    if is_bare(link):
        return {}
    return advice.of_addresses(MLD, link, disabled=link.name in walk.evidence.without_ipv6)


def offloads(walk: Walk) -> Iterator[Found]:
    """What merges datagrams before they are captured."""
    asked = {row["ifname"] for row in walk.evidence.relay.links if row.get("gro")} if walk.evidence.relay else set()
    for name in dict.fromkeys(each.link for each in walk.subject.inputs):
        active = walk.evidence.offloads.get(name)
        merging = [each for each in MERGING if active and each in active]
        if active is None:
            yield "skipped", f"the offloads of {name} cannot be read"
        elif merging and "rx-gro" in active and name not in asked:
            yield (
                "warning",
                f"{' and '.join(merging)} of {name} makes one frame of several datagrams; the relay cuts them up again",
                f"ethtool -K {name} " + " ".join(f"{each} off" for each in merging),
            )
        else:
            yield "ok", f"{name} merges no datagrams" if not merging else f"{name} merges datagrams, as gro = true asks"
