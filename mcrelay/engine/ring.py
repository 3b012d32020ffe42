"""The ring engine: rings, egress sockets, counters and plans of all workers. Only here mcrelay._core is imported.

It owns every object the loops read. A change builds new plans beside the old ones, publishes them, waits until the
workers go by them, and only then gives up what the old plans alone used. All methods belong to the main thread.

Every worker has a ring on every link, and a plan with every input; which of them gets a group is the kernel's to say,
by the destination alone. So each has counters and token buckets of its own; the sockets, which any thread may use,
are shared.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from mcrelay._core.counters import DROPS, INPUT_FIELDS, OUTPUT_FIELDS, REFUSALS, SEND_ERRORS, VERDICTS, CounterBlock
from mcrelay._core.egress import EgressSocket, GsoState
from mcrelay._core.plan import PlanOwner
from mcrelay._core.policer import PolicerState
from mcrelay._core.queue import Scratch
from mcrelay._core.ring import RingSocket
from mcrelay._core.worker import Worker
from mcrelay.engine.counters import CounterRegistry, total
from mcrelay.engine.workers import Workers
from mcrelay.linux import bpf, process
from mcrelay.model import refusals
from mcrelay.model.state import (
    CounterKey,
    CounterNames,
    Endpoint,
    Explanation,
    FrameLosses,
    NearMiss,
    Refusals,
    RingCount,
    Snapshot,
    WorkerCount,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mcrelay.engine.counters import Begun, Counters
    from mcrelay.linux.features import Features
    from mcrelay.model.plan import InputSpec, OutputSpec, PlanSpec, RingSpec
    from mcrelay.model.rate import Rate

log = logging.getLogger(__name__)
SUPERFRAME_BYTES = 65535  # of IPv4, as GRO makes them
KEPT_TTL = 1  # of a socket whose every datagram says its own
NAMES = CounterNames(VERDICTS, DROPS, SEND_ERRORS, REFUSALS)


@dataclass(slots=True)
class Capture:
    """The rings on one link, one a worker, and what is known of them. ``split``: filters alone divide the groups."""

    spec: RingSpec
    sockets: list[RingSocket]
    split: bool = False
    groups: frozenset[IPv4Address] = frozenset()
    coarse: bool = False
    by_program: bool = False  # the filter is the kernel engine's


@dataclass(slots=True)
class Egress:
    """``sent``: source address and port, destination address and port of its datagrams, as the kernel chose them."""

    spec: OutputSpec
    socket: EgressSocket
    sent: tuple[int, int, int, int]


class RingEngine:
    """The workers and all that their plans need: an Engine that does everything a rule can say."""

    def __init__(self, features: Features, workers: int = 1, cpus: tuple[int, ...] = ()) -> None:
        self._features = features
        self._workers = workers
        self._generation = 0
        self._captures: dict[int, Capture] = {}
        self._egress: dict[CounterKey, Egress] = {}
        self._refused: list[OutputSpec] = []  # outputs to hosts
        self._counters: CounterRegistry[Counters] = CounterRegistry(self._make_input, self._make_output, NAMES)
        self._policers: dict[CounterKey, tuple[Rate, list[PolicerState]]] = {}
        self._gso: dict[str, GsoState] = {}
        self._said: set[str] = set()
        self._scratches = [Scratch() for _ in range(workers)]
        self._plans = [PlanOwner(0, scratch=scratch).seal() for scratch in self._scratches]
        self._threads = Workers(workers, lambda i, wake_fd: Worker(self._plans[i], wake_fd), cpus)

    def _make_input(self) -> list[Counters]:
        """Counters of an input: one for each worker, in their order, before any others."""
        return [CounterBlock(INPUT_FIELDS) for _ in range(self._workers)]

    def _make_output(self) -> list[Counters]:
        return [CounterBlock(OUTPUT_FIELDS) for _ in range(self._workers)]

    def start(self) -> None:
        """Start the workers; they idle until a plan gives them work. Raises UsageError for CPUs that cannot be had."""
        self._threads.start()

    def check(self) -> None:
        """Raise OperationError if a worker has ended."""
        self._threads.check()

    async def apply(self, spec: PlanSpec) -> Refusals:
        """Make the loop go by ``spec``; returns when it does. What is unchanged keeps sockets, rings and counters.

        A ring or a socket that cannot be made is reported, and touches nothing else: its inputs stay out of the plan,
        its outputs are counted as parked.
        """
        refused = Refusals()
        rings = self._open_rings(spec, refused)
        sockets = self._open_sockets(spec, refused)
        begun = self._counters.begin((rule.name, output.to) for rule in spec.rules for output in rule.outputs)
        bypassed = self._bypass(spec, rings, sockets, begun, refused)
        wanted = _groups(spec)
        for ifindex, capture in rings.items():
            self._filter(capture, capture.groups | wanted[ifindex], refused)
        self._generation += 1
        plans = [self._compile(i, spec, rings, sockets, begun, bypassed=bypassed) for i in range(self._workers)]
        await self._threads.publish(plans, self._generation)
        for ifindex, capture in rings.items():
            self._filter(capture, wanted[ifindex], refused)
        await self._settle(rings, sockets, begun, refused)
        self._retire(plans, rings, sockets, spec)
        return refused

    def _bypass(
        self,
        spec: PlanSpec,
        rings: Mapping[int, Capture],
        sockets: Mapping[CounterKey, Egress],
        begun: Begun,
        refused: Refusals,
    ) -> Collection[tuple[int, int, int, int]]:
        """Say from which inputs (ifindex, group, source, port) another engine takes: the loop sees the rest."""
        return ()

    async def _settle(
        self, rings: Mapping[int, Capture], sockets: Mapping[CounterKey, Egress], begun: Begun, refused: Refusals
    ) -> None:
        """The loop goes by the plan; what only the former used is about to be given up."""

    def drop_originals(self, rules: Collection[str]) -> None:
        """A ring has copies: the originals are not its own to drop."""

    def engine_reasons(self) -> dict[str, str]:
        """No rule is anybody else's here."""
        return {}

    def ask_again(self) -> None:
        """Have what an error taught (the MTU of a path, a device that takes no runs) asked of the kernel again."""
        for gso in self._gso.values():
            gso.ask_again()
        for egress in self._egress.values():
            egress.socket.ask_again()

    def rerouted(self) -> bool:
        """Whether another socket would do better for an output to a host.

        It sends from an address that its route would not choose any more, which `connect` fixed, or it was refused.
        """
        if any(_rerouted(egress) for egress in self._egress.values()):
            return True
        return any(_source(output, output.source_port) is not None for output in self._refused)

    def _open_rings(self, spec: PlanSpec, refused: Refusals) -> dict[int, Capture]:
        rings: dict[int, Capture] = {}
        for ifindex, wanted in spec.rings.items():
            kept = self._captures.get(ifindex)
            if kept is not None and kept.spec == wanted:
                rings[ifindex] = kept
                continue
            try:
                rings[ifindex] = self._open_capture(ifindex, wanted)
            except OSError as error:
                refused.rings[ifindex] = refusals.of_ring(wanted.ifname, error)
        return rings

    def _open_capture(self, ifindex: int, wanted: RingSpec) -> Capture:
        """Open a ring for each worker, and have the kernel deal the groups out among them; else their filters do."""
        settings = wanted.settings
        size = settings.ring_bytes // self._workers
        slots = settings.profile == "latency"
        frame = SUPERFRAME_BYTES if settings.gro else wanted.mtu
        sockets = [RingSocket(ifindex, size, slots, frame) for _ in range(self._workers)]
        split = self._workers > 1 and not self._features.fanout
        if self._workers > 1 and not split:
            try:
                sockets[0].share(sockets[1:], bpf.dealer())
            except OSError as error:
                log.info("link=%s workers share it by their filters: %s", wanted.ifname, error)
                split = True
        return Capture(wanted, sockets, split)

    def _open_sockets(self, spec: PlanSpec, refused: Refusals) -> dict[CounterKey, Egress]:
        sockets: dict[CounterKey, Egress] = {}
        room = process.free_descriptors() - _held_back(spec)
        self._refused = []
        for rule in spec.rules:
            if not any(each.live for each in rule.inputs):
                continue
            for output in rule.outputs:
                if output.state != "active":
                    continue
                slot = (rule.name, output.to)
                kept = self._egress.get(slot)
                if kept is not None and kept.spec == output and not _rerouted(kept):
                    sockets[slot] = kept
                    continue
                if room <= 0:
                    refused.outputs[slot] = refusals.no_descriptors(process.descriptor_limit())
                    continue
                try:
                    opened = self._open_socket(output)
                    source = (int(opened.local_address), opened.source_port)
                    sockets[slot] = Egress(output, opened, (*source, int(output.address), output.port))
                    room -= 1
                except OSError as error:
                    refused.outputs[slot] = refusals.of_output(output, error)
                    if not output.address.is_multicast:
                        self._refused.append(output)
        return sockets

    def _open_socket(self, output: OutputSpec) -> EgressSocket:
        name = _device(output)
        gso = self._gso.get(name)
        if gso is None:
            gso = self._gso[name] = GsoState(self._features.udp_segment)
        return EgressSocket(
            int(output.address),
            output.port,
            gso,
            ifindex=output.ifindex,
            link=output.oif or "",
            source_address=int(output.source_address or 0),
            bind_source=output.bind_source,
            source_port=output.source_port,
            exact_port=output.exact_port,
            ttl=output.ttl if isinstance(output.ttl, int) else KEPT_TTL,
            dscp=-1 if output.dscp is None else output.dscp,
            df=output.df,
            payload_max=output.payload_max,
            workers=self._workers,
        )

    def _filter(self, capture: Capture, groups: frozenset[IPv4Address], refused: Refusals) -> None:
        """Attach the narrowest filter that passes ``groups`` and that the kernel has room for."""
        if groups == capture.groups:
            return
        most = bpf.LIMIT
        while True:
            if capture.split:
                filters = [bpf.fitting_filter(groups, most, (i, self._workers)) for i in range(self._workers)]
            else:
                filters = [bpf.fitting_filter(groups, most)] * len(capture.sockets)
            try:
                for ring, (program, _) in zip(capture.sockets, filters, strict=True):
                    ring.attach(program)
            except OSError as error:
                if error.errno != errno.ENOMEM or most < 64:  # net.core.optmem_max
                    refused.rings[capture.sockets[0].ifindex] = refusals.of_filter(capture.spec.ifname, error)
                    return
                most = most * 3 // 4
                continue
            capture.groups = groups
            capture.coarse = not all(exact for _, exact in filters)
            return

    def _compile(
        self,
        worker: int,
        spec: PlanSpec,
        rings: dict[int, Capture],
        sockets: dict[CounterKey, Egress],
        begun: Begun,
        *,
        bypassed: Collection[tuple[int, int, int, int]],
    ) -> PlanOwner:
        plan = PlanOwner(self._generation, scratch=self._scratches[worker], worker=worker)
        numbers = {
            ifindex: plan.add_ring(capture.sockets[worker], loopback=spec.rings[ifindex].loopback)
            for ifindex, capture in rings.items()
        }
        for rule in spec.rules:
            inputs = [each for each in rule.inputs if each.live and each.ifindex in numbers]
            if not inputs:
                continue
            flow = plan.add_flow()
            for output in rule.outputs:
                egress = sockets.get((rule.name, output.to))
                plan.add_output(
                    flow=flow,
                    socket=egress.socket if egress else None,
                    counters=_block(self._counters.output((rule.name, output.to))[worker]),
                    burst=output.burst,
                    keep_dscp=output.dscp is None,
                    keep_ttl=isinstance(output.ttl, str),
                    hops=int(output.ttl == "decrement"),
                )
            for each in inputs:
                plan.add_input(
                    flow=flow,
                    ring=numbers[each.ifindex],
                    group=int(each.group),
                    source=int(each.source or 0),
                    port=each.port,
                    counters=_block(self._counters.input((rule.name, each.text))[worker]),
                    allow=[(int(net.network_address), int(net.netmask)) for net in each.allow or ()],
                    policer=self._policer(worker, (rule.name, each.text), each.limit),
                    label=(rule.name, each.text),
                    bypassed=(each.ifindex, int(each.group), int(each.source or 0), each.port) in bypassed,
                )
        for held in sockets.values():
            source, source_port, address, port = held.sent
            plan.add_own(source=source, source_port=source_port, address=address, port=port)
        for begun_output, input_before in begun:
            plan.add_beginning(output=_block(begun_output[worker]), of_input=_block(input_before[worker]))
        return plan.seal()

    def _policer(self, worker: int, slot: CounterKey, limit: Rate | None) -> PolicerState | None:
        """The token bucket of an input, kept as long as its limit stays the same."""
        if limit is None:
            self._policers.pop(slot, None)
            return None
        held = self._policers.get(slot)
        if held is None or held[0] != limit:
            buckets = [PolicerState(round(limit.number), limit.unit == "bit") for _ in range(self._workers)]
            held = self._policers[slot] = (limit, buckets)
        return held[1][worker]

    def _retire(
        self, plans: list[PlanOwner], rings: dict[int, Capture], sockets: dict[CounterKey, Egress], spec: PlanSpec
    ) -> None:
        """The workers go by ``plans``: what only the plans before used can go."""
        self._plans = plans
        kept_rings = {id(each) for each in rings.values()}
        for capture in self._captures.values():
            if id(capture) not in kept_rings:
                self._counters.retire(capture.spec.ifname, _ring_count(capture))
                for ring in capture.sockets:
                    ring.close()
        kept_sockets = {id(each) for each in sockets.values()}
        for egress in self._egress.values():
            if id(egress) not in kept_sockets:
                egress.socket.close()
        self._captures, self._egress = rings, sockets
        switched = {_device(each.spec) for each in sockets.values()}
        self._gso = {name: gso for name, gso in self._gso.items() if name in switched}
        inputs = {(rule.name, each.text) for rule in spec.rules for each in rule.inputs}
        self._counters.prune(inputs, {(rule.name, each.to) for rule in spec.rules for each in rule.outputs})
        self._policers = {slot: held for slot, held in self._policers.items() if slot in inputs}

    def endpoints(self) -> dict[CounterKey, Endpoint]:
        """What each output with a socket really sends from: the route's address, the next free port."""
        return {
            slot: Endpoint(each.socket.local_address, each.socket.source_port) for slot, each in self._egress.items()
        }

    def links_without_runs(self) -> list[str]:
        """Links whose device has refused a UDP_SEGMENT run since the last call; each is named once."""
        found = [name for name, gso in self._gso.items() if not gso.allowed and name not in self._said]
        self._said.update(found)
        return found if self._features.udp_segment else []

    def snapshot(self) -> Snapshot:
        """Read every counter. Counters of rules that never had a plan are absent."""
        return Snapshot(
            names=NAMES,
            inputs=self._counters.inputs(),
            retired=self._counters.retired(),
            outputs=self._counters.outputs(),
            rings=self._ring_counts(),
            sndbufs={each.spec.oif: each.socket.sndbuf for each in self._egress.values() if each.spec.oif},
            workers=[
                WorkerCount(i, seconds, generation)
                for i, (seconds, generation) in enumerate(
                    zip(self._threads.cpu_seconds(), self._threads.generations, strict=True)
                )
            ],
        )

    def _ring_counts(self) -> dict[str, RingCount]:
        captures = self._captures.values()
        return {each.spec.ifname: self._counters.ring(each.spec.ifname, _ring_count(each)) for each in captures}

    def drops(self) -> dict[str, dict[str, int]]:
        """Datagrams that rules dropped, by rule and reason, of the rules that dropped any: watched all the time."""
        return self._counters.drops()

    def last_packet_times(self) -> dict[str, float | None]:
        """When the newest datagram of each rule came, as its ring stamped it: Unix seconds."""
        times: dict[str, float | None] = {}
        counts = [(rule, count) for (rule, _), count in self._counters.inputs().items()]
        for rule, count in [*counts, *self._counters.retired().items()]:
            if count.last_packet_time is not None:
                times[rule] = max(count.last_packet_time, times.get(rule) or 0.0)
        return times

    def errors(self) -> dict[CounterKey, dict[str, int]]:
        """Datagrams that outputs did not send, by output and reason, of the outputs that failed with any."""
        return self._counters.errors()

    def explain(self, frame: bytes, ifindex: int, tci: int | None = None) -> Explanation | None:
        """What the loop would do with a frame that comes in by that link; None where it captures nothing.

        ``frame`` is whole, from its Ethernet header on; ``tci`` the tag control information of a VLAN tag, which the
        kernel takes out of it. Limits, and datagrams that a second relay sends back, are left out: they depend on
        other frames. Nothing is counted.
        """
        if ifindex not in self._captures:
            return None
        ring = list(self._captures).index(ifindex)
        verdict, taken_by, reason = self._plans[0].explain(frame, ring=ring, tci=tci)
        rule, text = taken_by or (None, None)
        return Explanation(verdict, rule, text, reason)

    def lost_frames(self) -> dict[str, list[FrameLosses]]:
        """By link and ring: frames by verdict, and under ``ring`` those that found no room; with the last one's group.

        The group is None where no frame of that verdict has named one since the ring was made.
        """
        return {
            capture.spec.ifname: [_frame_losses(ring) for ring in capture.sockets]
            for capture in self._captures.values()
        }

    @property
    def turns(self) -> tuple[int, ...]:
        """Turns of each worker's loop."""
        return self._threads.turns

    def wake(self) -> None:
        """Let every worker turn once more, also when nothing arrives."""
        self._threads.wake()

    def close(self) -> None:
        """Stop the workers and give up every socket and ring."""
        self._threads.close()
        for capture in self._captures.values():
            for ring in capture.sockets:
                ring.close()
        for egress in self._egress.values():
            egress.socket.close()
        self._captures, self._egress = {}, {}


def _block(counters: Counters) -> CounterBlock:
    """Counters that a worker writes."""
    assert isinstance(counters, CounterBlock)
    return counters


def _rerouted(egress: Egress) -> bool:
    if egress.spec.source_address is not None:
        return False
    source = _source(egress.spec, egress.socket.source_port)
    return source is not None and source != egress.socket.local_address


def _source(spec: OutputSpec, port: int) -> IPv4Address | None:
    """Ask the kernel with a socket that is made and sends like a host's output, so that rules and routes treat it so.

    None where it has no answer: what is sent is counted so, and a new socket would not help.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if spec.oif:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, spec.oif.encode())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, (spec.dscp or 0) << 2)
        probe.bind((str(spec.source_address or ""), port))  # the port picks one of several paths
        probe.connect((str(spec.address), spec.port))
        return IPv4Address(probe.getsockname()[0])
    return None


def _device(output: OutputSpec) -> str:
    """What shares a GsoState: the outputs of one link; a routed output has a device of its own."""
    return output.oif or f"the route to {output.address}"


def _groups(spec: PlanSpec) -> dict[int, frozenset[IPv4Address]]:
    """What each ring has to let through."""
    live: list[InputSpec] = [each for rule in spec.rules for each in rule.inputs if each.live]
    groups: dict[int, set[IPv4Address]] = {ifindex: set() for ifindex in spec.rings}
    for each in live:
        groups[each.ifindex].add(each.group)
    return {ifindex: frozenset(held) for ifindex, held in groups.items()}


def _ring_count(capture: Capture) -> RingCount:
    """What the open rings of a link have counted. The verdicts are read first: never more of them than frames."""
    refused = dict(zip(REFUSALS, total(ring.fragments.read() for ring in capture.sockets), strict=True))
    frames = dict(zip(VERDICTS, total(ring.frames.read() for ring in capture.sockets), strict=True))
    received, dropped = total(ring.statistics() for ring in capture.sockets)
    return RingCount(received, dropped, frames, capture.coarse, misses=_near_misses(capture), refused_fragments=refused)


def _near_misses(capture: Capture) -> tuple[NearMiss, ...]:
    """Of all workers' rings on a link, the newest first. A filter that is too wide lets groups in that are nobody's."""
    found = [
        NearMiss(IPv4Address(group), IPv4Address(source), port or None, vlan, VERDICTS[verdict], packets, stamp / 1e9)
        for ring in capture.sockets
        for group, source, port, vlan, verdict, packets, stamp in ring.misses()
    ]
    return tuple(sorted((each for each in found if each.group in capture.groups), key=lambda each: -each.last_time))


def _frame_losses(ring: RingSocket) -> FrameLosses:
    words = zip(VERDICTS, ring.frames.read(), ring.lost_groups(), strict=True)
    lost = {verdict: (count, IPv4Address(group) if group else None) for verdict, count, group in words}
    return {**lost, "ring": (ring.statistics()[1], None)}


def _held_back(spec: PlanSpec) -> int:
    """Descriptors that outputs leave to others: clients, and the tap, presence and helper sockets of links."""
    return 32 + 4 * len(spec.rings) + len(spec.memberships) // 16
