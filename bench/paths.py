"""The paths under test, by name."""

from __future__ import annotations

from dataclasses import replace

import peers
from product import Variant, mcrelay
from way import Way

BURST_RING = "256MiB"  # blocks: holds 50 000 datagrams of 1316 bytes and what they are kept in, twice
SLOT_RING = "1GiB"  # slots, which hold a superframe each: 40 ms of a burst at 400 000/s, as long as a stall of a VM
STALL_RING = "128MiB"  # at the highest rate of superframes, 1 GB/s, what comes within 0.1 s; the default is 0.03 s

MCRELAY = Way("mcrelay", "mcrelay", mcrelay(Variant()))
EXCLUSIVE = Way("exclusive", "mcrelay, exclusive", mcrelay(Variant(exclusive=True)))
KERNEL = Way("kernel", "mcrelay, kernel engine", mcrelay(Variant(kernel=True)), both_cores=True)
KERNEL_EXCLUSIVE = Way(
    "kernel-exclusive", "mcrelay, kernel engine, exclusive", mcrelay(Variant(kernel=True, exclusive=True)),
    both_cores=True,
)  # fmt: skip
HEALTHY = Way("healthy", "mcrelay, health and metrics", mcrelay(Variant(health=True)))
WATCHED = Way("watched", "mcrelay, health, metrics and a capture", mcrelay(Variant(health=True, captured=("s0",))))
SENT_WATCHED = Way(
    "sent-watched", "mcrelay, health, metrics and a capture of what is sent, too",
    mcrelay(Variant(health=True, captured=("s0", "--sent"))),
)  # fmt: skip
LINK_WATCHED = Way(
    "link-watched", "mcrelay, health, metrics and a capture of its input",
    mcrelay(Variant(health=True, captured=("in0",))),
)  # fmt: skip
GRO = Way("gro", "mcrelay, gro", mcrelay(Variant(gro=True)))
EXCLUSIVE_GRO = Way("exclusive-gro", "mcrelay, exclusive and gro", mcrelay(Variant(exclusive=True, gro=True)))
ONE_WORKER = Way("workers-1", "mcrelay, 1 worker", mcrelay(Variant(ring=STALL_RING)))
TWO_WORKERS = Way("workers-2", "mcrelay, 2 workers", mcrelay(Variant(workers=2, ring=STALL_RING)), both_cores=True)
LATENCY = Way("latency", "mcrelay, latency profile", mcrelay(Variant(latency=True, ring=SLOT_RING)))
THROUGHPUT = Way("throughput", "mcrelay, throughput profile", mcrelay(Variant(ring=BURST_RING)))
SINGLY = Way("burst-1", "mcrelay, burst = 1 (one send a datagram)", mcrelay(Variant(burst=1)))
C_SEND = Way("c-send", "plain C loop, send()", peers.plain_c("send"), program="gcc", package="gcc")
C_RUNS = Way("c-runs", "plain C loop, UDP_SEGMENT runs of 16", peers.plain_c("segment"), program="gcc", package="gcc")
SMCROUTE = Way(
    "smcroute", "smcroute", peers.smcroute(joins=True),
    both_cores=True, program="smcrouted", package="smcroute", outs=peers.as_outputs,
)  # fmt: skip
SMCROUTE_BARE = Way(
    "smcroute-bare", "smcroute that joins nothing", peers.smcroute(joins=False),
    both_cores=True, program="smcrouted", package="smcroute", outs=peers.as_outputs,
)  # fmt: skip
NFT = Way("nft", "nftables ingress rewrite + fwd", peers.nft, both_cores=True, program="nft", package="nftables")
SOCAT = Way("socat", "socat", peers.socat, program="socat", package="socat")
DROP = Way("drop", "(sender alone)", peers.drop, both_cores=True)


def by_device(way: Way) -> Way:
    """Return the path with a link out that takes superframes whole, as a NIC with USO does."""
    return replace(way, name=f"{way.name}+uso", title=f"{way.title} (device segments)", device_segments=True)
