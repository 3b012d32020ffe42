"""Behind a switch that prunes, is it the helper's join that brings the stream, and does it keep coming?

The switch is a Linux bridge with snooping and a querier. The control is a bare cable, where nothing has to be joined.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import PRUNES_AFTER_S, Namespace, pair, pruning_switch
from verdict import Experiment, run
from wire import Stream, Tap

GROUP, OTHER = "239.255.1.1", "239.255.1.2"
LEAVE_SETTLE_S = 1.0  # the switch asks twice, 0.2 s apart, whether another member is left
QUERY_INTERVAL_S, MEMBERSHIP_S = 1.0, 2.6
WATCH_S = 5.0  # several query intervals, and longer than a membership lasts unless it is renewed


class Site:
    """A source and a relay on two ports of a switch that begins to prune a little later."""

    def __init__(self, version: int = 3, options: str = "") -> None:
        self.source, self.relay = Namespace(), Namespace()
        ports = {"to-source": self.source, "to-relay": self.relay}
        self.switch = pruning_switch(ports, version=version, options=options, wait=False)
        self.source.run("ip address add 192.0.2.2/24 dev eth0")
        self.relay.run("ip address add 192.0.2.1/24 dev eth0")
        self.stream, self.tap = Stream(self.source, GROUP), Tap(self.relay)

    def arriving(self) -> int:
        self.tap.drain()
        return self.stream.arrive_at(self.tap)

    def in_switch_table(self) -> bool:
        return f"port to-relay grp {GROUP}" in self.switch.run("bridge mdb show dev br0")


def join_and_leave(exp: Experiment, tag: str, site: Site) -> None:
    exp.count(f"{tag}_before_join", site.arriving())
    helper = wire.helper(site.relay, GROUP)
    time.sleep(0.3)
    exp.count(f"{tag}_in_switch_table", site.in_switch_table())
    exp.count(f"{tag}_joined", site.arriving())
    exp.count(f"{tag}_joined_other_group", Stream(site.source, OTHER).arrive_at(site.tap))
    exp.count(f"{tag}_readable_on_helper", wire.take_all(helper))
    helper.close()
    time.sleep(LEAVE_SETTLE_S)
    exp.count(f"{tag}_after_close", site.arriving())


def forged_report(exp: Experiment, site: Site) -> None:
    site.tap.send(wire.report(GROUP, source="192.0.2.1"))
    time.sleep(0.3)
    exp.count("forged_report_joined_on_host", GROUP in site.relay.joined("eth0"))
    exp.count("forged_report_arrives", site.arriving())


def over_query_intervals(exp: Experiment, sites: dict[str, Site]) -> None:
    """Members that nobody reads, for several intervals; one cannot answer, as behind a careless firewall."""
    helpers = [wire.helper(site.relay, GROUP) for site in sites.values()]
    time.sleep(1.5)
    sites["muted"].relay.nft("table ip t { chain c { type filter hook input priority 0; ip protocol igmp drop; }; }")
    for tag, site in sites.items():
        exp.count(f"{tag}_at_first", site.arriving())
    time.sleep(WATCH_S)
    for tag, site in sites.items():
        exp.count(f"{tag}_after_intervals", site.arriving())
        exp.count(f"{tag}_still_joined_on_host", GROUP in site.relay.joined("eth0"))
    for helper in helpers:
        helper.close()


def main(exp: Experiment) -> None:
    source, relay = pair()
    with Tap(relay) as tap:
        exp.count("bare_cable_unjoined", Stream(source, GROUP).arrive_at(tap))

    brief = (
        f"mcast_query_interval {QUERY_INTERVAL_S * 100:.0f} mcast_membership_interval {MEMBERSHIP_S * 100:.0f} "
        f"mcast_querier_interval {MEMBERSHIP_S * 100:.0f}"
    )
    by_version = {"v3": Site(3), "v2": Site(2)}
    watched = {"answering": Site(options=brief), "muted": Site(options=brief)}
    time.sleep(PRUNES_AFTER_S)
    for tag, site in by_version.items():
        join_and_leave(exp, tag, site)
    forged_report(exp, by_version["v3"])
    over_query_intervals(exp, watched)

    exp.claim(
        "control-bare-cable",
        "control: on a bare veth an unjoined group arrives, so arrival there proves nothing",
        "bare_cable_unjoined == 10",
    )
    for tag in ("v3", "v2"):
        exp.claim(
            f"{tag}-join-brings-the-stream",
            f"IGMP{tag}: nothing arrives before the join, all of the group and no other after it, nothing after close",
            f"{tag}_before_join == 0 and {tag}_joined == 10 and {tag}_in_switch_table == 1 "
            f"and {tag}_joined_other_group == 0 and {tag}_after_close == 0 and {tag}_readable_on_helper == 0",
        )
    exp.claim(
        "never-read-stays-joined",
        "over several query intervals a helper that is never read keeps its group",
        "answering_at_first == 10 and answering_after_intervals == 10",
    )
    exp.claim(
        "unanswered-queries-end-the-stream",
        "control: with queries dropped by the host's own firewall the stream ends, though the host is still joined",
        "muted_at_first == 10 and muted_after_intervals == 0 and muted_still_joined_on_host == 1",
    )
    exp.claim(
        "a-report-of-our-own-counts",
        "a report that the program sends itself brings the stream too, without the kernel",
        "forged_report_arrives == 10 and forged_report_joined_on_host == 0",
    )


if __name__ == "__main__":
    run(main, __file__)
