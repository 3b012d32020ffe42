"""The engine: rings, egress sockets, counters, plans and the worker thread. The only module that imports mcrelay._core.

It owns every object the loop reads. A change builds a new plan beside the old one, publishes it, waits until the
worker goes by it, and only then gives up what the old plan alone used. All methods belong to the main thread.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from . import bpf
from ._core.counters import DROPS, FRAME_WORDS, INPUT_WORDS, OUTPUT_WORDS, SEND_ERRORS, VERDICTS, Block
from ._core.egress import EgressSocket, RunSwitch, Scratch
from ._core.plan import PlanOwner
from ._core.policer import PolicerState
from ._core.ring import RingSocket
from ._core.worker import Worker
from .errors import OperationError
from .snapshot import InputCount, OutputCount, RingCount, Slot, Snapshot

if TYPE_CHECKING:
    from collections.abc import Collection

    from .features import Features
    from .model import InputSpec, OutputSpec, PlanSpec, Rate, RingSpec

# The counters' names come from the core; others take them from here.
__all__ = ["DROPS", "SEND_ERRORS", "VERDICTS", "Engine", "Troubles"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Capture:
    """A ring and what is known of it."""

    spec: RingSpec
    socket: RingSocket
    groups: frozenset[IPv4Address] = frozenset()
    coarse: bool = False


@dataclass(slots=True)
class _Egress:
    spec: OutputSpec
    socket: EgressSocket


@dataclass(slots=True)
class Troubles:
    """What the kernel refused while a plan was made: reasons by ifindex, and by (rule, output)."""

    rings: dict[int, str] = field(default_factory=dict)
    outputs: dict[Slot, str] = field(default_factory=dict)


class Engine:
    """One worker and all that its plans need."""

    def __init__(self, features: Features, cpus: tuple[int, ...] = ()) -> None:
        self._features = features
        self._generation = 0
        self._captures: dict[int, _Capture] = {}
        self._egress: dict[Slot, _Egress] = {}
        self._inputs: dict[Slot, Block] = {}
        self._outputs: dict[Slot, Block] = {}
        self._policers: dict[Slot, tuple[Rate, PolicerState]] = {}
        self._switches: dict[str, RunSwitch] = {}
        self._said: set[str] = set()
        self._past: dict[str, list[int]] = {}  # by link: received, dropped, then the verdicts, of closed rings
        self._scratch = Scratch()
        self._plan = PlanOwner(0, [], [], scratch=self._scratch)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._worker = Worker(self._plan, self._wake_fd)
        self._thread = threading.Thread(target=self._run, args=(cpus,), name="mcrelay-worker-0", daemon=True)

    def start(self) -> None:
        """Start the worker; it idles until a plan gives it work."""
        self._thread.start()

    def _run(self, cpus: tuple[int, ...]) -> None:
        if cpus:
            os.sched_setaffinity(0, cpus)  # 0: the calling thread, sched_setaffinity(2)
        self._worker.run()

    async def apply(self, spec: PlanSpec, dead: Collection[int] = ()) -> Troubles:
        """Make the loop go by ``spec``; returns when it does. What is unchanged keeps sockets, rings and counters.

        Nothing is kept that belongs to ``dead`` ifindexes: those links were deleted, whatever has their number now.

        A ring or a socket that cannot be made is reported, and touches nothing else: its inputs stay out of the plan,
        its outputs are counted as parked.
        """
        troubles = Troubles()
        rings = self._open_rings(spec, dead, troubles)
        sockets = self._open_sockets(spec, dead, troubles)
        wanted = _groups(spec)
        for ifindex, capture in rings.items():
            self._filter(capture, capture.groups | wanted[ifindex], troubles)
        plan = self._compile(spec, rings, sockets)
        await self._publish(plan)
        for ifindex, capture in rings.items():
            self._filter(capture, wanted[ifindex], troubles)
        self._retire(plan, rings, sockets, spec)
        return troubles

    def rerouted(self) -> bool:
        """Whether an output sends from an address that its route would not choose any more: `connect` fixed it."""
        return any(_rerouted(egress) for egress in self._egress.values())

    def _open_rings(self, spec: PlanSpec, dead: Collection[int], troubles: Troubles) -> dict[int, _Capture]:
        rings: dict[int, _Capture] = {}
        for ifindex, wanted in spec.rings.items():
            kept = self._captures.get(ifindex)
            if kept is not None and kept.spec == wanted and ifindex not in dead:
                rings[ifindex] = kept
                continue
            try:
                rings[ifindex] = _Capture(wanted, RingSocket(ifindex, wanted.settings.ring_bytes))
            except OSError as error:
                troubles.rings[ifindex] = _explain_ring(wanted.ifname, error)
        return rings

    def _open_sockets(self, spec: PlanSpec, dead: Collection[int], troubles: Troubles) -> dict[Slot, _Egress]:
        sockets: dict[Slot, _Egress] = {}
        for rule in spec.rules:
            if not any(each.live for each in rule.inputs):
                continue
            for output in rule.outputs:
                if output.state != "active":
                    continue
                slot = (rule.name, output.to)
                kept = self._egress.get(slot)
                if kept is not None and kept.spec == output and output.ifindex not in dead and not _rerouted(kept):
                    sockets[slot] = kept
                    continue
                try:
                    sockets[slot] = _Egress(output, self._open_socket(output))
                except OSError as error:
                    troubles.outputs[slot] = _explain_output(output, error)
        return sockets

    def _open_socket(self, output: OutputSpec) -> EgressSocket:
        name = _device(output)
        switch = self._switches.get(name)
        if switch is None:
            switch = self._switches[name] = RunSwitch(self._features.udp_segment)
        return EgressSocket(
            int(output.address),
            output.port,
            switch,
            ifindex=output.ifindex,
            link=output.oif or "",
            source_address=int(output.source_address) if output.bind_source and output.source_address else 0,
            source_port=output.source_port,
            exact_port=output.exact_port,
            ttl=output.ttl,
            dscp=-1 if output.dscp is None else output.dscp,
            payload_max=output.payload_max,
        )

    def _filter(self, capture: _Capture, groups: frozenset[IPv4Address], troubles: Troubles) -> None:
        """Attach the narrowest filter that passes ``groups`` and that the kernel has room for."""
        if groups == capture.groups:
            return
        most = bpf.LIMIT
        while True:
            program, exact = bpf.fitting_filter(groups, most)
            try:
                capture.socket.attach(program)
            except OSError as error:
                if error.errno != errno.ENOMEM or most < 64:  # net.core.optmem_max
                    troubles.rings[capture.socket.ifindex] = f"no filter on {capture.spec.ifname}: {error.strerror}"
                    return
                most = most * 3 // 4
                continue
            capture.groups = groups
            capture.coarse = not exact
            return

    def _compile(self, spec: PlanSpec, rings: dict[int, _Capture], sockets: dict[Slot, _Egress]) -> PlanOwner:
        index = {ifindex: i for i, ifindex in enumerate(rings)}
        inputs = [
            (
                index[each.ifindex],
                int(each.group),
                int(each.source) if each.source else 0,
                each.port,
                self._inputs.setdefault((rule.name, each.text), Block(INPUT_WORDS)),
                [(int(net.network_address), int(net.netmask)) for net in each.allow or ()],
                [self._plan_output(rule.name, output, sockets) for output in rule.outputs],
                self._policer((rule.name, each.text), each.limit),
            )
            for rule in spec.rules
            for each in rule.inputs
            if each.live and each.ifindex in index
        ]
        self._generation += 1
        return PlanOwner(
            self._generation,
            [capture.socket for capture in rings.values()],
            inputs,
            spec.own_macs,
            [int(address) for address in spec.own_addresses],
            self._scratch,
        )

    def _policer(self, slot: Slot, limit: Rate | None) -> PolicerState | None:
        """The token bucket of an input, kept as long as its limit stays the same."""
        if limit is None:
            self._policers.pop(slot, None)
            return None
        held = self._policers.get(slot)
        if held is None or held[0] != limit:
            held = self._policers[slot] = (limit, PolicerState(round(limit.number), limit.unit == "bit"))
        return held[1]

    def _plan_output(
        self, rule: str, output: OutputSpec, sockets: dict[Slot, _Egress]
    ) -> tuple[EgressSocket | None, Block, int, bool]:
        slot = (rule, output.to)
        counters = self._outputs.setdefault(slot, Block(OUTPUT_WORDS))
        egress = sockets.get(slot)
        return (egress.socket if egress else None, counters, output.burst, output.dscp is None)

    async def _publish(self, plan: PlanOwner) -> None:
        """Swap the pointer and wait until the worker has moved on: at most a block and a wait for room."""
        self._worker.publish(plan)
        self.wake()
        while self._thread.is_alive() and self._worker.seen < plan.generation:
            await asyncio.sleep(0.0005)
        if not self._thread.is_alive():
            raise OperationError("the worker thread has ended; restart the relay")

    def _retire(
        self, plan: PlanOwner, rings: dict[int, _Capture], sockets: dict[Slot, _Egress], spec: PlanSpec
    ) -> None:
        """The worker goes by ``plan``: what only the plan before it used can go."""
        self._plan = plan
        kept_rings = {id(each) for each in rings.values()}
        for capture in self._captures.values():
            if id(capture) not in kept_rings:
                self._bury(capture)
        kept_sockets = {id(each) for each in sockets.values()}
        for egress in self._egress.values():
            if id(egress) not in kept_sockets:
                egress.socket.close()
        self._captures, self._egress = rings, sockets
        switched = {_device(each.spec) for each in sockets.values()}
        self._switches = {name: switch for name, switch in self._switches.items() if name in switched}
        named = {(rule.name, each.text) for rule in spec.rules for each in rule.inputs}
        self._inputs = {slot: block for slot, block in self._inputs.items() if slot in named}
        self._policers = {slot: held for slot, held in self._policers.items() if slot in named}
        named = {(rule.name, each.to) for rule in spec.rules for each in rule.outputs}
        self._outputs = {slot: block for slot, block in self._outputs.items() if slot in named}

    def _bury(self, capture: _Capture) -> None:
        received, dropped = capture.socket.statistics()
        past = self._past.setdefault(capture.spec.ifname, [0] * (2 + FRAME_WORDS))
        for i, count in enumerate((received, dropped, *capture.socket.frames.read())):
            past[i] += count
        capture.socket.close()

    def egress_of(self, rule: str, output: str) -> EgressSocket | None:
        """The live socket of an output: its real source port stands in it."""
        egress = self._egress.get((rule, output))
        return egress.socket if egress else None

    def links_without_runs(self) -> list[str]:
        """Links whose device has refused a UDP_SEGMENT run since the last call; each is named once."""
        found = [name for name, switch in self._switches.items() if not switch.allowed and name not in self._said]
        self._said.update(found)
        return found if self._features.udp_segment else []

    def snapshot(self) -> Snapshot:
        """Read every counter. Counters of rules that never had a plan are absent."""
        return Snapshot(
            inputs={slot: _input_count(block) for slot, block in self._inputs.items()},
            outputs={slot: _output_count(block) for slot, block in self._outputs.items()},
            rings=self._ring_counts(),
            sndbufs={each.spec.oif: each.socket.sndbuf for each in self._egress.values() if each.spec.oif},
            cpu_seconds=self._cpu_seconds(),
            generation=self._worker.seen,
            turns=self._worker.turns,
        )

    def drops(self) -> dict[str, dict[str, int]]:
        """Datagrams that rules dropped, by rule and reason: the little that is watched all the time."""
        found: dict[str, dict[str, int]] = {}
        for (rule, _), block in self._inputs.items():
            drops = block.read()[INPUT_WORDS - len(DROPS) :]
            counts = found.setdefault(rule, dict.fromkeys(DROPS, 0))
            for reason, count in zip(DROPS, drops, strict=True):
                counts[reason] += count
        return found

    def _ring_counts(self) -> dict[str, RingCount]:
        counts = {}
        for capture in self._captures.values():
            name = capture.spec.ifname
            frames = capture.socket.frames.read()  # before PACKET_STATISTICS: never more verdicts than frames
            received, dropped = capture.socket.statistics()
            past = self._past.get(name, [0] * (2 + FRAME_WORDS))
            counts[name] = RingCount(
                rx_frames=received + past[0],
                dropped=dropped + past[1],
                frames={verdict: now + before for verdict, now, before in zip(VERDICTS, frames, past[2:], strict=True)},
                coarse=capture.coarse,
            )
        return counts

    def _cpu_seconds(self) -> float:
        if not self._thread.is_alive() or self._thread.ident is None:
            return 0.0
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    @property
    def turns(self) -> int:
        """Turns of the worker's loop."""
        return self._worker.turns

    def wake(self) -> None:
        """Let the worker turn once more, also when nothing arrives."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Stop the worker and give up every socket and ring."""
        if self._thread.is_alive():
            self._worker.stop()
            self.wake()
            self._thread.join()
        for capture in self._captures.values():
            capture.socket.close()
        for egress in self._egress.values():
            egress.socket.close()
        self._captures, self._egress = {}, {}
        os.close(self._wake_fd)


def _rerouted(egress: _Egress) -> bool:
    spec = egress.spec
    if spec.ifindex or spec.bind_source:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(spec.address), spec.port))
        except OSError:
            return False  # no route now: what is sent is counted so, and a new socket would not help
        return IPv4Address(probe.getsockname()[0]) != egress.socket.local_address


def _device(output: OutputSpec) -> str:
    """What shares a RunSwitch: the outputs of one link; a routed output has a device of its own."""
    return output.oif or f"the route to {output.address}"


def _groups(spec: PlanSpec) -> dict[int, frozenset[IPv4Address]]:
    """What each ring has to let through."""
    live: list[InputSpec] = [each for rule in spec.rules for each in rule.inputs if each.live]
    groups: dict[int, set[IPv4Address]] = {ifindex: set() for ifindex in spec.rings}
    for each in live:
        groups[each.ifindex].add(each.group)
    return {ifindex: frozenset(held) for ifindex, held in groups.items()}


def _input_count(block: Block) -> InputCount:
    packets, size, last_ns, *drops = block.read()
    return InputCount(packets, size, last_ns / 1e9 if last_ns else None, dict(zip(DROPS, drops, strict=True)))


def _output_count(block: Block) -> OutputCount:
    packets, size, *errors = block.read()
    return OutputCount(packets, size, dict(zip(SEND_ERRORS, errors, strict=True)))


def _explain_ring(ifname: str, error: OSError) -> str:
    if error.errno == errno.EPERM:
        return f"capturing on {ifname} needs CAP_NET_RAW: run as root or grant the capability"
    if error.errno == errno.ENOMEM:
        return f"no memory for the ring of {ifname}: lower links.{ifname}.ring"
    return f"no ring on {ifname}: {error.strerror}"


def _explain_output(output: OutputSpec, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"source port {output.source_port} is in use by another program; set source_port to a free one"
    if error.errno == errno.ENETUNREACH:
        return f"no route to {output.address}: add one, or name the link with %LINK"
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return "too many open files: raise LimitNOFILE"
    return f"no socket for {output.to}: {error.strerror}"
