"""A switch that brings a relay its own output back."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from support.relay import RelayUnderTest
from support.ways import way

from mcrelay.commands.lab import Lab, bridge, forwarding


@contextmanager
def mirrored(config: str):
    """A relay whose two links, l0 and l1, hang on one switch that floods: all it sends by one arrives by the other."""
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        switch, relay, host = lab.add("switch", "relay", "host", ipv6=way().has_ipv6)
        lab.veth((switch, "p0", relay, "l0"), (switch, "p1", relay, "l1"), (switch, "p2", host, "eth0"))
        relay.ip("addr add 192.0.2.1/24 dev l0", "addr add 198.51.100.1/24 dev l1", "link set l0 up", "link set l1 up")
        host.ip("addr add 192.0.2.9/24 dev eth0", "link set eth0 up")
        if way().has_ipv6:
            relay.ip("addr add 2001:db8:1::1/64 dev l0", "addr add 2001:db8:100::1/64 dev l1")
            host.ip("addr add 2001:db8:1::9/64 dev eth0")
        bridge(switch, "br0", ["p0", "p1", "p2"], querier=False)
        while not forwarding(switch):
            time.sleep(0.02)
        under_test = RelayUnderTest(SimpleNamespace(relay=relay, host=host), config, Path(folder))
        under_test.start()
        yield under_test
        under_test.stop()
