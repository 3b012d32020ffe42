"""Streams that have a datagram in common."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from mcrelay.config.overlaps import Overlaps, meet
from mcrelay.model.notation import parse_stream
from mcrelay.model.ports import Ports
from mcrelay.model.stream import Stream


@st.composite
def streams(draw):
    length = draw(st.none() | st.integers(29, 31))
    address = IPv4Address("233.252.0.0") + draw(st.integers(0, 15))
    if length is not None:
        address = IPv4Network((address, length), strict=False).network_address
    port = draw(st.sampled_from([1, 2, 3, "any", Ports(((1, 2),)), Ports(((3, 3), (1, 1)))]))
    return Stream(address, port, draw(st.sampled_from(["eth0", "eth1"])), None, length)


def datagrams(stream):
    """Each group and port that it names."""
    groups = [stream.address + i for i in range(stream.group_count)]
    ports = {"any": [1, 2, 3]}.get(stream.port) or (stream.port if isinstance(stream.port, Ports) else [stream.port])
    return set(itertools.product(groups, ports))


@given(st.lists(streams(), max_size=12), streams())
def test_those_that_meet_are_found_and_no_others(held, asked):
    index = Overlaps([*held, asked])
    for number, each in enumerate(held):
        index.add(each.link, each, number)
    same_link = [(number, each) for number, each in enumerate(held) if each.link == asked.link]
    expected = [number for number, each in same_link if datagrams(each) & datagrams(asked)]
    assert sorted(number for _, number in index.meeting(asked.link, asked)) == expected
    assert [number for number, each in same_link if meet(each, asked)] == expected
    groups = {group for group, _ in datagrams(asked)}
    expected = [number for number, each in same_link if {group for group, _ in datagrams(each)} & groups]
    assert sorted(number for _, number in index.meeting(asked.link, asked, ports=False)) == expected


def test_the_families_are_told_apart():
    assert not meet(parse_stream("233.252.0.1:5000"), Stream(IPv4Address("233.252.0.2"), 5000))
