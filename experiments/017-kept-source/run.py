"""How does a datagram leave with the source that it came with, and what does each way cost?

A UDP socket with IP_TRANSPARENT takes the address as a control message, and the port is its own. A raw socket takes
any port, in a UDP header written by hand; IP_HDRINCL and AF_PACKET take everything. First the relay's CPU time per
datagram, in turn; then what each way delivers, from which source, whether the host's own nft output rules see it, and
what becomes of a datagram larger than the link's MTU.
"""

from __future__ import annotations

import select
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import big_receive_buffer, programs
from verdict import Experiment, alternating, run
from ways import ROUNDS, TO, Site, Ways

WAYS: Ways = {
    "send": ("send", 1, "off"),
    "segment": ("segment", 16, "off"),
    "transparent": ("kept", 16, "off"),
    "transparent_runs": ("keptrun", 16, "off"),
    "raw": ("raw", 16, "off"),
    "hdrincl": ("hdrincl", 16, "off"),
    "packet": ("packet", 16, "off"),
}
KEEPERS = ("transparent", "transparent_runs", "raw", "hdrincl")
RULES = "table ip t { chain c { type filter hook output priority 0; ip daddr 239.2.2.2 counter; }; }"
SOURCE = "192.0.2.2"
COUNT, LARGE = 1000, 3000


def deliver(site: Site, name: str, size: int) -> list[tuple[str, int]]:
    """The sources of what reaches a socket in the sink."""
    load = {"rate": 5_000, "count": COUNT, "burst": 50, "size": size}
    relay, stream = site.start(name, load)
    with site.sink.socket() as sock:
        big_receive_buffer(sock, 16 << 20)
        sock.bind(TO)
        wire.join(sock, site.sink, TO[0])
        sender = stream.paced(site.pace, **load)
        sources = []
        end = time.monotonic() + 1
        while select.select([sock], [], [], max(0.0, end - time.monotonic()))[0] and len(sources) < COUNT:
            payload, source = sock.recvfrom(65535)
            if payload[:8] == stream.run_id:
                sources.append((source[0], source[1]))
                end = time.monotonic() + 1
        sender.wait()
    relay.result()
    port = stream.sock.getsockname()[1]
    return [(address, int(each == port)) for address, each in sources]


def seen_by_nft(site: Site) -> int:
    """Packets that the host's output chain counts."""
    words = site.relay.run("nft list chain ip t c").split()
    return int(words[words.index("packets") + 1])


def what_arrives(exp: Experiment, site: Site) -> None:
    site.relay.nft(RULES)
    for name in WAYS:
        before = seen_by_nft(site)
        found = deliver(site, name, 1316)
        exp.count(f"{name}_delivered", len(found))
        exp.count(f"{name}_from_its_address", sum(address == SOURCE for address, _ in found))
        exp.count(f"{name}_from_its_port", sum(same for _, same in found))
        exp.count(f"{name}_seen_by_nft", int(seen_by_nft(site) > before))
    site.relay.nft("delete table ip t")
    for link, ns in (("eth0", site.source), ("eth0", site.relay)):
        ns.run(f"ip link set {link} mtu 9000")
    for name in ("transparent", "raw", "hdrincl"):
        exp.count(f"{name}_delivers_larger_than_the_mtu", len(deliver(site, name, LARGE)))


def main(exp: Experiment) -> None:
    with programs("pace.c", "relay.c") as (pace, program):
        site = Site(pace, program, WAYS)
        rounds = alternating(list(WAYS), ROUNDS, site.cost)
        for name in WAYS:
            exp.measure(f"{name}_cpu_ns", statistics.median(one[name] for one in rounds))
            if name != "send":
                exp.measure(f"{name}_over_send", statistics.median(one[name] / one["send"] for one in rounds))
        what_arrives(exp, site)
    exp.claim(
        "the-source-is-kept",
        "each of these ways delivers every datagram from the address that it came from",
        " and ".join(f"{name}_delivered == {COUNT} and {name}_from_its_address == {COUNT}" for name in KEEPERS),
    )
    exp.claim(
        "only-raw-keeps-any-port",
        "a raw socket sends from every port, a UDP socket from its own",
        f"raw_from_its_port == {COUNT} and hdrincl_from_its_port == {COUNT} and transparent_from_its_port == 0",
    )
    exp.claim(
        "the-hosts-firewall-sees-them",
        "all but AF_PACKET pass the host's own output chain",
        " and ".join(f"{name}_seen_by_nft == 1" for name in KEEPERS) + " and packet_seen_by_nft == 0",
    )
    exp.claim(
        "hdrincl-does-not-fragment",
        "with IP_HDRINCL nothing larger than the MTU leaves; the other two are cut by the kernel",
        f"hdrincl_delivers_larger_than_the_mtu == 0 and raw_delivers_larger_than_the_mtu == {COUNT} "
        f"and transparent_delivers_larger_than_the_mtu == {COUNT}",
    )
    exp.claim(
        "runs-cost-what-they-cost-anyway",
        "a run with a kept address costs at most 1.3 of a run without",
        "transparent_runs_over_send < 1.3 * segment_over_send",
    )
    exp.claim(
        "runs-beat-a-raw-socket",
        "a run from a socket of its own costs less than 0.8 of datagrams by a raw socket",
        "transparent_runs_over_send < 0.8 * raw_over_send",
    )


if __name__ == "__main__":
    run(main, __file__)
