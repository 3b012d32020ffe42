"""What is counted: datagrams at the sink, CPU of threads, and what of the cores was left idle."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from topology import Group, Site

HEADERS = {4: 28, 6: 48}  # IP and UDP, once for each frame that nftables counts
SETTLED_SECONDS = 0.12  # without one more datagram, and it is over


@dataclass(frozen=True, slots=True)
class Delivered:
    """Frames and payload bytes. With segmentation by the device a frame holds many datagrams: the bytes tell."""

    frames: int
    payload_bytes: int

    def __sub__(self, other: Delivered) -> Delivered:
        return Delivered(self.frames - other.frames, self.payload_bytes - other.payload_bytes)


class Sink:
    """An nftables ingress chain in the sink that counts exactly the wanted datagrams, and drops them there and then."""

    def __init__(self, site: Site, first: Group, count: int, port: int) -> None:
        self._site = site
        protocol = "ip6" if first.version == 6 else "ip"
        self._wanted = f"{protocol} daddr {first}-{first + count - 1} udp dport {port}"
        self._headers = HEADERS[first.version]
        self._shell: subprocess.Popen[str] | None = None

    def open(self, *, drop: bool = True) -> None:
        """Begin to count. Without *drop* the datagrams go on to a socket."""
        devices = ", ".join(f'"eth{i}"' for i in range(self._site.outs))
        self._site.sink.run(
            *("nft", "-f", "-"),
            text=f"""table netdev bench
delete table netdev bench
table netdev bench {{
    counter delivered {{ }}
    chain in {{
        type filter hook ingress devices = {{ {devices} }} priority 0; policy accept;
        {self._wanted} counter name delivered {"drop" if drop else "accept"}
    }}
}}
""",
        )
        if self._shell is None:
            self._shell = self._site.sink.popen(
                "nft", "-j", "-i", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1
            )

    def read(self) -> Delivered:
        """Return what has been counted until now: a question to a process that runs already, about a millisecond."""
        assert self._shell is not None
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write("list counter netdev bench delivered\n")
        self._shell.stdin.flush()
        line = self._shell.stdout.readline()
        found: dict[str, Any] = next(part["counter"] for part in json.loads(line)["nftables"] if "counter" in part)
        return Delivered(found["packets"], found["bytes"] - self._headers * found["packets"])

    def settle(self, before: Delivered, payload_bytes: int, *, patience: float = SETTLED_SECONDS) -> Delivered:
        """Wait until so much has come since *before*, or nothing more comes for *patience*; return what came."""
        last, since = self.read(), time.monotonic()
        while (last - before).payload_bytes != payload_bytes and time.monotonic() - since < patience:
            time.sleep(0.01)
            now = self.read()
            if now != last:
                last, since = now, time.monotonic()
        return last - before


def cpu_seconds(pids: Iterable[int]) -> dict[str, float]:
    """Seconds on a CPU of every thread of these processes, to the nanosecond, by "pid/tid" (proc(5), schedstat)."""
    used = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            used[f"{pid}/{task.name}"] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return used


def is_main(thread: str) -> bool:
    """Whether a thread, as ``cpu_seconds`` names it, is the first of its process."""
    pid, _, tid = thread.partition("/")
    return pid == tid


class Soaker:
    """One thread of the lowest priority a core, that knows how long it had the core to itself (soak.c)."""

    def __init__(self, program: str, folder: Path, cores: Iterable[int]) -> None:
        self._files = [folder / f"soak-{core}" for core in cores]
        self._children = [
            subprocess.Popen([program, file.name.removeprefix("soak-"), str(file)]) for file in self._files
        ]
        until = time.monotonic() + 5
        while not all(file.exists() and file.stat().st_size for file in self._files):
            if time.monotonic() > until:
                raise RuntimeError("the soakers did not start")
            time.sleep(0.01)
        self._maps = []
        for file in self._files:
            with file.open("rb") as handle:
                self._maps.append(mmap.mmap(handle.fileno(), 4096, prot=mmap.PROT_READ))

    def read(self) -> tuple[int, int]:
        """Return (time, idle time) in ns of all cores together. A core that is busy now has been idle until before."""
        now = time.monotonic_ns()
        return now * len(self._maps), sum(struct.unpack_from("=Q", shared)[0] for shared in self._maps)

    def close(self) -> None:
        """End them: they would keep the cores from ever sleeping."""
        for child in self._children:
            child.kill()
            child.wait()
        for shared in self._maps:
            shared.close()
        for file in self._files:
            file.unlink()


def cores() -> tuple[int, ...]:
    """Return the first two cores that this process may use: the bench knows no more, however many there are."""
    return tuple(sorted(os.sched_getaffinity(0))[:2])


def softirq_threads() -> tuple[int, ...]:
    """Return the pids of the kernel's softirq threads; none where /proc does not show them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if file.read_text().startswith("ksoftirqd/"):
                found.append(int(file.parent.name))
    return tuple(found)


def resident_mb(pid: int) -> float:
    """Return the memory of a process, its ring included (proc(5), VmRSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6
