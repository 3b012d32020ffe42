"""The paths under test: mcrelay in its variants, and its peers. Each starts in a site, forwards, and stops."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from topology import IDLE_GROUP, IN_GROUP, IN_PORT, OUT_GROUP, OUT_PORT, SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address
    from pathlib import Path

    from topology import Site
    from workloads import Workload

START_SECONDS = 60
NET_ADMIN = ("setpriv", "--inh-caps", "+net_admin", "--ambient-caps", "+net_admin")


class Unsupported(Exception):
    """This path cannot do this workload; the text says why."""


@dataclass(slots=True)
class Place:
    """Where a path runs: its site, a folder of its own, the programs compiled for the bench, its cores."""

    site: Site
    folder: Path
    programs: dict[str, str]
    command: tuple[str, ...]  # how to start mcrelay
    relay_cores: tuple[int, ...]
    environment: dict[str, str] | None = None


@dataclass(slots=True)
class Running:
    """A path that forwards. ``pids`` are its processes, none where the kernel does it all."""

    children: list[subprocess.Popen[str]] = field(default_factory=list)
    first: IPv4Address = OUT_GROUP  # what the sink counts: so many groups from here on
    groups: int = 1
    port: int = OUT_PORT
    copies: int = 1  # of each datagram
    ready_seconds: float = 0.0
    socket: str = ""
    stop_with: Callable[[], None] = lambda: None

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self.children]

    def stop(self) -> None:
        """End it."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.stop_with()


@dataclass(frozen=True, slots=True)
class Path_:
    """One way to forward. ``kernel`` means that it runs on the cores of whoever sends."""

    name: str
    title: str
    start: Callable[[Place, Workload], Running]
    kernel: bool = False
    program: str = ""  # without it on this machine there is no such path
    package: str = ""
    outs: Callable[[Workload], int] = lambda _: 1
    device_segments: bool = False  # the link out takes superframes whole

    @property
    def missing(self) -> str | None:
        """Say what has to be installed, if anything."""
        if not self.program or shutil.which(self.program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            return None
        return f"{self.program} is not installed (Debian: {self.package})"


# ---- mcrelay ----


@dataclass(frozen=True, slots=True)
class Variant:
    """What is unusual about a mcrelay under test."""

    burst: int = 0
    exclusive: bool = False
    gro: bool = False
    latency: bool = False
    workers: int = 1
    ring: str = ""


def configuration(work: Workload, variant: Variant) -> str:
    """Write the configuration file. Pure."""
    lines = []
    if variant.workers > 1:
        lines += ["[relay]", f"workers = {variant.workers}", ""]
    link = {
        "profile": '"latency"' if variant.latency else "",
        "ring": f'"{variant.ring}"' if variant.ring else "",
        "gro": "true" if variant.gro else "",
    }
    if any(link.values()):
        lines += ["[links.in0]", *(f"{key} = {value}" for key, value in link.items() if value), ""]
    defaults = {"burst": str(variant.burst or ""), "exclusive": "true" if variant.exclusive else ""}
    if any(defaults.values()):
        lines += ["[defaults]", *(f"{key} = {value}" for key, value in defaults.items() if value), ""]
    for i in range(work.streams):
        outputs = ", ".join(f'"{OUT_GROUP + i * work.outputs + j}:{OUT_PORT}%out0"' for j in range(work.outputs))
        lines += [f"[rules.s{i}]", f'input = "{IN_GROUP + i}:{IN_PORT}%in0"', f"outputs = [{outputs}]", ""]
    for i in range(work.idle_rules):
        lines += [
            f"[rules.idle{i}]",
            f'input = "{IDLE_GROUP + i}:{IN_PORT}%in0"',
            f'outputs = ["{OUT_GROUP + 0x100000 + i}:{OUT_PORT}%out0"]',
            "",
        ]
    return "\n".join(lines)


def mcrelay(variant: Variant) -> Callable[[Place, Workload], Running]:
    """Return how to start such a mcrelay. As root it goes on as nobody, with CAP_NET_RAW alone, as it always does."""

    def start(place: Place, work: Workload) -> Running:
        file, socket = place.folder / "mcrelay.toml", str(place.folder / "control.sock")
        file.write_text(configuration(work, variant))
        checked = subprocess.run(
            [*place.command, "check", "-c", str(file)],
            capture_output=True, text=True, check=False, env=place.environment,
        )  # fmt: skip
        if checked.returncode:
            raise Unsupported((checked.stderr or checked.stdout).strip().splitlines()[0].rpartition(".toml:")[2])
        privilege = NET_ADMIN if variant.exclusive or variant.gro else ()
        cores = place.relay_cores if variant.workers == 1 else range(variant.workers)
        begun = time.monotonic()
        log = (place.folder / "mcrelay.log").open("w")
        child = place.site.relay.popen(
            *privilege, "taskset", "-c", ",".join(map(str, cores)), *place.command, "run", "-c", str(file), "--socket", socket,
            stderr=log, **({"env": place.environment} if place.environment else {}),
        )  # fmt: skip
        log.close()
        running = Running([child], groups=work.streams * work.outputs, copies=work.outputs, socket=socket)
        while True:
            if child.poll() is not None:
                raise RuntimeError(f"mcrelay ended: {(place.folder / 'mcrelay.log').read_text()[-500:]}")
            if "] ready " in (text := (place.folder / "mcrelay.log").read_text()) or " ready " in text:
                break
            if time.monotonic() - begun > START_SECONDS:
                raise RuntimeError(f"mcrelay was not ready within {START_SECONDS} s")
            time.sleep(0.005)
        running.ready_seconds = time.monotonic() - begun
        standing = json.loads(
            subprocess.run(
                [*place.command, "show", "rules", "-j", "--socket", socket],
                capture_output=True, text=True, check=True, env=place.environment,
            ).stdout
        )  # fmt: skip
        wrong = [rule for rule in standing if rule["state"] != "active"]
        if wrong:
            running.stop()
            raise Unsupported(f"rule {wrong[0]['name']} is {wrong[0]['state']}: {wrong[0]['reason']}")
        return running

    return start


def statistics(place: Place, running: Running) -> dict[str, Any]:
    """Return what `mcrelay show stats -j` says."""
    command = [*place.command, "show", "stats", "-j", "--socket", running.socket]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=place.environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# ---- peers ----


def _ready(child: subprocess.Popen[str]) -> None:
    line = child.stdout.readline().strip() if child.stdout else ""
    if line != "ready":
        raise RuntimeError(f"a relay did not start: {line or child.wait()}")


def _single(work: Workload, name: str) -> None:
    if work.streams > 1 or work.outputs > 1 or work.idle_rules:
        raise Unsupported(f"{name} relays one stream to one output")


def plain_c(way: str) -> Callable[[Place, Workload], Running]:
    """experiments/lib/relay.c: the shortest loop there can be, nothing looked up, nothing checked, nothing counted."""

    def start(place: Place, work: Workload) -> Running:
        _single(work, "the C loop")
        child = place.site.relay.popen(
            *("taskset", "-c", ",".join(map(str, place.relay_cores)), place.programs["relay"]),
            *("all", "3", "1", "in0", str(IN_GROUP), str(IN_PORT), way, "16", "out0", str(OUT_GROUP), str(OUT_PORT)),
            "0",
            stdout=subprocess.PIPE,
        )
        _ready(child)
        return Running([child])

    return start


def smcroute(*, joins: bool) -> Callable[[Place, Workload], Running]:
    """Kernel forwarding. It cannot change the group, so the sink counts that of the input.

    With *joins* the kernel hands each datagram to itself, too: what any network with a snooping switch demands. Without,
    forwarding is all there is: only where a switch has been told by hand to send everything here.
    """

    def start(place: Place, work: Workload) -> Running:
        if work.outputs > 31:
            raise Unsupported("the kernel has 32 virtual interfaces, and one output each")
        if work.idle_rules > 1000:
            raise Unsupported("not tried with more than 1000 routes")
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
        running.stop_with = lambda: _end(child)
        return running

    return start


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    child.wait(timeout=10)


def nft(place: Place, work: Workload) -> Running:
    """A hand-written netdev ingress chain: rewrite MACs, group, port, source and TTL, and forward to the link out.

    Joins nothing, repairs nothing, and harms datagrams without a checksum. One stream: a map would be needed for more.
    """
    if work.streams > 1 or work.idle_rules:
        raise Unsupported("written for one stream")
    mac = json.loads(place.site.relay.run("ip", "-j", "link", "show", "dev", "out0").stdout)[0]["address"]
    steps = [f"ether saddr set {mac}", "ip saddr set 198.51.100.1", "ip ttl set 16", "udp sport set 20000"]
    steps.append(f"udp dport set {OUT_PORT}")
    for j in range(work.outputs):
        group = OUT_GROUP + j
        raw = group.packed
        steps.append(f"ether daddr set 01:00:5e:{raw[1] & 0x7F:02x}:{raw[2]:02x}:{raw[3]:02x}")
        steps.append(f"ip daddr set {group}")
        steps.append(f"{'fwd' if j == work.outputs - 1 else 'dup'} to out0")
    # A rule may hold few statements in old versions of nft: one rule a step, all in a chain of their own.
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
        stop_with=lambda: void(place.site.relay.run("nft", "delete", "table", "netdev", "rewrite")),
    )


def void(_: object) -> None:
    """Take a value and return none."""


def socat(place: Place, work: Workload) -> Running:
    """One process an output, as people write it."""
    if work.streams > 1 or work.idle_rules:
        raise Unsupported("socat relays one stream")
    children = [
        place.site.relay.popen(
            *("taskset", "-c", ",".join(map(str, place.relay_cores)), "socat", "-u", "-b", "65536"),
            f"UDP4-RECV:{IN_PORT},bind={IN_GROUP},reuseaddr,ip-add-membership={IN_GROUP}:in0,rcvbuf=8388608",
            f"UDP4-DATAGRAM:{OUT_GROUP + j}:{OUT_PORT},ip-multicast-if=198.51.100.1,ip-multicast-ttl=16",
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
        text="""table netdev drop {
    chain in {
        type filter hook ingress device in0 priority 0; policy accept;
        ip daddr 239.0.0.0/8 counter drop
    }
}
""",
    )
    return Running(
        groups=1, copies=0, stop_with=lambda: void(place.site.relay.run("nft", "delete", "table", "netdev", "drop"))
    )


def as_outputs(work: Workload) -> int:
    """Return the links out that kernel forwarding needs."""
    return min(work.outputs, 31)


MCRELAY = Path_("mcrelay", "mcrelay", mcrelay(Variant()))
EXCLUSIVE = Path_("exclusive", "mcrelay, exclusive", mcrelay(Variant(exclusive=True)))
GRO = Path_("gro", "mcrelay, gro", mcrelay(Variant(gro=True)))
EXCLUSIVE_GRO = Path_("exclusive-gro", "mcrelay, exclusive and gro", mcrelay(Variant(exclusive=True, gro=True)))
TWO_WORKERS = Path_("workers-2", "mcrelay, 2 workers", mcrelay(Variant(workers=2)))
LATENCY = Path_("latency", "mcrelay, latency profile", mcrelay(Variant(latency=True)))
SINGLY = Path_("burst-1", "mcrelay, burst = 1 (one send a datagram)", mcrelay(Variant(burst=1)))
C_SEND = Path_("c-send", "plain C loop, send()", plain_c("send"), program="gcc", package="gcc")
C_RUNS = Path_("c-runs", "plain C loop, UDP_SEGMENT runs of 16", plain_c("segment"), program="gcc", package="gcc")
SMCROUTE = Path_(
    "smcroute", "smcroute", smcroute(joins=True),
    kernel=True, program="smcrouted", package="smcroute", outs=as_outputs,
)  # fmt: skip
SMCROUTE_BARE = Path_(
    "smcroute-bare", "smcroute that joins nothing", smcroute(joins=False),
    kernel=True, program="smcrouted", package="smcroute", outs=as_outputs,
)  # fmt: skip
NFT = Path_("nft", "nftables ingress rewrite + fwd", nft, kernel=True, program="nft", package="nftables")
SOCAT = Path_("socat", "socat", socat, program="socat", package="socat")
DROP = Path_("drop", "(sender alone)", drop, kernel=True)
