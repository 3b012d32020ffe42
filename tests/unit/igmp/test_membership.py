"""Helper sockets against a kernel of our own: its limits are per socket, as net/ipv4/igmp.c has them."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.steps import growth

from mcrelay.igmp.membership import Memberships
from mcrelay.model.link import LinkId, Membership

JOIN, LEAVE, JOIN_SOURCE, LEAVE_SOURCE = 42, 45, 46, 47  # linux/in.h


class Kernel:
    """Opens helper sockets and keeps what they have joined."""

    def __init__(self, groups=20, sources=10, full=errno.ENOBUFS):
        self.groups, self.sources, self.full = groups, sources, full
        self.links = {1, 2}
        self.open = []
        self.opened = self.asked = 0
        self.refuse_open = 0
        self.log = []

    def socket(self, version=4):
        if self.refuse_open:
            raise OSError(self.refuse_open, os.strerror(self.refuse_open))
        self.opened += 1
        made = Helper(self)
        self.open.append(made)
        return made

    @property
    def joined(self):
        """(ifindex, group, source or None) of every membership, as often as it is held."""
        return sorted(
            (str(key), str(source)) for each in self.open for key, sources in each.held.items() for source in sources
        )


def shown(memberships):
    return sorted((str((each.ifindex, each.group)), str(each.source)) for each in memberships)


class Helper:
    def __init__(self, kernel):
        self.kernel = kernel
        self.held = {}  # (ifindex, group) -> {None} or sources
        self.number = kernel.opened

    def setsockopt(self, level, option, value):
        self.kernel.asked += 1
        assert level == socket.IPPROTO_IP
        assert self in self.kernel.open, "used after close"
        assert len(value) == (264 if option in {JOIN_SOURCE, LEAVE_SOURCE} else 136)
        ifindex, family, group = struct.unpack_from("@I4xH2x4s", value)
        assert family == socket.AF_INET
        key = (ifindex, IPv4Address(group))
        source = IPv4Address(struct.unpack_from("@H2x4s", value, 136)[1]) if len(value) == 264 else None
        {JOIN: self.join, LEAVE: self.leave, JOIN_SOURCE: self.join, LEAVE_SOURCE: self.leave}[option](key, source)
        self.kernel.log.append((("leave", "join")[option in {JOIN, JOIN_SOURCE}], str(key[1]), self.number))

    def join(self, key, source):
        if key[0] not in self.kernel.links:
            raise fails(errno.ENODEV)
        held = self.held.get(key)
        if held is None:
            if len(self.held) >= self.kernel.groups:
                raise fails(self.kernel.full)
            if source is not None and not self.kernel.sources:
                raise fails(self.kernel.full)
            self.held[key] = {source}
            return
        if source is None or None in held:
            raise fails(errno.EADDRINUSE if source is None else errno.EINVAL)
        if source in held:
            raise fails(errno.EADDRNOTAVAIL)
        if len(held) >= self.kernel.sources:
            raise fails(self.kernel.full)
        held.add(source)

    def leave(self, key, source):
        if key[0] not in self.kernel.links:
            raise fails(errno.ENODEV)
        if source not in self.held.get(key, ()):
            raise fails(errno.EADDRNOTAVAIL)
        self.held[key].remove(source)
        if not self.held[key]:
            del self.held[key]

    def close(self):
        self.kernel.open.remove(self)
        self.kernel.log.append(("close", "", self.number))


def fails(code):
    return OSError(code, os.strerror(code))


def groups(count, ifindex=1, source=None):
    return {Membership(ifindex, IPv4Address("239.0.0.0") + i, source) for i in range(count)}


def sources(count, group="232.1.1.1"):
    return {Membership(1, IPv4Address(group), IPv4Address("10.0.0.0") + i) for i in range(count)}


def test_a_thousand_groups_take_fifty_sockets():
    kernel = Kernel()
    pool = Memberships(kernel.socket)
    pool.reconcile(groups(1000), {LinkId(1)})
    assert pool.sockets == kernel.opened == 50
    assert kernel.joined == shown(groups(1000))
    assert pool.joined == groups(1000)
    assert pool.failed == {}


@pytest.mark.parametrize("full", [errno.ENOBUFS, errno.ENOMEM])
@pytest.mark.parametrize("limit", [1, 7, 20, 10000])
def test_whatever_the_limit_is_every_group_is_joined(limit, full):
    kernel = Kernel(groups=limit, full=full)
    pool = Memberships(kernel.socket)
    pool.reconcile(groups(100), {LinkId(1)})
    assert kernel.joined == shown(groups(100))
    assert pool.sockets == -(-100 // limit)


@pytest.mark.parametrize("full", [errno.ENOBUFS, errno.ENOMEM])
def test_more_sources_of_a_group_than_one_socket_takes_go_to_the_next(full):
    kernel = Kernel(full=full)
    pool = Memberships(kernel.socket)
    pool.reconcile(sources(25), {LinkId(1)})
    assert kernel.joined == shown(sources(25))
    assert pool.sockets == 3


def test_a_socket_too_full_for_one_source_still_takes_other_groups():
    kernel = Kernel()
    pool = Memberships(kernel.socket)
    pool.reconcile(sources(10), {LinkId(1)})
    pool.reconcile(sources(11), {LinkId(1)})
    pool.reconcile(sources(11) | groups(38), {LinkId(1)})
    assert kernel.joined == shown(sources(11) | groups(38))
    assert pool.sockets == 2


@pytest.mark.parametrize(("limit", "wanted"), [({"groups": 0}, groups(30)), ({"sources": 0}, sources(5))])
def test_a_limit_of_zero_is_an_error_of_each_membership_and_leaves_no_socket(limit, wanted):
    kernel = Kernel(**limit)
    pool = Memberships(kernel.socket)
    pool.reconcile(wanted, {LinkId(1)})
    assert pool.failed.keys() == wanted
    assert all("igmp_max_memberships" in why for why in pool.failed.values())
    assert kernel.opened <= len(wanted)
    assert kernel.open == []
    assert pool.joined == set()


def test_a_failure_is_not_tried_again_until_a_retry_is_asked_for():
    kernel = Kernel(groups=0)
    pool = Memberships(kernel.socket)
    pool.reconcile(groups(2), {LinkId(1)})
    kernel.groups = 20
    tried = kernel.opened
    pool.reconcile(groups(2), {LinkId(1)})
    assert (kernel.opened, len(pool.failed)) == (tried, 2)
    pool.reconcile(groups(2), {LinkId(1)}, retry=True)
    assert pool.failed == {}
    assert pool.joined == groups(2)


def test_a_failure_that_is_no_longer_wanted_is_forgotten():
    pool = Memberships(Kernel(groups=0).socket)
    pool.reconcile(groups(2), {LinkId(1)})
    pool.reconcile(groups(1), {LinkId(1)})
    assert pool.failed.keys() == groups(1)


def test_one_bad_membership_stops_no_other_and_leaves_no_socket_behind():
    kernel = Kernel()
    pool = Memberships(kernel.socket)
    bad = Membership(99, IPv4Address("239.0.0.1"))
    for _ in range(3):
        pool.reconcile({bad, *groups(3)}, {LinkId(1), LinkId(99)}, retry=True)
    assert set(pool.failed) == {bad}
    assert pool.failed[bad].startswith("joining 239.0.0.1: its link went away")
    assert pool.joined == groups(3)
    assert len(kernel.open) == pool.sockets == 1


def test_no_descriptor_left_is_an_error_of_the_membership():
    kernel = Kernel()
    kernel.refuse_open = errno.EMFILE
    pool = Memberships(kernel.socket)
    pool.reconcile(groups(1), {LinkId(1)})
    assert "too many open files; raise LimitNOFILE" in pool.failed[next(iter(groups(1)))]
    kernel.refuse_open = 0
    pool.reconcile(groups(1), {LinkId(1)}, retry=True)
    assert pool.joined == groups(1)


def test_what_stays_wanted_is_not_touched():
    kernel = Kernel()
    pool = Memberships(kernel.socket)
    pool.reconcile(groups(30), {LinkId(1)})
    kernel.log.clear()
    pool.reconcile(groups(30), {LinkId(1)})
    assert kernel.log == []
    pool.reconcile(groups(31), {LinkId(1)})
    assert kernel.log == [("join", "239.0.0.30", 2)]


def test_leaves_come_before_joins_so_that_a_full_socket_has_room():
    kernel = Kernel()
    pool = Memberships(kernel.socket)
    pool.reconcile(groups(20), {LinkId(1)})
    kernel.log.clear()
    pool.reconcile(groups(21) - groups(1), {LinkId(1)})
    assert kernel.log == [("leave", "239.0.0.0", 1), ("join", "239.0.0.20", 1)]


def test_a_socket_that_holds_nothing_is_closed_after_the_leave():
    kernel = Kernel()
    pool = Memberships(kernel.socket)
    pool.reconcile(groups(1), {LinkId(1)})
    kernel.log.clear()
    pool.reconcile(set(), {LinkId(1)})
    assert kernel.log == [("leave", "239.0.0.0", 1), ("close", "", 1)]
    assert pool.sockets == 0


def test_a_leave_the_kernel_has_already_done_is_no_error():
    kernel = Kernel()
    pool = Memberships(kernel.socket)
    pool.reconcile(groups(2), {LinkId(1)})
    kernel.open[0].held.clear()
    pool.reconcile(groups(1), {LinkId(1)})
    assert pool.joined == groups(1)


def test_every_link_has_sockets_of_its_own_and_they_go_with_it():
    kernel = Kernel()
    pool = Memberships(kernel.socket)
    both = groups(5) | groups(5, ifindex=2)
    pool.reconcile(both, {LinkId(1), LinkId(2)})
    assert pool.sockets == 2
    kernel.links = {1}
    pool.reconcile(groups(5), {LinkId(1)})
    assert pool.sockets == 1
    assert kernel.joined == shown(groups(5))
    kernel.links = {1, 3}
    pool.reconcile(groups(5) | groups(5, ifindex=3), {LinkId(1), LinkId(3)})
    assert kernel.joined == shown(groups(5) | groups(5, ifindex=3))


def test_close_gives_up_everything():
    kernel = Kernel()
    pool = Memberships(kernel.socket)
    pool.reconcile(groups(50), {LinkId(1)})
    pool.close()
    assert kernel.open == []
    assert (pool.joined, pool.failed, pool.sockets) == (set(), {}, 0)


few = st.builds(
    lambda ifindex, group, source: Membership(
        ifindex, IPv4Address(f"232.0.0.{group}"), IPv4Address(f"10.0.0.{source}")
    ),
    st.sampled_from([1, 2]),
    st.integers(1, 6),
    st.integers(1, 6),
)


@given(
    st.lists(st.frozensets(few, max_size=30), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([errno.ENOBUFS, errno.ENOMEM]),
)
def test_after_any_changes_the_kernel_holds_exactly_what_is_wanted(steps, most_groups, most_sources, full):
    kernel = Kernel(most_groups, most_sources, full)
    pool = Memberships(kernel.socket)
    for wanted in steps:
        pool.reconcile(wanted, {LinkId(1), LinkId(2)})
        assert pool.failed == {}
        assert pool.joined == wanted
        assert kernel.joined == shown(wanted)
        assert pool.sockets == len(kernel.open)
        assert all(each.held for each in kernel.open), "no socket is kept for nothing"


def asm(count):
    return groups(count)


def a_source_of_each_group(count):
    return groups(count, source=IPv4Address("10.0.0.1"))


def sources_of_one_group(count):
    return sources(count)


def sources_of_few_groups(count):
    return {each for i in range(8) for each in sources(count // 8, f"232.1.1.{i}")}


@pytest.mark.parametrize("full", [errno.ENOBUFS, errno.ENOMEM])
@pytest.mark.parametrize("shape", [asm, a_source_of_each_group, sources_of_one_group, sources_of_few_groups])
def test_a_join_and_a_leave_among_many_cost_what_they_cost_among_few(shape, full):
    def reconcile(count, before, wanted):
        pool = Memberships(Kernel(groups=3, sources=2, full=full).socket)
        pool.reconcile(before(count), {LinkId(1)})
        return lambda: pool.reconcile(wanted(count), {LinkId(1)})

    nothing = lambda _: set()  # noqa: E731
    half = lambda count: set(sorted(shape(count), key=str)[::2])  # noqa: E731
    assert growth(lambda count: reconcile(count, nothing, shape)) < 1.2
    assert growth(lambda count: reconcile(count, shape, nothing)) < 1.2
    assert growth(lambda count: reconcile(count, half, shape)) < 1.2


@pytest.mark.parametrize("shape", [asm, a_source_of_each_group, sources_of_one_group])
def test_a_join_asks_the_kernel_no_more_than_three_times(shape):
    kernel = Kernel(groups=3, sources=2)
    Memberships(kernel.socket).reconcile(shape(600), {LinkId(1)})
    assert kernel.asked <= 3 * 600
