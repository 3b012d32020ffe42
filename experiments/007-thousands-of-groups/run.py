"""How do memberships scale: 20, 21, 1000 and 5000 groups; which limit is hit first, and how does it show?"""

from __future__ import annotations

import errno
import ipaddress
import random
import re
import resource
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, big_receive_buffer, pair, pruning_switch
from verdict import Experiment, run
from wire import MEMBER, Stream, Tap

SIZES = (20, 21, 1000, 5000)
SAMPLE = 50
REPORT_WAIT_S = 2.0
FEW_DESCRIPTORS = 64
BASE = ipaddress.IPv4Address("239.1.0.0")


def groups(count: int) -> list[str]:
    return [str(BASE + n) for n in range(1, count + 1)]


class Pool:
    """Helper sockets, each filled up to the kernel's limit; a refusal opens the next one, never twice in a row."""

    def __init__(self, relay: Namespace) -> None:
        self.relay, self.index = relay, relay.index("eth0")
        self.sockets: list[socket.socket] = []
        self.refusals = 0

    def join(self, group: str) -> None:
        request = wire.membership(group, self.index)
        for _ in range(2):
            try:
                if self.sockets:
                    self.sockets[-1].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
                    return
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.ENOMEM):
                    raise
                self.refusals += 1
            self.sockets.append(self.relay.socket())
        raise RuntimeError("a fresh socket refuses its first membership")

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def kernel_memory() -> int:
    """Bytes in the kernel's slabs, the whole machine's: good for megabytes, not for kilobytes."""
    return int(re.search(r"^Slab:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)[1]) * 1024


def pooled(exp: Experiment, count: int) -> None:
    source, relay = pair()
    with Tap(source) as far_end, Tap(relay) as capture:
        big_receive_buffer(far_end.sock, 8 << 20)
        memory, began, pool = kernel_memory(), time.monotonic(), Pool(relay)
        for group in groups(count):
            pool.join(group)
        if count == SIZES[-1]:  # fewer take too little to be told from noise
            exp.measure(f"seconds_to_join_{count}", time.monotonic() - began)
            used = max(1.0, (kernel_memory() - memory) / count)
            exp.measure(f"kernel_bytes_per_group_{count}", used)
        exp.count(f"sockets_for_{count}", len(pool.sockets))
        exp.count(f"refusals_for_{count}", pool.refusals)
        heard = far_end.listen(REPORT_WAIT_S)
        wanted = set(groups(count))
        exp.count(f"groups_reported_on_the_wire_{count}", len(wanted & {m.group for m in heard if m.kind in MEMBER}))
        exp.count(f"groups_joined_{count}", len(wanted & relay.joined("eth0").keys()))
        sample = random.Random(1).sample(groups(count), min(SAMPLE, count))
        exp.count(
            f"sampled_groups_arriving_{count}", sum(Stream(source, g).arrive_at(capture, 1, 0.005) for g in sample)
        )
        began = time.monotonic()
        pool.close()
        if count == SIZES[-1]:
            exp.measure(f"seconds_to_close_{count}", time.monotonic() - began)
        exp.count(f"groups_left_after_close_{count}", len(wanted & relay.joined("eth0").keys()))


def one_socket(relay: Namespace, most: int) -> tuple[int, str]:
    """How many groups one socket takes, and what it says to the next."""
    request, index = wire.membership, relay.index("eth0")
    with relay.socket() as sock:
        for done, group in enumerate(groups(most)):
            try:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request(group, index))
            except OSError as error:
                return done, errno.errorcode[error.errno]
    return most, "none"


def limits(exp: Experiment) -> None:
    _, relay = pair()
    limit = exp.count("igmp_max_memberships", int(relay.sysctl("net/ipv4/igmp_max_memberships")))
    taken, code = one_socket(relay, limit + 1)
    exp.count("one_socket_took", taken)
    exp.text("then_it_said", code)

    relay.sysctl("net/ipv4/igmp_max_memberships", 1_000_000)
    taken, code = one_socket(relay, 200_000)
    optmem = Path("/proc/sys/net/core/optmem_max")  # older kernels show it in the first namespace only
    if optmem.exists():
        exp.count("optmem_max", int(optmem.read_text()))
    exp.count("one_socket_took_without_that_limit", taken)
    exp.text("then_without_that_limit_it_said", code)

    relay.sysctl("net/ipv4/igmp_max_memberships", 0)
    exp.count("fresh_socket_took_at_limit_0", one_socket(relay, 1)[0])
    relay.sysctl("net/ipv4/igmp_max_memberships", limit)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, hard))
    pool, code = Pool(relay), "none"
    try:
        for group in groups(5000):
            pool.join(group)
    except OSError as error:
        code = errno.errorcode[error.errno]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    exp.text(f"pool_said_at_{FEW_DESCRIPTORS}_descriptors", code)
    pool.close()


def switch_table(exp: Experiment, most: int) -> None:
    """The limit nobody on the host can see: the table of the switch. This one gives up pruning altogether."""
    source, relay = Namespace(), Namespace()
    switch = pruning_switch({"to-source": source, "to-relay": relay}, options=f"mcast_hash_max {most}")
    relay.run("ip address add 192.0.2.1/24 dev eth0")
    source.run("ip address add 192.0.2.2/24 dev eth0")
    stranger = Stream(source, "239.9.9.9")
    with Tap(relay) as tap:
        exp.count("unjoined_through_switch_before", stranger.arrive_at(tap))
        pool = Pool(relay)
        for group in groups(2 * most):
            pool.join(group)
        time.sleep(1.5)
        exp.count("switch_still_snoops", "mcast_snooping 1" in switch.run("ip -d link show br0"))
        exp.count("unjoined_through_switch_when_full", stranger.arrive_at(tap))
        pool.close()


def main(exp: Experiment) -> None:
    for count in SIZES:
        pooled(exp, count)
    limits(exp)
    switch_table(exp, 256)

    exp.claim(
        "twenty-per-socket",
        "one socket takes igmp_max_memberships groups and says ENOBUFS to the next",
        "one_socket_took == igmp_max_memberships and then_it_said == 'ENOBUFS'",
    )
    exp.claim(
        "pool-holds-any-number",
        "a pool of sockets joins every group: reported on the wire, arriving, and gone after close",
        " and ".join(
            f"sockets_for_{n} == {-(-n // 20)} and groups_joined_{n} == {n} and groups_reported_on_the_wire_{n} == {n} "
            f"and sampled_groups_arriving_{n} == {min(SAMPLE, n)} and groups_left_after_close_{n} == 0"
            for n in SIZES
        ),
    )
    exp.claim(
        "cheap-enough",
        "5000 groups are joined within 5 seconds and cost less than 8 KiB of kernel memory each",
        "seconds_to_join_5000 < 5 and kernel_bytes_per_group_5000 < 8192",
    )
    if "optmem_max" in exp.numbers:
        exp.claim(
            "raising-the-sysctl-hits-optmem",
            "without that limit one socket stops when its memberships fill optmem_max, again with ENOBUFS",
            "one_socket_took_without_that_limit > 20 and 32 <= optmem_max / one_socket_took_without_that_limit <= 96 "
            "and then_without_that_limit_it_said == 'ENOBUFS'",
        )
    else:
        exp.skip("raising-the-sysctl-hits-optmem", "optmem_max cannot be read here")
    exp.claim(
        "a-fresh-socket-can-refuse",
        "with the limit at 0 even a new socket refuses, so opening another must not loop",
        "fresh_socket_took_at_limit_0 == 0",
    )
    exp.claim(
        "descriptors-show-as-EMFILE",
        "running out of descriptors shows as EMFILE, not as a refused join",
        f"pool_said_at_{FEW_DESCRIPTORS}_descriptors == 'EMFILE'",
    )
    exp.claim(
        "a-full-switch-floods",
        "a bridge whose table is full stops snooping and floods: groups that nobody joined arrive",
        "unjoined_through_switch_before == 0 and switch_still_snoops == 0 and unjoined_through_switch_when_full == 10",
    )


if __name__ == "__main__":
    run(main, __file__)
