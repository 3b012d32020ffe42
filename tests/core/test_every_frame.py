"""Every frame has one verdict, whatever comes between what: frames of all kinds in a random order, by a real link."""

from __future__ import annotations

from collections import Counter

import pytest
from core.loops import ACCEPT_ALL, From, Running, To, Wire, plan_of, quiet, read, settle, take, verdicts
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from support.frames import ethernet, frame, ipv4, part, tagged, udp

pytestmark = [pytest.mark.core, pytest.mark.net]

SEGMENT = 100
SIZES = st.integers(0, 1400)


class EveryFrame(RuleBasedStateMachine):
    """What was sent, what of it is to arrive, in which order, and how many frames are to have which verdict."""

    wire: Wire

    def __init__(self):
        super().__init__()
        self.number = 0
        self.due: list[bytes] = []
        self.verdicts: Counter[str] = Counter()
        self.sink = self.wire.sink()
        self.output = To(self.wire.output_to(self.sink))
        self.entry = From([self.output])
        self.ring = self.wire.ring(ACCEPT_ALL)
        self.superframes = self.wire.sender(SEGMENT)
        self.running = Running(plan_of(1, [self.ring], [self.entry]))
        self.running.__enter__()

    def _payload(self, size):
        """That no other datagram has."""
        self.number += 1
        return self.number.to_bytes(4, "big") + bytes(size)

    def _send(self, verdict, *frames):
        for each in frames:
            self.wire.raw.send(each)
        self.verdicts[verdict] += len(frames)

    @rule(size=SIZES, padding=st.integers(0, 40), priority=st.sampled_from([None, 0, 0xE000]))
    def valid(self, *, size, padding, priority):
        payload = self._payload(size)
        made = frame(payload, padding=padding)
        self._send("relayed", made if priority is None else tagged(made, priority))
        self.due.append(payload)

    @rule(size=SIZES, where=st.floats(0, 1, exclude_max=True))
    def cut_short(self, *, size, where):
        made = frame(self._payload(size))
        self._send("malformed", made[: 14 + int(where * (len(made) - 14))])

    @rule(size=SIZES, flip=st.integers(1, 0xFFFF))
    def damaged(self, *, size, flip):
        payload = self._payload(size)
        good = udp(payload)
        checksum = int.from_bytes(good[6:8], "big") ^ flip
        if checksum not in {0, 0xFFFF}:  # none at all; and the other way to write 0
            self._send("malformed", ethernet(ipv4(udp(payload, checksum=checksum))))

    @rule(size=SIZES, tag=st.integers(1, 4094))
    def in_a_vlan(self, *, size, tag):
        self._send("vlan", tagged(frame(self._payload(size)), tag))

    @rule(size=SIZES, port=st.integers(1, 2067))
    def for_nobody(self, *, size, port):
        self._send("no_match", frame(self._payload(size), port=port))

    @rule(size=SIZES, protocol=st.sampled_from([1, 2, 6]))
    def no_udp(self, *, size, protocol):
        self._send("not_udp", frame(self._payload(size), protocol=protocol))

    @rule(size=st.integers(100, 6000), data=st.data())
    def fragments(self, *, size, data):
        """In any order; whole, or one of them lost."""
        payload = self._payload(size)
        body = udp(payload)
        step = 8 * data.draw(st.integers(max(8, len(body) // 160), 180))
        begins = data.draw(st.permutations(range(0, len(body), step)))
        lost = data.draw(st.booleans()) and len(begins) > 1
        made = [part(body, at, min(at + step, len(body)), identification=self.number & 0xFFFF) for at in begins]
        if len(begins) == 1:
            self._send("relayed", frame(payload))
        elif lost:
            self._send("fragment", *made[1:])
            return
        else:
            self._send("relayed", *made)
        self.due.append(payload)

    @rule(count=st.integers(2, 40), rest=st.integers(4, SEGMENT))
    def superframe(self, *, count, rest):
        datagrams = [self._payload(SEGMENT - 4) for _ in range(count)] + [self._payload(rest - 4)]
        self.superframes.send(b"".join(datagrams))
        self.verdicts["relayed"] += 1
        self.due += datagrams

    @rule()
    def all_of_it_is_there(self):
        settle(self.ring, self.verdicts.total())
        assert verdicts(self.ring) == {verdict: count for verdict, count in self.verdicts.items() if count}
        assert take(self.sink, len(self.due)) == self.due
        assert quiet(self.sink)
        self.due.clear()

    def teardown(self):
        try:
            self.all_of_it_is_there()
            received, _, drops = self.entry.counted
            assert (received, drops) == (self.output.counted[0], {})
            assert sum(read(self.ring.fragments).values()) == self.verdicts["fragment"]
        finally:
            self.running.stop()
            self.ring.close()


@pytest.mark.parametrize("latency", [False, True], ids=["blocks", "slots"])
def test_every_valid_datagram_arrives_once_and_in_order_and_every_other_frame_is_in_one_counter(namespaces, latency):
    wire = Wire(namespaces, latency=latency)
    wire.near.ip("link set lo up")
    machine = type("TheseFrames", (EveryFrame,), {"wire": wire})
    checked = settings(max_examples=10, stateful_step_count=40, deadline=None, suppress_health_check=[*HealthCheck])
    try:
        run_state_machine_as_test(machine, settings=checked)
    finally:
        wire.close()
