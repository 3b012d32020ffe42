"""GRO switched on and put back: a kernel of our own making that answers netlink as the real one does."""

from __future__ import annotations

import errno
import logging
import os
import struct

import pytest

from mcrelay.links import gro, offload
from mcrelay.links.gro import DEFAULT, GRO, OURS, UDP, Gro
from mcrelay.links.offload import Timers
from mcrelay.linux import capabilities
from mcrelay.linux.genl import GenericNetlink, attribute, attributes, nest, number
from mcrelay.model.link import LinkId
from mcrelay.model.state import FeatureState

ON = FeatureState("on")
OWN = Timers(5, 20_000)  # of somebody else


class FakeKernel:
    """One link, number 7. ``napis`` None: before Linux 6.13. ``fixed`` features cannot be switched."""

    def __init__(self, *on: str, napis=None, fixed=(), refuses=0) -> None:
        self.on, self.napis, self.fixed, self.refuses = set(on), napis, set(fixed), refuses
        self.gone = False
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def call(self, family, command, *payload, dump=False):
        if self.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        held = dict(attributes(b"".join(payload)))
        if family == "netdev":
            return self._netdev(command, held)
        assert dict(attributes(held[offload.FEATURES_HEADER])) == {1: struct.pack("=I", 7)}
        if command == offload.FEATURES_GET:
            bits = [nest(1, attribute(offload.BIT_NAME, f"{name}\0".encode())) for name in sorted(self.on)]
            return [{offload.FEATURES_ACTIVE: nest(offload.BITSET_BITS, *bits)}]
        for _, bit in attributes(dict(attributes(held[offload.FEATURES_WANTED]))[offload.BITSET_BITS]):
            told = dict(attributes(bit))
            name = told[offload.BIT_NAME].rstrip(b"\0").decode()
            if name not in self.fixed:
                (self.on.add if offload.BIT_VALUE in told else self.on.discard)(name)
        return []

    def _netdev(self, command, held):
        if self.napis is None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if command == offload.NAPI_GET:
            return [
                {2: struct.pack("=I", napi), 5: struct.pack("=I", timers.defer), 6: struct.pack("=Q", timers.flush_ns)}
                for napi, timers in self.napis.items()
            ]
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        values = {kind: struct.unpack("=I", value)[0] for kind, value in held.items()}
        self.napis[values[2]] = Timers(values[5], values[6])
        return []


@pytest.fixture(autouse=True)
def capable(monkeypatch):
    monkeypatch.setattr(capabilities, "capabilities", lambda: {capabilities.CAP_NET_ADMIN})


def keeper(kernel: FakeKernel, release: str = "6.18.4-x") -> Gro:
    return Gro(lambda: kernel, release)


@pytest.mark.parametrize("on", [(), (GRO,), (GRO, UDP), (UDP, "tx-checksum-ipv4")])
def test_what_was_off_is_off_again(on):
    kernel = FakeKernel(*on, napis={1: DEFAULT, 2: DEFAULT, 3: OWN})
    held = keeper(kernel)
    held.reconcile({LinkId(7): "in0"})
    assert held.states == {"in0": ON}
    assert kernel.on == {*on, GRO, UDP}
    assert kernel.napis[1] == kernel.napis[2]
    assert OURS[kernel.napis[1]] == {*on} & {GRO, UDP}
    assert kernel.napis[3] == OWN
    held.reconcile({LinkId(7): "in0"})
    held.reconcile({})
    assert kernel.on == set(on)
    assert kernel.napis == {1: DEFAULT, 2: DEFAULT, 3: OWN}
    held.close()
    assert kernel.closed
    assert held.states == {}


def test_a_new_napi_instance_gets_the_timers_at_the_next_look():
    kernel = FakeKernel(napis={})
    held = keeper(kernel)
    held.reconcile({LinkId(7): "in0"})
    kernel.napis[9] = DEFAULT
    held.reconcile({LinkId(7): "in0"})
    assert kernel.napis.keys() == {9}
    assert kernel.napis[9] in OURS
    held.close()


@pytest.mark.parametrize("on", [(), (GRO,), (UDP,), (GRO, UDP)])
def test_what_a_killed_relay_left_on_is_known_and_put_back(on):
    kernel = FakeKernel(*on, napis={1: DEFAULT})
    killed = keeper(kernel)
    killed.reconcile({LinkId(7): "in0"})
    killed._claims.drop("gro-7")  # what the kernel does with the names of a process
    held = keeper(kernel)
    held.reconcile({LinkId(7): "in0"})
    held.close()
    assert kernel.on == {*on}
    assert kernel.napis == {1: DEFAULT}


@pytest.mark.parametrize("on", [(), (GRO,), (GRO, UDP)])
@pytest.mark.parametrize("first", [0, 1])
def test_of_several_relays_the_last_one_puts_back_what_the_first_one_found(on, first):
    kernel = FakeKernel(*on, napis={1: DEFAULT})
    both = [keeper(kernel), keeper(kernel)]
    for each in both:
        each.reconcile({LinkId(7): "in0"})
    both[first].close()
    assert kernel.on == {GRO, UDP}
    assert kernel.napis[1] in OURS
    both[1 - first].close()
    assert kernel.on == {*on}
    assert kernel.napis == {1: DEFAULT}


@pytest.mark.parametrize("on", [(), (GRO,), (GRO, UDP)])
@pytest.mark.parametrize("first", [0, 1])
def test_where_no_timer_tells_of_another_relay_its_claim_does(on, first):
    kernel = FakeKernel(*on, napis=None)  # before Linux 6.13
    both = [keeper(kernel), keeper(kernel)]
    for each in both:
        each.reconcile({LinkId(7): "in0"})
    both[first].close()
    assert kernel.on == {GRO, UDP}
    both[1 - first].close()
    assert kernel.on == {*on}


def test_a_dead_link_is_forgotten_and_one_of_the_same_number_is_another():
    kernel = FakeKernel(napis={1: DEFAULT})
    held = keeper(kernel)
    held.reconcile({LinkId(7): "in0"})
    kernel.on, kernel.napis = {GRO}, {2: DEFAULT}
    held.reconcile({LinkId(7, 2): "in0"})
    held.close()
    assert kernel.on == {GRO}


def test_a_link_that_is_gone_takes_everything_along(caplog):
    kernel = FakeKernel(napis={1: DEFAULT})
    held = keeper(kernel)
    held.reconcile({LinkId(7): "in0"})
    kernel.gone = True
    held.close()
    assert caplog.messages == []


def refusal(kernel: FakeKernel, release: str = "6.18.4") -> FeatureState:
    held = keeper(kernel, release)
    held.reconcile({LinkId(7): "in0"})
    standing = held.states["in0"]
    held.close()
    return standing


def test_where_it_cannot_be_the_reason_is_told(monkeypatch):
    kernel = FakeKernel(napis={1: DEFAULT})
    assert refusal(kernel, "6.1.0-28-amd64").reason.startswith("Linux 6.1.0-28-amd64 drops frames of many datagrams")
    assert kernel.on == set()
    assert refusal(FakeKernel(napis={}, fixed=[UDP])) == FeatureState("refused", f"the device keeps {UDP} off")
    gone = FakeKernel()
    gone.gone = True
    assert refusal(gone) == FeatureState("refused", "the kernel refuses it: No such device")
    monkeypatch.setattr(capabilities, "capabilities", set)
    assert refusal(FakeKernel()) == FeatureState("refused", gro.NO_CAPABILITY)


@pytest.mark.parametrize(
    ("kernel", "who"),
    [
        (FakeKernel(), "Linux before 6.13 lets only root set"),
        (FakeKernel(napis={1: DEFAULT}, refuses=errno.EPERM), "the kernel does not let a user namespace set"),
    ],
)
def test_where_frames_cannot_be_held_the_commands_are_told(kernel, who):
    standing = refusal(kernel)
    assert standing.state == "on"
    assert standing.reason.startswith(who)
    assert "echo 50000 > /sys/class/net/in0/gro_flush_timeout" in standing.reason


def test_each_change_is_logged_once(caplog):
    caplog.set_level(logging.INFO)
    held = keeper(FakeKernel(napis={1: DEFAULT}))
    for _ in range(3):
        held.reconcile({LinkId(7): "in0"})
    held.reconcile({})
    assert caplog.messages == ["changed link=in0 gro=on", "changed link=in0 gro=off"]


def test_attributes_are_read_as_they_are_built():
    data = number(1, 5) + attribute(2, b"odd") + nest(3, attribute(4, b"inner"))
    assert [(kind, value) for kind, value in attributes(data)] == [
        (1, struct.pack("=I", 5)),
        (2, b"odd"),
        (3, attribute(4, b"inner")),
    ]
    for cut in range(len(data)):
        list(attributes(data[:cut]))
    assert list(attributes(b"\0\0\0\0" * 3)) == []


def test_the_real_kernel_answers_and_refuses():
    netlink = GenericNetlink()
    try:
        assert offload.features(netlink, 1)  # lo
        with pytest.raises(OSError, match="No such device"):
            offload.features(netlink, 1 << 30)
        with pytest.raises(OSError, match="No such file"):
            netlink.call("no such family", 1)
        assert offload.napis(netlink, 1) in ({}, None)
    finally:
        netlink.close()
