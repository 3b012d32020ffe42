"""Ports of unicast inputs: held, left to other programs, given back."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address

import pytest

from mcrelay.exclusive.listeners import Listeners
from mcrelay.relay.ports import Ports

HERE = IPv4Address("192.0.2.1")
PLACE = (HERE, 7000)


class Opened:
    """A socket that remembers whether it was closed."""

    def __init__(self):
        self.closed = False

    def fileno(self):
        return 5

    def close(self):
        self.closed = True


class Keeper:
    def __init__(self):
        self.kept = []

    def store(self, fd, name):
        self.kept.append(name)

    def forget(self, name):
        self.kept.remove(name)


class Host:
    """What a host allows: ``bound`` are (address as /proc writes it, inode) on port 7000, ``refuses`` an errno."""

    def __init__(self):
        self.bound = []
        self.refuses = 0
        self.opened = []
        self.keeper = Keeper()
        self.ports = Ports(self.keeper, self._open, lambda: Listeners({}, {7000: self.bound}), lambda: {1})

    def _open(self, address, port):
        if self.refuses:
            raise OSError(self.refuses, "no")
        self.opened.append(Opened())
        return self.opened[-1]

    @property
    def open(self):
        return [each for each in self.opened if not each.closed]


@pytest.fixture
def host():
    return Host()


def test_a_port_is_held_once_and_given_back(host):
    for _ in range(2):
        host.ports.reconcile({PLACE})
    assert len(host.open) == len(host.keeper.kept) == 1
    host.ports.reconcile(set())
    assert not host.open
    assert not host.keeper.kept


def test_a_keeper_goes_on_when_the_relay_ends(host):
    host.ports.reconcile({PLACE})
    host.ports.close()
    assert len(host.keeper.kept) == 1


def test_a_port_that_another_program_has_is_left_to_it_until_it_ends(host):
    host.ports.reconcile({PLACE})
    host.bound.append(("00000000", 2))
    host.ports.reconcile({PLACE})
    assert not host.open
    host.bound.clear()
    host.ports.reconcile({PLACE})
    assert len(host.open) == 1


def test_own_sockets_on_the_port_and_others_of_another_address_do_not_matter(host):
    host.bound += [("00000000", 1), ("010200C0", 1), ("0100007F", 2)]
    host.ports.reconcile({PLACE})
    assert len(host.open) == 1


def test_a_port_that_cannot_be_had_is_failed_with_what_senders_are_told(host):
    host.refuses = errno.EACCES
    host.ports.reconcile({PLACE})
    assert "ICMP" in host.ports.failed[PLACE]
    assert "CAP_NET_BIND_SERVICE" in host.ports.failed[PLACE]
    host.refuses = errno.EADDRINUSE  # by whom is not to be seen
    host.ports.reconcile({PLACE})
    assert not host.ports.failed
