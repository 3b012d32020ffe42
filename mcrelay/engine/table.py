"""The kernel engine's maps: which rules the program takes, what it sends for them, and what it has counted.

A packet that is on its way may still go by the entry before. So what an entry had goes in two steps: `change` makes the
next one, and `settle` gives up what only the former used, when no packet can be between. Main thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mcrelay._core.counters import INPUT_FIELDS, OUTPUT_FIELDS
from mcrelay.engine import program
from mcrelay.engine.handover import Described, Description

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from mcrelay._core.program import KernelProgram
    from mcrelay.engine.captures import CoreAddress, RuleKey
    from mcrelay.engine.egress import Ends
    from mcrelay.engine.handover import Former
    from mcrelay.model.state import CounterKey

GROUPS = 1 << 16  # that a link's filter may let in, of all rules: room that is not used costs little
LEAST_ROOM = 1024  # entries of a map; four times what there was to begin with where that is more
LINKS = 256
COUNTED = ("rx_packets", "rx_bytes", "last_packet_ns")  # the order of struct relay_input_counters
KEPT = "kernel-engine-"  # names of links in the keeper's hands begin so; the ifindex follows
CLOCK_STEP_NS = 10_000_000


class Keeper(Protocol):
    """Who keeps links over a restart, so that the program goes on: systemd's fd store (systemd.Notifier)."""

    def store(self, fd: int, name: str) -> None: ...
    def forget(self, name: str) -> None: ...


class FullError(Exception):
    """There is no room for another entry."""


class LinkCount(NamedTuple):
    """Frames of a link that the program took, and those that it did not relay because their UDP checksum is wrong."""

    taken: int
    malformed: int


@dataclass(frozen=True, slots=True)
class Sending:
    """How one output's datagrams leave; ``ifindex`` 0 is a parked output. ``macs`` are destination and source."""

    counters: OutputCounters
    ifindex: int = 0
    group: CoreAddress = 0
    source: CoreAddress = 0
    port: int = 0
    source_port: int = 0
    ttl: int = 0
    dscp: int | None = None
    df: bool = False
    macs: bytes = bytes(12)


@dataclass(frozen=True, slots=True)
class Taking:
    """What the program is to do with a rule's datagrams: ``payload_max`` is in bytes.

    ``crosses``: an output is of the other family.
    """

    rule: str
    counters: InputCounters
    sendings: tuple[Sending, ...]
    payload_max: int
    whole: bool
    crosses: bool = False
    exclusive: bool = False


class InputCounters:
    """What the program has counted of one input: in the slots that it has, and before it had them."""

    fields = INPUT_FIELDS
    groups = 1  # the program takes no ranges

    def __init__(self) -> None:
        self.name: CounterKey = ("", "")
        self.table: Table | None = None
        self.slots: list[int] = []
        self._past = (0, 0, 0)
        self._still = (0,) * len(self.fields)  # while there is no slot, which is so for most rules of most relays

    @property
    def passed(self) -> int:
        """Datagrams that it let through before its present slots; it drops none."""
        return self._past[0]

    def read(self) -> tuple[int, ...]:
        """Each counter as it is now."""
        if not self.slots:
            return self._still
        counts = dict(zip(COUNTED, self._sum(self.slots), strict=True))
        return tuple(counts.get(name, 0) for name in self.fields)

    def _sum(self, slots: Iterable[int]) -> tuple[int, int, int]:
        packets, size, last_ns = self._past
        for slot in slots:
            assert self.table is not None
            more, bytes_, at_ns = self.table.program.read_input(slot)
            packets, size = packets + more, size + bytes_
            last_ns = max(last_ns, self.table.unix_ns(at_ns) if at_ns else 0)
        return packets, size, last_ns

    def read_groups(self) -> dict[int, tuple[int, ...]]:
        """No group of a range is counted here."""
        return {}

    def fold(self, slot: int) -> None:
        """Keep what stands in a slot that goes."""
        self._past = self._sum([slot])
        self.slots.remove(slot)
        counts = dict(zip(COUNTED, self._past, strict=True))
        self._still = tuple(counts.get(name, 0) for name in self.fields)

    def described(self) -> Described:
        """Where it stands, for the process after us."""
        return Described(tuple(self.slots), self._past[:2], self._past[2])

    def inherit(self, packets: int, size: int, last_ns: int) -> None:
        """Add what the process before us has counted; ``last_ns`` is Unix time."""
        more, bytes_, at_ns = self._past
        self._past = (more + packets, bytes_ + size, max(at_ns, last_ns))


class OutputCounters:
    """What the program has sent by one output. ``since``: what its rule had let through here when it began."""

    fields = OUTPUT_FIELDS
    groups = 1

    def __init__(self) -> None:
        self.name: CounterKey = ("", "")
        self.table: Table | None = None
        self.slot: int | None = None
        self.since = 0
        self._past: Sequence[int] = (0,) * (len(OUTPUT_FIELDS) - 2)  # all but the third and the fourth: see ``read``

    def read(self) -> tuple[int, ...]:
        """Each counter as it is now. None is fragmented: what is larger than an output's MTU goes by the ring."""
        packets, size, *errors = self._sum()
        return (packets, size, self.since, 0, *errors)

    def _sum(self) -> Sequence[int]:
        if self.slot is None or self.table is None:
            return self._past
        return [a + b for a, b in zip(self._past, self.table.program.read_output(self.slot), strict=True)]

    def read_groups(self) -> dict[int, tuple[int, ...]]:
        """No group of a range is counted here."""
        return {}

    def fold(self) -> None:
        """Keep what stands in the slot, which goes."""
        self._past, self.slot = self._sum(), None

    @property
    def passed(self) -> int:
        """Datagrams that it has accounted for, or missed, before its present slot."""
        return self.since + self._past[0] + sum(self._past[2:])

    def described(self) -> Described:
        """Where it stands, for the process after us."""
        return Described(() if self.slot is None else (self.slot,), tuple(self._past), self.since)

    def inherit(self, past: Sequence[int], since: int) -> None:
        """Add what the process before us has counted."""
        self._past = [a + b for a, b in zip(self._past, past, strict=True)]
        self.since += since


class Slots:
    """Places in an array, given out in one piece."""

    def __init__(self, size: int) -> None:
        self._free = [(0, size)]

    def take(self, count: int = 1) -> int:
        """Return the first of so many. Raises FullError."""
        for i, (first, room) in enumerate(self._free):
            if room >= count:
                self._free[i : i + 1] = [(first + count, room - count)] if room > count else []
                return first
        raise FullError

    def give(self, first: int, count: int = 1) -> None:
        """Take them back."""
        self._free.append((first, count))
        self._free.sort()
        joined: list[tuple[int, int]] = []
        for start, size in self._free:
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((start, size))
        self._free = joined


@dataclass(slots=True)
class _Entry:
    taking: Taking
    first_output: int
    counters: int
    flow: int
    attachment: Attachment


@dataclass(slots=True)
class Attachment:
    """The program on one link. ``incarnation`` is the link's (Link); ``link_fd`` keeps it there.

    ``inherited``: that of the process before us is still in its place.
    """

    ifname: str
    incarnation: int
    link_fd: int
    slot: int
    inherited: bool = False
    groups: set[CoreAddress] = field(default_factory=set)


class KeptLinks:
    """Links of the program by ifindex: those that the process before us has left, and those that a keeper has of us."""

    def __init__(self, keeper: Keeper | None, inherited: Iterable[tuple[str, int]]) -> None:
        self._keeper = keeper
        self._left = {name: fd for name, fd in inherited if name.startswith(KEPT)}

    def take(self, ifindex: int) -> int | None:
        """What was left for a link; ours from now on, and the keeper's still."""
        return self._left.pop(f"{KEPT}{ifindex}", None)

    def keep(self, ifindex: int, fd: int) -> None:
        """Have the keeper keep it too."""
        if self._keeper is not None:
            self._keeper.store(fd, f"{KEPT}{ifindex}")

    def let_go(self, ifindex: int, fd: int) -> None:
        """Take the program off that link, now: the keeper closes its descriptor when it comes to it."""
        if program.BUILT:
            with contextlib.suppress(OSError):  # the network interface is gone
                program.detach(fd)
        if self._keeper is not None:
            self._keeper.forget(f"{KEPT}{ifindex}")
        os.close(fd)

    def release(self) -> None:
        """Close what was left and nobody has taken."""
        for name, fd in self._left.items():
            self.let_go(int(name.removeprefix(KEPT)), fd)
        self._left = {}


class Table:
    """One loaded program and what it goes by."""

    def __init__(self, inputs: int, outputs: int, links: KeptLinks) -> None:
        """Make room for several times so many. Raises OSError."""
        self._links = links
        inputs, outputs = max(LEAST_ROOM, 4 * inputs), max(LEAST_ROOM, 4 * outputs)
        self.program: KernelProgram = program.load(
            {
                "groups": max(inputs, GROUPS), "groups_six": max(inputs, GROUPS), "rules": inputs, "rules_six": inputs,
                "flows": inputs, "received": inputs, "outputs": outputs, "sent": outputs, "own": outputs,
                "own_six": outputs, "frames": LINKS,
            }
        )  # fmt: skip
        self.attached: dict[int, Attachment] = {}
        self._entries: dict[RuleKey, _Entry] = {}
        self._going: dict[RuleKey, _Entry] = {}  # their rules are the ring's, or nobody's
        self._former: list[_Entry] = []  # of rules that the program still takes, otherwise than before
        self._sending: dict[int, OutputCounters] = {}  # by slot
        self._own: frozenset[Ends] = frozenset()
        self._outputs, self._sent = Slots(outputs), Slots(outputs)
        self._received, self._flows, self._frames = Slots(inputs), Slots(inputs), Slots(LINKS)
        self._past_frames: dict[str, LinkCount] = {}
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    @property
    def keys(self) -> frozenset[RuleKey]:
        """Whose datagrams the program takes."""
        return frozenset(self._entries)

    def attach(self, ifindex: int, ifname: str, incarnation: int) -> None:
        """Have the program on a link. Raises OSError, FullError."""
        there = self.attached.get(ifindex)
        if there is not None and there.incarnation == incarnation:
            return
        if there is not None:
            self.detach(ifindex)
        slot = self._frames.take()
        link_fd = self._links.take(ifindex)
        inherited = link_fd is not None
        try:
            if link_fd is None:
                link_fd = self._fresh_link(ifindex)
        except OSError:
            self._frames.give(slot)
            raise
        self.program.clear_frames(slot)
        self.attached[ifindex] = Attachment(ifname, incarnation, link_fd, slot, inherited)

    def _fresh_link(self, ifindex: int) -> int:
        link_fd = self.program.attach(ifindex)
        self._links.keep(ifindex, link_fd)
        return link_fd

    def replace_inherited(self) -> dict[int, OSError]:
        """Take the place of the program of the process before us, where it still is; returns where that failed.

        It has forwarded until now, and we do from the next packet on: by entries that have to be there already.
        """
        failed = {}
        for ifindex, each in self.attached.items():
            if not each.inherited:
                continue
            each.inherited = False
            try:
                self.program.replace(each.link_fd)
            except OSError:  # ENOLINK: it was on another link, which had this number
                self._links.let_go(ifindex, each.link_fd)
                try:
                    each.link_fd = self._fresh_link(ifindex)
                except OSError as error:
                    each.link_fd = -1
                    failed[ifindex] = error
        for ifindex in failed:
            self.detach(ifindex)
        return failed

    def detach(self, ifindex: int) -> None:
        """Take the program off a link; its entries have gone before, or the link has."""
        gone = self.attached.pop(ifindex)
        if gone.link_fd >= 0:
            self._links.let_go(ifindex, gone.link_fd)
        for group in gone.groups:
            self.program.remove_group(ifindex, group)
        self._past_frames[gone.ifname] = self._count_of(gone, self._past_frames)
        self._frames.give(gone.slot)

    def let_in(self, ifindex: int, groups: Collection[CoreAddress]) -> None:
        """Have the ring's filter pass these groups, less what the program takes. Raises OSError."""
        there = self.attached[ifindex].groups
        for group in set(groups) - there:
            self.program.add_group(ifindex, group)
            there.add(group)
        for group in there - set(groups):
            self.program.remove_group(ifindex, group)
            there.discard(group)

    def know(self, own: Iterable[Ends]) -> None:
        """Recognise what our outputs send; what they do not send any more is forgotten when it has settled."""
        wanted = frozenset(own)
        for each in wanted - self._own:
            self.program.add_own(*each)
        self._own |= wanted

    def take(self, key: RuleKey, taking: Taking, new: Collection[OutputCounters]) -> None:
        """Take a rule's datagrams from now on; *new* are counters of outputs that begin now. Raises FullError, OSError.

        Counters of the input begin anew with such an output, so that what it has missed is known to the datagram.
        """
        before = self._entries.get(key)
        begins = any(each.counters in new for each in taking.sendings)
        attachment = self.attached[key.ifindex]
        unchanged = before is not None and before.taking == taking and before.attachment is attachment
        if unchanged and not begins:
            return
        same = before is not None and before.taking.counters is taking.counters
        fresh = _Entry(taking, -1, -1, -1, attachment)
        try:
            fresh.first_output = self._outputs.take(len(taking.sendings))
            fresh.counters = before.counters if before and same and not begins else self._count(taking.counters)
            fresh.flow = before.flow if before and same else self._flow()
            for i, sending in enumerate(taking.sendings):
                self._send(fresh.first_output + i, sending)
            self._write(key, fresh, kernel=True)
        except (FullError, OSError):
            self._give([fresh])
            raise
        self._entries[key] = fresh
        if before is not None:
            self._former.append(before)

    def _count(self, counters: InputCounters) -> int:
        slot = self._received.take()
        self.program.clear_input(slot)
        counters.table = self
        counters.slots.append(slot)
        return slot

    def _flow(self) -> int:
        slot = self._flows.take()
        self.program.clear_flow(slot)
        return slot

    def _send(self, index: int, sending: Sending) -> None:
        counters = sending.counters
        if counters.slot is None:
            counters.slot, counters.table = self._sent.take(), self
            self._sending[counters.slot] = counters
            self.program.clear_output(counters.slot)
        self.program.set_output(
            index, ifindex=sending.ifindex, group=sending.group, source=sending.source, port=sending.port,
            source_port=sending.source_port, ttl=sending.ttl, dscp=sending.dscp, df=sending.df, macs=sending.macs,
            counters=counters.slot,
        )  # fmt: skip

    def _write(self, key: RuleKey, entry: _Entry, *, kernel: bool) -> None:
        self.program.set_rule(
            ifindex=key.ifindex, group=key.group, source=key.source, port=key.port, kernel=kernel,
            exclusive=entry.taking.exclusive, whole=entry.taking.whole, crosses=entry.taking.crosses,
            counters=entry.counters, first_output=entry.first_output, output_count=len(entry.taking.sendings),
            payload_max=entry.taking.payload_max, flow=entry.flow, link=entry.attachment.slot,
        )  # fmt: skip

    def drop_originals(self, key: RuleKey, *, drop: bool) -> None:
        """Whether a rule's datagrams end here once they are sent on."""
        entry = self._entries[key]
        if entry.taking.exclusive != drop:
            entry.taking = replace(entry.taking, exclusive=drop)
            self._write(key, entry, kernel=True)

    def leave(self, kept: Collection[RuleKey]) -> None:
        """Leave to the ring what is not among these."""
        for key in self._entries.keys() - set(kept):
            entry = self._going[key] = self._entries.pop(key)
            self._write(key, entry, kernel=False)

    @property
    def unsettled(self) -> bool:
        """Whether something waits for packets on their way."""
        return bool(self._going or self._former)

    def settle(self, own: Iterable[Ends]) -> None:
        """No packet can go by the former entries any more: give up what only they used."""
        for key in self._going:
            with contextlib.suppress(FileNotFoundError):
                self.program.remove_rule(ifindex=key.ifindex, group=key.group, source=key.source, port=key.port)
        self._give([*self._going.values(), *self._former])
        self._going, self._former = {}, []
        used = {id(each.counters) for entry in self._entries.values() for each in entry.taking.sendings}
        for slot, counters in list(self._sending.items()):
            if id(counters) not in used:
                counters.fold()
                self._sent.give(slot)
                del self._sending[slot]
        for each in self._own - frozenset(own):
            self.program.remove_own(*each)
        self._own &= frozenset(own)

    def _give(self, gone: Iterable[_Entry]) -> None:
        """Give up what no entry has any more."""
        counted = {each.counters for each in self._entries.values()}
        flows = {each.flow for each in self._entries.values()}
        for entry in gone:
            if entry.first_output >= 0:
                self._outputs.give(entry.first_output, len(entry.taking.sendings))
            if entry.counters >= 0 and entry.counters not in counted:
                entry.taking.counters.fold(entry.counters)
                self._received.give(entry.counters)
                counted.add(entry.counters)
            if entry.flow >= 0 and entry.flow not in flows:
                self._flows.give(entry.flow)
                flows.add(entry.flow)

    def describe(self) -> Description:
        """Whose counters stand where, for the process after us."""
        counters = [entry.taking.counters for entry in self._entries.values()]
        return Description(
            {each.name: each.described() for each in counters},
            {each.name: each.described() for each in self._sending.values()},
            {
                name: Described(tuple(each.slot for each in self.attached.values() if each.ifname == name), count)
                for name, count in self._past_of_links().items()
            },
        )

    def _past_of_links(self) -> dict[str, LinkCount]:
        return {each.ifname: LinkCount(0, 0) for each in self.attached.values()} | self._past_frames

    def inherit(self, former: Former) -> None:
        """Add what the process before us has counted of rules that we take as well; outputs that it had not begin now.

        What a rule's former inputs had counted is known by its outputs alone. They go on, so it stays the rule's.
        """
        inputs: dict[str, list[InputCounters]] = {}
        outputs: dict[str, list[OutputCounters]] = {}
        for each in {id(entry.taking.counters): entry.taking.counters for entry in self._entries.values()}.values():
            inputs.setdefault(each.name[0], []).append(each)
            if count := former.inputs.get(each.name):
                packets, size, at_ns = count.past
                each.inherit(packets, size, self.unix_ns(at_ns) if at_ns else count.beside)
        for sent in self._sending.values():
            outputs.setdefault(sent.name[0], []).append(sent)
            if count := former.outputs.get(sent.name):
                sent.inherit(count.past, count.beside)
        for rule, taken in inputs.items():
            passed = sum(each.passed for each in taken)
            total = max([passed, *(sent.passed for sent in outputs.get(rule, ()))])
            taken[0].inherit(total - passed, 0, 0)
            for sent in outputs.get(rule, ()):
                sent.since += total - sent.passed
        for name, frames in former.links.items():
            before = self._past_frames.get(name, LinkCount(0, 0))
            self._past_frames[name] = LinkCount(*(a + b for a, b in zip(before, frames.past, strict=True)))

    def held(self, key: RuleKey) -> bool:
        """Whether the ring has a rule's datagrams for now."""
        return self.program.held(self._entries[key].flow)

    def frames(self) -> dict[str, LinkCount]:
        """What became of frames by the program, by link."""
        counts = dict(self._past_frames)
        for each in self.attached.values():
            counts[each.ifname] = self._count_of(each, counts)
        return counts

    def _count_of(self, each: Attachment, before: Mapping[str, LinkCount]) -> LinkCount:
        taken, malformed = before.get(each.ifname, LinkCount(0, 0))
        return LinkCount(
            taken + self.program.read_frames(each.slot), malformed + self.program.read_malformed(each.slot)
        )

    def unix_ns(self, monotonic_ns: int) -> int:
        """The same moment by the clock as it is set now; the same answer as long as nobody sets it."""
        offset = time.time_ns() - time.monotonic_ns()
        if abs(offset - self._offset_ns) > CLOCK_STEP_NS:
            self._offset_ns = offset
        return monotonic_ns + self._offset_ns

    def close(self) -> None:
        """Forward no more; what a keeper has goes on until it lets go, or until the next process takes over."""
        for ifindex in list(self.attached):
            os.close(self.attached.pop(ifindex).link_fd)
        self.program.close()


def macs_of(group: CoreAddress, source: bytes) -> bytes:
    """The addresses of a frame to a group (RFC 1112, 6.4; RFC 2464, 7)."""
    if isinstance(group, bytes):
        return b"\x33\x33" + group[-4:] + source
    return (0x01005E000000 | group & 0x7FFFFF).to_bytes(6, "big") + source
