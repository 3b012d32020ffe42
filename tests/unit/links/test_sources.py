"""Which address what is sent to a group by a link has."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address

import pytest

from mcrelay.links.sources import sends_from
from mcrelay.model.link import Link

LOCAL, GLOBAL, OTHER = "fe80::1/64", "fd00::1/64", "2001:db8::1/64"


def link(*addresses):
    four = tuple(IPv4Interface(text) for text in addresses if ":" not in text)
    six = tuple(IPv6Interface(text) for text in addresses if ":" in text)
    return Link("eth0", 2, True, True, "UP", 1500, addresses=four, addresses6=six)


@pytest.mark.parametrize(
    ("held", "group", "source"),
    [
        ([LOCAL, GLOBAL], "ff15::1", "fd00::1"),
        ([GLOBAL, OTHER, LOCAL], "ff1e::1", "fd00::1"),
        ([LOCAL, GLOBAL], "ff02::fb", "fe80::1"),
        ([LOCAL, GLOBAL], "ff01::1", "fe80::1"),
        ([LOCAL], "ff15::1", "fe80::1"),  # all that there is, and enough on the link itself
        ([GLOBAL], "ff02::fb", None),
        ([], "ff15::1", None),
        (["192.0.2.1/24"], "ff15::1", None),
        ([LOCAL, GLOBAL], "239.1.1.1", None),
        ([LOCAL, "192.0.2.1/24"], "239.1.1.1", "192.0.2.1"),
    ],
)
def test_the_source_reaches_as_far_as_the_group(held, group, source):
    assert sends_from(link(*held), ip_address(group)) == (ip_address(source) if source else None)


def test_both_families_have_an_address_of_their_own():
    both = link("192.0.2.1/24", LOCAL)
    assert sends_from(both, IPv4Address("239.1.1.1")) == IPv4Address("192.0.2.1")
    assert sends_from(both, IPv6Address("ff02::1")) == IPv6Address("fe80::1")
