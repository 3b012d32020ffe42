"""Where to tap: ETH_P_ALL or ETH_P_IP? And what does dropping the captured datagrams at ingress save?

First who still sees what; then the cost of one received datagram, the kernel's share included: over a veth a frame
is received on its sender's time, so that is where it is measured.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, pair, programs, veth
from verdict import Experiment, alternating, run
from wire import ETH_P_ALL, ETH_P_IP, Relay, Stream, Tap

GROUP, ROUNDS = "239.1.1.1", 12
LOAD = {"rate": 0, "count": 20_000, "burst": 50, "size": 64}
MATCH = f"ip daddr {GROUP} udp dport 9999 drop;"
INGRESS = f"table netdev t {{ chain c {{ type filter hook ingress device eth0 priority 0; {MATCH} }}; }}"
RAW = f"table ip t {{ chain c {{ type filter hook prerouting priority raw; {MATCH} }}; }}"
TAPS = {"all": ETH_P_ALL, "ip": ETH_P_IP}
# name -> (which tap, which rules); the group is joined, so without a drop the IP stack looks at it as well
COSTS = {
    "ip": ("ip", None),
    "all": ("all", None),
    "all_raw_drop": ("all", RAW),
    "all_ingress_drop": ("all", INGRESS),
}


def after_drop(exp: Experiment, tag: str, rules: str | None) -> None:
    """Who gets ten datagrams of a joined group: both kinds of tap, and the IP stack behind them."""
    source, relay = pair()
    helper, stream = wire.helper(relay, GROUP), Stream(source, GROUP)
    if rules:
        relay.nft(rules)
    before = relay.counter("UdpIgnoredMulti")
    with Tap(relay, protocol=ETH_P_ALL) as every, Tap(relay, protocol=ETH_P_IP) as ip:
        sent = stream.send()
        for name, tap in (("all", every), ("ip", ip)):
            exp.count(f"{tag}_seen_by_{name}", len(sent & {stream.sequence(frame) for frame in tap.frames(0.1)}))
    exp.count(f"{tag}_seen_by_ip_stack", relay.counter("UdpIgnoredMulti") - before)
    helper.close()


def igmp_survives(exp: Experiment) -> None:
    """The drop names one group's UDP, so queries must still be answered."""
    source, relay = pair()
    helper = wire.helper(relay, GROUP)
    relay.nft(INGRESS)
    with Tap(source) as querier:
        querier.send(wire.query(GROUP, response_s=0.3))
        exp.count("query_answered_with_ingress_drop", wire.about(querier.listen(0.6), GROUP, {"IS_EX"}) > 0)
    helper.close()


def on_a_bridge_port(exp: Experiment) -> None:
    source, host = Namespace(), Namespace()
    veth(source, "eth0", host, "port")
    host.run("ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    host.run("ip link set port master br0")
    host.run("ip link set br0 up")
    source.run("ip address add 192.0.2.2/24 dev eth0")
    for name, protocol in TAPS.items():
        with Tap(host, "port", protocol) as tap:
            exp.count(f"bridge_port_seen_by_{name}", Stream(source, GROUP).arrive_at(tap))


def cost(pace: str, program: str, source: Namespace, relay: Namespace, name: str) -> float:
    tap, rules = COSTS[name]
    relay.nft("flush ruleset")
    if rules:
        relay.nft(rules)
    reader = Relay(program, relay, LOAD["count"], tap=tap, group=GROUP)
    sender = Stream(source, GROUP).paced(pace, **LOAD)
    nanoseconds = json.loads(sender.communicate()[0])["ns_per_datagram"]
    if reader.result()["received"] != LOAD["count"]:
        raise RuntimeError(f"{name}: the reader did not get everything")
    return nanoseconds


def main(exp: Experiment) -> None:
    after_drop(exp, "no_drop", None)
    after_drop(exp, "raw_drop", RAW)
    after_drop(exp, "ingress_drop", INGRESS)
    igmp_survives(exp)
    on_a_bridge_port(exp)

    source, relay = pair()
    with programs("pace.c", "relay.c") as (pace, program):
        rounds = alternating(list(COSTS), ROUNDS, lambda name: cost(pace, program, source, relay, name))
    for name in COSTS:
        exp.measure(f"{name}_ns", statistics.median(one[name] for one in rounds))
    for name in ("all_raw_drop", "all_ingress_drop"):
        exp.measure(f"{name}_saves_ns", statistics.median(one["all"] - one[name] for one in rounds))
    below = statistics.median(one["ip"] - one["all_ingress_drop"] for one in rounds)
    exp.measure("all_ingress_drop_below_ip_ns", below)

    exp.claim(
        "only-all-sees-what-ingress-drops",
        "after an ingress drop ETH_P_ALL still sees everything, ETH_P_IP and the IP stack nothing",
        "ingress_drop_seen_by_all == 10 and ingress_drop_seen_by_ip + ingress_drop_seen_by_ip_stack == 0",
    )
    exp.claim(
        "raw-drop-spares-both-taps",
        "a drop in raw prerouting is behind both taps and before the IP stack's lookup",
        "raw_drop_seen_by_all == 10 and raw_drop_seen_by_ip == 10 and raw_drop_seen_by_ip_stack == 0",
    )
    exp.claim(
        "control",
        "control: without a drop both taps and the IP stack see everything",
        "no_drop_seen_by_all == 10 and no_drop_seen_by_ip == 10 and no_drop_seen_by_ip_stack == 10",
    )
    exp.claim(
        "igmp-is-not-dropped",
        "with the group's UDP dropped at ingress the membership is still answered for",
        "query_answered_with_ingress_drop == 1",
    )
    exp.claim(
        "only-all-sees-a-bridge-port",
        "on a port of a bridge ETH_P_ALL sees everything and ETH_P_IP nothing",
        "bridge_port_seen_by_all == 10 and bridge_port_seen_by_ip == 0",
    )
    exp.claim(
        "ingress-drop-pays",
        "ETH_P_ALL with an ingress drop receives for less than without one, and for less than ETH_P_IP",
        "all_ingress_drop_saves_ns > 50 and all_ingress_drop_below_ip_ns > 50",
    )


if __name__ == "__main__":
    run(main, __file__)
