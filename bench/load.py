"""Senders: open loop, paced, with valid checksums. Offered, sent and delivered are three figures; this knows two."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topology import IN_GROUPS, IN_PORT, NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from topology import Group, Site
    from workloads import Workload

SOURCE_PORT = 40000


@dataclass(frozen=True, slots=True)
class Load:
    """What all senders of one probe did together."""

    offered: int
    sent: int
    sent_bytes: int
    seconds: float
    cpu_ns: int


class Blast:
    """One probe's senders, one a core; *shares* says what part of the rate each has. 0 is as fast as they go.
    They send to *group*, or to the workload's.

    What could not leave in time leaves later, for as long as *patience* (seconds), or not at all.
    """

    def __init__(
        self,
        program: str,
        site: Site,
        work: Workload,
        rate: float,
        *,
        seconds: float,
        shares: Mapping[int, float],
        patience: float = 0.0,
        group: Group | None = None,
        source_port: int = SOURCE_PORT,
    ) -> None:
        self._senders = [
            site.source.popen(
                *("taskset", "-c", str(core), program, "eth0", str(group or IN_GROUPS[work.ingress])),
                *(str(IN_PORT), str(work.streams), work.sizes),
                *(
                    f"{min(rate * share, NEVER):.3f}",
                    f"{seconds * 1e3:.3f}",
                    f"{(seconds + patience) * 1e3:.3f}",
                    str(_run(work, rate * share)),
                ),
                *(str(source_port + i), str(int(work.runs))),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for i, (core, share) in enumerate(shares.items())
        ]

    def result(self, at_go: Callable[[], None] | None = None, at_end: Callable[[], None] | None = None) -> Load:
        """Wait for the end; *at_go* is called once all of them send, *at_end* once none does."""
        for word, then in (("go", at_go), ("end", at_end)):
            for sender in self._senders:
                if (line := _line(sender)) != word:
                    raise RuntimeError(f"the sender failed: {line}")
            if then:
                then()
        parts = [json.loads(_line(sender)) for sender in self._senders]
        for sender in self._senders:
            sender.wait()
            if sender.stdout:
                sender.stdout.close()
        return Load(
            offered=sum(part["offered"] for part in parts),
            sent=sum(part["sent"] for part in parts),
            sent_bytes=sum(part["bytes"] for part in parts),
            seconds=max(part["seconds"] for part in parts),
            cpu_ns=sum(part["cpu_ns"] for part in parts),
        )


def _run(work: Workload, rate: float) -> int:
    """A run's datagrams are due together: at low rates they go one by one, or the pace would be a fiction."""
    return max(1, min(work.run, int(rate / 2000))) if rate else work.run


def _line(sender: subprocess.Popen[str]) -> str:
    assert sender.stdout is not None
    return sender.stdout.readline().strip()
