"""The reconcile loop: whatever happened, make the kernel match the configuration and the present links.

Level-triggered: netlink, a timer, a signal or a command only say "look again", and any of them may be lost or come
twice. Everything here runs in the main thread's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from mcrelay.errors import OperationError
from mcrelay.igmp.protocol import IGMP, MLD, protocol_of
from mcrelay.linux import procfs
from mcrelay.linux.clock import Stamps, unix_time
from mcrelay.linux.systemd import Watchdog
from mcrelay.model.link_faults import is_bare
from mcrelay.model.memo import Memo
from mcrelay.model.wording import counted
from mcrelay.relay.alarms import DropAlarms
from mcrelay.relay.compile import compile_plan
from mcrelay.relay.losses import LossLog
from mcrelay.relay.notices import Notices
from mcrelay.relay.rates import Rates, counts_of
from mcrelay.relay.state import IgmpState, QuerierState, RelayState
from mcrelay.relay.status import RuleStatus, rule_statuses
from mcrelay.relay.transition import Transition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from mcrelay.engine import Engine
    from mcrelay.exclusive.policy import Exclusive
    from mcrelay.igmp.membership import Memberships
    from mcrelay.igmp.monitor import MembershipMonitor
    from mcrelay.igmp.monitors import Monitors
    from mcrelay.links.gro import Gro
    from mcrelay.links.outgoing import OutgoingCounts
    from mcrelay.links.presence import Presence
    from mcrelay.links.routes import RouteWatch
    from mcrelay.links.watch import LinkWatch
    from mcrelay.linux.systemd import Notifier
    from mcrelay.model.link import Link, Membership
    from mcrelay.model.plan import PlanSpec
    from mcrelay.model.rule import Config
    from mcrelay.model.state import Explanation, Snapshot
    from mcrelay.relay.ports import Ports
    from mcrelay.relay.searches import Searches

Inherited: TypeAlias = (
    "Sequence[tuple[str, int]]"  # name and fd of each descriptor that the service manager kept for us
)

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0  # housekeeping
LOOK_SECONDS = 5.0  # a fresh dump even when netlink said nothing
RETRY_SECONDS = 60.0  # what the kernel has refused is tried again
SETTLE_SECONDS = 0.02  # a link that comes up sends several messages


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a relay: `relay.build` makes the real ones, and the service closes them.

    Any part sets ``woken`` when something may have changed. ``clock`` gives monotonic seconds.
    """

    engine: Engine
    memberships: Memberships
    monitors: Monitors
    exclusive: Exclusive
    gro: Gro
    outgoing: OutgoingCounts
    watch: LinkWatch
    presence: Presence
    routes: RouteWatch
    ports: Ports
    searches: Searches
    notifier: Notifier
    woken: asyncio.Event
    clock: Callable[[], float] = time.monotonic


class Service:
    """A running relay. ``update`` changes its configuration, ``state`` returns its state."""

    def __init__(self, config: Config, parts: Parts, inherited: Inherited = ()) -> None:
        self.config = config
        self.engine = parts.engine
        self.links: Mapping[str, Link] = {}  # at the last look: up to date for links that rules name
        self._all_links: Mapping[str, Link] = {}
        self._parts = parts
        self._transition = Transition(parts.engine, parts.memberships, parts.exclusive, parts.gro)
        self._inherited = inherited
        self._watchdog = Watchdog(parts.notifier)
        self._started = parts.clock()
        self._stamps = Stamps()
        self._drops = DropAlarms()
        self._losses = LossLog()
        self._notices = Notices()
        self._rates = Rates()
        self._lock = asyncio.Lock()
        self._named = Memo(_named)
        self._compiled = Memo(self._compile)
        self._statuses = Memo(rule_statuses)
        self._memberships = Memo(_memberships)
        self._fresh = False  # a link was deleted, and the links have not been read since
        self._looked = self._tried = 0.0

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] | None = None) -> None:
        """Relay until ``stop`` is set; then leave every group and close everything."""
        parts = self._parts
        self.engine.start()
        try:
            async with parts.watch:
                await self.reconcile()
                self._release_inherited()
                parts.notifier.send("READY=1", f"STATUS={self.summary()}")
                if ready is not None:
                    ready()
                while not stop.is_set():
                    await self._wait(stop)
                    await self._survive(self._housekeep)
        finally:
            parts.notifier.send("STOPPING=1")
            await parts.exclusive.close()  # first: once relaying stops, nothing may be dropped
            parts.monitors.close()
            parts.outgoing.close()
            parts.presence.close()
            parts.routes.close()
            parts.memberships.close()
            parts.ports.close()
            parts.searches.close()
            self.engine.close()
            parts.gro.close()

    async def _survive(self, work: Callable[[], Awaitable[None]]) -> None:
        """Reconcile until ``stop``. The workers relay on whatever fails here; only their end ends us too."""
        try:
            await work()
        except OperationError:  # the worker has ended
            raise
        except Exception:
            log.exception("failed at housekeeping: relaying goes on, and it is tried again")
            await asyncio.sleep(TICK_SECONDS)

    def _release_inherited(self) -> None:
        """Close the sockets of the process before us: every group is joined again, so no leave is sent."""
        for name, fd in self._inherited:
            self._parts.notifier.forget(name)
            os.close(fd)
            self._looked = 0.0  # they counted as listeners until now
        self._inherited = ()

    async def _wait(self, stop: asyncio.Event) -> None:
        """Wait until something may have changed, or a tick has passed."""
        tick = min(TICK_SECONDS, self._watchdog.seconds / 4) if self._watchdog.seconds else TICK_SECONDS
        waits = [asyncio.ensure_future(self._parts.woken.wait()), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(waits, timeout=tick, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _housekeep(self) -> None:
        parts = self._parts
        self.engine.check()
        parts.notifier.flush()
        if self._watchdog.seconds:
            self._watchdog.feed(self.engine.turns)
            self.engine.wake()  # an idle loop turns once for it
        if parts.woken.is_set():
            await asyncio.sleep(SETTLE_SECONDS)
            await self.reconcile()
        elif parts.clock() - self._looked >= LOOK_SECONDS:
            await self.reconcile()
        parts.monitors.tick()
        parts.searches.tick()
        await parts.monitors.explain(self.links, parts.watch.route_to)
        spec, now = self._transition.spec, parts.clock()
        if self._rates.due(now):
            self._rates.look(now, counts_of(self._snapshot()))
        self._stamps.look(lambda: self.engine.last_packet_times() | parts.searches.last_packet_times())
        self._drops.look(self.engine.drops(), now)
        parts.outgoing.look(spec, now)
        self._losses.look(self.engine.errors(), self.engine.lost_frames(), spec, now)
        self._notices.without_runs(self.engine.links_without_runs())

    async def update(self, config: Config) -> None:
        """Use ``config`` from now on; returns when the engine does. Unchanged parts are not touched."""
        self.config = config
        await self.reconcile()

    async def reconcile(self) -> None:
        """Read the links, compile, apply the plan, and log what has changed."""
        parts = self._parts
        async with self._lock:
            parts.woken.clear()
            self._looked = parts.clock()
            changed = await self._look_at_links()
            spec = self._compiled(self.config, self.links)
            self._watch_routes(spec)
            retry = self._looked - self._tried >= RETRY_SECONDS
            parts.ports.reconcile(spec.ports)
            drops = not self._inherited  # the process before us may still have joined
            await self._transition.go_by(spec, self.links, changed=changed, retry=retry, drops=drops)
            inputs = [each for rule in spec.rules for each in rule.inputs if each.group.is_multicast]
            bare = {name for name, link in self.links.items() if is_bare(link)}  # no switch is there to be told
            listening = [each for each in inputs if each.iif not in bare and (each.live or each.state == "pending")]
            heard = {(each.iif, protocol_of(each.group)) for each in listening}
            parts.monitors.reconcile(heard, self.links, parts.memberships.joined)
            parts.outgoing.reconcile(spec)
            parts.searches.reconcile(spec, self.links)
            if retry:
                self._tried = self._looked
            self._notices.plan(spec, self.links)
            if self._notices.states(self.statuses()):
                parts.notifier.send(f"STATUS={self.summary()}")

    async def _look_at_links(self) -> bool:
        """Read the links. Returns whether any has changed."""
        parts = self._parts
        self._fresh |= parts.presence.look()  # before the dump: what is deleted after this is an event of its own
        names, routed, addresses = self._named(self.config)
        parts.watch.follow(None if routed else names, all_addresses=addresses)
        try:
            found = await parts.watch.dump(fresh=self._fresh)  # its notification may be on its way
        except OSError as error:
            log.warning("looks again in %.0f s: links cannot be read: %s", LOOK_SECONDS, error.strerror)
            return False
        self._fresh = False
        links = parts.presence.watch(found, names)
        if links is self.links or links == self.links:
            return False
        self._notices.links(self._transition.spec, self.links, links)
        self.links = self._all_links = links
        return True

    def _compile(self, config: Config, links: Mapping[str, Link]) -> PlanSpec:
        """The plan for these links: the same object as the present one if they are equal."""
        spec = compile_plan(config, links)
        return self._transition.spec if spec == self._transition.spec else spec

    def _watch_routes(self, spec: PlanSpec) -> None:
        """Watch the routes, before the sockets of the outputs are made, so that no change is missed."""
        hosts = any(not each.address.is_multicast for rule in spec.rules for each in rule.outputs)
        with contextlib.suppress(OSError):  # out of descriptors: every look asks for the routes too
            self._parts.routes.watch(wanted=hosts)

    async def links_of(self, config: Config) -> Mapping[str, Link]:
        """Read the links that *config*, which is not used yet, names too; as they were if they cannot be read."""
        names, routed, addresses = self._named(self.config)
        more, also_routed, more_addresses = _named(config)
        async with self._lock:
            followed = None if routed or also_routed else names | more  # until the next look
            self._parts.watch.follow(followed, all_addresses=addresses or more_addresses)
            with contextlib.suppress(OSError):
                return await self._parts.watch.dump()
        return self.links

    async def look_at_all_links(self) -> None:
        """Read all links, so that ``state`` is right also for links that no rule names, whose changes are not heard."""
        with contextlib.suppress(OSError):
            self._all_links = await self._parts.watch.dump(complete=True)

    def losing(self) -> set[str]:
        """Names of the rules that lose something now: not sent, not captured, or beyond a limit."""
        return self._losses.losing(self._transition.spec) | self._drops.dropping

    def statuses(self) -> Sequence[RuleStatus]:
        """The state of every rule; the same object as long as nothing can have changed it."""
        refused, parts = self._transition.refused, self._parts
        outputs = refused.outputs | parts.searches.failed
        failed = parts.memberships.failed
        return self._statuses(self._transition.spec, refused.rings, outputs, failed, parts.ports.failed)

    def summary(self) -> str:
        """The number of rules in each state, on one line for a person."""
        states = self.states()
        counts = ", ".join(f"{number} {state}" for state, number in states.items())
        return counted(sum(states.values()), "rule") + (f": {counts}" if counts else "")

    def states(self) -> dict[str, int]:
        """The number of rules in each state."""
        states = [status.state for status in self.statuses()]
        return {state: states.count(state) for state in sorted(set(states))}

    def _snapshot(self) -> Snapshot:
        """Every counter: the engine's, and those of the rules that no engine has."""
        counts, searches = self.engine.snapshot(), self._parts.searches
        return replace(
            counts,
            inputs=counts.inputs | searches.inputs(counts.names),
            outputs=counts.outputs | searches.outputs(counts.names),
            answers=searches.answers(),
        )

    def explain(self, frame: bytes, link: str, tci: int | None) -> Explanation | None:
        """The decision on a frame that arrives on that link; None if nothing is captured there."""
        found = self.links.get(link)
        return self.engine.explain(frame, found.ifindex, tci) if found else None

    def state(self) -> RelayState:
        """The state of the relay at this moment."""
        parts = self._parts
        counts = self._snapshot()
        stamps = counts.last_packet_times
        return RelayState(
            time=time.time(),
            uptime_seconds=parts.clock() - self._started,
            config=self.config,
            rules=tuple(self.statuses()),
            losing=frozenset(self.losing()),
            engine_reasons=self.engine.engine_reasons(),
            exclusive=dict(parts.exclusive.states),
            endpoints=self.engine.endpoints(),
            counts=counts,
            last_packet_times={rule: self._stamps.right(rule, stamp) for rule, stamp in stamps.items()},
            outgoing_frames=parts.outgoing.frames(),
            links=self._all_links,
            gro=dict(parts.gro.states),
            igmp={each.name: _igmp(each) for each in parts.monitors if each.protocol is IGMP},
            mld={each.name: _igmp(each) for each in parts.monitors if each.protocol is MLD},
            memberships=self._memberships(self._transition.spec),
            joined=parts.memberships.joined,
            failed=parts.memberships.failed,
            igmp_versions=procfs.igmp_versions(),
            mld_versions={each.name: each.spoken for each in parts.monitors if each.protocol is MLD and each.spoken},
            rates=self._rates.rates(parts.clock(), counts_of(counts)),
            health=self.engine.health(),
            relay_times=self.engine.relay_times(),
        )


def _memberships(spec: PlanSpec) -> frozenset[Membership]:
    return spec.memberships


def _igmp(monitor: MembershipMonitor) -> IgmpState:
    heard = monitor.querier
    querier = QuerierState(heard.address, heard.version, unix_time(heard.heard)) if heard else None
    return IgmpState(querier, tuple(monitor.warnings))


def _named(config: Config) -> tuple[frozenset[str], bool, bool]:
    """Every link that a rule names; whether an output is routed; whether an address of this host is named.

    A routed output may leave by any link, whose MTU and queue then matter. A named address may be on any link.
    """
    outputs = [each for rule in config.rules.values() for each in rule.outputs]
    taken = [each.stream for rule in config.rules.values() for each in rule.inputs]
    streams = taken + [each.stream for each in outputs]
    return (
        frozenset(stream.link for stream in streams if stream.link),
        any(each.stream.link is None for each in outputs),
        any(not isinstance(each.source_address, str) for each in outputs)
        or any(not each.address.is_multicast for each in taken),
    )
