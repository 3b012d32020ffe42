"""Does a report with a VLAN tag, made by hand on a link without VLAN links, open a switch's port for that VLAN alone?

A bridge with VLAN filtering stands for the switch. It snoops and asks, once for all VLANs together and once in each by
itself (mcast_vlan_snooping). The control is the report that a join on the link makes: untagged.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import PRUNES_AFTER_S, Namespace, pruning_switch
from verdict import Experiment, run
from wire import SOL_PACKET, Stream, Tap

GROUP, VID, HOST, SENDER = "239.1.1.1", 100, "192.0.2.1", "192.0.2.2"
PACKET_AUXDATA, VLAN_VALID = 8, 0x10
MODES = ("together", "each")
QUERIER = "mcast_snooping 1 mcast_igmp_version 3 mcast_query_response_interval 50 mcast_startup_query_interval 50"


def tagged(frame: bytes) -> bytes:
    return frame[:12] + struct.pack("!HH", 0x8100, VID) + frame[12:]


class Vlans(Tap):
    """A tap that knows the VLAN of each frame, which the kernel takes out of it; 0 is untagged."""

    def __init__(self, ns: Namespace) -> None:
        super().__init__(ns)
        self.sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.sock.setblocking(False)

    def waiting(self) -> list[tuple[int, bytes]]:
        found = []
        while True:
            try:
                frame, control, _, _ = self.sock.recvmsg(65535, 256)
            except BlockingIOError:
                return found
            status, *_, tci, _ = struct.unpack("IIIHHHH", control[0][2][:20])
            found.append((tci & 0xFFF if status & VLAN_VALID else 0, frame))


class Site:
    """A switch with three ports, each in VLAN 1 untagged and in VLAN 100 tagged; the hosts have no VLAN link."""

    def __init__(self, mode: str) -> None:
        self.source, self.host, self.other = Namespace(), Namespace(), Namespace()
        ports = {"source": self.source, "host": self.host, "other": self.other}
        self.switch = pruning_switch(ports, options="vlan_filtering 1", wait=False)
        for port in ports:
            self.switch.run(f"bridge vlan add dev {port} vid {VID}")
        self.switch.run(f"bridge vlan add dev br0 vid {VID} self")
        self.taps = {name: Vlans(ports[name]) for name in ("host", "other")}
        if mode == "each":
            self.switch.run("ip link set br0 type bridge mcast_vlan_snooping 1")
            for vid in (1, VID):
                self.switch.run(f"bridge vlan global set dev br0 vid {vid} {QUERIER}")
                self.switch.run(f"bridge vlan global set dev br0 vid {vid} mcast_querier 1")
        time.sleep(2 * PRUNES_AFTER_S)
        self.stream = Stream(self.source, GROUP)
        self.sender = Tap(self.source)

    def queries(self) -> set[int]:
        """The VLANs in which the host was asked."""
        return {vid for vid, frame in self.taps["host"].waiting() if any(m.kind == "query" for m in wire.igmp(frame))}

    def listed(self) -> set[int]:
        """The VLANs for which the bridge has the group on the host's port."""
        found = json.loads(self.switch.run("bridge -j mdb show"))
        rows = [row for part in found for row in part.get("mdb", [])]
        return {row.get("vid", 0) for row in rows if row["grp"] == GROUP and row["port"] == "host"}

    def arrivals(self) -> dict[str, int]:
        """Ten datagrams in VLAN 100: how many arrive at each, tagged."""
        for tap in self.taps.values():
            tap.waiting()
        for sequence in range(10):
            self.sender.send(tagged(wire.udp_frame(SENDER, GROUP, 9999, self.stream.payload(sequence))))
        time.sleep(0.2)
        return {
            name: sum(vid == VID and self.stream.sequence(frame) is not None for vid, frame in tap.waiting())
            for name, tap in self.taps.items()
        }


def observe(exp: Experiment, name: str, site: Site) -> None:
    exp.text(f"{name}_listed", " ".join(map(str, sorted(site.listed()))))
    for who, count in site.arrivals().items():
        exp.count(f"{name}_at_{who}", count)


def missing() -> str:
    """Why this kernel's bridge knows no VLANs; nothing if it does."""
    probe = Namespace()
    try:
        probe.run("ip link add br0 type bridge vlan_filtering 1")
    except RuntimeError as error:
        return str(error)
    return ""


def main(exp: Experiment) -> None:
    why = missing()
    for mode in MODES:
        if not why:
            site = Site(mode)
            if mode == "each":  # in the other mode the bridge's first questions are over before the tap opens
                exp.text("each_asked_in", " ".join(map(str, sorted(site.queries()))))
            observe(exp, f"{mode}_before", site)
            speaker = Tap(site.host)
            speaker.send(wire.report(GROUP, source=HOST))
            time.sleep(0.2)
            observe(exp, f"{mode}_untagged", site)
            speaker.send(tagged(wire.report(GROUP, source=HOST)))
            time.sleep(0.2)
            observe(exp, f"{mode}_tagged", site)
    claims(exp, why)


def claims(exp: Experiment, why: str) -> None:
    for name, sentence, rule in (
        (
            "nothing-before",
            "before any report the bridge passes the VLAN's group to nobody",
            "together_before_at_host == together_before_at_other == each_before_at_host == each_before_at_other == 0",
        ),
        (
            "untagged-opens-nothing",
            "the report that a join on the link makes does not open the port for the VLAN",
            "together_untagged_at_host == each_untagged_at_host == 0",
        ),
        (
            "tagged-opens-that-port",
            "a report with the tag is listed for that VLAN, and opens the port of its sender alone",
            " and ".join(
                f"'{VID}' in {mode}_tagged_listed and {mode}_tagged_at_host == 10 and {mode}_tagged_at_other == 0"
                for mode in MODES
            ),
        ),
        (
            "asked-in-the-vlan",
            "a bridge that snoops in each VLAN by itself asks there, tagged",
            f"each_asked_in == '0 {VID}'",
        ),
    ):
        if why:
            exp.skip(name, why)
        else:
            exp.claim(name, sentence, rule)


if __name__ == "__main__":
    run(main, __file__)
