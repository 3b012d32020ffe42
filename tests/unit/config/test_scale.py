"""Thousands of rules: each of many costs what each of few costs, right or wrong."""

from __future__ import annotations

import contextlib

import pytest
from support.steps import growth

from mcrelay.config.checks import capture_complaints, link_warnings, master_complaints, narrow_warnings, source_warnings
from mcrelay.config.parse import parse_config
from mcrelay.errors import ConfigError
from mcrelay.model.link import Link

SHAPES = {
    "groups": lambda i, _: f'input = "{group(i)}:5000%in0"\noutputs = ["{group(i, 238)}:5004%out0"]',
    "links": lambda i, _: f'input = "239.1.1.1:5000%in{i}"\noutputs = ["239.9.1.1:5004%out{i}"]',
    "ports": lambda i, _: f'input = "239.1.1.1:{5000 + i}%in0"\noutputs = ["239.9.1.1:{5000 + i}%out0"]',
    "sources": lambda i, _: f'input = "{group(i, 10)}@232.1.1.1:5000%in0"\noutputs = ["239.9.1.1:{5000 + i}%out0"]',
    "shared": lambda i, _: f'input = "{group(i)}:5000%in0"\noutputs = ["239.9.9.9:5004%out0"]\nshared = true',
    "not shared": lambda i, _: f'input = "{group(i)}:5000%in0"\noutputs = ["239.9.9.9:5004%out0"]',
    "one input": lambda i, _: f'input = "239.1.1.1:5000%in0"\noutputs = ["239.9.1.1:{5000 + i}%out0"]',
    "pairs": lambda i, _: f'input = "{group(i)}:5000%in0"\noutputs = ["{group(i ^ 1)}:5000%in0"]\nreflect = true',
    "a chain": lambda i, _: f'input = "{group(i)}:5000%in0"\noutputs = ["{group(i + 1)}:5000%in0"]',
    "a chain backwards": lambda i, n: f'input = "{group(n - i)}:5000%in0"\noutputs = ["{group(n - i + 1)}:5000%in0"]',
    "a circle": lambda i, n: f'input = "{group(i)}:5000%in0"\noutputs = ["{group((i + 1) % n)}:5000%in0"]',
}


def group(number, first=239):
    return f"{first}.1.{number // 250}.{number % 250}"


def text(shape, count):
    return "".join(f"[rules.r{i}]\n{SHAPES[shape](i, count)}\n" for i in range(count))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rule_among_many_is_checked_as_fast_as_among_few(shape):
    def prepare(count):
        files = [("x.toml", text(shape, count))]

        def work():
            with contextlib.suppress(ConfigError):
                parse_config(files)

        return work

    assert growth(prepare) < 1.2


@pytest.mark.parametrize("prefix", ["in", "eth"])
def test_a_rule_among_many_is_checked_against_many_links_as_fast_as_among_few(prefix):
    def prepare(count):
        parsed = parse_config([("x.toml", text("links", count))])
        names = [f"{prefix}{i}" for i in range(count)]
        links = {name: Link(name, i + 1, True, True, "UP", 1500) for i, name in enumerate(names)}

        def work():
            for check in (link_warnings, capture_complaints, narrow_warnings, source_warnings):
                check(parsed.config, parsed.where, links)
            master_complaints(parsed.config.rules.values(), parsed.where, links)

        return work

    assert growth(prepare) < 1.2
