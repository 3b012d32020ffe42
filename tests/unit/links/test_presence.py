"""A link has another incarnation once it was deleted, whatever has its name and its number by then."""

from __future__ import annotations

import socket

import pytest

from mcrelay.links import presence
from mcrelay.links.presence import Presence
from mcrelay.model.link import Link

IN0 = Link("in0", 4, up=True, carrier=True, operstate="UP", mtu=1500)
OUT0 = Link("out0", 5, up=True, carrier=True, operstate="UP", mtu=1500)
LINKS = {"in0": IN0, "out0": OUT0}


class Kernel:
    """Links by number, and the packet sockets bound to them."""

    def __init__(self):
        self.names = {4: "in0", 5: "out0"}
        self.open = []

    def socket(self, *_):
        held = Socket(self)
        self.open.append(held)
        return held

    def delete(self, number):
        for held in self.open:
            if held.name == self.names[number]:
                held.name = ""

    def name(self, number):
        if number not in self.names:
            raise OSError(6, "No such device or address")
        return self.names[number]


class Socket:
    def __init__(self, kernel):
        self.kernel = kernel
        self.name = ""

    def bind(self, address):
        self.name = address[0]

    def getsockname(self):
        return (self.name, 0)

    def close(self):
        self.kernel.open.remove(self)


@pytest.fixture
def kernel(monkeypatch):
    made = Kernel()
    monkeypatch.setattr(presence.socket, "socket", made.socket)
    monkeypatch.setattr(socket, "if_indextoname", made.name)
    return made


def test_a_watched_link_keeps_its_incarnation_and_one_that_nobody_watches_has_none(kernel):
    held = Presence()
    first = held.watch(LINKS, ["in0"])
    assert first["in0"].incarnation > 0
    assert first["out0"] is OUT0
    assert not held.look()
    assert held.watch(LINKS, ["in0"]) is first  # nothing has changed: not even the table is another


def test_a_link_that_was_deleted_has_another_incarnation_under_the_same_name_and_number(kernel):
    held = Presence()
    before = held.watch(LINKS, LINKS)
    kernel.delete(4)
    assert held.look()
    after = held.watch(LINKS, LINKS)
    assert after["in0"].id != before["in0"].id
    assert after["out0"].id == before["out0"].id
    assert not held.look()
    assert len(kernel.open) == 2


def test_a_link_that_was_renamed_is_known_by_its_incarnation_once_more(kernel):
    held = Presence()
    before = held.watch(LINKS, ["in0"])
    renamed = {"other": Link("other", 4, True, True, "UP", 1500)}
    assert held.watch(renamed, ["in0"])["other"].id == before["in0"].id
    assert held.watch(renamed, ["in0"])["other"].incarnation == 0
    assert kernel.open == []


def test_a_link_that_has_gone_meanwhile_is_tried_again(kernel):
    held = Presence()
    del kernel.names[4]
    assert held.watch(LINKS, ["in0"])["in0"].incarnation == 0
    assert kernel.open == []
    kernel.names[4] = "in0"
    assert held.watch(LINKS, ["in0"])["in0"].incarnation > 0
    held.close()
    assert kernel.open == []
