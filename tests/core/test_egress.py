"""Queue, runs and sending: what the kernel is asked to send, and what becomes of it when it will not."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import select
import socket
import struct
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.frames import number

from mcrelay._core.egress import EgressSocket, GsoState

pytestmark = pytest.mark.core

LOOPBACK = number("127.0.0.1")
PAYLOAD_MAX = 65507
UDP_SEGMENT = (socket.IPPROTO_UDP, 103)  # linux/udp.h
IP_TOS = (socket.IPPROTO_IP, socket.IP_TOS)
IP_RECVTTL = 12  # linux/in.h
IP_TTL = (socket.IPPROTO_IP, socket.IP_TTL)

datagrams = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 100, 564, 1315, 1316, 1317, 1472, 1473, 9000, 40000, PAYLOAD_MAX]),
        st.sampled_from([0, 0, 0xB8, 0xB9, 0x03]),
    ),
    max_size=150,
)


def filled(sizes, seed=0):
    """Payloads of these sizes, no two alike where there is room to differ."""
    chance = random.Random(seed)
    return [chance.randbytes(size) for size in sizes]


def plain(payloads):
    return [(payload, 0) for payload in payloads]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


# What assemble makes of a chain


@given(
    datagrams,
    st.fixed_dictionaries(
        {
            "burst": st.integers(0, 64),
            "segment_max": st.sampled_from([548, 1316, 1472, 8972, PAYLOAD_MAX]),
            "keep_dscp": st.booleans(),
            "runs": st.booleans(),
        }
    ),
)
@example([(1316, 0)] * 150, {"burst": 64, "segment_max": 1472, "keep_dscp": True, "runs": True})
@example([(1, 0)] * 150, {"burst": 64, "segment_max": 1472, "keep_dscp": True, "runs": True})
@example([(40000, 0)] * 3, {"burst": 64, "segment_max": PAYLOAD_MAX, "keep_dscp": False, "runs": True})
def test_messages_hold_the_chain_in_order_and_every_run_is_one_the_kernel_takes(probe, chain, output):
    payloads = filled([size for size, _ in chain])
    marks = [tos & 0xFC for _, tos in chain]
    chains = probe.Chains(**output)
    chains.queue_up(zip(payloads, [tos for _, tos in chain], strict=True))
    assert chains.chain == (len(chain), sum(map(len, payloads)), 1 if chain else 0)
    batches = chains.messages()
    assert all(0 < len(batch) <= probe.BATCH_MESSAGES for batch in batches)
    assert [part for parts, _ in flat(batches) for part in parts] == payloads
    at = 0
    for parts, controls in flat(batches):
        sizes = [len(part) for part in parts]
        mine = marks[at : at + len(parts)]
        at += len(parts)
        expected = {}
        if len(parts) > 1:
            assert output["runs"]
            assert len(parts) <= output["burst"]
            assert sum(sizes) <= PAYLOAD_MAX
            assert 0 < sizes[0] <= output["segment_max"]
            assert set(sizes[:-1]) == {sizes[0]}
            assert 0 < sizes[-1] <= sizes[0]
            expected[UDP_SEGMENT] = sizes[0]
        if output["keep_dscp"]:
            assert len(set(mine)) == 1
            if mine[0]:
                expected[IP_TOS] = mine[0]
        assert controls == expected


@pytest.mark.parametrize(
    ("sizes", "burst", "segment_max", "lengths"),
    [
        ([1316] * 100, 16, 1472, [16] * 6 + [4]),
        ([1316] * 100, 64, 1472, [49, 49, 2]),
        ([100] * 100, 64, 1472, [64, 36]),
        ([1316] * 3, 1, 1472, [1, 1, 1]),
        ([1316] * 4 + [700] + [1316] * 2, 16, 1472, [5, 2]),
        ([1316, 1317, 1317], 16, 1472, [1, 2]),
        ([700, 1316, 1316], 16, 1472, [1, 2]),
        ([1316, 1316, 0, 1316, 1316], 16, 1472, [2, 1, 2]),
        ([0, 0, 0], 16, 1472, [1, 1, 1]),
        ([1473] * 3, 16, 1472, [1, 1, 1]),
        ([1472] * 3, 16, 1472, [3]),
        ([1473, 100, 100], 16, 1472, [1, 2]),
        ([32753] * 4, 16, 65508, [2, 2]),
        ([32754, 32754], 16, 65508, [1, 1]),
        ([1], 16, 1472, [1]),
    ],
)
def test_runs_are_as_long_as_they_may_be(probe, sizes, burst, segment_max, lengths):
    chains = probe.Chains(segment_max=segment_max, burst=burst)
    chains.queue_up(plain(filled(sizes)))
    assert [len(parts) for parts, _ in flat(chains.messages())] == lengths


def test_a_run_ends_where_the_dscp_changes_but_only_if_it_is_kept(probe):
    chain = [(b"x" * 100, tos) for tos in (0xB8, 0xB9, 0x00, 0x00, 0xB8)]
    for keep, lengths in ((True, [2, 2, 1]), (False, [5])):
        chains = probe.Chains(segment_max=1472, keep_dscp=keep)
        chains.queue_up(chain)
        assert [len(parts) for parts, _ in flat(chains.messages())] == lengths


@pytest.mark.parametrize(
    ("hops", "sent", "lengths"),
    [(0, [7, 7, 7, 7, 5, 5, 1, 1, 7], [4, 2, 2, 1]), (1, [6, 6, 6, 6, 4, 4, 6], [4, 2, 1])],
    ids=["keep", "decrement"],
)
def test_a_run_ends_where_a_ttl_that_is_kept_changes_and_what_has_none_left_is_passed_over(probe, hops, sent, lengths):
    chain = [(b"x" * 100, 0, ttl) for ttl in (7, 7, 7, 7, 5, 5, 0, 1, 1, 7, 0)]
    chains = probe.Chains(segment_max=1472, keep_ttl=True, hops=hops)
    chains.queue_up(chain)
    found = flat(chains.messages())
    assert [len(parts) for parts, _ in found] == lengths
    assert [controls[IP_TTL] for parts, controls in found for _ in parts] == sent
    assert chains.rest == len(sent)
    plain_output = probe.Chains(segment_max=1472)
    plain_output.queue_up(chain)
    assert [(len(parts), controls) for parts, controls in flat(plain_output.messages())] == [(11, {UDP_SEGMENT: 100})]


def test_segment_size_dscp_and_ttl_stand_in_one_message(probe):
    chains = probe.Chains(segment_max=1472, keep_ttl=True, hops=1)
    chains.queue_up([(b"x" * 100, 0xB8, 9)] * 2)
    assert [controls for _, controls in flat(chains.messages())] == [{UDP_SEGMENT: 100, IP_TOS: 0xB8, IP_TTL: 8}]


def test_a_whole_queue_is_assembled_in_batches(probe):
    sizes = [1 + i % 2 for i in range(probe.QUEUE_ENTRIES)]  # 1, 2, 1, 2, ...: no run is longer than two
    chains = probe.Chains(segment_max=1472)
    payloads = filled(sizes)
    chains.queue_up(plain(payloads))
    batches = chains.messages()
    assert [part for parts, _ in flat(batches) for part in parts] == payloads
    assert len(batches) == -(-len(flat(batches)) // probe.BATCH_MESSAGES)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOBUFS, "nobufs"), (errno.EAGAIN, "nobufs"), (errno.ENOMEM, "nobufs"),
        (errno.ENETDOWN, "netdown"), (errno.ENODEV, "netdown"), (errno.ENXIO, "netdown"),
        (errno.EMSGSIZE, "mtu"), (errno.EADDRNOTAVAIL, "noaddr"), (errno.ENETUNREACH, "noroute"),
        (errno.EHOSTUNREACH, "unreachable"), (errno.ECONNREFUSED, "unreachable"), (errno.EHOSTDOWN, "unreachable"),
        (errno.EPERM, "blocked"), (errno.EACCES, "blocked"),
        (errno.EIO, "other"), (errno.EINVAL, "other"), (errno.EBADF, "other"), (0, "other"),
    ],
)  # fmt: skip
def test_every_errno_has_its_counter(probe, code, reason):
    assert probe.reason(code) == reason


# Sending, over loopback


class Sink:
    """A bound receiver on loopback and the output that sends to it."""

    def __init__(self, **options):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(5)
        self.gso = GsoState()
        self.options = {"payload_max": 1472, **options}
        self.egress = self.output()

    def output(self):
        return EgressSocket(LOOPBACK, self.socket.getsockname()[1], self.gso, **self.options)

    def take(self, count):
        return [self.socket.recv(65536) for _ in range(count)]

    def silent(self):
        return not select.select([self.socket], [], [], 0)[0]

    def close(self):
        self.egress.close()
        self.socket.close()


@pytest.fixture
def sink(probe):
    probe.script([])
    made = Sink()
    yield made
    made.close()
    probe.script([])


@pytest.fixture(scope="module")
def shared(probe):
    """One for all examples of a hypothesis test: each leaves it empty."""
    made = Sink()
    yield made
    made.close()
    probe.script([])


small = st.lists(st.sampled_from([0, 1, 100, 564, 1316, 1472, 1473]), min_size=1, max_size=40)


@given(small, st.integers(1, 64), st.booleans())
@example([1316] * 10 + [0] + [1316] * 10, 16, True)
@example([1316] * 40, 64, True)
def test_everything_arrives_in_order_byte_for_byte(probe, shared, sizes, burst, keep_dscp):
    payloads = filled(sizes)
    chains = probe.Chains(shared.egress, burst=burst, keep_dscp=keep_dscp)
    probe.script([])
    chains.queue_up((payload, 0xB8) for payload in payloads)
    assert chains.send() is None
    assert shared.take(len(payloads)) == payloads
    assert shared.silent()
    assert chains.counted == (len(payloads), sum(sizes), {})


def test_a_run_is_one_message_and_several_datagrams(probe, sink):
    payloads = filled([1316] * 15 + [7])
    chains = probe.Chains(sink.egress, burst=16)
    chains.queue_up(plain(payloads))
    probe.script([])
    chains.send()
    assert probe.calls() == [(1, 16)]
    assert sink.take(16) == payloads


@pytest.mark.parametrize(("keep_dscp", "tos", "expected"), [(True, 0xBB, 0xB8), (True, 0, 0), (False, 0xBB, 0x28)])
def test_the_dscp_is_kept_or_set_and_ecn_never_copied(probe, sink, keep_dscp, tos, expected):
    out = EgressSocket(LOOPBACK, sink.socket.getsockname()[1], sink.gso, dscp=-1 if keep_dscp else 10)
    sink.socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    chains = probe.Chains(out, keep_dscp=keep_dscp)
    chains.queue_up([(b"run", tos)] * 3 + [(b"", tos)])
    chains.send()
    for _ in range(4):
        _, controls, _, _ = sink.socket.recvmsg(100, 100)
        assert controls == [(socket.IPPROTO_IP, socket.IP_TOS, bytes([expected]))]
    out.close()


@pytest.mark.parametrize(("keep", "hops", "expected"), [(True, 0, 9), (True, 1, 8), (False, 0, 33)])
def test_the_ttl_is_kept_or_one_less_or_the_sockets(probe, sink, keep, hops, expected):
    out = EgressSocket(LOOPBACK, sink.socket.getsockname()[1], sink.gso, ttl=33)
    sink.socket.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    chains = probe.Chains(out, keep_ttl=keep, hops=hops)
    chains.queue_up([(b"run", 0, 9)] * 3 + [(b"", 0, 9)])
    chains.send()
    for _ in range(4):
        _, controls, _, _ = sink.socket.recvmsg(100, 100)
        assert controls == [(*IP_TTL, struct.pack("=i", expected))]
    out.close()


@given(st.lists(st.tuples(st.sampled_from([0, 1, 1316]), st.sampled_from([0, 1, 2, 16])), max_size=300), st.data())
def test_what_has_no_ttl_left_is_counted_once_however_often_the_socket_is_full(probe, shared, chain, data):
    """Every call takes a message or two, or none."""
    hops = data.draw(st.integers(0, 1))
    payloads = filled([size for size, _ in chain])
    expected = [payload for payload, (_, ttl) in zip(payloads, chain, strict=True) if ttl > hops]
    chains = probe.Chains(shared.egress, keep_ttl=True, hops=hops)
    chains.queue_up([(payload, 0, ttl) for payload, (_, ttl) in zip(payloads, chain, strict=True)])
    probe.script(data.draw(st.lists(st.sampled_from([errno.EAGAIN, -1, -2]), max_size=20)))
    at = chains.send()
    while at is not None:
        at = chains.send(at)
    assert shared.take(len(expected)) == expected
    assert shared.silent()
    over = len(chain) - len(expected)
    assert chains.counted == (len(expected), sum(map(len, expected)), {"ttl": over} if over else {})


# Where datagrams came from, kept


A, B = number("127.0.0.2"), number("127.0.0.3")


@pytest.fixture
def keeper(sink):
    """An output to the sink that keeps both ends."""
    made = EgressSocket(
        LOOPBACK, sink.socket.getsockname()[1], sink.gso, payload_max=1472, keep_address=True, keep_port=True
    )
    yield made
    made.close()


def came(sink, count):
    """(payload, source address, source port) of the next datagrams of a sink."""
    found = [sink.socket.recvfrom(65536) for _ in range(count)]
    return [(payload, number(source), port) for payload, (source, port) in found]


@given(
    chain=st.lists(
        st.tuples(st.sampled_from([0, 1, 100, 1316, 1473]), st.sampled_from([A, B]), st.integers(20000, 20011)),
        min_size=1,
        max_size=60,
    )
)
@example(chain=[(100, A, 20000 + i // 4) for i in range(60)])
@example(chain=[(100, A, 20000 + i % 12) for i in range(60)])
def test_each_leaves_from_its_own_source_in_order_and_is_remembered(probe, chain):
    """Singles and runs of more ports than there are sockets for, from those and from the raw one."""
    sink = Sink()
    out = EgressSocket(
        LOOPBACK, sink.socket.getsockname()[1], sink.gso, payload_max=1472, keep_address=True, keep_port=True
    )
    probe.script([])
    chains = probe.Chains(out)
    payloads = filled([size for size, _, _ in chain])
    wanted = [(payload, source, port) for payload, (_, source, port) in zip(payloads, chain, strict=True)]
    chains.queue_up_from(wanted)
    assert chains.send() is None
    assert came(sink, len(chain)) == wanted
    assert sink.silent()
    assert chains.counted == (len(chain), sum(map(len, payloads)), {})
    assert all(chains.remembers(source, port) for _, source, port in chain)
    assert not chains.remembers(A, 19999)
    assert not chains.remembers(A, chain[0][2], later_ns=11 * 10**9)
    out.close()
    sink.close()


def test_a_run_has_one_source(probe, sink, keeper):
    chains = probe.Chains(keeper)
    chains.queue_up_from([(b"x" * 100, A, 7001)] * 4 + [(b"x" * 100, B, 7001)] * 2 + [(b"x" * 100, B, 7002)] * 3)
    probe.script([])
    chains.send()
    assert [datagrams for _, datagrams in probe.calls()] == [4, 3]  # the first message of each call
    assert len(came(sink, 9)) == 9


def test_as_many_ports_as_there_are_have_eight_sockets_at_most(probe, sink, keeper):
    before = len(os.listdir("/proc/self/fd"))
    chains = probe.Chains(keeper)
    probe.script([])
    for first in range(20000, 20100, 20):
        chains.queue_up_from([(b"run", A, first + i // 2) for i in range(40)])
        chains.send()
        assert came(sink, 40) == [(b"run", A, first + i // 2) for i in range(40)]
    assert len(os.listdir("/proc/self/fd")) == before + 8
    keeper.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_port_that_another_program_holds_is_kept_all_the_same(probe, sink, keeper):
    """Its own socket cannot be had; the raw socket needs no port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        port = other.getsockname()[1]
        chains = probe.Chains(keeper)
        chains.queue_up_from([(b"run", A, port)] * 4)
        probe.script([])
        chains.send()
        assert came(sink, 4) == [(b"run", A, port)] * 4


def test_a_refused_run_of_a_kept_source_goes_singly_from_there(probe, sink, keeper):
    chains = probe.Chains(keeper)
    chains.queue_up_from([(b"run", A, 7001)] * 6)
    probe.runs_fail(errno.EINVAL)
    assert chains.send() is None
    assert came(sink, 6) == [(b"run", A, 7001)] * 6


def test_an_output_never_receives(probe, sink):
    """Its port is bound, but what is sent there is dropped, not queued for nobody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.connect(sink.socket.getsockname())
        chains = probe.Chains(sink.egress)
        chains.queue_up(plain([b"where from"]))
        chains.send()
        _, sender = sink.socket.recvfrom(100)
        sink.socket.sendto(b"reply", sender)
    assert not select.select([sink.egress.fileno()], [], [], 0.05)[0]


# What the kernel refuses


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
def test_a_refused_run_goes_singly_and_nothing_is_lost(probe, sink, code):
    payloads = filled([1316] * 20 + [0] + [700] * 5 + [1400])
    chains = probe.Chains(sink.egress, burst=8)
    chains.queue_up(plain(payloads))
    probe.runs_fail(code)
    assert chains.send() is None
    assert sink.take(len(payloads)) == payloads
    assert sink.silent()
    assert chains.counted == (len(payloads), sum(map(len, payloads)), {})


@pytest.mark.parametrize(("code", "go_on"), [(errno.EIO, False), (errno.EINVAL, True), (errno.EMSGSIZE, True)])
def test_after_eio_and_only_then_runs_stop_for_every_output_of_the_link(probe, sink, code, go_on):
    chains = probe.Chains(sink.egress)
    chains.queue_up(plain(filled([100] * 4)))
    probe.runs_fail(code)
    chains.send()
    assert sink.gso.allowed == go_on
    other = sink.output()
    beside = probe.Chains(other)
    beside.queue_up(plain(filled([100] * 4)))
    probe.script([])
    beside.send()
    assert [first for _, first in probe.calls()] == ([4] if go_on else [1])
    assert len(sink.take(8)) == 8
    other.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
@pytest.mark.parametrize("after", range(5))
def test_back_pressure_amid_a_refused_run_loses_and_repeats_nothing(probe, sink, code, after):
    payloads = filled([1316] * 5 + [100] * 5)
    chains = probe.Chains(sink.egress)
    chains.queue_up(plain(payloads))
    probe.script([code, *[-1] * after, errno.EAGAIN])
    rest = chains.send()
    assert rest == after
    assert chains.counted[0] == after
    assert chains.send(rest) is None
    assert sink.take(10) == payloads
    assert sink.silent()
    assert chains.counted == (10, sum(map(len, payloads)), {})


@given(
    st.lists(st.sampled_from([1, 100, 1316, 1473]), min_size=1, max_size=40),
    st.lists(st.sampled_from([0, -1, -2, -5, errno.EAGAIN, errno.EINTR, errno.EINVAL, errno.EIO]), max_size=30),
)
def test_whatever_the_kernel_takes_first_all_arrives_once_and_in_order(probe, shared, sizes, steps):
    """EINVAL and EIO may hit singles here, too: those are the only ones that may miss, and are counted."""
    payloads = filled(sizes)
    shared.gso = GsoState()
    out = shared.output()
    chains = probe.Chains(out, burst=8)
    chains.queue_up(plain(payloads))
    probe.script(steps)
    rest = chains.send()
    turns = 0
    while rest is not None:
        turns += 1
        assert turns <= len(steps)
        rest = chains.send(rest)
    out.close()
    packets, size, errors = chains.counted
    got = shared.take(packets)
    assert shared.silent()
    assert packets + sum(errors.values()) == len(payloads)
    assert set(errors) <= {"other"}
    assert sum(errors.values()) <= sum(step in {errno.EINVAL, errno.EIO} for step in steps)
    assert size == sum(map(len, got))
    remaining = iter(payloads)
    assert all(any(payload == each for each in remaining) for payload in got), "in order, none twice"


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENETDOWN, errno.EPERM, errno.EADDRNOTAVAIL, errno.ENETUNREACH])
def test_an_error_costs_a_run_all_its_datagrams(probe, sink, code):
    payloads = filled([100] * 8 + [50] + [100] * 8)  # messages of 9, 8
    chains = probe.Chains(sink.egress)
    chains.queue_up(plain(payloads))
    probe.script([code])
    assert chains.send() is None
    assert sink.take(8) == payloads[9:]
    assert chains.counted == (8, 800, {probe.reason(code): 9})


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENETDOWN, errno.EPERM, errno.EADDRNOTAVAIL, errno.ENETUNREACH])
def test_an_error_costs_its_own_message_and_no_other(probe, sink, code):
    payloads = filled([100] * 8 + [0] + [100] * 8)  # messages of 8, 1, 8
    chains = probe.Chains(sink.egress, burst=8)
    chains.queue_up(plain(payloads))
    probe.script([-1, code])
    assert chains.send() is None
    assert sink.take(16) == payloads[:8] + payloads[9:]
    assert sink.silent()
    assert chains.counted == (16, 1600, {probe.reason(code): 1})


def test_a_datagram_too_long_for_udp_is_counted_as_mtu(probe, sink):
    chains = probe.Chains(sink.egress)
    chains.queue_up(plain([b"before", bytes(65508), b"after"]))
    assert chains.send() is None
    assert sink.take(2) == [b"before", b"after"]
    assert chains.counted == (2, 11, {"mtu": 1})


def test_the_route_says_how_long_a_run_may_be(probe, sink):
    out = EgressSocket(LOOPBACK, sink.socket.getsockname()[1], sink.gso)
    assert probe.Chains(out).measured() == PAYLOAD_MAX  # an IPv4 packet has 65535 bytes at most
    out.close()


# Errors that arrive later


def closed_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_an_icmp_error_is_charged_once_to_the_next_datagram(probe):
    out = EgressSocket(LOOPBACK, closed_port(), GsoState(), payload_max=1472)
    chains = probe.Chains(out)
    chains.queue_up(plain([b"first"]))
    chains.send()
    assert chains.counted == (1, 5, {})
    time.sleep(0.05)  # the ICMP comes back through the softirq
    chains.queue_up(plain([b"abc", b"", b"defg"]))
    chains.send()
    assert chains.counted == (1 + 2, 5 + 4, {"unreachable": 1})
    out.close()


def test_each_of_several_icmp_errors_is_charged_to_a_datagram(probe):
    out = EgressSocket(LOOPBACK, closed_port(), GsoState(), payload_max=1472)
    with socket.socket(fileno=socket.dup(out.fileno())) as same:
        for refused in (False, True, False):  # an error that send() returns stays in the queue, too
            with pytest.raises(ConnectionRefusedError) if refused else contextlib.nullcontext():
                same.send(b"")
            time.sleep(0.02)
    chains = probe.Chains(out)
    chains.queue_up(plain(filled([100] * 5)))
    chains.send()
    assert chains.counted == (3, 300, {"unreachable": 2})
    assert chains.owed == 0
    out.close()


def test_a_closed_port_loses_nothing_elsewhere_and_every_datagram_is_counted_once(probe, sink):
    dead = EgressSocket(LOOPBACK, closed_port(), GsoState(), payload_max=1472)
    silent, living = probe.Chains(dead), probe.Chains(sink.egress)
    offered = 0
    for turn in range(50):
        payloads = filled([1316] * 3 + [0, 100, 1473], seed=turn)
        for chains in (silent, living):
            chains.queue_up(plain(payloads))
            assert chains.send() is None
        assert sink.take(len(payloads)) == payloads
        offered += len(payloads)
    packets, _, errors = silent.counted
    assert packets + sum(errors.values()) == offered
    assert set(errors) == {"unreachable"}
    assert errors["unreachable"] >= 25  # on loopback each message has its ICMP before the next turn
    assert living.counted == (offered, 50 * (3 * 1316 + 100 + 1473), {})
    dead.close()


def test_when_the_port_opens_datagrams_get_through_again(probe):
    port = closed_port()
    out = EgressSocket(LOOPBACK, port, GsoState(), payload_max=1472)
    chains = probe.Chains(out)
    for _ in range(5):
        chains.queue_up(plain([b"nobody"]))
        chains.send()
        time.sleep(0.005)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
        sock.settimeout(5)
        chains.queue_up(plain([b"one", b"", b"three"]))
        assert chains.send() is None
        assert [sock.recv(100) for _ in range(3)] == [b"one", b"", b"three"]
    packets, _, errors = chains.counted
    assert packets + errors["unreachable"] == 8
    assert chains.owed == 0
    assert chains.drained() == 0
    out.close()


@pytest.mark.net
def test_a_full_socket_buffer_is_back_pressure_and_nothing_is_lost(probe, namespaces):
    """A real queue: 4 Mbit/s out of a socket with room for a few datagrams."""
    (inside,) = namespaces.add("slow")
    inside.run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "4mbit", "burst", "5kb", "limit", "1mb")
    made = inside.call(Sink)
    with socket.socket(fileno=socket.dup(made.egress.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    payloads = filled([1000] * 50 + [200] * 50)
    chains = probe.Chains(made.egress, burst=2)
    chains.queue_up(plain(payloads))
    probe.script([])
    rest, stops = chains.send(), []
    while rest is not None:
        assert not stops or rest > stops[-1], "POLLOUT said there is room"
        stops.append(rest)
        assert chains.counted[0] == rest
        assert select.select([], [made.egress.fileno()], [], 5)[1]
        rest = chains.send(rest)
    assert stops
    assert (-1, 2) in probe.calls()
    assert made.take(100) == payloads
    assert chains.counted == (100, 60000, {})
    made.close()
