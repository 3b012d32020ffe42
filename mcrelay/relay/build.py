"""Builds a relay from its real parts: the only place that knows every class."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mcrelay.engine.handover import COUNTERS
from mcrelay.engine.kernel import KernelEngine
from mcrelay.engine.table import KEPT
from mcrelay.exclusive.policy import Exclusive
from mcrelay.igmp.membership import Memberships
from mcrelay.igmp.monitors import Monitors
from mcrelay.igmp.needs import Limits
from mcrelay.links.gro import Gro
from mcrelay.links.outgoing import OutgoingCounts
from mcrelay.links.presence import Presence
from mcrelay.links.routes import RouteWatch
from mcrelay.links.watch import LinkWatch
from mcrelay.relay.ports import Ports
from mcrelay.relay.searches import Searches
from mcrelay.relay.service import Parts, Service

if TYPE_CHECKING:
    from mcrelay.linux.features import Features
    from mcrelay.linux.systemd import Notifier
    from mcrelay.model.rule import Config
    from mcrelay.relay.service import Inherited

LIMITS = Limits()  # waits of the monitors: no option, because nobody should need one; tests use shorter waits


def build(
    config: Config, features: Features, notifier: Notifier, inherited: Inherited = (), table: str = "mcrelay"
) -> Service:
    """Make a relay that has not begun. ``inherited`` is what the service manager kept, ``table`` the nftables table."""
    woken = asyncio.Event()
    kept = [each for each in inherited if each[0].startswith((KEPT, COUNTERS))]
    inherited = [each for each in inherited if each not in kept]
    engine = KernelEngine(features, config.relay.workers, config.relay.cpus, keeper=notifier, inherited=kept)

    def look_at_routes() -> None:
        """Called when a route, a rule or a next hop has changed; nearly always it is none of ours."""
        if engine.rerouted():
            woken.set()

    parts = Parts(
        engine=engine,
        memberships=Memberships(keeper=notifier),
        monitors=Monitors(LIMITS),
        exclusive=Exclusive(table, woken.set),
        gro=Gro(),
        outgoing=OutgoingCounts(),
        watch=LinkWatch(woken.set),
        presence=Presence(),
        routes=RouteWatch(look_at_routes),
        ports=Ports(keeper=notifier),
        searches=Searches(),
        notifier=notifier,
        woken=woken,
    )
    return Service(config, parts, inherited)
