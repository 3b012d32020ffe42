"""Every key of the configuration, walked by its row: a key that is added is tested here without a line of its own."""

from __future__ import annotations

import importlib.util
from dataclasses import MISSING, fields, replace
from pathlib import Path

import click
import pytest
from support.keys import another, legal, read

from mcrelay.config.diff import compare, same
from mcrelay.config.flags import read_table, rule_arguments, rule_options, words
from mcrelay.config.parse import parse_config, parse_rule
from mcrelay.config.schema import COMMON, INPUT, LINK, OUTPUT, OWN, RELAY, RULE, not_yet
from mcrelay.config.writer import config_tables, rule_table, toml_table, toml_text, toml_value
from mcrelay.errors import ConfigError
from mcrelay.model.notation import parse_stream
from mcrelay.model.rule import Config, Input, LinkSettings, Output, RelaySettings, Rule
from mcrelay.model.values import Each, flag

PAGES = Path(__file__).resolve().parents[3] / "packaging/pages.py"
SCOPES = {"relay": RELAY, "links.eth0": LINK, "defaults": RULE, "rules.x": RULE}
ENDS = 'input = "233.252.0.1:5000%eth0"\noutputs = ["10.9.0.7"]\n'
PLACES = [(scope, row) for scope, keys in SCOPES.items() for row in keys.values()]
ROWS = list((RELAY | LINK | RULE).values())
BUILT = [row for row in RULE.values() if another(row) is not None]


def named(row):
    return row.key if hasattr(row, "key") else None


def config(scope, row, value):
    """A configuration that says nothing but one key, and one rule."""
    table = f"[{scope}]\n{ENDS if scope == 'rules.x' else ''}{row.key} = {toml_value(value)}\n"
    return parse_config([("f.toml", table + ("" if scope == "rules.x" else f"[rules.x]\n{ENDS}"))]).config


def plain(row):
    """The default of a key as a file would say it: None where a file has no word for it."""
    default = row.default_of(parse_stream("10.9.0.7:5000"))
    return None if default is None else row.check.write(default)


def holder(configuration, row):
    """What of a configuration has the field of a key."""
    rule = configuration.rules["x"]
    holders = ((RELAY, configuration.relay), (LINK, configuration.link("eth0")), (OWN, rule))
    holders += ((INPUT, rule.inputs[0]), (OUTPUT, rule.outputs[0]))
    return next(each for rows, each in holders if rows.get(row.key) is row)


@pytest.mark.parametrize("kind", [RelaySettings, LinkSettings, Input, Output, Rule])
def test_every_field_of_the_model_with_a_default_has_a_row(kind):
    bare = [each.name for each in fields(kind) if each.default is not MISSING and "option" not in each.metadata]
    assert bare == (["origin"] if kind is Rule else [])


def test_no_key_stands_for_two_things():
    assert len(ROWS) == sum(map(len, (RELAY, LINK, INPUT, COMMON, OWN)))
    assert len({row.flag for row in RULE.values()}) == len(RULE)


@pytest.mark.parametrize(("scope", "row"), PLACES, ids=named)
def test_the_default_is_taken_wherever_a_key_may_stand_and_changes_nothing(scope, row):
    value = plain(row)
    if value is not None and not (isinstance(row.check, Each) and not value):  # an empty list is said by saying nothing
        found = config(scope, row, value)
        assert (found.relay, found.link("eth0"), found.rules) == (
            RelaySettings(), LinkSettings(), parse_config([("f.toml", f"[rules.x]\n{ENDS}")]).config.rules,
        )  # fmt: skip


@pytest.mark.parametrize(("scope", "row"), PLACES, ids=named)
def test_what_a_key_says_is_what_its_field_holds(scope, row):
    for value in legal(row):
        found = config(scope, row, value)
        assert getattr(holder(found, row), row.field) == read(row, value)


@pytest.mark.parametrize(("scope", "row"), PLACES, ids=named)
@pytest.mark.parametrize("value", [{"no": 1}, 1.5])
def test_a_bad_value_is_refused_at_its_place_with_a_remedy(scope, row, value):
    with pytest.raises(ConfigError) as caught:
        config(scope, row, value)
    place = f"{scope}.{row.key}"
    (complaint,) = [each for each in caught.value.complaints if each.key.startswith(place)]
    line = 4 if scope == "rules.x" else 2
    assert (complaint.file, complaint.line, complaint.warning) == ("f.toml", line, False)
    assert complaint.remedy


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_word_that_is_not_built_is_refused_with_a_way_round(row):
    for word in row.check.later:
        read(row, word)
        refusal = not_yet(row.key, word)
        assert refusal is not None
        assert refusal.problem == f'{row.key} = "{word}" is not supported yet'
        assert refusal.remedy
    assert not any(not_yet(row.key, word) for word in row.check.words)


def parsed(*arguments):
    """What the command line gives, by the real parser."""
    found = {}

    @click.command()
    @rule_arguments
    @rule_options()
    def parse(source, outputs, **options):
        found.update(read_table(source, outputs, options))

    parse.main(["233.252.0.1:5000%eth0", "10.9.0.7", *arguments], standalone_mode=False)
    return parse_rule("x", found, {})


@pytest.mark.parametrize("row", BUILT, ids=named)
def test_the_flag_of_a_key_says_what_the_key_says(row):
    value = another(row)
    said = [f"--{row.flag}"]
    if row.check is not flag:
        said += [str(each) for each in (value if isinstance(value, list) else [value])]
    assert same(parsed(*said), config("rules.x", row, value).rules["x"])


@pytest.mark.parametrize("row", BUILT, ids=named)
def test_a_rule_is_written_with_the_key_and_read_back_the_same(row):
    rule = config("rules.x", row, another(row)).rules["x"]
    table = rule_table(rule)
    assert set(table) == {"input", "outputs", row.key}
    again = parse_config([("f.toml", toml_table(("rules", "x"), table))]).config.rules["x"]
    assert same(again, rule)
    assert same(parsed(*words(rule)[2:]), rule)


@pytest.mark.parametrize(
    ("scope", "row"), [each for each in PLACES if each[0] != "defaults" and another(each[1]) is not None], ids=named
)
def test_a_whole_configuration_is_written_with_the_key_and_read_back_the_same(scope, row):
    before = config(scope, row, another(row))
    again = parse_config([("f.toml", toml_text(config_tables(before)))]).config
    assert (again.relay, again.links) == (before.relay, before.links)
    assert same(again.rules["x"], before.rules["x"])


@pytest.mark.parametrize("row", BUILT, ids=named)
def test_a_change_of_the_key_is_seen_and_named(row):
    bare = parse_config([("f.toml", f"[rules.x]\n{ENDS}")]).config
    changed = replace(bare, rules=config("rules.x", row, another(row)).rules)
    (line,) = compare(bare, changed, bare).changed["x"]
    part = "output 10.9.0.7:5000 " if OUTPUT.get(row.key) is row else ""
    assert line.startswith(f"{part}{row.key}: ")
    assert line.endswith(f" -> {toml_value(row.check.write(read(row, another(row))))}")


@pytest.fixture(scope="module")
def page():
    """The man page mcrelay.toml(5), as the package has it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SOURCE_DATE_EPOCH", "0")
        spec = importlib.util.spec_from_file_location("pages", PAGES)
        pages = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(pages)
        pages.VERSION = "0"
        return pages.configuration_page()


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_the_man_page_has_the_key_with_its_text(page, row):
    assert row.manual
    assert f"\n.B {row.key}\n{row.manual} [".replace("-", "\\-") in page


@pytest.mark.parametrize("row", RULE.values(), ids=named)
def test_help_has_the_flag_with_its_text_unless_nothing_of_it_is_built(row):
    @click.command()
    @rule_options()
    def parse(**_):
        pass

    (option,) = [each for each in parse.params if each.name == row.key]
    assert option.opts == [f"--{row.flag}"]
    assert row.help
    assert option.help.startswith(row.help)
    assert option.hidden == (another(row) is None)


def test_a_configuration_of_defaults_alone_says_next_to_nothing():
    rule = parse_config([("f.toml", f"[rules.x]\n{ENDS}")]).config.rules["x"]
    assert config_tables(Config(rules={"x": rule})) == {
        "relay": {"control": RelaySettings().control}, "links": {},
        "rules": {"x": {"input": "233.252.0.1:5000%eth0", "outputs": ["10.9.0.7:5000"]}},
    }  # fmt: skip
