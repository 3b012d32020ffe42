"""First fall-back: PACKET_ADD_MEMBERSHIP on the AF_PACKET socket, with no helper. Does IGMP leave the host?"""

from __future__ import annotations

import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, pair, pruning_switch
from verdict import Experiment, run
from wire import PACKET_ADD_MEMBERSHIP, PACKET_MR_MULTICAST, SOL_PACKET, Stream, Tap

GROUP, GROUP_MAC = "239.255.1.1", "01:00:5e:7f:01:01"
WAIT_S = 2.0


def packet_membership(tap: Tap, ns: Namespace) -> None:
    address = wire.group_mac(GROUP)
    request = struct.pack("=iHH8s", ns.index("eth0"), PACKET_MR_MULTICAST, len(address), address)
    tap.sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)


def on_a_cable(exp: Experiment) -> None:
    source, relay = pair()
    with Tap(source) as far_end, Tap(relay) as tap:
        packet_membership(tap, relay)
        exp.count("packet_mac_filter", GROUP_MAC in relay.mac_filter("eth0"))
        exp.count("packet_joined_on_host", GROUP in relay.joined("eth0"))
        exp.count("packet_igmp_heard", wire.about(far_end.listen(WAIT_S), GROUP, wire.MEMBER) > 0)
        far_end.send(wire.query(GROUP, response_s=0.3))
        exp.count("packet_query_answered", wire.about(far_end.listen(0.6), GROUP, wire.MEMBER) > 0)
        helper = wire.helper(relay, GROUP)
        exp.count("helper_igmp_heard", wire.about(far_end.listen(WAIT_S), GROUP, wire.MEMBER) > 0)
        helper.close()


def behind_a_switch(exp: Experiment) -> None:
    source, relay = Namespace(), Namespace()
    pruning_switch({"to-source": source, "to-relay": relay})
    source.run("ip address add 192.0.2.2/24 dev eth0")
    relay.run("ip address add 192.0.2.1/24 dev eth0")
    stream = Stream(source, GROUP)
    with Tap(relay) as tap:
        packet_membership(tap, relay)
        time.sleep(0.5)
        exp.count("packet_arriving_behind_switch", stream.arrive_at(tap))
        helper = wire.helper(relay, GROUP)
        time.sleep(0.3)
        exp.count("helper_arriving_behind_switch", stream.arrive_at(tap))
        helper.close()


def main(exp: Experiment) -> None:
    on_a_cable(exp)
    behind_a_switch(exp)
    exp.claim(
        "opens-only-the-filter",
        "PACKET_ADD_MEMBERSHIP opens the MAC filter and sends no IGMP: no report, no answer to a query",
        "packet_mac_filter == 1 and packet_joined_on_host + packet_igmp_heard + packet_query_answered == 0",
    )
    exp.claim(
        "no-substitute-for-the-helper",
        "behind a switch that prunes nothing arrives until a helper joins",
        "packet_arriving_behind_switch == 0 and helper_arriving_behind_switch == 10 and helper_igmp_heard == 1",
    )


if __name__ == "__main__":
    run(main, __file__)
