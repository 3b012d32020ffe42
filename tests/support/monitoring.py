"""A monitor of memberships with time and wire played: a link, a clock that jumps, and what is reported when."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from mcrelay.igmp import messages
from mcrelay.igmp.messages import Query, Record, Report
from mcrelay.igmp.monitor import MembershipMonitor
from mcrelay.igmp.needs import Host, Limits
from mcrelay.igmp.protocol import IGMP
from mcrelay.model.link import Link

ASM, SSM = IPv4Address("239.1.1.1"), IPv4Address("232.2.2.2")
SOURCE, QUERIER, NEIGHBOUR = (IPv4Address(each) for each in ("192.168.168.55", "192.0.2.254", "192.0.2.77"))
HOST = IPv4Interface("192.0.2.1/24")
LINK = Link("in0", 4, True, True, "UP", 1500, (HOST,), mac="02:aa:bb:cc:dd:ee", carrier_losses=1)
NO_CARRIER = replace(LINK, carrier=False, carrier_losses=2)
BACK = replace(LINK, carrier_losses=2)
REPEATS = [0, 1, 3, 10, 35, 65]


class Clock:
    """The part of an event loop that tells time; ``run`` lets it pass."""

    def __init__(self):
        self.now = 1000.0
        self.calls = []
        self.serial = itertools.count()

    def time(self):
        return self.now

    def call_at(self, when, callback):
        entry = [when, next(self.serial), callback]
        heapq.heappush(self.calls, entry)
        clock = self

        class Handle:
            def cancel(self):
                if entry in clock.calls:
                    clock.calls.remove(entry)
                    heapq.heapify(clock.calls)

        return Handle()

    def run(self, seconds):
        until = self.now + seconds
        while self.calls and self.calls[0][0] <= until:
            when, _, callback = heapq.heappop(self.calls)
            self.now = max(self.now, when)
            callback()
        self.now = until


class Wire:
    """Where reports leave: remembers when each did. ``room`` frames are taken at once."""

    def __init__(self, clock, parse):
        self.clock = clock
        self.parse = parse
        self.sent = []
        self.room = 1000
        self.error = None

    def send(self, frames):
        if self.error:
            raise self.error
        taken = frames[: self.room]
        self.sent += [(self.clock.now, self.parse(frame)) for frame in taken]
        return len(taken)

    def times(self, begin):
        return sorted({when - begin for when, _ in self.sent})

    def reports(self):
        return [report for _, report in self.sent]


class Scene:
    def __init__(self, joined=None, limits=Limits(), version=None, protocol=IGMP, **host):  # noqa: B008
        self.clock = Clock()
        self.wire = Wire(self.clock, protocol.parse)
        self.joined = {ASM: ()} if joined is None else joined
        self.version = version
        known = Host(version=lambda: self.version, **host)
        self.monitor = MembershipMonitor("in0", protocol, self.clock, limits, known)

    def link(self, link):
        self.monitor.update(link, self.wire if link else None, self.joined)

    def settle(self):
        """A link that was there, with every report of the beginning sent."""
        self.link(LINK)
        self.clock.run(100)
        self.wire.sent.clear()
        return self

    def return_of_carrier(self):
        self.link(NO_CARRIER)
        self.clock.run(7)
        self.wire.sent.clear()
        self.link(BACK)
        return self.clock.now

    def query(self, version=3, group=None, allowed=10.0, outgoing=False, **fields):
        self.monitor.on_message(Query(QUERIER, version, group, allowed, **fields), outgoing)

    def answer(self, *groups, version=3, kind=messages.IS_EXCLUDE):
        records = tuple(Record(kind, group) for group in groups or self.joined)
        self.monitor.on_message(Report(HOST.ip, version, records), True)

    def kinds(self):
        return {each.kind for each in self.monitor.warnings}
