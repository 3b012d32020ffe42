"""Every errno that a user can cause has a sentence of its own and a remedy; none is left as the kernel's bare words."""

from __future__ import annotations

import errno
import os
from ipaddress import IPv4Address

import pytest

from mcrelay.model import refusals
from mcrelay.model.plan import OutputSpec

OUTPUT = OutputSpec(
    "10.9.0.7:319", IPv4Address("10.9.0.7"), 319, None, 0, None, bind_source=False, source_port=319, exact_port=True,
    ttl=64, dscp=None, burst=16, payload_max=0,
)  # fmt: skip


def failed(call: str, code: int) -> OSError:
    """As pyx/system.pyx raises it."""
    return OSError(code, f"{call}: {os.strerror(code)}")


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("bind to source port 319", errno.EACCES, ["CAP_NET_BIND_SERVICE", "ip_unprivileged_port_start=319"]),
        ("bind to source port 319", errno.EADDRINUSE, ["in use by another program", "a free one"]),
        ("bind to source port 319", errno.EADDRNOTAVAIL, ["not an address of this host", "ip address"]),
        ("connect", errno.EACCES, ["prohibit", "ip route get 10.9.0.7"]),
        ("connect", errno.EINVAL, ["blackhole", "ip route get 10.9.0.7"]),
        ("connect", errno.EHOSTUNREACH, ["unreachable", "ip rule"]),
        ("connect", errno.ENETUNREACH, ["no route to 10.9.0.7", "add one"]),
        ("connect", errno.EPERM, ["cgroup", "bpftool"]),
        ("connect", errno.ENETDOWN, ["down", "tried again"]),
        ("bind to link eth0", errno.ENODEV, ["went away", "tried again"]),
        ("IP_MULTICAST_IF", errno.EADDRNOTAVAIL, ["went away", "tried again"]),
        ("UDP socket", errno.ENOBUFS, ["memory"]),
        ("UDP socket", errno.ENOMEM, ["memory"]),
        ("UDP socket", errno.EMFILE, ["LimitNOFILE", "one for each output"]),
        ("UDP socket", errno.ENFILE, ["fs.file-max"]),
        ("UDP socket", errno.EAFNOSUPPORT, ["RestrictAddressFamilies", "AF_PACKET"]),
        ("UDP socket", errno.EACCES, ["SELinux"]),
        ("UDP socket", errno.EPERM, ["seccomp"]),
    ],
)
def test_an_output_that_is_refused_says_why_and_what_to_do(call, code, said):
    text = refusals.of_output(OUTPUT, failed(call, code))
    assert all(word in text for word in said), text
    assert os.strerror(code) not in text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EPERM, "CAP_NET_RAW"),
        (errno.ENOMEM, "ring"),
        (errno.ENODEV, "tried again"),
        (errno.ENETDOWN, "tried again"),
        (errno.EMFILE, "LimitNOFILE"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOBUFS, "memory"),
        (errno.EAFNOSUPPORT, "RestrictAddressFamilies"),
    ],
)
def test_a_ring_that_is_refused_says_why_and_what_to_do(code, said):
    text = refusals.of_ring("eth0", failed("bind", code))
    assert said in text
    assert os.strerror(code) not in text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENODEV, "no IPv4"),
        (errno.EMFILE, "LimitNOFILE"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOBUFS, "memory"),
        (errno.ENOMEM, "memory"),
        (errno.EADDRNOTAVAIL, "restart"),
    ],
)
def test_a_join_that_is_refused_says_why_and_what_to_do(code, said):
    text = refusals.of_join("joining 239.1.1.1", failed("join", code))
    assert text.startswith("joining 239.1.1.1: ")
    assert said in text
    assert os.strerror(code) not in text


def test_a_filter_without_room_names_the_setting():
    text = refusals.of_filter("eth0", failed("SO_ATTACH_FILTER", errno.ENOMEM))
    assert "eth0" in text
    assert "optmem_max" in text


def test_a_limit_of_descriptors_is_named_where_it_is_known():
    assert "the limit is 100; raise LimitNOFILE" in refusals.no_descriptors(100)


def test_what_nobody_has_foreseen_is_passed_on_with_its_number():
    assert "errno EPROTO" in refusals.of_output(OUTPUT, failed("connect", errno.EPROTO))
