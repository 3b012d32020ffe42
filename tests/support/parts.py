"""Parts of a relay that only remember what they were asked to do, in one list: for tests of the reconcile loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from ipaddress import IPv4Address, IPv4Interface

from mcrelay.config.parse import parse_config
from mcrelay.model.link import Link, LinkTable
from mcrelay.model.state import CounterNames, Refusals, Snapshot
from mcrelay.relay.service import Parts, Service

IN0 = Link("in0", 4, up=True, carrier=True, operstate="UP", mtu=1500)
OUT0 = Link(
    "out0",
    5,
    up=True,
    carrier=True,
    operstate="UP",
    mtu=1500,
    addresses=(IPv4Interface("198.51.100.1/24"),),
    scopes=(0,),
)
NAMES = CounterNames(
    verdicts=("relayed", "no_match"),
    drops=("source", "policer", "echo"),
    send_errors=("nobufs", "parked"),
    refusals=("incomplete", "room"),
    times=(0.001, math.inf),
)


class FakeEngine:
    """Goes by every plan at once; ``refuses`` is its answer, ``moved`` says that a route is another one."""

    def __init__(self, calls):
        self.calls = calls
        self.refuses = Refusals()
        self.moved = False
        self.turns = (0,)
        self.broken = None
        self.counts = Snapshot(names=NAMES, inputs={}, retired={}, outputs={}, rings={}, sndbufs={}, workers=[])
        self.sends_from = {}
        self.times = {}

    def start(self):
        self.calls.append("start")

    async def apply(self, spec):
        self.calls.append("apply")
        self.spec = spec
        return self.refuses

    def ask_again(self):
        self.calls.append("ask again")

    def rerouted(self):
        return self.moved

    def drop_originals(self, rules):
        self.alone = rules

    def engine_reasons(self):
        return {}

    def check(self):
        if self.broken:
            raise self.broken

    def wake(self):
        self.calls.append("wake")

    def snapshot(self):
        return self.counts

    def health(self):
        return {}

    def relay_times(self):
        return {}

    def endpoints(self):
        return self.sends_from

    def drops(self):
        return {}

    def errors(self):
        return {}

    def lost_frames(self):
        return {}

    def last_packet_times(self):
        return self.times

    def links_without_runs(self):
        return []

    def close(self):
        self.calls.append("engine closed")


class FakeMemberships:
    """Joins all that is wanted, but for ``failed``."""

    def __init__(self, calls):
        self.calls = calls
        self.joined = frozenset()
        self.failed = {}
        self.users = {}

    def reconcile(self, wanted, links, links6=None, *, retry=False):
        self.calls.append("join")
        self.links = links
        self.joined = frozenset(wanted) - self.failed.keys()

    def close(self):
        self.calls.append("leave")


class FakeExclusive:
    """Has nothing to drop."""

    def __init__(self, calls):
        self.calls = calls
        self.states = {}

    async def narrow(self, spec):
        self.calls.append("narrow")

    async def widen(self, spec, broken, links, users, *, retry):
        self.calls.append("widen")

    async def close(self):
        self.calls.append("drops closed")


class FakeGro:
    """Switches everything on."""

    def __init__(self, calls):
        self.calls = calls
        self.states = {}

    def reconcile(self, wanted):
        self.calls.append("gro")
        self.wanted = wanted

    def close(self):
        self.calls.append("gro closed")


class FakeMonitors(list):
    """Monitors of no link, or of those that a test puts in."""

    def reconcile(self, names, links, joined):
        self.names = names

    def tick(self):
        pass

    async def explain(self, links, route_to):
        pass

    def close(self):
        pass


class FakePorts:
    """Holds whatever is wanted, but for ``failed``."""

    def __init__(self):
        self.failed = {}

    def reconcile(self, wanted):
        self.wanted = wanted

    def close(self):
        pass


class FakeSearches:
    """Nobody searches."""

    def __init__(self):
        self.failed = {}

    def reconcile(self, spec, links):
        pass

    def tick(self):
        pass

    def inputs(self, names):
        return {}

    def outputs(self, names):
        return {}

    def answers(self):
        return {}

    def last_packet_times(self):
        return {}

    def close(self):
        pass


class FakeOutgoing:
    """Counts what a test says."""

    def __init__(self):
        self.counts = {}

    def reconcile(self, spec):
        pass

    def look(self, spec, now):
        pass

    def frames(self):
        return self.counts

    def close(self):
        pass


class FakeWatch(contextlib.AbstractAsyncContextManager):
    """The links of this host: ``links`` is what a dump gives or raises, ``dumps`` how each was asked for."""

    def __init__(self):
        self.links = {"in0": IN0, "out0": OUT0}
        self.dumps = []

    async def __aexit__(self, *_):
        pass

    def follow(self, names, *, all_addresses=False):
        self.followed = names

    async def dump(self, *, fresh=False, complete=False):
        self.dumps.append({"fresh": fresh, "complete": complete})
        if isinstance(self.links, Exception):
            raise self.links
        return LinkTable(self.links)

    async def route_to(self, address):
        return None


class FakePresence:
    """Gives links back as they are; ``gone`` says that one was deleted."""

    def __init__(self):
        self.gone = False

    def look(self):
        gone, self.gone = self.gone, False
        return gone

    def watch(self, links, names):
        self.names = names
        return links

    def close(self):
        pass


class FakeRoutes:
    """Listens, or does not."""

    def watch(self, *, wanted):
        self.wanted = wanted

    def close(self):
        pass


class FakeNotifier:
    """What the service manager was told."""

    def __init__(self):
        self.sent = []

    def send(self, *lines, fds=()):
        self.sent.append(lines)

    def flush(self):
        pass

    def forget(self, name):
        self.sent.append((f"forget {name}",))


class Clock:
    """Monotonic seconds that a test sets."""

    now = 1000.0

    def __call__(self):
        return self.now


class Bench:
    """A service among fakes. ``calls`` is what was done to engine, joins, drops and GRO, in order."""

    def __init__(self, config: str, inherited=()):
        self.calls: list[str] = []
        self.engine = FakeEngine(self.calls)
        self.memberships = FakeMemberships(self.calls)
        self.exclusive = FakeExclusive(self.calls)
        self.gro = FakeGro(self.calls)
        self.monitors = FakeMonitors()
        self.outgoing = FakeOutgoing()
        self.watch = FakeWatch()
        self.presence = FakePresence()
        self.routes = FakeRoutes()
        self.ports = FakePorts()
        self.notifier = FakeNotifier()
        self.clock = Clock()
        self.woken = asyncio.Event()
        parts = Parts(
            engine=self.engine,
            memberships=self.memberships,
            monitors=self.monitors,
            exclusive=self.exclusive,
            gro=self.gro,
            outgoing=self.outgoing,
            watch=self.watch,
            presence=self.presence,
            routes=self.routes,
            ports=self.ports,
            searches=FakeSearches(),
            notifier=self.notifier,
            woken=self.woken,
            clock=self.clock,
        )
        self.service = Service(parse_config([("x.toml", config)]).config, parts, inherited)

    def reconcile(self) -> list[str]:
        """Reconcile once; what was done."""
        self.calls.clear()
        asyncio.run(self.service.reconcile())
        return list(self.calls)

    def state(self):
        """How the relay stands after a look."""
        self.reconcile()
        return self.service.state()


ADDRESS = IPv4Address("198.51.100.1")
