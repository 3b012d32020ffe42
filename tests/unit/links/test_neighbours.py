"""Outputs to more groups than the kernel's neighbour table holds."""

from __future__ import annotations

import pytest

from mcrelay.config.parse import parse_config
from mcrelay.links.neighbours import overflow
from mcrelay.relay.compile import compile_plan


def plan(groups: int, enabled: str = "true"):
    outputs = ", ".join(f'"239.1.{i // 250}.{i % 250 + 1}:5000%out0"' for i in range(groups))
    text = f'[rules.x]\nenabled = {enabled}\ninput = "226.2.2.2:2068%in0"\noutputs = [{outputs}, "192.0.2.9:7000"]\n'
    return compile_plan(parse_config([("x.toml", text)]).config, {})


@pytest.mark.parametrize(("groups", "limit"), [(1, 1), (40, 40)])
def test_what_fits_is_not_spoken_of(groups, limit):
    assert overflow(plan(groups), limit) == ""


def test_what_does_not_fit_is_counted_and_the_remedy_makes_twice_the_room():
    text = overflow(plan(41), 40)
    assert "41 groups" in text
    assert "room for 40" in text
    assert "gc_thresh3=128 net/ipv4/neigh/default/gc_thresh2=64" in text


def test_rules_that_are_disabled_take_no_room():
    assert overflow(plan(41, "false"), 40) == ""


def test_a_kernel_that_does_not_show_its_limit_has_the_default(monkeypatch):
    monkeypatch.setattr("mcrelay.links.neighbours.LIMIT", "net/no/such/thing")
    assert overflow(plan(1024)) == ""
    assert "room for 1024" in overflow(plan(1025))
