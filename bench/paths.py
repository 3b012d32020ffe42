"""The paths under test, by name."""

from __future__ import annotations

from dataclasses import replace

import peers
from product import Variant, mcrelay
from way import Way

BURST_RING = "256MiB"  # holds 50 000 datagrams of 1316 bytes and what they are kept in, twice

MCRELAY = Way("mcrelay", "mcrelay", mcrelay(Variant()))
EXCLUSIVE = Way("exclusive", "mcrelay, exclusive", mcrelay(Variant(exclusive=True)))
GRO = Way("gro", "mcrelay, gro", mcrelay(Variant(gro=True)))
EXCLUSIVE_GRO = Way("exclusive-gro", "mcrelay, exclusive and gro", mcrelay(Variant(exclusive=True, gro=True)))
# A ring is shared out, and one of two workers has the core of the sender: a stall is longer, and so is the ring.
TWO_WORKERS = Way("workers-2", "mcrelay, 2 workers", mcrelay(Variant(workers=2, ring="128MiB")), both_cores=True)
LATENCY = Way("latency", "mcrelay, latency profile", mcrelay(Variant(latency=True, ring=BURST_RING)))
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
