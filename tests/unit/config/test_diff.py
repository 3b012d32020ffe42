"""Configurations compared and altered: run-time changes seen, kept, lost, and the command that brings each back."""

from __future__ import annotations

import shlex
from dataclasses import replace

import click
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from support.rules import rules

from mcrelay.config.diff import (
    Change,
    command,
    compare,
    find_rule,
    keep,
    lost,
    runtime_changes,
    same,
    with_rule,
    without_rule,
)
from mcrelay.config.flags import read_table, rule_arguments, rule_options, words
from mcrelay.config.parse import parse_config, parse_rule
from mcrelay.config.schema import RULE as ROWS
from mcrelay.errors import ConfigError, SettingError, UsageError
from mcrelay.model.rule import Config
from mcrelay.model.values import Each


def text(name, n, more=""):
    return f'[rules.{name}]\ninput = "233.252.0.{n}:5000%in0"\noutputs = ["10.9.0.{n}"]\n{more}'


def files(*texts):
    return parse_config([("f.toml", "".join(texts))])


def added(name, n, **options):
    return parse_rule(name, {"input": f"233.252.0.{n}:5000%in0", "outputs": [f"10.9.0.{n}"], **options}, {})


FILES = files(text("a", 1), text("b", 2, "ttl = 7\n"), text("off", 3, "enabled = false\n"))


def changed(*changes, base=FILES):
    """The files with run-time changes made as the relay makes them."""
    running = base.config
    for kind, name, *rest in changes:
        if kind == "delete":
            running = without_rule(running, name)
        elif kind in {"enable", "disable"}:
            running = with_rule(running, base.config, replace(find_rule(running, name), enabled=kind == "enable"))
        else:
            running = with_rule(running, base.config, *rest)
    return running


def seen(running, base=FILES):
    return [(each.kind, each.name) for each in runtime_changes(base.config, running)]


def test_what_runs_as_the_files_say_is_no_change():
    assert seen(FILES.config) == []
    assert seen(changed(("disable", "a"), ("enable", "a"))) == []
    assert seen(changed(("delete", "a"), ("add", "a", added("a", 1)))) == []
    assert changed(("disable", "a"), ("enable", "a")).rules["a"].origin == "file"


def test_every_kind_of_change_is_seen_in_an_order_in_which_it_can_be_made_again():
    running = changed(
        ("add", "n", added("n", 9)), ("disable", "a"), ("enable", "off"), ("replace", "b", added("b", 2, ttl=8))
    )
    assert seen(running) == [("enable", "off"), ("disable", "a"), ("replace", "b"), ("add", "n")]
    assert [rule.origin for rule in running.rules.values()] == ["runtime"] * 4
    assert list(running.rules) == ["a", "b", "off", "n"]
    assert seen(without_rule(running, "a"))[0] == ("delete", "a")


def test_a_rule_replaced_by_one_that_is_off_is_replaced():
    assert seen(changed(("replace", "a", added("a", 1, ttl=3, enabled=False)))) == [("replace", "a")]


def test_an_unknown_name_is_refused_with_those_near_it():
    with pytest.raises(UsageError, match=r"^there is no rule 'of'; did you mean off\?$"):
        find_rule(FILES.config, "of")
    with pytest.raises(UsageError, match=r"^there is no rule 'zzz'; `mcrelay show` lists those that are$"):
        find_rule(FILES.config, "zzz")
    with pytest.raises(UsageError, match=r"^there is no rule 'x\\ny'"):
        find_rule(FILES.config, "x\ny")


# What a reload loses, and keeps


def commands(running, after, base=FILES):
    return [command(each) for each in lost(runtime_changes(base.config, running), after)]


def test_a_reload_names_each_change_that_goes_with_the_command_that_brings_it_back():
    running = changed(
        ("add", "n", added("n", 9, ttl=8, description="it's new")),
        ("replace", "b", added("b", 2, ttl=8)),
        ("delete", "a"),
        ("enable", "off"),
    )
    assert commands(running, FILES.config) == [
        "mcrelay delete a",
        "mcrelay enable off",
        "mcrelay replace b 233.252.0.2:5000%in0 10.9.0.2:5000 --ttl 8",
        """mcrelay add n 233.252.0.9:5000%in0 10.9.0.9:5000 --description 'it'"'"'s new' --ttl 8""",
    ]


def test_what_the_files_have_taken_over_is_not_lost():
    running = changed(("add", "n", added("n", 9)), ("disable", "a"), ("delete", "b"), ("enable", "off"))
    after = files(text("a", 1, "enabled = false\nttl = 9\n"), text("n", 9), text("off", 3)).config
    assert commands(running, after) == []


def test_the_command_fits_what_the_files_have_by_then():
    running = changed(("add", "n", added("n", 9)), ("replace", "b", added("b", 2)))
    after = files(text("n", 7)).config
    assert commands(running, after) == [
        "mcrelay replace n 233.252.0.9:5000%in0 10.9.0.9:5000",
        "mcrelay add b 233.252.0.2:5000%in0 10.9.0.2:5000",
    ]


def test_another_socket_is_part_of_the_command():
    assert command(Change("delete", "a"), "/run/my relay.sock") == "mcrelay delete a --socket '/run/my relay.sock'"


def kept(running, after, base=FILES):
    return keep(after.config, runtime_changes(base.config, running), after.where)


def test_kept_changes_lie_over_the_new_files():
    running = changed(
        ("add", "n", added("n", 9)), ("disable", "a"), ("replace", "b", added("b", 2, ttl=8)), ("delete", "off")
    )
    after = files(text("a", 1, "ttl = 99\n"), text("b", 2, "ttl = 1\n"), text("off", 3), text("new", 4))
    config = kept(running, after)
    assert list(config.rules) == ["a", "b", "new", "n"]
    assert (config.rules["a"].enabled, config.rules["a"].outputs[0].ttl) == (False, 99)
    assert config.rules["b"].outputs[0].ttl == 8
    assert [rule.origin for rule in config.rules.values()] == ["runtime", "runtime", "file", "runtime"]
    assert lost(runtime_changes(FILES.config, running), config) == []


def test_a_kept_rule_that_the_files_hold_now_is_theirs():
    after = files(text("a", 1), text("b", 2, "ttl = 7\n"), text("off", 3, "enabled = false\n"), text("n", 9))
    config = kept(changed(("add", "n", added("n", 9))), after)
    assert config.rules["n"].origin == "file"
    assert config == after.config


def test_to_delete_or_disable_what_the_files_no_longer_hold_is_done_already():
    assert kept(changed(("delete", "a"), ("disable", "b")), files(text("off", 3))).rules.keys() == {"off"}


def test_what_was_replaced_or_enabled_goes_on_when_the_files_drop_it():
    config = kept(changed(("replace", "a", added("a", 1, ttl=3)), ("enable", "off")), files(text("b", 2)))
    assert config.rules.keys() == {"a", "b", "off"}
    assert config.rules["off"].enabled


def refused(running, after, base=FILES):
    with pytest.raises(ConfigError) as caught:
        kept(running, after, base)
    return [str(each) for each in caught.value.complaints]


def test_a_kept_rule_whose_name_the_files_use_otherwise_is_refused():
    (complaint,) = refused(changed(("add", "n", added("n", 9))), files(text("a", 1), text("n", 8)))
    assert complaint == (
        "f.toml:4: rules.n: stands here, and another rule of this name was added at run time; "
        "rename this one, or delete the other: mcrelay delete n"
    )


def test_a_kept_rule_that_is_in_conflict_with_the_files_is_refused_with_all_there_is():
    complaints = refused(
        changed(("add", "n", added("n", 9)), ("add", "m", added("m", 8))), files(text("x", 9), text("y", 8))
    )
    assert [each.partition(";")[0] for each in complaints] == [
        "command line: rules.m.input: rules.y (f.toml:5) has the same input",
        "command line: rules.m.outputs[0]: rules.y (f.toml:6) sends to 10.9.0.8:5000 too",
        "command line: rules.n.input: rules.x (f.toml:2) has the same input",
        "command line: rules.n.outputs[0]: rules.x (f.toml:3) sends to 10.9.0.9:5000 too",
    ]


def test_a_name_that_begins_like_another_is_not_taken_for_it():
    complaints = refused(changed(("add", "n", added("n", 9))), files(text("nn", 9)))
    assert all("rules.nn (f.toml:" in each for each in complaints)


# The difference


B = {"input": "233.252.0.2:5000%in0", "ttl": 7}


def test_the_difference_names_rules_and_what_differs_in_them():
    after = files(
        text("a", 1, "ttl = 5\ndscp = 46\nallow = ['192.0.2.0/24']\n"),
        '[rules.b]\ninput = "233.252.0.2:5000%in0"\noutputs = ["10.9.0.2", "10.9.0.77"]\nttl = 7\n',
        text("new", 4),
    )
    before = changed(("replace", "b", parse_rule("b", B | {"outputs": ["10.9.0.2", "10.9.0.22"]}, {})))
    difference = compare(before, after.config, FILES.config)
    assert (difference.added, difference.removed) == (("new",), ("off",))
    assert difference.changed == {
        "a": (
            'allow: unset -> ["192.0.2.0/24"]',
            "output 10.9.0.1:5000 ttl: 64 -> 5",
            'output 10.9.0.1:5000 dscp: "keep" -> 46',
        ),
        "b": ("output 10.9.0.22:5000 removed", "output 10.9.0.77:5000 added"),
    }
    assert difference.restart == ()


def test_a_rule_that_only_comes_from_elsewhere_does_not_differ():
    running = changed(("add", "n", added("n", 9)), base=files())
    assert compare(running, files(text("n", 9)).config, running).changed == {}


def test_keys_that_need_a_restart_are_named_until_it_happens():
    started = files("[relay]\ncpus = [1]\n[links.in0]\nring = '8MiB'\n").config
    after = files("[relay]\ncpus = [2]\ncontrol = '/run/x.sock'\n[links.in1]\nring = '8MiB'\n").config
    assert compare(started, after, started).restart == ("relay.cpus", "relay.control", "links.in0", "links.in1")
    assert compare(started, started, started).restart == ()
    elsewhere = replace(started, relay=replace(started.relay, control="/run/x.sock"))  # by --socket
    assert "relay.control" not in compare(elsewhere, after, started).restart
    assert compare(elsewhere, started, started).restart == ()


# Flags

RULE = {key: row.check for key, row in ROWS.items()}


def table_of(*arguments):
    """What the command line gives, by the real parser."""
    found = {}

    @click.command()
    @rule_arguments
    @rule_options()
    def parse(source, outputs, **options):
        found.update(read_table(source, outputs, options))

    parse.main(list(arguments), standalone_mode=False)
    return found


def test_every_option_of_a_rule_is_a_flag_that_is_read_as_the_file_reads_it():
    table = table_of(
        "233.252.0.1:5000%in0", "10.9.0.1", "10.9.0.2", "--ttl", "8", "--dscp", "46", "--source-address", "192.0.2.1",
        "--source-port", "6000", "--burst", "4", "--allow", "192.0.2.0/24", "--allow", "198.51.100.7",
        "--description", "2024", "--limit", "20kpps", "--disabled", "--shared", "--reflect", "--vlan", "none",
    )  # fmt: skip
    assert table == {
        "input": "233.252.0.1:5000%in0", "outputs": ["10.9.0.1", "10.9.0.2"], "ttl": 8, "dscp": 46,
        "source_address": "192.0.2.1", "source_port": 6000, "burst": 4, "allow": ["192.0.2.0/24", "198.51.100.7"],
        "description": "2024", "limit": "20kpps", "enabled": False, "shared": True, "reflect": True, "vlan": "none",
    }  # fmt: skip
    assert not parse_rule("x", table, {}).enabled


def test_each_key_of_a_rule_has_a_flag():
    @click.command()
    @rule_options()
    def parse(**_):
        pass

    assert {each.name for each in parse.params} == set(RULE)
    assert all(each.multiple == isinstance(RULE[each.name], Each) for each in parse.params)
    assert all(each.help for each in parse.params)


def test_a_value_that_is_wrong_is_sent_so_that_the_complaint_is_the_files_own():
    with pytest.raises(ConfigError) as caught:
        parse_rule("x", table_of("233.252.0.1:5000%in0", "10.9.0.1", "--ttl", "0", "--dscp", "ef", "--burst", "x"), {})
    assert [str(each) for each in caught.value.complaints] == [
        'command line: rules.x.burst: "x" is not a number from 1 to 64; write e.g. 16',
        'command line: rules.x.dscp: "ef" is a name, and only numbers are known; write 46',
        'command line: rules.x.ttl: 0 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16',
    ]


def test_one_output_may_have_options_of_its_own():
    table = table_of("233.252.0.1:5000%in0", '{ to = "10.9.0.1", ttl = 3 }', "10.9.0.2", "--ttl", "9")
    rule = parse_rule("x", table, {})
    assert [each.ttl for each in rule.outputs] == [3, 9]
    with pytest.raises(SettingError, match=r"cannot be read: .*; write it as in a file: \{ to ="):
        table_of("233.252.0.1:5000%in0", "{ to = 10.9.0.1 }")


@given(rules())
@hypothesis_settings(max_examples=200, deadline=None)
def test_the_words_of_a_rule_make_the_same_rule_again(rule):
    said = shlex.split(shlex.join(["mcrelay", "add", rule.name, *words(rule)]))[3:]
    assert same(parse_rule(rule.name, table_of(*said), {}), rule)


@given(rules())
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_rule_differs_from_the_default_one_exactly_if_it_says_so(rule):
    plain = parse_rule(rule.name, {"input": "233.252.7.7:7%in0", "outputs": ["10.7.7.7"]}, {})
    difference = compare(Config(rules={rule.name: plain}), Config(rules={rule.name: rule}), Config())
    assert bool(difference.changed) == (not same(plain, rule))
