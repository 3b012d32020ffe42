"""Addresses of a link as the kernel has them, IPv6 beside IPv4: usable, not yet, or refused."""

from __future__ import annotations

import time

import pytest

from mcrelay.commands.lab import Lab
from mcrelay.links.watch import links_now

pytestmark = pytest.mark.net

OURS = "fe80::ff:fe00:77"


def settled(namespace, holds, seconds: float = 5):
    """The link as soon as it is as it should be, or as it is when time is over."""
    until = time.monotonic() + seconds
    while not holds(link := namespace.call(links_now)["in0"]) and time.monotonic() < until:
        time.sleep(0.05)
    return link


@pytest.fixture
def ends():
    with Lab() as lab:
        relay, other = lab.add("relay", "other")
        lab.veth((relay, "in0", other, "eth0"))
        relay.ip("link set in0 address 02:00:00:00:00:77", "addr add 192.0.2.1/24 dev in0")
        other.sysctl({"ipv6.conf.eth0.disable_ipv6": 0, "ipv6.conf.eth0.accept_dad": 0})
        other.ip("link set eth0 up")
        relay.sysctl({"ipv6.conf.in0.disable_ipv6": 0, "ipv6.conf.in0.dad_transmits": 4})
        yield relay, other


def test_an_address_is_tentative_and_then_there_wider_scopes_first(ends):
    relay, _ = ends
    relay.ip("link set in0 up", "addr add 2001:db8::7/64 dev in0 nodad")
    link = settled(relay, lambda link: link.tentative)
    assert [str(each) for each in link.tentative] == [OURS]
    assert [str(each) for each in link.addresses6] == ["2001:db8::7/64"]
    assert link.link_local is None
    relay.ip("link set in0 down")
    relay.sysctl({"ipv6.conf.in0.dad_transmits": 0})
    relay.ip("link set in0 up", "addr add 2001:db8::7/64 dev in0 nodad")
    link = settled(relay, lambda link: len(link.addresses6) == 2)
    assert [str(each) for each in link.addresses6] == ["2001:db8::7/64", f"{OURS}/64"]
    assert str(link.link_local) == OURS
    assert [str(each) for each in link.addresses] == ["192.0.2.1/24"]
    assert link.scopes == (0,)


def test_an_address_that_another_host_has_is_refused(ends):
    relay, other = ends
    other.ip(f"addr add {OURS}/64 dev eth0 nodad")
    relay.ip("link set in0 up")
    link = settled(relay, lambda link: link.refused, 8)
    assert [str(each) for each in link.refused] == [OURS]
    assert (link.addresses6, link.tentative, link.link_local) == ((), (), None)
