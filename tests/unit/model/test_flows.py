"""Flows are counted by their addresses, and no flood makes the table grow."""

from __future__ import annotations

from ipaddress import IPv4Address

from support.frames import frame

from mcrelay.model.flows import FLOWS_MAX, NEWCOMERS_MAX, FlowTable
from mcrelay.model.frame import Frame, read_datagram

SECOND = 1_000_000_000


def add(table, payload=b"x" * 100, *, at=0.0, segment=0, outgoing=False, **fields):
    seen = Frame(frame(payload, **fields), segment_bytes=segment)
    table.add(read_datagram(seen), round(at * SECOND), segment_bytes=segment, outgoing=outgoing)


def test_rates_go_by_the_time_between_the_first_and_the_last():
    table = FlowTable()
    for number in range(101):
        add(table, at=number / 50)
    (flow,) = table.all()
    assert (flow.packets, flow.rate, round(flow.bit_rate)) == (101, 50.0, 40_000)


def test_a_superframe_is_as_many_datagrams_as_it_holds():
    table = FlowTable()
    add(table, b"x" * 1000, segment=100)
    (flow,) = table.all()
    assert (flow.packets, flow.payload_bytes, flow.largest) == (10, 1000, 100)


def test_what_this_host_sends_is_a_flow_of_its_own():
    table = FlowTable()
    add(table)
    add(table, outgoing=True)
    assert [flow.key.outgoing for flow in table.all()] == [False, True]


def test_a_flood_of_made_up_sources_pushes_out_nobody_who_goes_on():
    table = FlowTable()
    for number in range(20_000):
        if number % 100 == 0:
            add(table, at=number)
        add(table, source=str(IPv4Address(0x0A000000 + number)), source_port=number & 0xFFFF or 1)
    assert len(table.flows) + len(table.newcomers) <= FLOWS_MAX + NEWCOMERS_MAX
    assert table.forgotten > 19_000
    assert next(flow for flow in table.all() if str(flow.key.source) == "192.168.168.55").packets == 200


def test_a_flood_that_sends_twice_is_bounded_too():
    table = FlowTable()
    for number in range(6_000):
        for _ in range(2):
            add(table, source=str(IPv4Address(0x0A000000 + number)))
    assert len(table.flows) == FLOWS_MAX
    assert len(table.newcomers) <= NEWCOMERS_MAX


def test_random_bytes_are_not_taken_for_rtp():
    table = FlowTable()
    for number in range(60):
        add(table, bytes([0x80, 96]) + (number * 7919 & 0xFFFF).to_bytes(2, "big") + b"x" * 60, at=number)
    assert table.all()[0].content is None
