"""Which link events do a membership and an AF_PACKET socket survive, and which does anybody upstream hear about?

After each event: is the group still joined, is the MAC filter open, was a report heard at the far end without anyone
asking, is a query answered, and do datagrams still arrive?
"""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, pair, veth
from verdict import Experiment, run
from wire import LEAVE, MEMBER, Stream, Tap, about

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

GROUP, GROUP_MAC = "239.255.1.1", "01:00:5e:7f:01:01"
REPORT_WAIT_S = 2.5  # a report that comes by itself comes at once and again within a second
CARRIER_SETTLE_S = 1.2  # the kernel may hold a carrier event back for a second
SETTLE_S = 1.3


class Site:
    """Both ends of the cable with the helper joined and the AF_PACKET socket open."""

    def __init__(self) -> None:
        self.source, self.relay = pair()
        self.far_end, self.capture = Tap(self.source), Tap(self.relay)
        self.helper = wire.helper(self.relay, GROUP)

    def still_captures(self) -> int:
        stream = Stream(self.source, GROUP)
        self.capture.drain()
        with contextlib.suppress(OSError):
            return stream.arrive_at(self.capture)
        return 0

    def answer_to_query(self) -> str:
        """The source address of the report that answers a general query, or nothing."""
        self.far_end.drain()
        self.far_end.send(wire.query(response_s=0.3))
        heard = self.far_end.listen(0.6)
        return next((m.source for m in heard if m.group == GROUP and m.kind == "IS_EX"), "")


def settle(sites: Iterable[Site]) -> None:
    """Past the reports that the join itself causes."""
    time.sleep(SETTLE_S)
    for site in sites:
        site.far_end.drain()


def observe(exp: Experiment, event: str, site: Site) -> None:
    """What is left some time after the event; the far end has kept what it heard since."""
    exp.count(f"{event}_reported_unasked", about(site.far_end.listen(0), GROUP, MEMBER) > 0)
    exp.count(f"{event}_joined", GROUP in site.relay.joined("eth0"))
    exp.count(f"{event}_mac_filter", GROUP_MAC in site.relay.mac_filter("eth0"))
    exp.text(f"{event}_answer_from", site.answer_to_query())
    exp.count(f"{event}_captured", site.still_captures())


def admin_down_up(site: Site) -> None:
    site.relay.run("ip link set eth0 down")
    site.relay.run("ip link set eth0 up")


def carrier_loss_and_return(site: Site) -> None:
    """The far end goes, as when a cable is pulled or a switch restarts; then it returns."""
    site.source.run("ip link set eth0 down")
    time.sleep(CARRIER_SETTLE_S)
    assert "NO-CARRIER" in site.relay.run("ip link show eth0")
    site.source.run("ip link set eth0 up")


def delete_and_recreate(site: Site) -> None:
    site.relay.run("ip link delete eth0")
    veth(site.source, "eth0", site.relay, "eth0")
    site.source.run("ip address add 192.0.2.2/24 dev eth0")
    site.relay.run("ip address add 192.0.2.1/24 dev eth0")
    site.far_end = Tap(site.source)


def address_removed(site: Site) -> None:
    site.relay.run("ip address delete 192.0.2.1/24 dev eth0")


def address_changed(site: Site) -> None:
    address_removed(site)
    site.relay.run("ip address add 192.0.2.77/24 dev eth0")


EVENTS: dict[str, Callable[[Site], None]] = {
    "carrier": carrier_loss_and_return,
    "admin_down_up": admin_down_up,
    "recreated": delete_and_recreate,
    "address_removed": address_removed,
    "address_changed": address_changed,
}


def mend_after_recreation(exp: Experiment, site: Site) -> None:
    """What has to be done again: the join, and a bind of the AF_PACKET socket."""
    exp.text("recreated_rejoin_on_same_helper", outcome_of_join(site.helper, site.relay, GROUP))
    with site.relay:
        site.capture.sock.bind(("eth0", wire.ETH_P_ALL))
    exp.count("recreated_captured_after_rebind", site.still_captures())


def full_helper_after_recreation(exp: Experiment) -> None:
    """A helper that holds all it may keeps its entries for the link that is gone, and they count."""
    source, relay = pair()
    limit = int(relay.sysctl("net/ipv4/igmp_max_memberships"))
    full = wire.helper(relay, *(f"239.255.3.{n}" for n in range(limit)))
    relay.run("ip link delete eth0")
    veth(source, "eth0", relay, "eth0")
    exp.text("recreated_rejoin_on_full_helper", outcome_of_join(full, relay, "239.255.3.0"))


def outcome_of_join(sock: socket.socket, ns: Namespace, group: str) -> str:
    try:
        wire.join(sock, ns, group)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "works"


def late_address(exp: Experiment) -> None:
    """Joined before the link has an address, as at boot."""
    site = Site()
    address_removed(site)
    site.helper.close()
    settle([site])
    site.helper = wire.helper(site.relay, GROUP)
    heard = site.far_end.listen(SETTLE_S)
    exp.text("addressless_join_from", next((m.source for m in heard if m.kind == "TO_EX"), ""))
    site.relay.run("ip address add 192.0.2.1/24 dev eth0")
    exp.count("late_address_reported_unasked", about(site.far_end.listen(REPORT_WAIT_S), GROUP, MEMBER) > 0)


def refreshes(exp: Experiment) -> None:
    """What the wire sees of the obvious cure: leave and join again at once, on the same socket."""
    sites = {"v3": Site(), "v2": Site(), "shared": Site()}
    sites["v2"].far_end.send(wire.query(version=2, response_s=0.2))
    other = wire.helper(sites["shared"].relay, GROUP)
    settle(sites.values())
    for site in sites.values():
        wire.leave(site.helper, site.relay, GROUP)
        wire.join(site.helper, site.relay, GROUP)
    time.sleep(SETTLE_S)
    for tag, site in sites.items():
        heard = site.far_end.listen(0)
        exp.count(f"refresh_{tag}_leaves", about(heard, GROUP, LEAVE) > 0)
        exp.count(f"refresh_{tag}_reports", about(heard, GROUP, MEMBER) > 0)
    other.close()


def main(exp: Experiment) -> None:
    sites = {event: Site() for event in EVENTS}
    settle(sites.values())
    for event, happen in EVENTS.items():
        happen(sites[event])
    time.sleep(REPORT_WAIT_S)
    for event, site in sites.items():
        observe(exp, event, site)
    mend_after_recreation(exp, sites["recreated"])
    full_helper_after_recreation(exp)
    late_address(exp)
    refreshes(exp)

    survives = "{0}_joined == 1 and {0}_mac_filter == 1 and {0}_captured == 10 and {0}_answer_from == '{1}'"
    exp.claim(
        "admin-down-up-heals-itself",
        "after down and up everything works and the group is reported unasked",
        survives.format("admin_down_up", "192.0.2.1") + " and admin_down_up_reported_unasked > 0",
    )
    exp.claim(
        "carrier-return-is-silent",
        "after carrier loss and return everything works here, but nobody upstream is told",
        survives.format("carrier", "192.0.2.1") + " and carrier_reported_unasked == 0",
    )
    exp.claim(
        "membership-outlives-the-address",
        "with the last address gone the group stays joined; answers come from 0.0.0.0",
        survives.format("address_removed", "0.0.0.0"),
    )
    exp.claim(
        "new-address-is-silent",
        "a changed address is not reported; the next answer comes from it",
        survives.format("address_changed", "192.0.2.77") + " and address_changed_reported_unasked == 0",
    )
    exp.claim(
        "late-address-is-silent",
        "a join without an address is reported from 0.0.0.0, and an address that comes later is not",
        "addressless_join_from == '0.0.0.0' and late_address_reported_unasked == 0",
    )
    exp.claim(
        "recreation-destroys-both",
        "a link deleted and made again has neither membership nor capture",
        "recreated_joined + recreated_mac_filter + recreated_captured + recreated_reported_unasked == 0 "
        "and recreated_answer_from == ''",
    )
    exp.claim(
        "recreation-is-mended-by-hand",
        "a new join and a bind of the same AF_PACKET socket mend it, but a helper that is full cannot join again",
        "recreated_rejoin_on_same_helper == 'works' and recreated_captured_after_rebind == 10 "
        "and recreated_rejoin_on_full_helper == 'ENOBUFS'",
    )
    exp.claim(
        "refresh-is-safe-only-in-v3",
        "leaving and joining at once: IGMPv3 reports without a leave, IGMPv2 says a leave first",
        "refresh_v3_reports == 1 and refresh_v3_leaves == 0 and refresh_v2_reports == 1 and refresh_v2_leaves == 1",
    )
    exp.claim(
        "refresh-is-mute-when-shared",
        "with another member on the host, leaving and joining says nothing at all",
        "refresh_shared_reports + refresh_shared_leaves == 0",
    )


if __name__ == "__main__":
    run(main, __file__)
