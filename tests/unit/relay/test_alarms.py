from __future__ import annotations

import logging

import pytest

from mcrelay.relay.alarms import QUIET_SECONDS, DropAlarms


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage().split(":")[0] for record in caplog.records]


def counts(policer: int = 0, echo: int = 0):
    return {"x": {"source": 9, "policer": policer, "echo": echo}}


def test_one_line_when_it_begins_and_one_when_it_has_ended(said):
    drops = DropAlarms()
    for second, count in enumerate([0, 5, 50, 500]):
        drops.look(counts(policer=count), second)
    drops.look(counts(policer=500), 3 + QUIET_SECONDS - 0.1)
    assert said() == ["began rule=x dropping=policer"]
    drops.look(counts(policer=500), 3 + QUIET_SECONDS)
    assert said() == ["began rule=x dropping=policer", "ended rule=x dropping=policer dropped=500"]


def test_reasons_are_told_apart_and_a_source_that_is_not_let_in_is_not_news(said):
    drops = DropAlarms()
    drops.look(counts(), 0)
    drops.look(counts(echo=1), 1)
    assert said() == ["began rule=x dropping=echo"]


def test_a_rule_that_was_deleted_and_comes_again_starts_afresh(said):
    drops = DropAlarms()
    drops.look(counts(policer=5), 1)
    drops.look({}, 2)
    drops.look(counts(policer=3), 3)
    assert said() == ["began rule=x dropping=policer"] * 2
