"""The reconcile loop: whatever happened, make the world match the configuration and the links as they are.

Level-triggered: netlink, a timer, a signal or a command only say "look again"; any of them may be lost or come twice.
Everything here runs in the main thread's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from . import rules
from .droplog import DropLog
from .engine import Engine, Troubles
from .igmp import IgmpTap
from .links import LinkWatch
from .membership import Memberships
from .model import PlanSpec
from .status import RuleStatus, rule_statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from .features import Features
    from .igmp import Querier, Query
    from .model import Config, Link, Membership
    from .notify import Notifier

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0  # housekeeping
LOOK_SECONDS = 5.0  # a fresh dump even when netlink said nothing
RETRY_SECONDS = 60.0  # what the kernel refused is tried again
SETTLE_SECONDS = 0.02  # a link that comes up sends several messages


class Service:
    """A running relay. ``update`` changes what it does; the properties tell how it stands."""

    def __init__(self, config: Config, features: Features, notifier: Notifier) -> None:
        self.config = config
        self.started = time.time()
        self.links: dict[str, Link] = {}
        self.engine = Engine(features, config.relay.cpus)
        self.memberships = Memberships()
        self._notifier = notifier
        self._spec = PlanSpec()
        self._troubles = Troubles()
        self._taps: dict[int, IgmpTap] = {}
        self._drops = DropLog()
        self._dirty = asyncio.Event()
        self._lock = asyncio.Lock()
        self._watch: LinkWatch | None = None
        self._said: dict[tuple[str, str], tuple[str, str]] = {}
        self._looked = self._tried = 0.0

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] | None = None) -> None:
        """Relay until ``stop`` is set; then leave every group and give everything back."""
        self.engine.start()
        try:
            async with LinkWatch(self._dirty.set) as self._watch:
                await self.reconcile()
                self._notifier.send("READY=1", f"STATUS={self.summary()}")
                if ready is not None:
                    ready()
                while not stop.is_set():
                    await self._wait(stop)
                    await self._housekeep()
        finally:
            self._notifier.send("STOPPING=1")
            for tap in self._taps.values():
                tap.close()
            self.memberships.close()
            self.engine.close()

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until something may have changed, or a tick has passed."""
        waits = [asyncio.ensure_future(self._dirty.wait()), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(waits, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _housekeep(self) -> None:
        if self._dirty.is_set():
            await asyncio.sleep(SETTLE_SECONDS)
            await self.reconcile()
        elif time.monotonic() - self._looked >= LOOK_SECONDS:
            await self.reconcile()
        self._drops.look(self.engine.drops(), time.monotonic())
        for name in self.engine.links_without_runs():
            log.warning(
                "link=%s sends datagram by datagram from now on: its device refused UDP_SEGMENT runs (EIO)", name
            )

    async def update(self, config: Config) -> None:
        """Go by ``config``; returns when the worker does. What it leaves unchanged is not touched."""
        self.config = config
        await self.reconcile()

    async def reconcile(self) -> None:
        """Look at the links, compile, change what differs: the loop before the joins, so that nothing is missed."""
        async with self._lock:
            self._dirty.clear()
            self._looked = time.monotonic()
            if self._watch is not None:
                self._note_links(await self._watch.dump())
            spec = rules.compile_plan(self.config, self.links)
            dead = self.engine.dead_links()
            retry = self._looked - self._tried >= RETRY_SECONDS
            refused = self._troubles.rings or self._troubles.outputs
            if spec != self._spec or dead or (retry and refused):
                self._troubles = await self.engine.apply(spec)
                self._spec = spec
            self._reconcile_joins(spec, dead, retry=retry)
            self._reconcile_taps(spec, dead)
            if retry:
                self._tried = self._looked
            self._report()

    def _reconcile_joins(self, spec: PlanSpec, dead: set[int], *, retry: bool) -> None:
        existing = {link.ifindex for link in self.links.values()}
        if dead:  # the kernel's entries went with the link; a new one may have its number already
            self.memberships.reconcile((), existing - dead)
        wanted = {each for each in spec.memberships if each.ifindex not in self._troubles.rings}
        self.memberships.reconcile(wanted, existing, retry=retry)

    def _reconcile_taps(self, spec: PlanSpec, dead: set[int]) -> None:
        for ifindex in [each for each in self._taps if each not in spec.rings or each in dead]:
            self._taps.pop(ifindex).close()
        for ifindex in spec.rings.keys() - self._taps.keys() - self._troubles.rings.keys():
            try:
                self._taps[ifindex] = IgmpTap(ifindex, asyncio.get_running_loop(), self._note_query(ifindex))
            except OSError as error:
                log.warning("link=%s IGMP is not watched: %s", spec.rings[ifindex].ifname, error.strerror)

    def _note_query(self, ifindex: int) -> Callable[[Query], None]:
        """A listener that logs a querier when it appears or changes, not at each query."""
        known: list[tuple[object, int]] = []

        def heard(query: Query) -> None:
            if known != [(query.querier, query.version)]:
                known[:] = [(query.querier, query.version)]
                name = self._spec.rings[ifindex].ifname if ifindex in self._spec.rings else str(ifindex)
                log.info("link=%s querier=%s version=%d", name, query.querier, query.version)

        return heard

    def _note_links(self, links: dict[str, Link]) -> None:
        """Log what changed on the links that rules name, one line a change."""
        named = {each.iif for rule in self._spec.rules for each in rule.inputs}
        named |= {each.oif for rule in self._spec.rules for each in rule.outputs if each.oif}
        for name in sorted(named):
            before, now = self.links.get(name), links.get(name)
            if before == now:
                continue
            if now is None:
                log.info("link=%s gone", name)
            else:
                addresses = ",".join(map(str, now.addresses)) or "none"
                log.info(
                    "link=%s ifindex=%d up=%s carrier=%s mtu=%d addresses=%s",
                    name, now.ifindex, _yes(now.up), _yes(now.carrier), now.mtu, addresses,
                )  # fmt: skip
        self.links = links

    def _report(self) -> None:
        """Log every state that changed, of rules and of outputs."""
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
            level = logging.INFO if state in {"active", "disabled"} else logging.WARNING
            what = f"rule={rule} output={to}" if to else f"rule={rule}"
            log.log(level, "%s state=%s%s", what, state, f" reason={reason!r}" if reason else "")
        for rule, to in self._said.keys() - states.keys():
            if not to:
                log.info("rule=%s deleted", rule)
        if self._said != states:
            self._notifier.send(f"STATUS={self.summary()}")
        self._said = states

    def statuses(self) -> list[RuleStatus]:
        """How every rule stands now."""
        return rule_statuses(self._spec, self._troubles.rings, self._troubles.outputs, self.memberships.failed)

    def summary(self) -> str:
        """One line for a person: rules by state."""
        states = [status.state for status in self.statuses()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        return f"{len(states)} rules" + (f": {counts}" if counts else "")

    def querier(self, ifindex: int) -> Querier | None:
        """Who asked last on a link, if it is listened to."""
        tap = self._taps.get(ifindex)
        return tap.querier if tap else None

    def memberships_wanted(self) -> frozenset[Membership]:
        """Every join the rules want on links that exist."""
        return self._spec.memberships


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
