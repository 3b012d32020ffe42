"""The books: whatever changes under traffic, what a rule let through is what each of its outputs has accounted for.

The engine goes by plans compiled from texts; rules come, go and change at random while datagrams arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from core.loops import Wire, on_a_thread
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from mcrelay._core.traffic import Sender
from mcrelay.config.parse import parse_config
from mcrelay.engine.ring import RingEngine
from mcrelay.linux.features import Features
from mcrelay.model.link import Link
from mcrelay.relay.compile import compile_plan

NAMES = ("a", "b")
OUTPUTS = ("127.0.0.1:{port}", "127.0.0.2:{port}", "127.0.0.3:{port}", "239.10.0.{n}:5004%gone")


class Books(RuleBasedStateMachine):
    """Two rules over three groups each, of which all six arrive all the time."""

    wire: Wire
    workers: int

    def __init__(self):
        super().__init__()
        self.rules: dict[str, dict[str, str]] = {}
        self.link_exists = True
        self.engine = self.wire.near.call(self._engine)
        self.traffic = contextlib.ExitStack()
        self._send()
        self._apply()

    def _engine(self):
        engine = RingEngine(Features(), workers=self.workers)
        engine.start()
        return engine

    def _send(self):
        sockets = [self.traffic.enter_context(self.wire.far.socket()) for _ in range(6)]
        for n, sock in enumerate(sockets):
            sock.connect((f"239.1.1.{1 + n}", 5000))
        sender = Sender([each.fileno() for each in sockets], [100], rate=6000, duration=600)
        self.traffic.enter_context(on_a_thread(sender))

    def _apply(self):
        text = ""
        for name, table in self.rules.items():
            text += f"[rules.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
        links = {"r0": Link("r0", self.wire.ifindex, True, True, "UP", 1500)} if self.link_exists else {}
        self.spec = compile_plan(parse_config([("x.toml", text)]).config, links)
        self.wire.near.call(lambda: asyncio.run(self.engine.apply(self.spec)))
        time.sleep(0.01)  # some of each group's datagrams arrive under every plan

    @rule(
        name=st.sampled_from(NAMES),
        group=st.sampled_from([1, 2, 3]),
        outputs=st.sets(st.sampled_from(OUTPUTS), min_size=1),
        limit=st.sampled_from([None, "300pps"]),
        allow=st.sampled_from([None, "198.51.100.0/24", "192.0.2.0/24"]),
        enabled=st.sampled_from([True, True, False]),
    )
    def put(self, *, name, group, outputs, limit, allow, enabled):
        first = 3 * NAMES.index(name)
        made = ", ".join(f'"{each.format(port=9 + first, n=1 + first)}"' for each in sorted(outputs))
        table = {"input": f'"239.1.1.{first + group}:5000%r0"', "outputs": f"[{made}]", "enabled": str(enabled).lower()}
        if limit:
            table["limit"] = f'"{limit}"'
        if allow:
            table["allow"] = f'["{allow}"]'
        self.rules[name] = table
        self._apply()

    @precondition(lambda self: self.rules)
    @rule(data=st.data())
    def delete(self, data):
        del self.rules[data.draw(st.sampled_from(sorted(self.rules)))]
        self._apply()

    @rule()
    def link_goes_or_comes(self):
        self.link_exists = not self.link_exists
        self._apply()

    @rule()
    def rest(self):
        self.traffic.close()
        self._balance()
        self._send()

    def _balance(self):
        before, now = None, self.engine.snapshot()
        while (now.inputs, now.outputs) != before:
            before = now.inputs, now.outputs
            time.sleep(0.03)
            now = self.engine.snapshot()
        for each in self.spec.rules:
            inputs = [now.inputs[each.name, i.text] for i in each.inputs if (each.name, i.text) in now.inputs]
            inputs += [now.retired[each.name]] if each.name in now.retired else []
            through = sum(count.rx_packets - sum(count.drops.values()) for count in inputs)
            for output in each.outputs:
                count = now.outputs[each.name, output.to]
                accounted = count.since_packets + count.tx_packets + sum(count.tx_errors.values())
                assert accounted == through, (each.name, output.to, count, now)

    def teardown(self):
        self.traffic.close()
        try:
            self._balance()
        finally:
            self.engine.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_books_balance_after_any_change_under_traffic(namespaces, workers):
    wire = Wire(namespaces)
    wire.near.ip("link set lo up")
    machine = type("TheseBooks", (Books,), {"wire": wire, "workers": workers})
    checked = settings(max_examples=8, stateful_step_count=20, deadline=None, suppress_health_check=[*HealthCheck])
    try:
        run_state_machine_as_test(machine, settings=checked)
    finally:
        wire.close()
