"""The ports of a stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrelay.model.ports import Ports, have_common, mapping, names_port, port_count, spans_of

LIST = Ports(((5000, 5000), (5002, 5002)))
RANGE = Ports(((6906, 6941),))


def test_several_ports_are_counted_and_gone_through_in_their_order():
    assert (len(LIST), len(RANGE)) == (2, 36)
    assert list(Ports(((9, 9), (1, 3)))) == [9, 1, 2, 3]
    assert 6941 in RANGE
    assert 6942 not in RANGE
    assert [port_count(port) for port in (5000, RANGE, "any", None)] == [1, 36, 0, 0]


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [
        (5000, 5000, True),
        (5000, 5001, False),
        (5002, LIST, True),
        (5001, LIST, False),
        ("any", 7, True),
        ("any", RANGE, True),
        (Ports(((5001, 6906),)), RANGE, True),
        (None, "any", False),
    ],
)
def test_two_notations_have_a_port_in_common_or_not(a, b, common):
    assert have_common(a, b) is common
    assert have_common(b, a) is common


def test_any_is_every_port_and_none_is_no_port():
    assert names_port("any", 1)
    assert names_port("any", 65535)
    assert not names_port(None, 1)
    assert not spans_of(None)


def test_ports_are_kept_where_the_output_says_the_same_or_any():
    assert not mapping(RANGE, RANGE)
    assert not mapping("any", "any")


def test_a_list_becomes_a_range_in_its_order():
    assert mapping(LIST, Ports(((6000, 6001),))) == ((5000, 5000, 6000), (5002, 5002, 6001))
    assert mapping(Ports(((1, 4),)), Ports(((11, 12), (7, 8)))) == ((1, 2, 11), (3, 4, 7))


@st.composite
def pairs(draw):
    numbers = draw(st.lists(st.integers(1, 65535), min_size=2, max_size=30, unique=True))
    others = draw(st.lists(st.integers(1, 65535), min_size=len(numbers), max_size=len(numbers), unique=True))
    return numbers, others


def as_ports(numbers):
    """The same in as few spans as their order allows."""
    spans = []
    for number in numbers:
        if spans and spans[-1][1] + 1 == number:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return Ports(tuple(spans))


@given(pairs())
def test_each_port_goes_to_the_one_in_its_place(pair):
    taken, sent = map(as_ports, pair)
    found = {}
    for low, high, to in mapping(taken, sent):
        found |= {port: to + port - low for port in range(low, high + 1)}
    assert found == dict(zip(taken, sent, strict=True)) or (taken == sent and not found)
