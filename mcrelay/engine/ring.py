"""The ring engine: rings, egress sockets, counters and plans of all workers.

It owns every object that the loops read. A change builds new plans beside the old ones, publishes them, waits until
the workers use them, and only then frees what only the old plans used. All methods belong to the main thread.

Every worker has a ring on every link, and a plan with every input. The kernel deals the groups out to the workers by
the destination. So each worker has counters and token buckets of its own. They share the sockets, as any thread may.
"""

from __future__ import annotations

import errno
import functools
import logging
import math
import time
from typing import TYPE_CHECKING

from mcrelay._core.counters import (
    DROPS,
    INPUT_FIELDS,
    OUTPUT_FIELDS,
    REFUSALS,
    SEND_ERRORS,
    TIME_BOUNDS_NS,
    TIME_FIELDS,
    VERDICTS,
    CounterBlock,
)
from mcrelay._core.egress import EgressSocket, GsoState
from mcrelay._core.health import HealthState
from mcrelay._core.kept import KeptMemory
from mcrelay._core.plan import PlanOwner
from mcrelay._core.policer import PolicerState
from mcrelay._core.queue import Scratch
from mcrelay._core.ring import RingSocket
from mcrelay._core.worker import Worker
from mcrelay.engine.captures import (
    Capture,
    both,
    captured,
    frame_losses,
    groups_of,
    in_core,
    keys_of,
    ring_count,
    rule_key,
)
from mcrelay.engine.counters import CounterRegistry
from mcrelay.engine.egress import Egress, device_of, number_of, ports_sent_to, rerouted, source_of
from mcrelay.engine.health import HealthRegistry
from mcrelay.engine.times import TimeRegistry
from mcrelay.engine.workers import Workers
from mcrelay.linux import bpf, process
from mcrelay.model import refusals
from mcrelay.model.ports import Ports, port_count
from mcrelay.model.state import (
    CounterKey,
    CounterNames,
    Endpoint,
    Explanation,
    FrameLosses,
    HealthCount,
    Refusals,
    RelayTimes,
    RingCount,
    Snapshot,
    WorkerCount,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mcrelay.engine.captures import RuleKey
    from mcrelay.engine.counters import Begun, Counters
    from mcrelay.linux.features import Features
    from mcrelay.model.plan import OutputSpec, PlanSpec, RingSpec
    from mcrelay.model.rate import Rate
    from mcrelay.model.stream import Address

log = logging.getLogger(__name__)
SUPERFRAME_BYTES = 65535  # bytes of a superframe of IPv4, as GRO makes it
PORT_SOCKETS = 8  # that a worker may open for the source ports that an output keeps: at most as port_sockets.pxd has
SEVERAL = 64  # streams of one group that may form runs side by side, where it takes any port
KEPT_TTL = 1  # of a socket whose every datagram says its own
NAMES = CounterNames(
    VERDICTS, DROPS, SEND_ERRORS, REFUSALS, times=(*(bound / 1e9 for bound in TIME_BOUNDS_NS), math.inf)
)


class RingEngine:
    """The workers and all that their plans need: an Engine that can do everything that a rule can say."""

    def __init__(self, features: Features, workers: int = 1, cpus: tuple[int, ...] = ()) -> None:
        self._features = features
        self._workers = workers
        self._generation = 0
        self._captures: dict[int, Capture] = {}
        self._egress: dict[CounterKey, Egress] = {}
        self._refused: list[OutputSpec] = []  # outputs to hosts by route
        self._counters: CounterRegistry[Counters] = CounterRegistry(self._make_input, self._make_output, NAMES)
        self._health: HealthRegistry[HealthState] = HealthRegistry(self._make_health)
        self._times: TimeRegistry[CounterBlock] = TimeRegistry(self._make_times, NAMES.times)
        self._policers: dict[CounterKey, tuple[Rate, list[PolicerState]]] = {}
        self._gso: dict[str, GsoState] = {}
        self._kept: list[KeptMemory] = []  # one a worker, from the first output on that keeps a source address or port
        self._said: set[str] = set()
        self._scratches = [Scratch() for _ in range(workers)]
        self._plans = [PlanOwner(0, scratch=scratch).seal() for scratch in self._scratches]
        self._threads = Workers(workers, lambda i, wake_fd: Worker(self._plans[i], wake_fd), cpus)

    def _make_input(self, groups: int) -> list[Counters]:
        """Counters of an input, one for each worker, in their order."""
        return [CounterBlock(INPUT_FIELDS, groups) for _ in range(self._workers)]

    def _make_output(self, groups: int) -> list[Counters]:
        return [CounterBlock(OUTPUT_FIELDS, groups) for _ in range(self._workers)]

    def _make_health(self, rtp: bool, transport: bool) -> list[HealthState]:
        return [HealthState(rtp=rtp, transport=transport) for _ in range(self._workers)]

    def _make_times(self) -> list[CounterBlock]:
        return [CounterBlock(TIME_FIELDS) for _ in range(self._workers)]

    def start(self) -> None:
        """Start the workers; they idle until a plan gives them work. Raises UsageError for CPUs that cannot be used."""
        self._threads.start()

    def check(self) -> None:
        """Raise OperationError if a worker has ended."""
        self._threads.check()

    async def apply(self, spec: PlanSpec) -> Refusals:
        """Make the loops use ``spec``; returns when they do. Unchanged parts keep sockets, rings and counters.

        A ring or socket that cannot be made is reported, and affects nothing else: its inputs stay out of the plan, and
        datagrams for its outputs are counted as parked.
        """
        refused = Refusals()
        rings = self._open_rings(spec, refused)
        sockets = self._open_sockets(spec, refused)
        groups = {(rule.name, output.to): output.groups for rule in spec.rules for output in rule.outputs}
        begun = self._counters.begin(groups, groups)
        bypassed = self._bypass(spec, rings, sockets, begun, refused)
        wanted = groups_of(spec)
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
    ) -> Collection[RuleKey]:
        """The inputs that another engine takes: the loop sees the rest."""
        return ()

    async def _settle(
        self, rings: Mapping[int, Capture], sockets: Mapping[CounterKey, Egress], begun: Begun, refused: Refusals
    ) -> None:
        """Called when the loops use the plan, before what only the old one used is freed."""

    def drop_originals(self, rules: Collection[str]) -> None:
        """Does nothing: a ring has copies, and cannot drop the originals."""

    def engine_reasons(self) -> dict[str, str]:
        """Empty: no other engine takes a rule here."""
        return {}

    def ask_again(self) -> None:
        """Forget what errors have taught (a path's MTU, a device that takes no runs): the kernel is asked again."""
        for gso in self._gso.values():
            gso.ask_again()
        for egress in self._egress.values():
            egress.socket.ask_again()

    def rerouted(self) -> bool:
        """Whether an output to a host needs a new socket.

        It does if its route would now choose another address than the one that `connect` fixed, or if it was refused.
        """
        if any(rerouted(egress) for egress in self._egress.values()):
            return True
        return any(source_of(output, output.source_port) is not None for output in self._refused)

    def _open_rings(self, spec: PlanSpec, refused: Refusals) -> dict[int, Capture]:
        rings: dict[int, Capture] = {}
        for key, wanted in captured(spec):
            kept = self._captures.get(key)
            if kept is not None and kept.spec == wanted:
                rings[key] = kept
                continue
            try:
                rings[key] = self._open_capture(abs(key), wanted)
            except OSError as error:
                refused.rings[key] = refusals.of_ring(wanted.ifname, error)
        return rings

    def _open_capture(self, ifindex: int, wanted: RingSpec) -> Capture:
        """Open a ring for each worker. The kernel deals the groups out among them; if it cannot, their filters do."""
        settings = wanted.settings
        size = settings.ring_bytes // self._workers
        slots = settings.profile == "latency"
        frame = SUPERFRAME_BYTES if settings.gro else wanted.mtu
        kind = {"bare": wanted.bare, "own": wanted.own}
        sockets = [RingSocket(ifindex, size, slots, frame, **kind) for _ in range(self._workers)]
        split = self._workers > 1 and not self._features.fanout
        if self._workers > 1 and not split:
            try:
                sockets[0].share(sockets[1:], bpf.dealer())
            except OSError as error:
                log.info("splits link=%s: workers share it by their filters: %s", wanted.ifname, error)
                split = True
        return Capture(wanted, sockets, split)

    def _open_sockets(self, spec: PlanSpec, refused: Refusals) -> dict[CounterKey, Egress]:
        sockets: dict[CounterKey, Egress] = {}
        room = process.free_descriptors() - _held_back(spec)
        self._refused = []
        if not self._kept and any(output.keeps for rule in spec.rules for output in rule.outputs):
            self._kept = [KeptMemory() for _ in range(self._workers)]
        for rule in spec.rules:
            if not any(each.live for each in rule.inputs):
                continue
            for output in rule.outputs:
                if output.state != "active":
                    continue
                slot = (rule.name, output.to)
                kept = self._egress.get(slot)
                if kept is not None and kept.spec == output and not rerouted(kept):
                    sockets[slot] = kept
                    continue
                needed = 1 + self._workers * PORT_SOCKETS * output.needs_port_sockets
                if room < needed:
                    refused.outputs[slot] = refusals.no_descriptors(process.descriptor_limit())
                    continue
                try:
                    opened = self._open_socket(output)
                    sockets[slot] = Egress(output, opened, Endpoint(opened.local_address, opened.source_port))
                    room -= needed
                except OSError as error:
                    refused.outputs[slot] = refusals.of_output(output, error)
                    if not output.address.is_multicast and not output.vlan:
                        self._refused.append(output)
        return sockets

    def _open_socket(self, output: OutputSpec) -> EgressSocket:
        name = device_of(output)
        source, bind_source = output.source_address, output.bind_source
        if output.addressed and not output.address.is_multicast and not output.vlan and source is None:
            source = source_of(output, output.source_port)
            bind_source = source is not None
        gso = self._gso.get(name)
        if gso is None:
            gso = self._gso[name] = GsoState(self._features.udp_segment)
        return EgressSocket(
            in_core(output.address),
            output.port,
            gso,
            ifindex=output.ifindex,
            link=output.oif or "",
            source_address=None if source is None else in_core(source),
            bind_source=bind_source,
            source_port=output.source_port,
            exact_port=output.exact_port,
            ttl=output.ttl if isinstance(output.ttl, int) else KEPT_TTL,
            dscp=-1 if output.dscp is None else output.dscp,
            df=output.df,
            keep_address=output.keep_address,
            keep_port=output.keep_port,
            port_sockets=PORT_SOCKETS,
            payload_max=output.payload_max,
            workers=self._workers,
            addressed=output.addressed,
            vlan=output.vlan,
            mac=number_of(output.mac),
        )

    def _filter(self, capture: Capture, groups: frozenset[Address], refused: Refusals) -> None:
        """Attach the narrowest filter that passes ``groups`` and for which the kernel has room."""
        if groups == capture.groups:
            return
        most = bpf.LIMIT
        make = functools.partial(bpf.fitting_filter, groups, outgoing=capture.spec.own, bare=capture.spec.bare)
        while True:
            if capture.split:
                shares = [(i, self._workers) for i in range(self._workers)]
                filters = [make(most, share) for share in shares]
            else:
                filters = [make(most)] * len(capture.sockets)
            try:
                for ring, (program, _) in zip(capture.sockets, filters, strict=True):
                    ring.attach(program)
            except OSError as error:
                if error.errno != errno.ENOMEM or most < 64:  # net.core.optmem_max
                    refused.rings[capture.key] = refusals.of_filter(capture.spec.ifname, error)
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
        bypassed: Collection[RuleKey],
    ) -> PlanOwner:
        plan = PlanOwner(self._generation, scratch=self._scratches[worker], worker=worker)
        numbers = {
            key: plan.add_ring(capture.sockets[worker], loopback=capture.spec.loopback)
            for key, capture in rings.items()
        }
        for rule in spec.rules:
            inputs = [each for each in rule.inputs if each.live and each.ifindex in numbers]
            if not inputs:
                continue
            many = any(each.many for each in inputs)
            lanes = max(each.group_count * (port_count(each.port) or SEVERAL) for each in inputs)
            flow = plan.add_flow(times=self._times.of(rule.name)[worker], addressed=many, lanes=lanes)
            for output in rule.outputs:
                egress = sockets.get((rule.name, output.to))
                plan.add_output(
                    flow=flow,
                    socket=egress.socket if egress else None,
                    counters=_block(self._counters.output((rule.name, output.to), output.groups)[worker]),
                    burst=output.burst,
                    keep_dscp=output.dscp is None,
                    keep_ttl=isinstance(output.ttl, str),
                    hops=int(output.ttl == "decrement"),
                    kept=self._kept[worker] if self._kept else None,
                    mac=number_of(output.mac),
                    group=in_core(output.address),
                    port=output.port if output.into_one else 0,
                    spans=output.port_map,
                )
            for key, each in ((key, taken) for taken in inputs for key in keys_of(taken) if key in numbers):
                plan.add_input(
                    flow=flow,
                    ring=numbers[key],
                    group=in_core(each.group),
                    source=in_core(each.source) if each.source else 0,
                    port=each.port if isinstance(each.port, int) else 0,
                    spans=each.port.spans if isinstance(each.port, Ports) else (),
                    counters=_block(self._counters.input((rule.name, each.text), each.group_count)[worker]),
                    allow=[(in_core(net.network_address), in_core(net.netmask)) for net in each.allow or ()],
                    health=self._looker(worker, rule.health, (rule.name, each.text)),
                    policer=self._policer(worker, (rule.name, each.text), each.limit, each.group_count),
                    label=(rule.name, each.text),
                    bypassed=each.vlan == "none" and rule_key(each) in bypassed,
                    vlan=0 if each.vlan == "none" else None if each.vlan == "any" else each.vlan,
                )
        for held in sockets.values():
            if held.spec.keeps:
                continue
            for port in ports_sent_to(held.spec):
                plan.add_own(
                    source=in_core(held.source),
                    source_port=held.source_port,
                    address=in_core(held.spec.address),
                    port=port,
                    groups=held.spec.groups,
                )
        for memory in self._kept:
            plan.add_kept(memory)
        for begun_output, input_before in begun:
            plan.add_beginning(output=_block(begun_output[worker]), of_input=_block(input_before[worker]))
        return plan.seal()

    def _looker(self, worker: int, kind: str, slot: CounterKey) -> HealthState | None:
        return None if kind == "none" else self._health.of(slot, kind)[worker]

    def _policer(self, worker: int, slot: CounterKey, limit: Rate | None, groups: int) -> PolicerState | None:
        """The token bucket of an input, or of each group of its range, kept as long as its limit stays the same."""
        if limit is None:
            self._policers.pop(slot, None)
            return None
        held = self._policers.get(slot)
        if held is None or held[0] != limit:
            rate, bits = round(limit.number), limit.unit == "bit"
            buckets = [PolicerState(rate, bits, groups) for _ in range(self._workers)]
            held = self._policers[slot] = (limit, buckets)
        return held[1][worker]

    def _retire(
        self, plans: list[PlanOwner], rings: dict[int, Capture], sockets: dict[CounterKey, Egress], spec: PlanSpec
    ) -> None:
        """Called when the workers use ``plans``: free what only the plans before used."""
        self._plans = plans
        kept_rings = {id(each) for each in rings.values()}
        for capture in self._captures.values():
            if id(capture) not in kept_rings:
                self._counters.retire(capture.spec.ifname, ring_count(capture))
                for ring in capture.sockets:
                    ring.close()
        kept_sockets = {id(each) for each in sockets.values()}
        for egress in self._egress.values():
            if id(egress) not in kept_sockets:
                egress.socket.close()
        self._captures, self._egress = rings, sockets
        switched = {device_of(each.spec) for each in sockets.values()}
        self._gso = {name: gso for name, gso in self._gso.items() if name in switched}
        inputs = {(rule.name, each.text) for rule in spec.rules for each in rule.inputs}
        self._counters.prune(inputs, {(rule.name, each.to) for rule in spec.rules for each in rule.outputs})
        self._policers = {slot: held for slot, held in self._policers.items() if slot in inputs}
        looked_at = [rule for rule in spec.rules if rule.health != "none"]
        self._health.prune({(rule.name, each.text) for rule in looked_at for each in rule.inputs})
        self._times.prune({rule.name for rule in spec.rules})

    def endpoints(self) -> dict[CounterKey, Endpoint]:
        """The real source of each output with a socket: the route's address, the next free port."""
        return {slot: each.endpoint for slot, each in self._egress.items()}

    def links_without_runs(self) -> list[str]:
        """Links whose device has refused a UDP_SEGMENT run since the last call, each once."""
        found = [name for name, gso in self._gso.items() if not gso.allowed and name not in self._said]
        self._said.update(found)
        return found if self._features.udp_segment else []

    def snapshot(self) -> Snapshot:
        """Read every counter. Counters of rules that never had a plan are absent."""
        # Outputs before inputs: a datagram is counted as received first, so nobody reads that more was sent than came.
        outputs, output_groups = self._counters.outputs(), self._counters.output_groups()
        return Snapshot(
            names=NAMES,
            inputs=self._counters.inputs(),
            retired=self._counters.retired(),
            outputs=outputs,
            input_groups=self._counters.input_groups(),
            output_groups=output_groups,
            rings=self._ring_counts(),
            sndbufs={each.spec.oif: each.socket.sndbuf for each in self._egress.values() if each.spec.oif},
            workers=[
                WorkerCount(i, seconds, generation)
                for i, (seconds, generation) in enumerate(
                    zip(self._threads.cpu_seconds(), self._threads.generations, strict=True)
                )
            ],
        )

    def health(self) -> dict[CounterKey, HealthCount]:
        """What was found in the streams of inputs that ask for it. Those that never had a plan are absent."""
        return self._health.read(time.time())

    def relay_times(self) -> dict[str, RelayTimes]:
        """How long the datagrams of each rule were here. Rules that never had a plan are absent."""
        return self._times.read()

    def _ring_counts(self) -> dict[str, RingCount]:
        counts: dict[str, RingCount] = {}
        for capture in self._captures.values():
            name, count = capture.spec.ifname, ring_count(capture)
            counts[name] = both(counts[name], count) if name in counts else count
        return {name: self._counters.ring(name, count) for name, count in counts.items()}

    def drops(self) -> dict[str, dict[str, int]]:
        """Datagrams that rules dropped, by rule and reason; only rules that dropped any. Cheap: it is called often."""
        return self._counters.drops()

    def last_packet_times(self) -> dict[str, float | None]:
        """Unix seconds of the newest datagram of each rule, by the ring's time stamp."""
        return self._counters.last_packet_times()

    def errors(self) -> dict[CounterKey, dict[str, int]]:
        """Datagrams that outputs did not send, by output and reason; only outputs that failed with any."""
        return self._counters.errors()

    def explain(self, frame: bytes, ifindex: int, tci: int | None = None) -> Explanation | None:
        """The loop's decision on a frame that arrives on that link; None if nothing is captured there.

        ``frame`` is whole, from its Ethernet header on. ``tci`` is the tag control information of a VLAN tag, which the
        kernel strips. Limits, and datagrams that a second relay sends back, are not considered: they depend on other
        frames. Nothing is counted.
        """
        if ifindex not in self._captures:
            return None
        ring = list(self._captures).index(ifindex)
        verdict, taken_by, reason = self._plans[0].explain(frame, ring=ring, tci=tci)
        rule, text = taken_by or (None, None)
        return Explanation(verdict, rule, text, reason)

    def lost_frames(self) -> dict[str, list[FrameLosses]]:
        """Frames by link, ring and verdict, each with the last one's group; ``ring`` counts those without room.

        The group is None where no frame of that verdict has named one since the ring was made.
        """
        lost: dict[str, list[FrameLosses]] = {}
        for capture in self._captures.values():
            lost.setdefault(capture.spec.ifname, []).extend(map(frame_losses, capture.sockets))
        return lost

    @property
    def turns(self) -> tuple[int, ...]:
        """Turns of each worker's loop."""
        return self._threads.turns

    def wake(self) -> None:
        """Make every worker turn once more, also when nothing arrives."""
        self._threads.wake()

    def close(self) -> None:
        """Stop the workers and close every socket and ring."""
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


def _held_back(spec: PlanSpec) -> int:
    """Descriptors that outputs leave free: for clients, and for tap, presence and helper sockets of links."""
    return 32 + 4 * len(spec.rings) + len(spec.memberships) // 16
