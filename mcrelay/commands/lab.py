"""Network namespaces for the demo and the tests: built in a fraction of a second, and always removed.

Works as root and, without privilege, under ``unshare -rnm`` with a tmpfs on /run (`ip netns` keeps its names there).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from mcrelay.errors import OperationError
from mcrelay.linux.programs import search_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")

NAMES = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # setns(2): linux/sched.h
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # netdevice(7): linux/sockios.h, linux/if.h
PRUNED_AFTER_SECONDS = 0.15  # a little more than one query response interval after the querier is switched on

SOURCE_ADDRESS = "192.168.168.55"  # an appliance to which nothing has a route
RELAY_IN_ADDRESS = "192.0.2.1"
RELAY_OUT_ADDRESS = "198.51.100.1"
SINK_ADDRESS = "198.51.100.2"
SOURCE_ADDRESS6 = "2001:db8:168::55"  # as unroutable
RELAY_IN_ADDRESS6 = "2001:db8:1::1"

QUIET = ("accept_dad", "accept_ra", "router_solicitations")  # sysctls of IPv6 links that a lab has at 0

_serial = itertools.count(1)


class LabError(OperationError):
    """A command that builds or uses a namespace failed; the text holds the command and what it said."""


class Namespace:
    """One named network namespace. Any thread may call any method; none moves the caller's thread elsewhere."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._children: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"

    def command(self, *arguments: str) -> list[str]:
        """Spell the command so that it runs inside; `ip netns exec` replaces itself by it, so the pid is its own."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(
        self, *arguments: str, check: bool = True, timeout: float | None = 60, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end, with *text* as its input. LabError if it fails, unless *check* is off."""
        return _run(self.command(*arguments), check=check, timeout=timeout, text=text)

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command inside. The lab kills it at its end if it still runs."""
        child = subprocess.Popen(self.command(*arguments), **{"text": True, "env": _environment(), **options})
        self._children.append(child)
        return child

    def ip(self, *lines: str) -> None:
        """Run any number of ``ip`` commands inside, in one process: ``ns.ip("link set lo up", "route add …")``."""
        _batch(["ip", "-n", self.name], lines)

    def call(self, function: Callable[[], T]) -> T:
        """Call *function* inside, on a thread of its own that ends with it.

        setns(2) moves one thread only. Its sockets and child processes stay in the namespace.
        """
        result: list[T] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                _enter(NAMES / self.name)
                result.append(function())
            except BaseException as error:  # noqa: BLE001  the caller's thread raises it
                failure.append(error)

        thread = threading.Thread(target=inside, name=f"in {self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        """Open a socket that belongs to this namespace; the caller closes it."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def sysctl(self, settings: dict[str, int | str]) -> None:
        """Write kernel settings; keys come without ``net.``. /proc/sys/net shows each thread its own namespace."""

        def write() -> None:
            for key, value in settings.items():
                path = Path("/proc/sys/net", *key.split("."))
                try:
                    path.write_text(str(value))
                except OSError as error:
                    raise LabError(f"sysctl net.{key}={value} in {self.name}: {error.strerror}") from error

        self.call(write)

    def wait_until_up(self, seconds: float = 5) -> None:
        """Wait until every link inside is up: raised, with carrier, and with a queue that no longer drops all."""
        until = time.monotonic() + seconds
        while waiting := [
            link["ifname"]
            for link in json.loads(_run(["ip", "-n", self.name, "-j", "link", "show"]).stdout)
            if link["operstate"] != "UP" and link["ifname"] != "lo"
        ]:
            if time.monotonic() > until:
                raise LabError(f"{', '.join(waiting)} in {self.name} did not come up within {seconds} s")
            time.sleep(0.01)

    def ifindex(self, link: str) -> int:
        """Return the number of the link named so inside."""
        return self.call(functools.partial(socket.if_nametoindex, link))

    def kill(self) -> None:
        """Kill every child that ``popen`` started, and reap it."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
        for child in self._children:
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        self._children.clear()


class Lab:
    """Namespaces, and links between them, that exist until the end of the ``with`` block in every case."""

    def __init__(self) -> None:
        self.prefix = f"mcr-{os.getpid()}-{next(_serial)}"
        self.namespaces: list[Namespace] = []
        self._numbers = itertools.count(11)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, *names: str, ipv6: bool = False) -> tuple[Namespace, ...]:
        """Make namespaces, with lo up. Without *ipv6* they have none, because its own traffic would only disturb.

        With it, addresses can be used at once: nobody else could have them, so nobody is asked (RFC 4862, 5.1).
        """
        made = tuple(Namespace(f"{self.prefix}-{name}") for name in names)
        self.namespaces += made  # before they exist: an interrupted start is cleaned up too
        _batch(["ip"], [f"netns add {namespace.name}" for namespace in made])
        for namespace in made:
            if ipv6:
                namespace.sysctl({f"ipv6.conf.default.{key}": 0 for key in QUIET})
            else:
                namespace.sysctl({"ipv6.conf.all.disable_ipv6": 1, "ipv6.conf.default.disable_ipv6": 1})
            namespace.call(_raise_loopback)
        return made

    def veth(self, *pairs: tuple[Namespace, str, Namespace, str], mtu: int = 1500) -> None:
        """Join namespaces by veth pairs: (namespace, link name, namespace, link name). The links are left down.

        Every link of a lab has its own number. If both ends have the same one, the kernel takes them for plain devices,
        and may wait a second before their carrier counts (linux/net/core/link_watch.c).
        """
        lines = []
        for a, left, b, right in pairs:
            here, there = (f"index {next(self._numbers)} mtu {mtu} netns {end.name}" for end in (a, b))
            lines.append(f"link add {left} {here} type veth peer name {right} {there}")
        _batch(["ip"], lines)

    def close(self) -> None:
        """Kill what runs inside and remove every namespace; Ctrl-C waits until that is done."""
        held = {signal.SIGINT, signal.SIGTERM}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, held)  # the ip below inherits it
        try:
            for namespace in self.namespaces:
                namespace.kill()
            there = [namespace.name for namespace in self.namespaces if (NAMES / namespace.name).exists()]
            self.namespaces.clear()
            if there:
                _batch(["ip", "-force"], [f"netns delete {name}" for name in there])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(slots=True)
class StandardLab:
    """source --- switch --- relay --- sink, each in its own namespace.

    ::

        source eth0 ---- to-source [br0] to-relay ---- in0 relay out0 ---- eth0 sink
        192.168.168.55/24   (switch)            192.0.2.1/24   198.51.100.1/24  198.51.100.2/24
        2001:db8:168::55/64                     2001:db8:1::1/64   2001:db8:100::1/64   2001:db8:100::2/64

    The relay has no route to the source and rp_filter 1, so the kernel would never route this. The bridge snoops:
    once ``settle`` has returned, what nobody has joined does not reach in0. More sinks hang on out1 (198.18.1.0/24,
    2001:db8:101::/64), … Without ``ipv6`` there are no IPv6 addresses.
    """

    lab: Lab
    source: Namespace
    switch: Namespace
    relay: Namespace
    sinks: tuple[Namespace, ...]
    querying_since: float

    @property
    def sink(self) -> Namespace:
        """The first sink."""
        return self.sinks[0]

    def settle(self) -> None:
        """Wait until every link is up and the bridge prunes: nothing arrives before a join."""
        self.wait_until_up()
        self.wait_until_pruned()

    def wait_until_up(self) -> None:
        """Wait until every link is up and the bridge forwards.

        A port forwards only once the kernel has noticed its carrier, up to a second late (net/core/link_watch.c).
        """
        for namespace in self.lab.namespaces:
            namespace.wait_until_up()
        while not forwarding(self.switch):
            time.sleep(0.02)

    def wait_until_pruned(self) -> None:
        """Wait until the bridge prunes: what it hears of joins meanwhile, it keeps."""
        time.sleep(max(0.0, self.querying_since + PRUNED_AFTER_SECONDS - time.monotonic()))

    def mdb(self) -> dict[str, set[str]]:
        """Return which groups the bridge has heard joined behind each port; an SSM one reads ``SOURCE@GROUP``."""
        return mdb(self.switch)


@contextlib.contextmanager
def standard_lab(
    *,
    sinks: int = 1,
    igmp_version: Literal[2, 3] = 3,
    querier: bool = True,
    mtu: int = 1500,
    segmentation: bool = True,
    ipv6: bool = False,
) -> Iterator[StandardLab]:
    """Build the lab that StandardLab draws.

    ``igmp_version`` is what the bridge speaks (hosts fall back to 2), and its MLD version is one less. Without
    ``querier`` it floods.
    ``segmentation`` off makes every datagram that the relay sends a wire packet (ethtool tx-udp-segmentation).
    """
    with Lab() as lab:
        source, switch, relay, *rest = lab.add("source", "switch", "relay", *_sink_names(sinks), ipv6=ipv6)
        relay.sysctl({"ipv4.conf.all.rp_filter": 1, "ipv4.conf.default.rp_filter": 1})
        lab.veth(
            (source, "eth0", switch, "to-source"),
            (switch, "to-relay", relay, "in0"),
            *((relay, f"out{i}", sink, "eth0") for i, sink in enumerate(rest)),
            mtu=mtu,
        )
        networks = [_network(i) for i in range(sinks)]
        # Tools that name no link for a group find one by this route; only the relay does not need it.
        source.ip(f"addr add {SOURCE_ADDRESS}/24 dev eth0", "link set eth0 up", "route add 224.0.0.0/4 dev eth0")
        relay.ip(
            f"addr add {RELAY_IN_ADDRESS}/24 dev in0",
            "link set in0 up",
            *(f"addr add {network}.1/24 dev out{i}" for i, network in enumerate(networks)),
            *(f"link set out{i} up" for i in range(sinks)),
        )
        for sink, network in zip(rest, networks, strict=True):
            sink.ip(f"addr add {network}.2/24 dev eth0", "link set eth0 up", "route add 224.0.0.0/4 dev eth0")
        if ipv6:
            _add_ipv6(source, relay, rest)
        bridge(switch, "br0", ["to-source", "to-relay"], igmp_version=igmp_version, querier=querier)
        if not segmentation:
            for i in range(sinks):
                relay.run("ethtool", "-K", f"out{i}", "tx-udp-segmentation", "off")
        yield StandardLab(lab, source, switch, relay, tuple(rest), time.monotonic())


def _add_ipv6(source: Namespace, relay: Namespace, sinks: Sequence[Namespace]) -> None:
    source.ip(f"addr add {SOURCE_ADDRESS6}/64 dev eth0")
    relay.ip(
        f"addr add {RELAY_IN_ADDRESS6}/64 dev in0",
        *(f"addr add 2001:db8:{100 + i}::1/64 dev out{i}" for i in range(len(sinks))),
    )
    for i, sink in enumerate(sinks):
        sink.ip(f"addr add 2001:db8:{100 + i}::2/64 dev eth0")


def bridge(
    namespace: Namespace, name: str, ports: Iterable[str], *, igmp_version: Literal[2, 3] = 3, querier: bool = True
) -> None:
    """Make a bridge that really prunes, PRUNED_AFTER_SECONDS after this returns.

    The querier is switched on last: in the first command the default response interval of 10 s would apply.
    """
    namespace.ip(
        f"link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 1 mcast_query_response_interval 10"
        f" mcast_startup_query_interval 10 mcast_last_member_interval 20 mcast_igmp_version {igmp_version}"
        f" mcast_mld_version {igmp_version - 1}",
        *(f"link set {port} master {name} up" for port in ports),
        f"link set {name} up",
        *([f"link set {name} type bridge mcast_querier 1"] if querier else []),
    )


def forwarding(namespace: Namespace) -> bool:
    """Whether every bridge port of a namespace forwards."""
    ports = json.loads(_run(["bridge", "-n", namespace.name, "-j", "link", "show"]).stdout)
    return all(port["state"] == "forwarding" for port in ports)


def mdb(namespace: Namespace) -> dict[str, set[str]]:
    """Return the groups by bridge port, as `bridge mdb show` has them; an SSM one reads ``SOURCE@GROUP``."""
    shown = json.loads(_run(["bridge", "-n", namespace.name, "-d", "-j", "mdb", "show"]).stdout)
    groups: dict[str, set[str]] = {}
    for entry in itertools.chain.from_iterable(part.get("mdb", []) for part in shown):
        if "src" not in entry and entry.get("filter_mode") == "include":
            continue  # the frame of an SSM join, whose sources stand beside it
        text = f"{entry['src']}@{entry['grp']}" if "src" in entry else entry["grp"]
        groups.setdefault(entry["port"], set()).add(text)
    return groups


def missing_privilege() -> str | None:
    """Say why no lab can be built here, or None if one can: a sentence for a person, or for a skipped test."""
    try:
        with Lab() as lab:
            lab.add("probe")
    except (LabError, OSError) as error:
        return f"network namespaces cannot be made here ({error}); run as root, or see .ci/privileged"
    return None


def _raise_loopback() -> None:
    """`ip link set lo up` in this thread's namespace. No process: starting one from a sanitized Python is slow."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def _network(number: int) -> str:
    return "198.51.100" if number == 0 else f"198.18.{number}"  # RFC 5737, RFC 2544


def _sink_names(count: int) -> list[str]:
    return ["sink", *(f"sink{i}" for i in range(1, count))]


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": search_path()}


def _run(
    command: list[str], *, check: bool = True, timeout: float | None = 60, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=timeout, env=_environment()
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed; install iproute2") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(command)}` did not end within {timeout} s") from error
    if check and done.returncode:
        raise LabError(f"`{' '.join(command)}` failed with exit code {done.returncode}: {_one_line(done)}")
    return done


def _batch(command: list[str], lines: Iterable[str]) -> None:
    """Run ip(8) once for all lines; -batch stops at the first that fails and names its number."""
    todo = list(lines)
    done = _run([*command, "-batch", "-"], text="\n".join(todo) + "\n", check=False)
    if done.returncode:
        number = done.stderr.rpartition("Command failed -:")[2].strip()
        line = todo[int(number) - 1] if number.isdigit() and int(number) <= len(todo) else "; ".join(todo)
        raise LabError(f"`{' '.join(command)} {line}` failed: {_one_line(done)}")


def _one_line(done: subprocess.CompletedProcess[str]) -> str:
    return "; ".join((done.stderr or done.stdout).split("\n")).strip("; ") or "it said nothing"


def _enter(path: Path) -> None:
    """Move this thread into the namespace: setns(2), in os only from Python 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open() as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET):
            code = ctypes.get_errno()
            raise LabError(f"cannot enter {path}: {os.strerror(code)}")
