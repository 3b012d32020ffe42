"""Does a join on a socket that nobody reads open the device's MAC filter, and only for as long as it lasts?

`ip maddr` is what the kernel told the device. A veth accepts everything whatever it is told, so the filter itself is
tried on a macvlan, the one virtual device that really has one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, pair
from verdict import Experiment, run
from wire import Stream, Tap

GROUP, GROUP_MAC = "239.255.1.1", "01:00:5e:7f:01:01"
ALIAS = "225.127.1.1"  # its low 23 bits, and so its MAC address, are those of GROUP
UNRELATED = "239.255.9.9"
COUNT = 10


def told(exp: Experiment, relay: Namespace) -> None:
    """What the device is told: before, while a socket is a member, with only AF_PACKET, and after."""
    exp.count("told_before", GROUP_MAC in relay.mac_filter("eth0"))
    with Tap(relay):
        exp.count("told_by_af_packet_alone", GROUP_MAC in relay.mac_filter("eth0"))
    helper = wire.helper(relay, GROUP)
    exp.count("told_while_joined", GROUP_MAC in relay.mac_filter("eth0"))
    alias = wire.helper(relay, ALIAS)
    exp.count("users_with_alias_joined", relay.mac_filter("eth0")[GROUP_MAC])
    alias.close()
    helper.close()
    exp.count("told_after_close", GROUP_MAC in relay.mac_filter("eth0"))


def filtered(exp: Experiment, source: Namespace, relay: Namespace) -> None:
    """What a device that filters lets through to an AF_PACKET socket on it."""
    try:
        relay.run("ip link add link eth0 name nic0 type macvlan mode private")
    except RuntimeError as error:
        for name in ("filter-opens", "alias-passes"):
            exp.skip(name, f"no macvlan: {error}")
        return
    relay.run("ip link set nic0 up")
    stream, alias = Stream(source, GROUP), Stream(source, ALIAS)
    with Tap(relay, "nic0") as tap:
        exp.count("through_unjoined", stream.arrive_at(tap, COUNT))
        helper = wire.helper(relay, GROUP, ifname="nic0")
        exp.count("through_joined", stream.arrive_at(tap, COUNT))
        exp.count("alias_through_joined", alias.arrive_at(tap, COUNT))
        helper.close()
        # A macvlan works its filter out before it lets the entry go, so it closes with the next change, whatever it is.
        exp.count("through_after_close", stream.arrive_at(tap, COUNT))
        wire.helper(relay, UNRELATED, ifname="nic0").close()
        exp.count("through_after_close_and_next_change", stream.arrive_at(tap, COUNT))
    exp.claim(
        "filter-opens",
        "a device that filters passes the group once the helper is a member, and not before or after",
        "through_joined == 10 and through_unjoined == 0 and through_after_close_and_next_change == 0",
    )
    exp.claim("alias-passes", "another group with the same MAC address passes too", "alias_through_joined == 10")


def main(exp: Experiment) -> None:
    source, relay = pair()
    told(exp, relay)
    exp.claim(
        "join-programs-the-filter",
        f"{GROUP_MAC} is listed while joined and not after",
        "told_before == 0 and told_while_joined == 1 and told_after_close == 0",
    )
    exp.claim("af-packet-does-not", "an AF_PACKET socket alone programs nothing", "told_by_af_packet_alone == 0")
    exp.claim("alias-shares-the-entry", "32 groups share one MAC address", "users_with_alias_joined == 2")
    with Tap(relay) as tap:
        exp.count("veth_through_unjoined", Stream(source, GROUP).arrive_at(tap, COUNT))
    exp.claim(
        "veth-filters-nothing",
        "control: a veth delivers a group that nobody joined, so arrival on a veth proves no join",
        "veth_through_unjoined == 10",
    )
    filtered(exp, source, relay)


if __name__ == "__main__":
    run(main, __file__)
