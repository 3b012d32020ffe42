"""Network namespaces, links and processes for the experiments; all of it vanishes with the process that made it.

A namespace here has no name in /run/netns: it lives as long as a file descriptor of this process, so Ctrl-C, an
exception and even SIGKILL leave nothing behind, and two runs at a time cannot meet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
SO_RCVBUFFORCE = 33

LIB = Path(__file__).resolve().parent
libc = ctypes.CDLL(None, use_errno=True)


def check(rc: int, what: str) -> int:
    if rc == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return rc


def enter_privileged() -> None:
    """Root goes on as it is; anyone else starts again as root of a user and network namespace of their own."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
            print("this kernel does not let ordinary users make namespaces: run it as root", file=sys.stderr)
            sys.exit(2)
        os.execvp("unshare", ["unshare", "-rn", sys.executable, *sys.argv])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))


def die_with_parent() -> None:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Namespace:
    """One network namespace. `with ns:` moves this process into it; sockets and children made there stay there."""

    def __init__(self, name: str = "", *, ipv6: bool = False) -> None:
        """A new one, or the one that `ip netns` knows under the name."""
        self._outside: list[int] = []
        self.fd = os.open(f"/run/netns/{name}", os.O_RDONLY) if name else self._new(ipv6)

    @staticmethod
    def _new(ipv6: bool) -> int:
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            check(libc.unshare(CLONE_NEWNET), "unshare: new network namespace")
            made = os.open("/proc/self/ns/net", os.O_RDONLY)
            if not ipv6:  # no neighbour discovery or MLD among the frames that we count
                with contextlib.suppress(OSError):
                    for scope in ("all", "default"):
                        Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
        finally:
            check(libc.setns(home, CLONE_NEWNET), "setns")
            os.close(home)
        return made

    @property
    def path(self) -> str:
        """What `ip link ... netns` accepts in place of a name."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def __enter__(self) -> Namespace:
        self._outside.append(os.open("/proc/self/ns/net", os.O_RDONLY))
        check(libc.setns(self.fd, CLONE_NEWNET), "setns")
        return self

    def __exit__(self, *_: object) -> None:
        outside = self._outside.pop()
        check(libc.setns(outside, CLONE_NEWNET), "setns")
        os.close(outside)

    def run(self, command: str, *, stdin: str | None = None) -> str:
        """Run one command line in the namespace and return what it printed."""
        with self:
            done = subprocess.run(command.split(), input=stdin, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def popen(self, command: list[str], **options: object) -> subprocess.Popen[str]:
        with self:
            return subprocess.Popen(command, text=True, preexec_fn=die_with_parent, **options)

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        with self:
            return socket.socket(family, kind, protocol)

    def index(self, ifname: str) -> int:
        with self:
            return socket.if_nametoindex(ifname)

    def proc(self, name: str) -> str:
        """A file of /proc/net."""
        with self:
            return Path("/proc/self/net", name).read_text()

    def sysctl(self, name: str, value: int | str | None = None) -> str:
        path = Path("/proc/sys", *name.split("/"))
        with self:
            if value is not None:
                path.write_text(str(value))
            return path.read_text().strip()

    def nft(self, rules: str) -> None:
        self.run("nft -f -", stdin=rules)

    def counter(self, name: str) -> int:
        """A counter as `nstat` names it, such as UdpIgnoredMulti."""
        lines = (self.proc("snmp") + self.proc("netstat")).splitlines()
        for heads, values in zip(lines[::2], lines[1::2], strict=True):
            group = heads.partition(":")[0]
            for head, value in zip(heads.split()[1:], values.split()[1:], strict=True):
                if group + head == name:
                    return int(value)
        raise RuntimeError(f"this kernel has no counter {name}")

    def joined(self, ifname: str) -> dict[str, str]:
        """/proc/net/igmp: the groups of one interface, each with its number of users."""
        groups, current = {}, ""
        for line in self.proc("igmp").splitlines()[1:]:
            fields = line.split()
            if not line.startswith("\t"):
                current = fields[1].rstrip(":")
            elif current == ifname:
                groups[socket.inet_ntoa(struct.pack("=I", int(fields[0], 16)))] = fields[1]
        return groups

    def mac_filter(self, ifname: str) -> dict[str, int]:
        """`ip maddr`: the multicast MAC addresses the device was told to accept, each with its number of users."""
        found = {}
        for line in self.run(f"ip maddr show dev {ifname}").splitlines():
            fields = line.split()
            if fields[:1] == ["link"]:
                found[fields[1]] = int(fields[3]) if "users" in fields else 1
        return found


def veth(left: Namespace, left_name: str, right: Namespace, right_name: str) -> None:
    left.run(f"ip link add {left_name} type veth peer name {right_name} netns {right.path}")
    left.run(f"ip link set {left_name} up")
    right.run(f"ip link set {right_name} up")


def pair(*, ipv6: bool = False) -> tuple[Namespace, Namespace]:
    """The smallest topology: `source` (eth0, 192.0.2.2) and `relay` (eth0, 192.0.2.1) on one cable."""
    source, relay = Namespace(ipv6=ipv6), Namespace(ipv6=ipv6)
    veth(source, "eth0", relay, "eth0")
    source.run("ip address add 192.0.2.2/24 dev eth0")
    relay.run("ip address add 192.0.2.1/24 dev eth0")
    return source, relay


QUERY_RESPONSE_S = 0.5


PRUNES_AFTER_S = 2 * QUERY_RESPONSE_S + 0.3


def pruning_switch(ports: dict[str, Namespace], *, version: int = 3, options: str = "", wait: bool = True) -> Namespace:
    """A bridge with snooping and a querier that has begun to prune; every host gets an eth0 on a port of that name.

    The querier is switched on last: with it in the first command the bridge keeps its default intervals and floods
    for ten seconds, and an experiment on such a bridge would prove nothing.
    """
    switch = Namespace()
    centiseconds = int(QUERY_RESPONSE_S * 100)
    switch.run(
        "ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 1 "
        f"mcast_query_response_interval {centiseconds} mcast_startup_query_interval {centiseconds} "
        f"mcast_last_member_interval 20 mcast_igmp_version {version} {options}"
    )
    for port, host in ports.items():
        veth(switch, port, host, "eth0")
        switch.run(f"ip link set {port} master br0")
    switch.run("ip link set br0 up")
    switch.run("ip link set br0 type bridge mcast_querier 1")
    if wait:
        time.sleep(PRUNES_AFTER_S)
    return switch


def compiled(source: str, folder: Path) -> str:
    """The program made from one C file of this library."""
    program = folder / Path(source).stem
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(LIB / source)]
    subprocess.run(command, check=True)
    return str(program)


@contextlib.contextmanager
def programs(*sources: str):
    """The compiled forms of C files of this library, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="mcrelay-experiment-") as folder:
        yield [compiled(source, Path(folder)) for source in sources]


def pinned(core: int, command: list[str]) -> list[str]:
    """The command bound to a core, where the machine has that many and a choice."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[core]), *command] if len(cores) > core else command


def big_receive_buffer(sock: socket.socket, size: int) -> int:
    """As large as the kernel lets us; the forced form needs CAP_NET_ADMIN outside any user namespace."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
