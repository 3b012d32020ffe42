"""A ring, a plan and a running worker without the engine: what test_ring.py and test_loop.py drive.

::

    far: s0 ---- r0 :near: lo      frames go in at s0; the worker captures on r0 and sends to sinks on lo
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.frames import GROUP, PORT, number

from mcrelay._core.counters import DROPS, INPUT_FIELDS, OUTPUT_FIELDS, SEND_ERRORS, TIME_FIELDS, CounterBlock
from mcrelay._core.egress import EgressSocket, GsoState
from mcrelay._core.plan import PlanOwner
from mcrelay._core.ring import RingSocket
from mcrelay._core.worker import Worker
from mcrelay.linux import bpf

if TYPE_CHECKING:
    from mcrelay._core.health import HealthState
    from mcrelay._core.policer import PolicerState

ACCEPT_ALL = struct.pack("=HBBI", 6, 0, 0, 0x40000)  # BPF: ret 262144
RING_BYTES = 32 << 20  # 256 blocks; each is closed after 1 ms, so that is how long the worker may be kept waiting
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
UDP_SEGMENT = 103  # linux/udp.h


def only_groups(*groups):
    return bpf.group_filter(bpf.ranges_of(map(number, groups)))


def wait_until(condition, what, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.002)


def take(sink, count):
    """The next datagrams of a sink."""
    return [sink.recv(65536) for _ in range(count)]


def quiet(sink):
    """Nothing more comes."""
    sink.settimeout(0.05)
    try:
        sink.recv(1)
    except TimeoutError:
        return True
    finally:
        sink.settimeout(5)
    return False


class Wire:
    """The two namespaces above, and what is open in them."""

    def __init__(self, lab, latency=False):
        self.latency = latency
        self.far, self.near = lab.add("far", "near")
        lab.veth((self.far, "s0", self.near, "r0"))
        self.far.ip("addr add 192.0.2.9/24 dev s0", "link set s0 up", "route add 224.0.0.0/4 dev s0")
        self.near.ip("addr add 192.0.2.1/24 dev r0", "link set r0 up")
        self.far.wait_until_up()  # else the first frames may meet a queue that drops all, and nobody counts them
        self.ifindex = self.near.ifindex("r0")
        self._open = contextlib.ExitStack()
        self.raw = self._open.enter_context(self.far.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self.raw.bind(("s0", 0))

    def close(self):
        self._open.close()

    def ring(self, program=None, ring_bytes=RING_BYTES, frame_bytes=1500):
        ring = self.near.call(lambda: RingSocket(self.ifindex, ring_bytes, self.latency, frame_bytes))
        self._open.callback(ring.close)
        if program is not None:
            ring.attach(program)
        return ring

    def sink(self):
        """A receiver on lo; reads time out after 5 s."""
        sink = self._open.enter_context(self.near.socket())
        with contextlib.suppress(PermissionError):  # then only small bursts fit
            sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(5)
        return sink

    def output_to(self, sink, **options):
        port = sink.getsockname()[1]
        options = {"gso": GsoState(), "payload_max": 1472, **options}
        made = self.near.call(lambda: EgressSocket(number("127.0.0.1"), port, **options))
        self._open.callback(made.close)
        return made

    def sender(self, segment=0):
        """A UDP socket at s0, connected to the group; with ``segment`` each send is one superframe."""
        sock = self._open.enter_context(self.far.socket())
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
        if segment:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        sock.connect((GROUP, PORT))
        return sock


def read(block):
    """Counters by name."""
    return dict(zip(block.fields, block.read(), strict=True))


@dataclass
class To:
    """One output of a plan under test."""

    socket: EgressSocket | None
    burst: int = 16
    keep_dscp: bool = True
    block: CounterBlock = field(default_factory=lambda: CounterBlock(OUTPUT_FIELDS))

    @property
    def counted(self):
        counts = read(self.block)
        return counts["tx_packets"], counts["tx_bytes"], {name: counts[name] for name in SEND_ERRORS if counts[name]}


@dataclass
class From:
    """One input of a plan under test."""

    outputs: list[To]
    ring: int = 0
    group: str = GROUP
    source: str | None = None
    port: int = PORT
    allow: list = field(default_factory=list)
    policer: PolicerState | None = None
    block: CounterBlock = field(default_factory=lambda: CounterBlock(INPUT_FIELDS))
    label: tuple[str, str] | None = None
    health: HealthState | None = None
    times: CounterBlock = field(default_factory=lambda: CounterBlock(TIME_FIELDS))

    @property
    def counted(self):
        counts = read(self.block)
        return counts["rx_packets"], counts["rx_bytes"], {name: counts[name] for name in DROPS if counts[name]}

    @property
    def last_packet_ns(self):
        return read(self.block)["last_packet_ns"]

    def add_to(self, plan, flow=None):
        """Its number; it feeds ``flow``, else one of its own to its outputs."""
        if flow is None:
            flow = plan.add_flow(times=self.times)
            for each in self.outputs:
                plan.add_output(
                    flow=flow, socket=each.socket, counters=each.block, burst=each.burst, keep_dscp=each.keep_dscp
                )
        return plan.add_input(
            flow=flow, ring=self.ring, group=number(self.group), source=number(self.source) if self.source else 0,
            port=self.port, counters=self.block, allow=self.allow, policer=self.policer,
            label=self.label, health=self.health,
        )  # fmt: skip


def plan_of(generation, rings, inputs, own=(), loopback=(), *, scratch=None):
    """A sealed plan; ``own`` are (source, source port, address, port), ``loopback`` numbers of rings."""
    plan = PlanOwner(generation, scratch=scratch)
    for i, ring in enumerate(rings):
        plan.add_ring(ring, loopback=i in loopback)
    for each in inputs:
        each.add_to(plan)
    for source, source_port, address, port in own:
        plan.add_own(source=source, source_port=source_port, address=address, port=port)
    return plan.seal()


class Running:
    """A worker on a thread of its own, for the ``with`` block."""

    def __init__(self, plan):
        self.plan = plan
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.worker = Worker(plan, self.wake_fd)
        self.thread = threading.Thread(target=self.worker.run)

    def __enter__(self):
        self.thread.start()
        return self

    def publish(self, plan):
        """As the engine does: the old plan is let go once the worker has moved on."""
        self.worker.publish(plan)
        os.eventfd_write(self.wake_fd, 1)
        wait_until(lambda: self.worker.seen >= plan.generation, "the worker to adopt a plan")
        self.plan = plan

    def stop(self):
        """Seconds until the thread had ended."""
        begin = time.monotonic()
        self.worker.stop()
        os.eventfd_write(self.wake_fd, 1)
        self.thread.join(5)
        assert not self.thread.is_alive()
        return time.monotonic() - begin

    def __exit__(self, *_):
        if self.thread.is_alive():
            self.stop()
        os.close(self.wake_fd)


@contextlib.contextmanager
def on_a_thread(traffic):
    """Run a Sender or Receiver beside the block; it has ended when the block has, however that ends."""
    thread = threading.Thread(target=traffic.run)
    thread.start()
    try:
        yield traffic
    finally:
        traffic.stop()
        thread.join()


def verdicts(ring):
    """Frames by verdict, less what is 0."""
    return {name: count for name, count in read(ring.frames).items() if count}


def settle(ring, frames):
    """Wait until that many frames have their verdict and the kernel agrees that this is all."""
    until = time.monotonic() + 5
    while sum(ring.frames.read()) < frames and time.monotonic() < until:
        time.sleep(0.002)
    received, dropped = ring.statistics()
    assert sum(ring.frames.read()) >= frames, f"of {frames} {dropped} were dropped: {verdicts(ring)}"
    assert sum(ring.frames.read()) == received
    return received, dropped
