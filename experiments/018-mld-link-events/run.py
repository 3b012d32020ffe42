"""What does the kernel say of IPv6 memberships after link events, and from which address?

Each site has a join of any source and one of a single source. After each event: are both still joined, was each
reported at the far end without anyone asking, from which address, and is a query answered? Then, does a bridge that
snoops learn from a report without a source address?
"""

from __future__ import annotations

import errno
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import mld
from lab import Namespace, veth
from mld import MEMBER, SOURCED
from verdict import Experiment, run
from wire import LEAVE, Message, Tap

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

ASM, SSM, SENDER = "ff15::1234", "ff35::5678", "2001:db8::5"
JOINS = ((ASM, None), (SSM, SENDER))
WAIT_S = 3.5  # the kernel repeats what it says within a second, and DAD takes one to two
CARRIER_SETTLE_S = 1.2  # the kernel may hold a carrier event back for a second
NOBODY = "::"


class Site:
    """Both ends of a cable; the relay's has an address made from its MAC, DAD done, and both groups joined."""

    def __init__(self) -> None:
        self.source, self.relay = Namespace(), Namespace(ipv6=True)
        veth(self.source, "eth0", self.relay, "eth0")
        self.far_end = Tap(self.source)
        self.helper: socket.socket | None = None

    def join(self) -> str:
        try:
            self.helper = mld.helper(self.relay, *JOINS)
        except OSError as error:
            return errno.errorcode[error.errno]
        return "works"

    def own(self) -> str:
        """The link-local address, without its length; "" if there is none."""
        for found in json.loads(self.relay.run("ip -j -6 address show dev eth0")):
            for each in found.get("addr_info", []):
                return str(each["local"])
        return ""

    def answers(self) -> list[Message]:
        self.far_end.drain()
        self.far_end.send(mld.query())
        return mld.listen(self.far_end, 0.8)


def settled() -> Site:
    """After DAD, and after every report that it and the joins cause."""
    site = Site()
    site.join()
    return site


def carrier(site: Site) -> None:
    site.source.run("ip link set eth0 down")
    time.sleep(CARRIER_SETTLE_S)
    assert "NO-CARRIER" in site.relay.run("ip link show eth0")
    site.source.run("ip link set eth0 up")


def admin_down_up(site: Site) -> None:
    site.relay.run("ip link set eth0 down")
    site.relay.run("ip link set eth0 up")


def recreated(site: Site) -> None:
    site.relay.run("ip link delete eth0")
    veth(site.source, "eth0", site.relay, "eth0")
    site.far_end = Tap(site.source)


def address_removed(site: Site) -> None:
    site.relay.run(f"ip -6 address delete {site.own()}/64 dev eth0")


def address_late(site: Site) -> None:
    address_removed(site)
    site.relay.run("ip -6 address add fe80::77/64 dev eth0 nodad")


def address_late_dad(site: Site) -> None:
    address_removed(site)
    site.relay.run("ip -6 address add fe80::77/64 dev eth0")


def disabled(site: Site) -> None:
    site.relay.sysctl("net/ipv6/conf/eth0/disable_ipv6", 1)


def disabled_and_back(site: Site) -> None:
    disabled(site)
    time.sleep(0.1)
    site.relay.sysctl("net/ipv6/conf/eth0/disable_ipv6", 0)


EVENTS: dict[str, Callable[[Site], None]] = {
    each.__name__: each
    for each in (
        carrier,
        admin_down_up,
        recreated,
        address_removed,
        address_late,
        address_late_dad,
        disabled,
        disabled_and_back,
    )
}


def sources(heard: list[Message], group: str, kinds: set[str]) -> str:
    """From where it was said: "nobody", an own link-local address as "own", both as "nobody, then own"."""
    said = [
        ("nobody" if each.source == NOBODY else "own") for each in heard if each.group == group and each.kind in kinds
    ]
    return ", then ".join(dict.fromkeys(said))


def observe(exp: Experiment, event: str, site: Site) -> None:
    heard = mld.listen(site.far_end, 0)
    exp.text(f"{event}_asm_reported_from", sources(heard, ASM, MEMBER))
    exp.text(f"{event}_ssm_reported_from", sources(heard, SSM, SOURCED))
    exp.count(
        f"{event}_leaves", sum(each.kind in LEAVE | {"BLOCK", "v1 done"} and each.group in {ASM, SSM} for each in heard)
    )
    exp.count(f"{event}_joined", len({ASM, SSM} & mld.joined(site.relay)))
    answers = site.answers()
    exp.text(f"{event}_asm_answered_from", sources(answers, ASM, {"IS_EX"}))
    exp.text(f"{event}_ssm_answered_from", sources(answers, SSM, {"IS_IN"}))


def duplicate_address(exp: Experiment) -> None:
    """The far end has the address that the kernel would take: DAD fails."""
    site = Site()
    site.source.sysctl("net/ipv6/conf/eth0/disable_ipv6", 0)
    site.relay.run("ip link set eth0 down")
    time.sleep(0.1)
    site.relay.run("ip link set eth0 address 02:00:00:00:00:77 up")
    site.source.run("ip -6 address add fe80::ff:fe00:77/64 dev eth0 nodad")
    time.sleep(0.1)
    site.relay.run("ip link set eth0 down")
    site.relay.run("ip link set eth0 up")
    time.sleep(2.5)
    exp.count("dad_failed", "dadfailed" in site.relay.run("ip -6 address show dev eth0"))
    site.far_end.drain()
    exp.text("dad_failed_join", site.join())
    time.sleep(1.5)
    observe(exp, "dad_failed", site)


def without_ipv6(exp: Experiment) -> None:
    """A join where IPv6 was off from the start."""
    site = Site()
    disabled(site)
    time.sleep(0.1)
    site.far_end.drain()
    exp.text("disabled_join", site.join())
    time.sleep(1.5)
    exp.text("disabled_join_reported_from", sources(mld.listen(site.far_end, 0), ASM, MEMBER))
    exp.count("disabled_join_answers", len(site.answers()))


def older_querier(exp: Experiment, site: Site) -> None:
    site.far_end.drain()
    site.far_end.send(mld.query(version=1))
    kinds = {each.kind for each in mld.listen(site.far_end, 0.8) if each.group in {ASM, SSM}}
    exp.text("v1_answers", ", ".join(sorted(kinds)))
    site.far_end.send(mld.query(version=2))
    kinds = {each.kind for each in mld.listen(site.far_end, 0.8) if each.group in {ASM, SSM}}
    exp.text("v1_then_v2_answers", ", ".join(sorted(kinds)))
    carrier(site)
    heard = mld.listen(site.far_end, WAIT_S)
    for name, group in (("asm", ASM), ("ssm", SSM)):
        exp.text(f"v1_carrier_{name}", ", ".join(sorted({each.kind for each in heard if each.group == group})))


def main(exp: Experiment) -> None:
    sites = {event: settled() for event in EVENTS}
    old = settled()
    time.sleep(WAIT_S)
    for event, happen in EVENTS.items():
        sites[event].far_end.drain()
        happen(sites[event])
    time.sleep(WAIT_S)
    for event, site in sites.items():
        observe(exp, event, site)
    duplicate_address(exp)
    without_ipv6(exp)
    older_querier(exp, old)
    claims(exp)


def claims(exp: Experiment) -> None:
    stands = " and {0}_joined == 2 and {0}_asm_answered_from == {0}_ssm_answered_from == '{1}'"
    reported = "{0}_asm_reported_from == '{1}' and {0}_ssm_reported_from == '{2}'"
    twice = "nobody, then own"
    exp.claim(
        "carrier-return-tells-half",
        "after carrier loss and return a join of any source is reported unasked, a join of one source is not",
        (reported + stands.replace("{1}", "own")).format("carrier", "own", ""),
    )
    exp.claim(
        "carrier-return-forgets-v1",
        "a querier of version 1 makes the host speak version 1 until the carrier returns: then it is 2 again",
        "v1_answers == v1_then_v2_answers == 'v1 report' and v1_carrier_asm == 'TO_EX' and v1_carrier_ssm == ''",
    )
    exp.claim(
        "admin-down-up-heals-itself",
        "after down and up both are reported, first from :: while the address is tentative, then from the address",
        (reported.format("admin_down_up", twice, twice) + stands.format("admin_down_up", "own")),
    )
    exp.claim(
        "late-address-is-reported",
        "unlike IGMP, MLD reports everything again from a link-local address that comes late",
        reported.format("address_late", "own", "own") + stands.format("address_late", "own"),
    )
    exp.claim(
        "without-an-address-nobody-reports",
        "without a link-local address, or with one that DAD has refused, reports and answers come from ::",
        "dad_failed == 1 and "
        + reported.format("dad_failed", "nobody", "nobody")
        + stands.format("dad_failed", "nobody")
        + stands.format("address_removed", "nobody"),
    )
    exp.claim(
        "disabled-is-joined-and-mute",
        "with disable_ipv6 a join works and stays, and nothing is ever reported or answered",
        "disabled_join == 'works' and disabled_join_reported_from == '' and disabled_join_answers == 0 and "
        + reported.format("disabled", "", "")
        + stands.format("disabled", ""),
    )
    exp.claim(
        "enabled-again-heals-itself",
        "when disable_ipv6 is taken back both are reported again",
        reported.format("disabled_and_back", twice, twice),
    )
    exp.claim(
        "recreation-destroys-both",
        "a link deleted and made again has no membership",
        "recreated_joined == 0 and recreated_asm_answered_from == recreated_ssm_answered_from == ''",
    )


if __name__ == "__main__":
    run(main, __file__)
