"""Presets: the rules that one stands for, and what is wrong with one."""

from __future__ import annotations

import pytest

from mcrelay.config.parse import parse_config
from mcrelay.config.presets import PRESETS
from mcrelay.errors import ConfigError
from mcrelay.model.notation import format_stream


def parsed(text):
    return parse_config([("a.toml", text)])


def refused(text):
    with pytest.raises(ConfigError) as refusal:
        parsed(text)
    return [f"{each.line}: {each.key}: {each.problem}" for each in refusal.value.complaints if not each.warning]


def preset(name="mdns", links='["eth0.10", "eth0.20", "eth1"]', more=""):
    return f'[rules.d]\npreset = "{name}"\nlinks = {links}\n{more}'


def test_mdns_goes_from_each_link_to_every_other_as_its_receivers_want_it():
    config = parsed(preset()).config
    ends = {
        name: (format_stream(rule.inputs[0].stream), [format_stream(each.stream) for each in rule.outputs])
        for name, rule in config.rules.items()
    }
    group = "224.0.0.251:5353%"
    assert ends == {
        "d-eth0-10": (f"{group}eth0.10", [f"{group}eth0.20", f"{group}eth1"]),
        "d-eth0-20": (f"{group}eth0.20", [f"{group}eth0.10", f"{group}eth1"]),
        "d-eth1": (f"{group}eth1", [f"{group}eth0.10", f"{group}eth0.20"]),
    }
    outputs = [each for rule in config.rules.values() for each in rule.outputs]
    assert {(each.ttl, each.source_port) for each in outputs} == {(255, 5353)}
    assert all(rule.shared and rule.reflect and rule.preset == "d" for rule in config.rules.values())
    assert not parsed(preset()).warnings


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_free_of_complaints(name):
    assert not parsed(preset(name)).warnings


def test_what_may_stand_beside_it_is_every_rules_and_defaults_change_nothing_else():
    config = parsed(
        preset(more='allow = ["192.0.2.0/24"]\nlimit = "10pps"\nenabled = false\n[defaults]\nttl = 3\n')
    ).config
    rules = list(config.rules.values())
    assert {str(rule.inputs[0].allow) for rule in rules} == {"(IPv4Network('192.0.2.0/24'),)"}
    assert {rule.inputs[0].limit.number for rule in rules} == {10}
    assert not any(rule.enabled for rule in rules)
    assert {each.ttl for rule in rules for each in rule.outputs} == {255}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (preset("dlna"), '2: rules.d.preset: "dlna" is no preset'),
        (preset(links='["eth0"]'), "3: rules.d.links: a preset relays between links, and here is one at most"),
        (preset(links='["eth0", "eth0"]'), "3: rules.d.links: link eth0 stands in it twice"),
        (preset(links='"eth0"'), '3: rules.d.links: "eth0" is not a list of links'),
        (preset(more="ttl = 3\n"), "4: rules.d.ttl: cannot stand beside a preset, which says it"),
        (preset(more='input = "239.1.1.1:5%eth0"\n'), "4: rules.d.input: cannot stand beside a preset, which says it"),
        ('[rules.d]\npreset = "mdns"\n', "1: rules.d.links: is missing: a preset has a set of links"),
        ('[rules.d]\nlinks = ["a", "b"]\n', "1: rules.d.preset: is missing: a preset has a set of links"),
        (
            preset(more='[rules.d-eth1]\ninput = "239.1.1.1:5%eth0"\noutputs = ["239.1.1.1:6%eth1"]\n'),
            "4: rules.d-eth1: preset d and another rule both make d-eth1",
        ),
        (
            preset() + preset("ssdp").replace("rules.d", "rules." + "e" * 60),
            f"4: rules.{'e' * 60}: its rule for eth0.10 would be called {'e' * 60}-eth0-10",
        ),
    ],
)
def test_what_is_wrong_with_a_preset_is_said_at_its_line(text, complaint):
    assert complaint in refused(text)


def test_links_whose_names_come_to_the_same_are_told_apart():
    rules = parsed(preset(links='["eth0.1", "eth0-1", "eth0:1x"]'.replace("eth0:1x", "eth0_1"))).config.rules
    assert list(rules) == ["d-eth0-1", "d-eth0-1-2", "d-eth0_1"]


def test_a_rule_that_takes_what_a_preset_sends_is_told_where_the_preset_stands():
    text = preset() + '[rules.e]\ninput = "224.0.0.251:5353%eth1"\noutputs = ["239.1.1.1:6%eth1"]\n'
    assert any("(a.toml:1)" in each for each in refused(text))
