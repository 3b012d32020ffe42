"""The kernel engine: the ring, and before it a program in the kernel that takes what it can of the rules that ask.

The ring has every rule, ready to send: what the program does not treat (a rule, or a datagram) is its own, and a rule
goes from one to the other by one entry in a map. Which of them has a datagram is decided by one function of
decide.bpf.h, once, in the ring's filter.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mcrelay.engine import program
from mcrelay.engine.captures import in_core, rule_key
from mcrelay.engine.egress import Ends
from mcrelay.engine.handover import MAPS, Handover
from mcrelay.engine.ring import RingEngine
from mcrelay.engine.table import (
    FullError,
    InputCounters,
    KeptLinks,
    LinkCount,
    OutputCounters,
    Sending,
    Table,
    Taking,
    macs_of,
)
from mcrelay.linux import capabilities

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from mcrelay.engine.captures import Capture, RuleKey
    from mcrelay.engine.counters import Begun, Counters
    from mcrelay.engine.egress import Egress
    from mcrelay.engine.table import Keeper
    from mcrelay.linux.features import Features
    from mcrelay.model.plan import InputSpec, OutputSpec, PlanSpec, RuleSpec
    from mcrelay.model.state import CounterKey, Refusals, RingCount
    from mcrelay.model.stream import Address

log = logging.getLogger(__name__)

LARGEST = 65507  # bytes of a datagram's payload
GRACE_SECONDS = 0.1  # longer than a packet is on its way, where the kernel does not say when it is over
NOT_BUILT = "this mcrelay was made without the kernel engine: its build needs clang and libbpf-dev"
NO_CAPABILITY = (
    'CAP_BPF and CAP_NET_ADMIN are missing: started by root, the relay keeps them if a rule\'s engine = "kernel" stands'
    " in its files by then; under systemd, install the drop-in kernel-engine.conf"
)
NOT_ALLOWED = "the kernel allows no such program: its lockdown or a security policy, or a container's namespace"
NO_TCX = "this kernel has no tcx hook: it needs Linux 6.6 or newer"
HELD = (
    "something came that the program does not treat (from a second source, with IP options or extension headers, beyond"
    " an output's MTU, without the checksum that IPv6 has): the ring has the stream until it has been silent for 0.1 s"
)
FULL = "the kernel engine's maps are full: a restart makes them larger"


class KernelEngine(RingEngine):
    """An Engine whose rules go by the program where they ask for it and it can."""

    def __init__(
        self,
        features: Features,
        workers: int = 1,
        cpus: tuple[int, ...] = (),
        *,
        keeper: Keeper | None = None,
        inherited: Sequence[tuple[str, int]] = (),
    ) -> None:
        """*inherited* are names and descriptors that *keeper* has kept of the process before us."""
        self._links = KeptLinks(keeper, inherited)
        self._handover = Handover(keeper, inherited)
        self._table: Table | None = None
        self._trouble = ""  # why there is no table
        self._reasons: dict[str, str] = {}
        self._alone: frozenset[str] = frozenset()  # rules whose originals nobody wants
        self._keys: dict[RuleKey, str] = {}  # of the rules that the program takes
        self._own: frozenset[Ends] = frozenset()  # what our outputs send, as the program tells it
        super().__init__(features, workers, cpus)

    def _make_input(self, groups: int) -> list[Counters]:
        return [*super()._make_input(groups), InputCounters()]

    def _make_output(self, groups: int) -> list[Counters]:
        return [*super()._make_output(groups), OutputCounters()]

    def ask_again(self) -> None:
        """Have a program that could not be loaded be tried again too."""
        super().ask_again()
        self._trouble = ""

    def drop_originals(self, rules: Collection[str]) -> None:
        """Have the program drop what it has sent on for these, before it climbs any further."""
        self._alone = frozenset(rules)
        for key, rule in self._keys.items():
            if self._table is not None:
                self._table.drop_originals(key, drop=rule in self._alone)

    def engine_reasons(self) -> dict[str, str]:
        """Of rules that ask for the program: why the ring has them, empty where it does not."""
        held = {rule for key, rule in self._keys.items() if self._table and self._table.held(key)}
        return {rule: HELD if rule in held else reason for rule, reason in self._reasons.items()}

    def _bypass(
        self,
        spec: PlanSpec,
        rings: Mapping[int, Capture],
        sockets: Mapping[CounterKey, Egress],
        begun: Begun,
        refused: Refusals,
    ) -> frozenset[RuleKey]:
        """Let the program take what the plan gives it, before the ring goes by the plan."""
        asking = [(rule, each) for rule in spec.rules if rule.engine == "kernel" for each in rule.inputs if each.live]
        reasons = {rule.name: self._load(spec) for rule, _ in asking}
        if self._table is None:
            self._links.release()
            self._handover.release()
            self._keys = {}
            self._tell(reasons)
            return frozenset()
        table = self._table
        attached: dict[int, str] = {}  # by link: nothing, or why the program is not there
        new = {each for output, _ in begun for each in output if isinstance(each, OutputCounters)}
        kept: dict[RuleKey, str] = {}
        try:
            self._own = frozenset(_sent(sockets.values(), [each for _, each in asking]))
            table.know(self._own)
            for rule, each in asking:
                reason = _unfit(rule, each, spec, rings)
                if not reason and each.ifindex not in attached:
                    attached[each.ifindex] = self._attach(each, rings[each.ifindex])
                reason = reason or attached[each.ifindex]
                if not reason:
                    key = rule_key(each)
                    try:
                        table.take(key, self._taking(rule, each, spec, sockets), new)
                        kept[key] = rule.name
                    except (FullError, OSError) as error:
                        reason = _refusal(error)
                reasons[rule.name] = reason
        except OSError as error:  # no room for what is ours
            reasons, kept = {rule.name: _refusal(error) for rule, _ in asking}, {}
        self._links.release()
        for ifindex, failure in table.replace_inherited().items():
            for key in [each for each in kept if each.ifindex == ifindex]:
                reasons[kept.pop(key)] = _refusal(failure)
        table.leave(kept)
        self._keys = kept
        self._tell(reasons)
        return frozenset(kept)

    def _load(self, spec: PlanSpec) -> str:
        """Load the program, once there is a rule for it; else say why not."""
        if self._table is not None or self._trouble:
            return self._trouble
        if not program.BUILT:
            self._trouble = NOT_BUILT
            return NOT_BUILT
        inputs = sum(each.group_count for rule in spec.rules for each in rule.inputs)
        try:
            program.probe_hook()  # first: an old kernel refuses the program too, and says that it is not allowed
            self._table = Table(inputs, sum(len(rule.outputs) for rule in spec.rules), self._links)
        except OSError as error:
            self._trouble = _refusal(error)
        return self._trouble

    def _attach(self, each: InputSpec, capture: Capture) -> str:
        """Have the program on a rule's link, and its filter on the link's rings; else say why not."""
        assert self._table is not None
        try:
            self._table.attach(each.ifindex, each.iif, each.incarnation)
            self._filter_by_program(each.ifindex, capture, capture.groups)
        except (FullError, OSError) as error:
            return _refusal(error)
        return ""

    def _filter_by_program(self, ifindex: int, capture: Capture, groups: frozenset[Address]) -> None:
        assert self._table is not None
        self._table.let_in(ifindex, {in_core(group) for group in groups})
        if not capture.by_program:
            for ring in capture.sockets:
                self._table.program.filter(ring.fileno())
            capture.by_program = True
        capture.groups, capture.coarse = groups, False

    def _filter(self, capture: Capture, groups: frozenset[Address], refused: Refusals) -> None:
        """Have the rings of a link let these groups in: by the program's filter where the program is."""
        ifindex = capture.sockets[0].ifindex
        if self._table is None or not capture.by_program:
            super()._filter(capture, groups, refused)
            return
        try:
            self._filter_by_program(ifindex, capture, groups)
        except OSError as error:
            refused.rings[ifindex] = f"no filter on {capture.spec.ifname}: {_refusal(error)}"

    def _taking(self, rule: RuleSpec, each: InputSpec, spec: PlanSpec, sockets: Mapping[CounterKey, Egress]) -> Taking:
        counters = self._counters.input((rule.name, each.text))[-1]
        assert isinstance(counters, InputCounters)
        counters.name = rule.name, each.text
        active = [output for output in rule.outputs if (rule.name, output.to) in sockets]
        family = each.group.version
        outputs = sorted(rule.outputs, key=lambda output: output.address.version != family)  # a packet crosses once
        return Taking(
            rule.name,
            counters,
            tuple(self._sending(rule.name, output, spec, sockets) for output in outputs),
            min([output.payload_max for output in active], default=LARGEST),
            whole=all(output.burst > 1 for output in active),
            crosses=any(output.address.version != family for output in active),
            exclusive=rule.exclusive and rule.name in self._alone,
        )

    def _sending(self, rule: str, output: OutputSpec, spec: PlanSpec, sockets: Mapping[CounterKey, Egress]) -> Sending:
        counters = self._counters.output((rule, output.to))[-1]
        assert isinstance(counters, OutputCounters)
        counters.name = rule, output.to
        egress = sockets.get((rule, output.to))
        if egress is None:
            return Sending(counters)
        source, source_port, group, port = egress.sent
        assert isinstance(output.ttl, int)
        return Sending(
            counters, output.ifindex, group, source, port, source_port, output.ttl, output.dscp, output.df,
            macs_of(group, bytes.fromhex(spec.ethernet[output.ifindex].replace(":", ""))),
        )  # fmt: skip

    async def _settle(
        self, rings: Mapping[int, Capture], sockets: Mapping[CounterKey, Egress], begun: Begun, refused: Refusals
    ) -> None:
        """The ring goes by the plan: give up what the program had for the one before."""
        if self._table is None:
            return
        table = self._table
        if table.unsettled or self._handover.pending:
            try:
                program.wait_for_packets()
            except OSError:
                await asyncio.sleep(GRACE_SECONDS)
        table.settle(self._own)
        former = self._handover.take() if self._handover.pending else None
        if former is not None:
            table.inherit(former)
            begun = []
        for output, source in begun:
            if isinstance(output[-1], OutputCounters) and isinstance(source[-1], InputCounters):
                output[-1].since += source[-1].passed
        used = {key.ifindex for key in table.keys}
        for ifindex in table.attached.keys() - used:
            if (capture := rings.get(ifindex)) is not None and capture.by_program:
                groups, capture.groups, capture.by_program = capture.groups, frozenset(), False
                super()._filter(capture, groups, refused)
            table.detach(ifindex)
        if table.attached:
            self._handover.keep({name: table.program.map(name) for name in MAPS}, table.describe())
        else:
            self._handover.forget()

    def _tell(self, reasons: dict[str, str]) -> None:
        """Log what has changed, one line a rule."""
        for name, reason in reasons.items():
            if self._reasons.get(name) != reason:
                if reason:
                    log.warning("changed rule=%s engine=ring reason=%r", name, reason)
                else:
                    log.info("changed rule=%s engine=kernel", name)
        self._reasons = reasons

    def _ring_counts(self) -> dict[str, RingCount]:
        counts = super()._ring_counts()
        frames = self._table.frames() if self._table else {}
        return {name: _with_program(count, frames.get(name, LinkCount(0, 0))) for name, count in counts.items()}

    def close(self) -> None:
        """Take the program off every link, then do as the ring."""
        if self._table is not None:
            self._handover.close()
            self._table.close()
            self._table = None
        super().close()


def _with_program(count: RingCount, more: LinkCount) -> RingCount:
    """A link's frames with those that the program has seen to in the ring's place."""
    malformed = count.frames["malformed"] + more.malformed
    return replace(
        count,
        kernel_frames=more.taken,
        rx_frames=count.rx_frames + more.malformed,
        frames={**count.frames, "malformed": malformed},
    )


def _sent(held: Iterable[Egress], asking: Iterable[InputSpec]) -> Iterator[Ends]:
    """What comes from us, as far as the program can meet it: of outputs with many destinations those that it takes."""
    wanted = [(each.group, each.port) for each in asking if isinstance(each.port, int)]
    for each in held:
        if not each.spec.addressed:
            yield each.sent
            continue
        for group, port in wanted:
            if each.spec.sends_to(group, port):
                yield Ends(in_core(each.source), each.source_port, in_core(group), port)


def _unfit(rule: RuleSpec, each: InputSpec, spec: PlanSpec, rings: Mapping[int, Capture]) -> str:
    """Why the program does not treat a rule: what it does not do, and links that are no Ethernet."""
    capture = rings.get(each.ifindex)
    if capture is None:
        return f"link {each.iif} has no ring"
    if capture.spec.loopback or capture.spec.bare:
        return f"link {each.iif} is no Ethernet link"
    if capture.split:
        return f"several workers share link {each.iif} by their filters"
    if each.own:
        return "what this host sends itself is the ring's to take"
    if not each.group.is_multicast:
        return f"input {each.text} is no multicast group"
    if rule.health != "none":
        return "health is the ring's to look at"
    if each.vlan != "none":
        return "vlan is the ring's to tell: the program takes untagged frames"
    if each.many:
        return "a range of groups and several ports are the ring's to map"
    for key, value in (("allow", each.allow), ("limit", each.limit)):
        if value is not None:
            return f"{key} is the ring's to hold"
    for output in rule.outputs:
        if not output.address.is_multicast:
            return f"output {output.to} is no multicast group"
        if not isinstance(output.ttl, int):
            return "ttl is the ring's to keep or decrement"
        if output.vlan:
            return "vlan is the ring's to send: the program's copies are untagged"
        if output.keep_address or output.keep_port:
            return "source_address and source_port are the ring's to keep"
        if output.state == "active" and output.ifindex not in spec.ethernet:
            return f"link {output.oif} is no Ethernet link"
    return ""


def _refusal(error: Exception) -> str:
    """Say what the kernel did not do, and what to do (bpf(2))."""
    if not isinstance(error, OSError) or error.errno in {errno.E2BIG, errno.ENOSPC}:
        return FULL
    said = str(error.strerror)
    if error.errno in {errno.EPERM, errno.EACCES} and not said.startswith("BPF_PROG_LOAD"):
        held = capabilities.capabilities()
        return NOT_ALLOWED if {capabilities.CAP_BPF, capabilities.CAP_NET_ADMIN} <= held else NO_CAPABILITY
    if error.errno == errno.EINVAL and said.startswith("BPF_LINK_CREATE"):
        return NO_TCX
    return f"the kernel refused the program: {said}"
