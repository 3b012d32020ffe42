"""The reconcile loop: whatever happened, make the world match the configuration and the links as they are.

Level-triggered: netlink, a timer, a signal or a command only say "look again"; any of them may be lost or come twice.
Everything here runs in the main thread's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeAlias

from mcrelay.engine.ring import Engine, Refusals
from mcrelay.errors import OperationError
from mcrelay.exclusive.policy import Exclusive
from mcrelay.igmp.membership import Memberships
from mcrelay.igmp.monitor import Limits
from mcrelay.igmp.monitors import IgmpMonitors
from mcrelay.links import neighbours
from mcrelay.links.gro import Gro
from mcrelay.links.outgoing import OutgoingCounts
from mcrelay.links.presence import Presence
from mcrelay.links.routes import RouteWatch
from mcrelay.links.watch import LinkWatch
from mcrelay.linux.clock import Stamps
from mcrelay.linux.systemd import Watchdog
from mcrelay.model.plan import PlanSpec
from mcrelay.relay.alarms import DropAlarms
from mcrelay.relay.compile import LEAST_MTU, compile_plan
from mcrelay.relay.losses import LossLog, narrow_outputs
from mcrelay.relay.status import RuleStatus, rule_statuses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from mcrelay.linux.features import Features
    from mcrelay.linux.systemd import Notifier
    from mcrelay.model.link import Link, Membership
    from mcrelay.model.rule import Config

Inherited: TypeAlias = "Sequence[tuple[str, int]]"  # name and fd of what the service manager kept for us

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0  # housekeeping
LOOK_SECONDS = 5.0  # a fresh dump even when netlink said nothing
RETRY_SECONDS = 60.0  # what the kernel refused is tried again
SETTLE_SECONDS = 0.02  # a link that comes up sends several messages


class Service:
    """A running relay. ``update`` changes what it does; the properties tell how it stands."""

    limits = Limits()

    def __init__(
        self, config: Config, features: Features, notifier: Notifier, inherited: Inherited = (), table: str = "mcrelay"
    ) -> None:
        self.config = config
        self.started = time.monotonic()
        self.stamps = Stamps()
        self.links: dict[str, Link] = {}  # at the last look: right for those that rules name
        self.all_links: Mapping[str, Link] = {}
        self.engine = Engine(features, config.relay.workers, config.relay.cpus)
        self.memberships = Memberships(keeper=notifier)
        self._notifier = notifier
        self._inherited = inherited
        self._watchdog = Watchdog(notifier)
        self._spec = PlanSpec()
        self._compiled: tuple[Config, PlanSpec] | None = None  # at the last look; `_spec` is what the engine goes by
        self._named: tuple[Config, set[str]] | None = None  # links, and the configuration that names them
        self._troubles = Refusals()
        self.monitors = IgmpMonitors(self.limits)
        self.exclusive = Exclusive(table, self.look_again)
        self.gro = Gro()
        self.outgoing = OutgoingCounts()
        self._presence = Presence()
        self._routes = RouteWatch(self._look_at_routes)
        self._dead: set[int] = set()  # ifindexes of links that were deleted, and whose sockets are still to be replaced
        self._drops = DropAlarms()
        self._losses = LossLog()
        self._narrow: set[str] = set()
        self._dirty = asyncio.Event()
        self._lock = asyncio.Lock()
        self._watch: LinkWatch | None = None
        self._said: dict[tuple[str, str], tuple[str, str]] = {}
        self._statuses: tuple[PlanSpec, Refusals, dict[Membership, str], list[RuleStatus]] | None = None
        self._reported: tuple[PlanSpec, Refusals, dict[Membership, str]] | None = None  # what `_said` was told of
        self._joins_told: tuple[PlanSpec, set[int], set[int]] | None = None  # plan, links, rings that were refused
        self._neighbours_said = ""
        self._cutting: set[tuple[str, str]] = set()
        self._looked = self._tried = 0.0

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] | None = None) -> None:
        """Relay until ``stop`` is set; then leave every group and give everything back."""
        self.engine.start()
        try:
            async with LinkWatch(self.look_again) as self._watch:
                await self.reconcile()
                self._release_inherited()
                self._notifier.send("READY=1", f"STATUS={self.summary()}")
                if ready is not None:
                    ready()
                while not stop.is_set():
                    await self._wait(stop)
                    await self._survive(self._housekeep)
        finally:
            self._notifier.send("STOPPING=1")
            await self.exclusive.close()  # first: once relaying stops, nothing may be dropped
            self.monitors.close()
            self.outgoing.close()
            self._presence.close()
            self._routes.close()
            self.memberships.close()
            self.engine.close()
            self.gro.close()

    async def _survive(self, work: Callable[[], Awaitable[None]]) -> None:
        """The loop relays on whatever goes wrong up here; only its own end is ours too."""
        try:
            await work()
        except OperationError:  # the worker has ended
            raise
        except Exception:
            log.exception("housekeeping failed; relaying goes on, and it is tried again")
            await asyncio.sleep(TICK_SECONDS)

    def _release_inherited(self) -> None:
        """Everything is joined again: the sockets of the process before us can go, and no leave is sent."""
        for name, fd in self._inherited:
            self._notifier.forget(name)
            os.close(fd)
            self._looked = 0.0  # they counted as listeners until now
        self._inherited = ()

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until something may have changed, or a tick has passed."""
        tick = min(TICK_SECONDS, self._watchdog.seconds / 4) if self._watchdog.seconds else TICK_SECONDS
        waits = [asyncio.ensure_future(self._dirty.wait()), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(waits, timeout=tick, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _housekeep(self) -> None:
        self.engine.check()
        self._notifier.flush()
        if self._watchdog.seconds:
            self._watchdog.feed(self.engine.turns)
            self.engine.wake()  # an idle loop turns once for it
        if self._dirty.is_set():
            await asyncio.sleep(SETTLE_SECONDS)
            await self.reconcile()
        elif time.monotonic() - self._looked >= LOOK_SECONDS:
            await self.reconcile()
        self.monitors.tick()
        if self._watch is not None:
            await self.monitors.explain(self.links, self._watch.route_to)
        self.stamps.look(self.engine.last_packet_times)
        self._drops.look(self.engine.drops(), time.monotonic())
        self.outgoing.look(self._spec, time.monotonic())
        self._losses.look(self.engine.errors(), self.engine.lost_frames(), self._spec, time.monotonic())
        for name, kind in self._cutting_links():
            log.warning(
                "link=%s outputs send datagram by datagram: its queue (%s) cuts runs and may drop pieces unseen",
                name,
                kind,
            )
        for name in self.engine.links_without_runs():
            log.warning(
                "link=%s sends datagram by datagram from now on: its device refused UDP_SEGMENT runs (EIO)", name
            )

    def _cutting_links(self) -> list[tuple[str, str]]:
        """Output links whose queueing discipline has begun to cut runs since the last call."""
        used = {each.oif for rule in self._spec.rules for each in rule.outputs}
        if None in used:  # a routed output may leave by any link
            used.update(self.links)
        cutting = {(name, link.cuts) for name in used if name and (link := self.links.get(name)) and link.cuts}
        new = sorted(cutting - self._cutting)
        self._cutting = cutting
        return new

    def look_again(self) -> None:
        """Something may have changed."""
        self._dirty.set()

    def _look_at_routes(self) -> None:
        """A route, a rule or a next hop is another one; it is nearly always none of ours."""
        if self.engine.rerouted():
            self._dirty.set()

    async def update(self, config: Config) -> None:
        """Go by ``config``; returns when the worker does. What it leaves unchanged is not touched."""
        self.config = config
        await self.reconcile()

    async def reconcile(self) -> None:
        """Look at the links, compile, change what differs: the loop before the joins, so that nothing is missed."""
        async with self._lock:
            self._dirty.clear()
            self._looked = time.monotonic()
            self._dead |= self._presence.dead()  # before the dump: what is deleted after this is an event of its own
            dead = self._dead
            changed = await self._look_at_links(dead)
            spec = self._compile(changed)
            self._watch_routes(spec)
            await self.exclusive.narrow(spec, dead)
            self.gro.reconcile({i: ring.ifname for i, ring in spec.rings.items() if ring.settings.gro}, dead)
            retry = self._looked - self._tried >= RETRY_SECONDS
            if changed or retry:
                self.engine.ask_again()
            refused = self._troubles.rings or self._troubles.outputs
            if spec is not self._spec or dead or (refused and (retry or changed)) or self.engine.rerouted():
                self._troubles = await self.engine.apply(spec, dead)
                self._spec = spec
                self._warn_of_neighbours()
                self._warn_of_narrow_outputs()
            self._reconcile_joins(spec, dead, retry=retry)
            if not self._inherited:  # the process before us may still have joined
                users = self.memberships.users
                await self.exclusive.widen(spec, self._troubles.rings, self.links, users, retry=retry)
            heard = {each.iif for rule in spec.rules for each in rule.inputs if each.live or each.state == "pending"}
            self.monitors.reconcile(heard, self.links, self.memberships.joined, dead)
            self.outgoing.reconcile(spec, dead)
            if retry:
                self._tried = self._looked
            self._dead = set()
            self._report()

    def _watch_routes(self, spec: PlanSpec) -> None:
        """Before the sockets of the outputs are made, so that no change is missed."""
        hosts = any(not each.address.is_multicast for rule in spec.rules for each in rule.outputs)
        with contextlib.suppress(OSError):  # out of descriptors: every look asks for the routes too
            self._routes.watch(wanted=hosts)

    def _compile(self, changed: bool) -> PlanSpec:
        """The plan for the links as they are; that of the last look where nothing can have changed it."""
        if changed or self._compiled is None or self._compiled[0] is not self.config:
            spec = compile_plan(self.config, self.links)
            self._compiled = (self.config, self._spec if spec == self._spec else spec)
        return self._compiled[1]

    def _reconcile_joins(self, spec: PlanSpec, dead: set[int], *, retry: bool) -> None:
        """Join and leave. Where nothing can have changed since the last time, thousands of joins are not looked at."""
        existing = {link.ifindex for link in self.links.values() if link.mtu >= LEAST_MTU}
        refused = set(self._troubles.rings)
        told = self._joins_told
        same = told is not None and told[0] is spec and told[1:] == (existing, refused)
        if same and not dead and not (retry and self.memberships.failed):
            return
        if dead:  # the kernel's entries went with the link; a new one may have its number already
            surviving = {each for each in self.memberships.joined if each.ifindex not in dead}
            self.memberships.reconcile(surviving, existing - dead)
        wanted = {each for each in spec.memberships if each.ifindex in existing and each.ifindex not in refused}
        self.memberships.reconcile(wanted, existing, retry=retry)
        self._joins_told = (spec, existing, refused)

    async def _look_at_links(self, dead: set[int]) -> bool:
        """Learn the links as they are; whether any has changed."""
        if self._watch is None:
            return False
        names = self._named_links()
        self._watch.follow(None if self._routed() else names, all_addresses=self._addresses_named())
        try:
            links = await self._watch.dump(fresh=bool(dead))  # its notification may be on its way
        except OSError as error:
            log.warning("links cannot be read, looking again in %.0f s: %s", LOOK_SECONDS, error.strerror)
            return False
        self._presence.watch(links[name].ifindex for name in names if name in links)
        changed = links != self.links
        if changed or dead:
            self._note_links(links, dead)
        self.links = self.all_links = links
        return changed

    def _addresses_named(self) -> bool:
        """Whether an output has to have a certain source address, of whichever link."""
        outputs = (each for rule in self.config.rules.values() for each in rule.outputs)
        return any(isinstance(each.source_address, IPv4Address) for each in outputs)

    def _routed(self) -> bool:
        """Whether an output goes by the routes, and so by whichever link: its MTU and its queue matter."""
        return any(each.stream.link is None for rule in self.config.rules.values() for each in rule.outputs)

    async def look_at_all_links(self) -> None:
        """Have ``all_links`` right also for those that no rule names, of which nothing is heard."""
        if self._watch is not None:
            with contextlib.suppress(OSError):
                self.all_links = await self._watch.dump(complete=True)

    def _named_links(self) -> set[str]:
        """Every link that a rule names; gone through again when the configuration is another."""
        if self._named is None or self._named[0] is not self.config:
            wanted = self.config.rules.values()
            streams = [each.stream for rule in wanted for each in rule.inputs]
            streams += [each.stream for rule in wanted for each in rule.outputs]
            self._named = (self.config, {stream.link for stream in streams if stream.link})
        return self._named[1]

    def _note_links(self, links: dict[str, Link], dead: set[int]) -> None:
        """Log what changed on the links that rules name, one line a change."""
        named = {each.iif for rule in self._spec.rules for each in rule.inputs}
        named |= {each.oif for rule in self._spec.rules for each in rule.outputs if each.oif}
        for name in sorted(named):
            if change := _change(name, self.links, links, dead):
                log.info("link=%s %s", name, change)

    def _report(self) -> None:
        """Log every state that changed, of rules and of outputs. Where none can have, nothing is compared."""
        basis = (self._spec, self._troubles, dict(self.memberships.failed))
        told = self._reported
        if told is not None and told[0] is basis[0] and told[1] is basis[1] and told[2] == basis[2]:
            return
        self._reported = basis
        states: dict[tuple[str, str], tuple[str, str]] = {}
        for status in self.statuses():
            states[status.rule.name, ""] = (status.state, status.reason)
            for output in status.outputs:
                states[status.rule.name, output.to] = (output.state, output.reason)
        for (rule, to), (state, reason) in states.items():
            if self._said.get((rule, to)) == (state, reason):
                continue
            if to and state == "active" and (rule, to) not in self._said:
                continue  # a new rule's own line says as much
            level = logging.INFO if state in {"active", "disabled"} and not reason else logging.WARNING
            what = f"rule={rule} output={to}" if to else f"rule={rule}"
            log.log(level, "%s state=%s%s", what, state, f" reason={reason!r}" if reason else "")
        for rule, to in self._said.keys() - states.keys():
            if not to:
                log.info("rule=%s deleted", rule)
        if self._said != states:
            self._notifier.send(f"STATUS={self.summary()}")
        self._said = states

    def _warn_of_neighbours(self) -> None:
        """Say once that the outputs name more groups than the kernel has room for."""
        text = neighbours.overflow(self._spec)
        if text and text != self._neighbours_said:
            log.warning("%s", text)
        self._neighbours_said = text

    def _warn_of_narrow_outputs(self) -> None:
        """Say once of every output that its link takes less than the input brings."""
        found = set(narrow_outputs(self._spec, self.links))
        for text in sorted(found - self._narrow):
            log.warning("%s", text)
        self._narrow = found

    def losing(self) -> set[str]:
        """Names of the rules that lose something now: what is not sent, not captured, or more than a limit."""
        return self._losses.losing(self._spec) | self._drops.dropping

    def statuses(self) -> list[RuleStatus]:
        """How every rule stands now; put together again only where something can have changed it."""
        failed = self.memberships.failed
        held = self._statuses
        if held is None or held[0] is not self._spec or held[1] is not self._troubles or held[2] != failed:
            found = rule_statuses(self._spec, self._troubles.rings, self._troubles.outputs, failed)
            held = self._statuses = (self._spec, self._troubles, failed, found)
        return held[3]

    def summary(self) -> str:
        """One line for a person: rules by state."""
        states = [status.state for status in self.statuses()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        return f"{len(states)} rules" + (f": {counts}" if counts else "")

    def memberships_wanted(self) -> frozenset[Membership]:
        """Every join the rules want on links that exist."""
        return self._spec.memberships


def _change(name: str, before: Mapping[str, Link], now: Mapping[str, Link], dead: Collection[int]) -> str:
    """What happened to the link of that name, for the log; nothing if nothing did."""
    old, new = before.get(name), now.get(name)
    made_again = old is not None and old.ifindex in dead
    if new is None:
        if old is None:
            return ""
        names = [each.name for each in now.values() if each.ifindex == old.ifindex and not made_again]
        return f"is now called {names[0]}" if names else "gone"
    text = _describe(new)
    if made_again or old is None or old.ifindex != new.ifindex:
        return f"{'another one ' if old else ''}{text}"
    if text != _describe(old):
        return text
    flapped = old.carrier_losses != new.carrier_losses and new.carrier
    return f"lost its carrier and has it again {text}" if flapped else ""


def _describe(link: Link) -> str:
    addresses = ",".join(map(str, link.addresses)) or "none"
    up, carrier = ("yes" if flag else "no" for flag in (link.up, link.carrier))
    return f"ifindex={link.ifindex} up={up} carrier={carrier} mtu={link.mtu} addresses={addresses}"
