"""Who else could do it: kernel forwarding, an nftables rewrite, socat, and the shortest loop in C."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

from topology import IDLE_GROUP, IN_GROUP, IN_PORT, OUT_GROUP, OUT_PORT, SOURCE
from way import START_SECONDS, Running, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from way import Place
    from workloads import Workload

RELAY_OUT = "198.51.100.1"
VIFS = 31  # the kernel has 32 virtual interfaces (linux/mroute.h), one of them the input


def _ready(child: subprocess.Popen[str]) -> None:
    line = child.stdout.readline().strip() if child.stdout else ""
    if line != "ready":
        raise RuntimeError(f"a relay did not start: {line or child.wait()}")


def _single(work: Workload, name: str) -> None:
    if work.streams > 1 or work.outputs > 1 or work.idle_rules:
        raise UnsupportedError(f"{name} relays one stream to one output")


def _ipv4(work: Workload) -> None:
    if work.ipv6:
        raise UnsupportedError("set up for IPv4 alone")


def plain_c(way: str) -> Callable[[Place, Workload], Running]:
    """experiments/lib/relay.c: the shortest loop there can be, nothing looked up, nothing checked, nothing counted."""

    def start(place: Place, work: Workload) -> Running:
        _ipv4(work)
        _single(work, "the C loop")
        child = place.site.relay.popen(
            *(*place.pin(), place.programs["relay"]),
            *("all", "3", "1", "in0", str(IN_GROUP), str(IN_PORT), way, "16", "out0", str(OUT_GROUP), str(OUT_PORT)),
            "0",
            stdout=subprocess.PIPE,
        )
        _ready(child)
        return Running([child])

    return start


def smcroute(*, joins: bool) -> Callable[[Place, Workload], Running]:
    """Kernel forwarding. It cannot change the group, so the sink counts that of the input.

    With *joins* the kernel hands each datagram to itself, too: what any network with a snooping switch demands.
    Without, forwarding is all there is: only where a switch has been told by hand to send everything here.
    """

    def start(place: Place, work: Workload) -> Running:
        _ipv4(work)
        if work.outputs > VIFS:
            raise UnsupportedError("the kernel has 32 virtual interfaces, and one output each")
        if work.idle_rules > 1000:
            raise UnsupportedError("not tried with more than 1000 routes")
        site, lines = place.site, []
        links = [f"out{i}" for i in range(work.outputs)]
        lines += [f"phyint {link} enable" for link in ("in0", *links)]
        groups = [IN_GROUP + i for i in range(work.streams)] + [IDLE_GROUP + i for i in range(work.idle_rules)]
        for group in groups:
            if joins:
                lines.append(f"mgroup from in0 group {group}")
            lines.append(f"mroute from in0 source {SOURCE} group {group} to {' '.join(links)}")
        file = place.folder / "smcroute.conf"
        file.write_text("\n".join(lines) + "\n")
        name = place.folder.name
        child = site.relay.popen(
            *("smcrouted", "-n", "-N", "-l", "err", "-i", name, "-f", str(file)),
            *("-P", str(place.folder / "pid"), "-u", str(place.folder / "ipc")),
        )
        running = Running([child], IN_GROUP, work.streams, IN_PORT, copies=work.outputs)
        until = time.monotonic() + START_SECONDS
        while site.relay.run("ip", "-4", "mroute", "show").stdout.count("Iif") < len(groups):
            if time.monotonic() > until or child.poll() is not None:
                raise RuntimeError("smcrouted set up no routes")
            time.sleep(0.02)
        running.children = []  # it has done its part: the kernel forwards
        running.stop_with = child.terminate
        return running

    return start


def nft(place: Place, work: Workload) -> Running:
    """A hand-written netdev ingress chain: rewrite MACs, group, port, source and TTL, and forward to the link out.

    Joins nothing, repairs nothing, and harms datagrams without a checksum. One stream: a map would be needed for more.
    """
    _ipv4(work)
    if work.streams > 1 or work.idle_rules:
        raise UnsupportedError("written for one stream")
    mac = json.loads(place.site.relay.run("ip", "-j", "link", "show", "dev", "out0").stdout)[0]["address"]
    steps = [f"ether saddr set {mac}", f"ip saddr set {RELAY_OUT}", "ip ttl set 16", "udp sport set 20000"]
    steps.append(f"udp dport set {OUT_PORT}")
    for j in range(work.outputs):
        group = OUT_GROUP + j
        raw = group.packed
        steps.append(f"ether daddr set 01:00:5e:{raw[1] & 0x7F:02x}:{raw[2]:02x}:{raw[3]:02x}")
        steps.append(f"ip daddr set {group}")
        steps.append(f"{'fwd' if j == work.outputs - 1 else 'dup'} to out0")
    body = "\n        ".join(steps)
    place.site.relay.run(
        *("nft", "-f", "-"),
        text=f"""table netdev rewrite {{
    chain one {{
        {body}
    }}
    chain in {{
        type filter hook ingress device in0 priority 0; policy accept;
        ip daddr {IN_GROUP} udp dport {IN_PORT} jump one
    }}
}}
""",
    )
    return Running(
        groups=work.outputs,
        copies=work.outputs,
    )


def socat(place: Place, work: Workload) -> Running:
    """One process an output, as people write it."""
    _ipv4(work)
    if work.streams > 1 or work.idle_rules:
        raise UnsupportedError("socat relays one stream")
    children = [
        place.site.relay.popen(
            *(*place.pin(), "socat", "-u", "-b", "65536"),
            f"UDP4-RECV:{IN_PORT},bind={IN_GROUP},reuseaddr,ip-add-membership={IN_GROUP}:in0,rcvbuf=8388608",
            f"UDP4-DATAGRAM:{OUT_GROUP + j}:{OUT_PORT},ip-multicast-if={RELAY_OUT},ip-multicast-ttl=16",
            stderr=subprocess.DEVNULL,
        )
        for j in range(work.outputs)
    ]
    time.sleep(0.3)  # it says nothing when it is ready
    return Running(children, groups=work.outputs, copies=work.outputs)


def drop(place: Place, _work: Workload) -> Running:
    """No path at all: what arrives is counted and dropped on the relay's link. What the sender costs by itself."""
    place.site.relay.run(
        *("nft", "-f", "-"),
        text="""table netdev alone {
    chain in {
        type filter hook ingress device in0 priority 0; policy accept;
        ip daddr 239.0.0.0/8 counter drop
        ip6 daddr ff1e::/16 counter drop
    }
}
""",
    )
    return Running(copies=0)


def as_outputs(work: Workload) -> int:
    """Return the links out that kernel forwarding needs: one for each copy."""
    return min(work.outputs, VIFS)
