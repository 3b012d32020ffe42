"""Whose port a link is, from what rtnetlink says of it."""

from __future__ import annotations

import asyncio

import pytest

from mcrelay.links.watch import LinkWatch
from mcrelay.model.link_faults import port_of


class Message(dict):
    """What pyroute2 gives: nested values are asked for by the way to them."""

    def get(self, key, default=None):
        if isinstance(key, tuple):
            first, second = key
            return super().get(first, {}).get(second, default)
        return super().get(key, default)


class Netlink:
    """Two links: eth1 is a port of the other, which is of ``kind``."""

    def __init__(self, kind):
        base = {"flags": 0x10001, "ifi_type": 1, "mtu": 1500}
        self.links = [
            Message(base, index=2, ifname="eth1", master=3, linkinfo={"slave_kind": kind}),
            Message(base, index=3, ifname="m0", linkinfo={"kind": kind}),
        ]

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def addr(self, *_, **__):
        return each_of([])

    async def tc(self, *_, **__):
        return each_of([])

    async def link(self, *_, **__):
        return each_of(self.links)


async def each_of(messages):
    for each in messages:
        yield each


def links(kind):
    async def look():
        async with LinkWatch(lambda: None, lambda: Netlink(kind)) as watch:
            return await watch.dump()

    return asyncio.run(look())


@pytest.mark.parametrize("kind", ["bridge", "bond", "team"])
def test_a_port_is_known_by_its_master(kind):
    found = links(kind)
    assert port_of(found["eth1"]) == "eth1 is a port of m0: take the input from m0"
    assert port_of(found["m0"]) == ""


def test_the_master_of_an_open_vswitch_port_takes_no_input():
    text = "eth1 is a port of an Open vSwitch: take the input from its bridge (ovs-vsctl port-to-br eth1 names it)"
    assert port_of(links("openvswitch")["eth1"]) == text


def test_a_link_of_a_vrf_keeps_its_frames():
    assert port_of(links("vrf")["eth1"]) == ""
