"""The reconcile loop: what is done, in which order, and what is not done again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from dataclasses import replace

import pytest
from support.parts import IN0, OUT0, Bench

from mcrelay.config.parse import parse_config
from mcrelay.errors import OperationError
from mcrelay.model.link import LinkId
from mcrelay.model.state import Refusals
from mcrelay.relay.service import LOOK_SECONDS, RETRY_SECONDS

RULE = '[rules.{0}]\ninput = "239.1.1.{1}:5000%in0"\noutputs = ["239.10.0.{1}:5004%out0"]\n'
ONE, TWO = RULE.format("a", 1), RULE.format("a", 1) + RULE.format("b", 2)
STEPS = ["narrow", "gro", "ask again", "apply", "join", "widen"]
NOTHING = ["narrow", "gro", "widen"]  # what is asked at every look, and finds nothing to do by itself


def config(text):
    return parse_config([("x.toml", text)]).config


def test_the_order_is_that_in_which_nothing_is_lost():
    assert Bench(ONE).reconcile() == STEPS


def test_where_nothing_has_changed_no_plan_is_applied_and_no_join_looked_at():
    bench = Bench(ONE)
    bench.reconcile()
    assert bench.reconcile() == NOTHING


def test_links_read_again_with_the_same_content_are_no_change():
    bench = Bench(ONE)
    bench.reconcile()
    bench.watch.links = {name: replace(link) for name, link in bench.watch.links.items()}
    assert bench.reconcile() == NOTHING


def test_a_link_that_no_plan_feels_makes_no_new_plan():
    bench = Bench(ONE)
    bench.reconcile()
    before = bench.engine.spec
    bench.watch.links = bench.watch.links | {"eth9": replace(IN0, name="eth9", ifindex=9)}
    assert bench.reconcile() == ["narrow", "gro", "ask again", "join", "widen"]
    assert bench.engine.spec is before


def test_a_link_made_again_with_its_name_and_number_gets_everything_anew():
    bench = Bench(ONE)
    bench.reconcile()
    bench.watch.links = {"in0": replace(IN0, incarnation=7), "out0": replace(OUT0, incarnation=8)}
    assert bench.reconcile() == STEPS
    (rule,) = bench.engine.spec.rules
    assert (rule.inputs[0].incarnation, rule.outputs[0].incarnation) == (7, 8)
    assert bench.engine.spec.rings[IN0.ifindex].incarnation == 7
    assert bench.memberships.links == {LinkId(4, 7), LinkId(5, 8)}
    assert {each.link for each in bench.memberships.joined} == {LinkId(4, 7)}


def test_after_a_deletion_the_links_are_read_afresh_until_that_has_worked(caplog):
    bench = Bench(ONE)
    bench.reconcile()
    bench.presence.gone = True
    held, bench.watch.links = bench.watch.links, OSError(errno.ENOBUFS, "no room")
    assert bench.reconcile() == NOTHING
    assert "links cannot be read" in caplog.text
    bench.watch.links = held
    bench.reconcile()
    bench.reconcile()
    assert [each["fresh"] for each in bench.watch.dumps] == [False, True, True, False]


@pytest.mark.parametrize(
    ("refused", "state"),
    [
        (Refusals(rings={4: "no memory"}), "error"),
        (Refusals(outputs={("a", "239.10.0.1:5004%out0"): "no descriptor"}), "error"),
    ],
)
def test_what_the_kernel_refused_is_tried_again_after_a_minute_and_at_once_when_a_link_changes(refused, state):
    bench = Bench(ONE)
    bench.engine.refuses = refused
    bench.reconcile()
    assert [each.state for each in bench.service.statuses()] == [state]
    bench.clock.now += RETRY_SECONDS / 2
    assert "apply" not in bench.reconcile()
    bench.watch.links = bench.watch.links | {"in0": replace(IN0, carrier_losses=2)}
    assert "apply" in bench.reconcile()
    bench.engine.refuses = Refusals()
    bench.clock.now += RETRY_SECONDS
    assert "apply" in bench.reconcile()
    assert [each.state for each in bench.service.statuses()] == ["active"]
    bench.clock.now += RETRY_SECONDS
    assert "apply" not in bench.reconcile()


def test_a_link_whose_ring_was_refused_is_not_joined():
    bench = Bench(ONE)
    bench.engine.refuses = Refusals(rings={4: "no memory"})
    bench.reconcile()
    assert bench.memberships.joined == frozenset()


def test_a_join_that_failed_is_tried_again_after_a_minute():
    bench = Bench(ONE)
    bench.reconcile()
    bench.memberships.failed = dict.fromkeys(bench.memberships.joined, "the limit is reached")
    assert [each.state for each in bench.service.statuses()] == ["error"]
    assert "join" not in bench.reconcile()
    bench.clock.now += RETRY_SECONDS
    assert "join" in bench.reconcile()


def test_another_route_makes_the_plan_be_applied_again():
    bench = Bench(ONE)
    bench.reconcile()
    bench.engine.moved = True
    assert "apply" in bench.reconcile()


def test_routes_are_listened_to_for_outputs_to_hosts_alone():
    bench = Bench(ONE)
    bench.reconcile()
    assert not bench.routes.wanted
    bench.service.config = config(ONE.replace("239.10.0.1:5004%out0", "198.51.100.7:5004"))
    bench.reconcile()
    assert bench.routes.wanted
    assert bench.watch.followed is None  # it may leave by any link


def test_nothing_is_dropped_while_the_process_before_us_may_have_joined():
    read, write = os.pipe()
    os.close(write)
    bench = Bench(ONE, inherited=[("helper-1-0", read)])
    assert "widen" not in bench.reconcile()


def test_states_are_put_together_again_only_where_something_can_have_changed_them():
    bench = Bench(TWO)
    bench.reconcile()
    before = bench.service.statuses()
    bench.reconcile()
    assert bench.service.statuses() is before
    bench.memberships.failed = dict.fromkeys(bench.memberships.joined, "the limit is reached")
    assert bench.service.statuses() is not before


def test_an_update_goes_by_the_new_configuration_when_it_returns():
    bench = Bench(ONE)
    bench.reconcile()
    asyncio.run(bench.service.update(config(TWO)))
    assert [each.name for each in bench.engine.spec.rules] == ["a", "b"]


def test_what_changed_is_logged_once_and_told_to_the_service_manager(caplog):
    caplog.set_level(logging.INFO)
    bench = Bench(ONE)
    bench.reconcile()
    bench.reconcile()
    assert caplog.text.count("changed rule=a state=active") == 1
    bench.watch.links = {"in0": replace(IN0, carrier=False), "out0": OUT0}
    bench.reconcile()
    bench.reconcile()
    assert caplog.text.count("changed rule=a state=parked reason='link in0 has no carrier'") == 1
    assert caplog.text.count("changed link=in0 ifindex=4 up=yes carrier=no") == 1
    assert [each for each in bench.notifier.sent if each[0].startswith("STATUS")] == [
        ("STATUS=1 rule: 1 active",),
        ("STATUS=1 rule: 1 parked",),
    ]


def run(bench, seconds=0.2, **patches):
    """The whole life of a service, for a moment."""

    async def life():
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        await bench.service.run(stop, **patches)

    asyncio.run(life())


def test_ready_is_said_once_everything_is_joined_and_the_end_leaves_drops_first():
    bench = Bench(ONE)
    told = []
    run(bench, ready=lambda: told.append(list(bench.calls)))
    assert told == [["start", *STEPS]]
    assert ("READY=1", "STATUS=1 rule: 1 active") in bench.notifier.sent
    assert bench.calls[-4:] == ["drops closed", "leave", "engine closed", "gro closed"]
    assert bench.notifier.sent[-1] == ("STOPPING=1",)


def test_what_fails_in_housekeeping_is_logged_and_relaying_goes_on(caplog, monkeypatch):
    bench = Bench(ONE)
    monkeypatch.setattr("mcrelay.relay.service.TICK_SECONDS", 0.02)
    bench.engine.broken = ValueError("unforeseen")
    run(bench)
    assert "failed at housekeeping: relaying goes on" in caplog.text
    assert "unforeseen" in caplog.text


def test_a_worker_that_ended_ends_the_service_which_gives_everything_back(monkeypatch):
    bench = Bench(ONE)
    monkeypatch.setattr("mcrelay.relay.service.TICK_SECONDS", 0.02)
    bench.engine.broken = OperationError("worker 0 has ended")
    with pytest.raises(OperationError, match="worker 0"):
        run(bench, seconds=5)
    assert bench.calls[-4:] == ["drops closed", "leave", "engine closed", "gro closed"]


def test_links_are_looked_at_every_few_seconds_though_nobody_says_anything(monkeypatch):
    bench = Bench(ONE)
    monkeypatch.setattr("mcrelay.relay.service.TICK_SECONDS", 0.02)
    run(bench)
    assert len(bench.watch.dumps) == 1
    late = Bench(ONE)
    asyncio.run(_tick_late(late))
    assert len(late.watch.dumps) == 2


async def _tick_late(bench):
    await bench.service.reconcile()
    bench.clock.now += LOOK_SECONDS
    await bench.service._housekeep()


def test_the_time_that_it_runs_is_no_matter_of_what_the_wall_clock_is_set_to(monkeypatch):
    bench = Bench(ONE)
    bench.clock.now += 90
    now = time.time()
    for step in (20 * 86_400, -20 * 86_400):
        monkeypatch.setattr("time.time", lambda s=step: now + s)
        assert bench.state().uptime_seconds == 90
