"""The table of `mcrelay discover`: what a terminal sees of it, live and at the end."""

from __future__ import annotations

import re

import pytest
from support.frames import frame

from mcrelay.commands import discover
from mcrelay.model.flows import FlowTable
from mcrelay.model.frame import Frame, read_datagram
from mcrelay.model.link import Link

LINK = Link("in0", 1, up=True, carrier=True, operstate="UP", mtu=1500)


@pytest.mark.parametrize("width", range(20, 120, 7))
@pytest.mark.parametrize("live", [True, False])
def test_no_line_is_wider_than_the_terminal_and_the_live_one_is_cut_there(monkeypatch, width, live):
    monkeypatch.setattr(discover, "colourful", lambda: True)
    table = FlowTable()
    for number in range(3):
        table.add(read_datagram(Frame(frame(bytes(100)))), number * 10**9)
    lines = re.sub(r"\x1b\[\d*m", "", discover.show(table, LINK, seconds=3, width=width, live=live)).splitlines()[1:]
    widest = len("192.168.168.55") + 2  # the widest cell is not divided
    assert all(len(each) <= max(width, widest) for each in lines)
    if live:
        whole = "SOURCE          GROUP           VLAN  TTL  PKT/S"
        assert lines[0][: len(whole)] == whole[:width]
        assert len(lines) == 2
