"""What the long run relays: rules of every kind, the traffic for them, and what has to arrive of it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.traffic import heard, receiver, report, sender

if TYPE_CHECKING:
    from support.relay import RelayUnderTest

PATIENCE_SECONDS = 120.0  # the run is niced: on a busy machine its own commands take a while to begin
OUT = "239.10.{}.{}:5004"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of traffic: *streams* consecutive groups, and the part of all datagrams that it is."""

    name: str
    group: str  # of the first stream; the last byte counts up
    streams: int
    share: float
    options: tuple[str, ...]
    keys: str = ""  # of its rules
    frames: int = 1  # that a datagram comes in; a superframe of ``together`` datagrams is one
    together: int = 1
    length: int | None = None  # of the range that one rule takes, where each stream has no rule of its own

    @property
    def source(self) -> str:
        return f"{self.group}:2068%eth0"

    @property
    def first(self) -> str:
        """Where the first stream goes to: the group and the port of a rule's output, without its link."""
        return OUT.format(KINDS.index(self), 1 if self.length is None else 0)


RUNS = Kind("runs", "226.2.2.1", 4, 0.3, ("--size", "1316", "--gso", "8"), 'health = "auto"\n', together=8)
MIXED = Kind("mixed", "226.2.3.1", 4, 0.4, ("--size", "64,570,1400"), 'engine = "kernel"\n')
RANGE = Kind("range", "226.2.6.0", 16, 0.15, ("--size", "1316"), length=28)
FRAGMENTS = Kind("fragments", "226.2.4.1", 1, 0.05, ("--size", "4000"), frames=3)
FAN = Kind("fan", "226.2.5.1", 1, 0.1, ("--size", "80-400"))
KINDS = (RUNS, MIXED, RANGE, FRAGMENTS, FAN)
METRICS_PORT = 19736
RING = "128MiB"  # seconds of all traffic: the machine may have other things to do
STRAY = "226.2.2.1:2069%eth0"  # a port that no rule takes
HOST = "198.51.100.2:7000"
PARKED = "239.11.0.1:5004%out1"  # its link loses carrier in every turn
VISITOR = "239.9.9.9:5000%in1"  # its link comes and goes in every turn


def rules(*, more: bool = False) -> str:
    """The configuration; *more* is what a reload adds."""
    found = [f'[relay]\nmetrics = "127.0.0.1:{METRICS_PORT}"\n[links.in0]\nring = "{RING}"\n']
    for number, kind in enumerate(KINDS):
        if kind.length is not None:
            output = kind.first.replace(":", f"/{kind.length}:")
            found.append(
                f'[rules.{kind.name}]\ninput = "{kind.group}/{kind.length}:2068%in0"\noutputs = ["{output}%out0"]\n'
            )
            continue
        prefix, _, last = kind.group.rpartition(".")
        for i in range(kind.streams):
            outputs = [f"{OUT.format(number, i + 1)}%out0"]
            outputs += [HOST, PARKED] if kind is FAN else []
            listed = ", ".join(f'"{each}"' for each in outputs)
            found.append(
                f"[rules.{kind.name}-{i}]\n"
                f'input = "{prefix}.{int(last) + i}:2068%in0"\noutputs = [{listed}]\n{kind.keys}'
            )
    found.append(f'[rules.visitor]\ninput = "{VISITOR}"\noutputs = ["239.10.9.1:5004%out0"]\n')
    if more:
        found.append('[rules.more]\ninput = "239.8.8.8:5000%in0"\noutputs = ["239.10.9.2:5004%out0"]\n')
    return "\n".join(found)


class Traffic:
    """All kinds at once, *rate* datagrams a second together, each with its sinks."""

    def __init__(self, relay: RelayUnderTest, rate: int) -> None:
        self._relay = relay
        lab = relay.lab
        self._sinks = {
            kind.name: receiver(lab.sink, f"{kind.first}%eth0", "--streams", kind.streams, seconds=PATIENCE_SECONDS)
            for kind in KINDS
        }
        self._sinks["host"] = receiver(lab.sink, HOST, seconds=PATIENCE_SECONDS)
        self._senders = {
            kind.name: sender(
                lab.source,
                kind.source,
                "--streams",
                kind.streams,
                "--rate",
                max(1, int(rate * kind.share)),
                *kind.options,
            )
            for kind in KINDS
        }
        self._stray = sender(lab.source, STRAY, "--rate", max(1, rate // 20))

    def end(self) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Stop sending, wait until all is at rest.

        Returns the relay's statistics then, what each sink heard, and how many frames were sent.
        """
        for child in (*self._senders.values(), self._stray):
            child.send_signal(signal.SIGINT)
        sent = {name: report(child)["sent"] for name, child in self._senders.items()}
        frames = report(self._stray)["sent"] + sum(kind.frames * sent[kind.name] // kind.together for kind in KINDS)
        sent["host"] = sent[FAN.name]
        stats = self._relay.at_rest()
        sinks = {
            name: heard(child, self._relay.lab.sink, seconds=PATIENCE_SECONDS) for name, child in self._sinks.items()
        }
        return stats, {name: {"sent": sent[name], **got} for name, got in sinks.items()}, frames
