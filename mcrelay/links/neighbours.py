"""The neighbour (ARP) table: each destination group is an entry in it, and an overflow slows every datagram."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrelay.linux import procfs

if TYPE_CHECKING:
    from mcrelay.model.plan import PlanSpec

LIMIT = "net/ipv4/neigh/default/gc_thresh3"  # visible in the first namespace only, and valid for all
DEFAULT_LIMIT = 1024


def overflow(plan: PlanSpec, limit: int | None = None) -> str:
    """Say that *plan* has more outputs than the table holds, and the remedy; "" if it has not."""
    if limit is None:
        limit = procfs.read(LIMIT, DEFAULT_LIMIT)
    outputs = [each for rule in plan.rules if rule.enabled for each in rule.outputs]
    count = len({(each.oif, each.address) for each in outputs if each.address.is_multicast})
    if count <= limit:
        return ""
    room = 1 << (2 * count - 1).bit_length()
    return (
        f"outputs go to {count} groups, and the kernel's neighbour table has room for {limit}: beyond that each"
        f" datagram costs several times as much. Make room: sysctl -w {LIMIT}={room}"
        f" {LIMIT.replace('3', '2')}={room // 2}"
    )
