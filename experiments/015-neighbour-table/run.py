"""Is there a limit to how many groups a host can send to? Each group is an entry of the neighbour (ARP) table."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from lab import Namespace, pair
from verdict import Experiment, run

BASE = ipaddress.IPv4Address("239.1.0.0")
ROUNDS = 5
STATISTICS = Path("/proc/net/stat/arp_cache")  # of the whole machine: one table serves every namespace
LIMIT = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")


def entries_made() -> int:
    """Neighbour entries allocated since boot: hexadecimal columns, a line a CPU."""
    names, *lines = STATISTICS.read_text().splitlines()
    column = names.split().index("allocs")
    return sum(int(line.split()[column], 16) for line in lines)


def made_again_per_send(host: Namespace, groups: int) -> float:
    """Send to each group in turn, several rounds: entries made in every round but the first, for each datagram."""
    with host.socket() as sock:
        targets = [(str(BASE + n), 5000) for n in range(1, groups + 1)]
        for target in targets:
            sock.sendto(b"x", target)
        before = entries_made()
        for _ in range(ROUNDS):
            for target in targets:
                sock.sendto(b"x", target)
        return (entries_made() - before) / (ROUNDS * groups)


def main(exp: Experiment) -> None:
    if not STATISTICS.exists() or not LIMIT.exists():
        exp.skip("groups-beyond-the-limit-are-looked-up-anew", "only the first namespace shows the neighbour table")
        return
    limit = exp.count("gc_thresh3", int(LIMIT.read_text()))
    host, _ = pair()
    host.run("ip route add 224.0.0.0/4 dev eth0")
    exp.measure("entries_made_per_send_at_a_third_of_it", made_again_per_send(host, limit // 3))
    exp.measure("entries_made_per_send_at_twice_of_it", made_again_per_send(host, 2 * limit))
    exp.claim(
        "groups-beyond-the-limit-are-looked-up-anew",
        "below gc_thresh3 groups an entry is made once; beyond, for nearly every datagram",
        "entries_made_per_send_at_a_third_of_it < 0.05 and entries_made_per_send_at_twice_of_it > 0.5",
    )


if __name__ == "__main__":
    run(main, __file__)
