"""What only runs goes into a file: written as TOML, worked into what stands there, put in place in one step."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import tomllib
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.keys import another
from support.rules import rules

from mcrelay.commands import save as saving
from mcrelay.commands.save import HEADING, Wanted, merge
from mcrelay.config.diff import same
from mcrelay.config.files import saved_path
from mcrelay.config.parse import parse_config, parse_rule
from mcrelay.config.schema import RULE
from mcrelay.config.writer import config_tables, rule_table, toml_table, toml_text, toml_value
from mcrelay.errors import ConfigError, OperationError
from mcrelay.model.rule import DEFAULT_CONTROL, Config

TARGET = "/etc/mcrelay/conf.d/90-saved.toml"
MAIN = "/etc/mcrelay/mcrelay.toml"


def text(name, n, more=""):
    return f'[rules.{name}]\ninput = "233.252.0.{n}:5000%in0"\noutputs = ["10.9.0.{n}:5000"]\n{more}'


def rule(name, n, **options):
    return parse_rule(name, {"input": f"233.252.0.{n}:5000%in0", "outputs": [f"10.9.0.{n}"], **options}, {})


def wanted(*rules_):
    return [Wanted(each.name, each) for each in rules_]


def merged(changes, *files):
    return merge(changes, files, TARGET, DEFAULT_CONTROL)


N = rule("n", 1)

# Rules as TOML


@given(rules())
@hypothesis_settings(max_examples=300, deadline=None)
def test_a_rule_that_is_written_is_read_back_the_same(each):
    parsed = parse_config([("f.toml", toml_table(("rules", each.name), rule_table(each)))])
    assert same(parsed.config.rules[each.name], each)


OTHERS = {key: value for key, row in RULE.items() if (value := another(row)) is not None}
DEFAULTS = toml_table(("defaults",), OTHERS)


@given(rules())
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_defaults_of_the_files_change_what_is_written(each):
    """But that there is no word for no limit: every source, and more than any link brings, come to the same."""
    said = parse_config([("f.toml", DEFAULTS)]).defaults
    assert said == set(RULE)
    table = rule_table(each, said)
    read = parse_config([("f.toml", DEFAULTS + toml_table(("rules", each.name), table))]).config.rules[each.name]
    if each.inputs[0].allow is None:
        assert table["allow"] == ["0.0.0.0/0"]
    if each.inputs[0].limit is None:
        assert table["limit"] == "90Gpps"
    unset = {key: None for key in ("allow", "limit") if getattr(each.inputs[0], key) is None}
    assert same(replace(read, inputs=(replace(read.inputs[0], **unset),)), each)


@given(rules(), st.booleans())
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_whole_configuration_is_read_back_the_same(each, more):
    head = (
        '[relay]\ncontrol = "/run/x.sock"\ncpus = [3]\n[links.in0]\nring = 1048577\n[links."eth0.1"]\nring = "8MiB"\n'
        'gro = true\n[links.default]\ngro = true\nring = "4MiB"\n[links.in1]\ngro = false\n'
    )
    config = parse_config([("f.toml", head if more else "")]).config
    config = Config(config.relay, config.links, {each.name: each})
    again = parse_config([("f.toml", toml_text(config_tables(config)))]).config
    assert (again.relay, again.links) == (config.relay, config.links)
    assert same(again.rules[each.name], each)


VALUES = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_any_value_is_toml_on_one_line(value):
    written = toml_value(value)
    assert "\n" not in written
    assert tomllib.loads(f"x = {written}")["x"] == value


def test_a_rule_is_written_as_a_person_would():
    many = parse_rule(
        "lobby",
        {
            "description": "HDMI", "input": "192.168.168.55@226.2.2.2:2068%in0", "ttl": 8,
            "outputs": ["239.1.1.1%out0", {"to": "10.9.0.1:7000", "ttl": 64, "dscp": 46}], "enabled": False,
        },
        {},
    )  # fmt: skip
    assert toml_table(("rules", "lobby"), rule_table(many)) == (
        '[rules.lobby]\ndescription = "HDMI"\ninput = "192.168.168.55@226.2.2.2:2068%in0"\n'
        'outputs = [{ to = "239.1.1.1:2068%out0", ttl = 8 }, { to = "10.9.0.1:7000", dscp = 46 }]\nenabled = false\n'
    )
    assert rule_table(rule("x", 1, ttl=8)) == {
        "input": "233.252.0.1:5000%in0", "outputs": ["10.9.0.1:5000"], "ttl": 8,
    }  # fmt: skip


# Working it into the file


def test_added_rules_make_a_file_that_says_what_it_is():
    result = merged(wanted(rule("a", 1, ttl=8), rule("b", 2)), (MAIN, text("x", 9)))
    assert result.text == f"{HEADING}\n{text('a', 1, 'ttl = 8' + chr(10))}\n{text('b', 2)}"
    assert (result.written, result.refused) == (["a", "b"], [])


SAVED = (
    "# mine\n\n"
    + text("one", 1, "# why seven\nttl = 7  # seven\n")
    + "\n# about two\n"
    + text("two", 2)
    + "\n# the end, without a newline"
)


def test_what_stands_in_the_file_stays_letter_by_letter():
    result = merged(wanted(rule("new", 3)), (MAIN, ""), (TARGET, SAVED))
    assert result.text == f"{SAVED}\n\n{text('new', 3)}"


def test_a_saved_rule_that_was_changed_is_written_in_its_old_place_with_its_comments():
    result = merged(wanted(rule("one", 1, ttl=9)), (TARGET, SAVED))
    assert result.text == SAVED.replace(
        text("one", 1, "# why seven\nttl = 7  # seven\n"),
        text("one", 1, "ttl = 9\n").replace("]\ninput", "]\n# why seven\ninput"),
    )
    last = merged(wanted(rule("two", 2, enabled=False)), (TARGET, SAVED))
    assert last.text == SAVED.replace(text("two", 2), text("two", 2, "enabled = false\n"))


def test_a_saved_rule_that_was_deleted_is_taken_out():
    result = merged([Wanted("one", None)], (TARGET, SAVED))
    assert result.text == "# mine\n\n# why seven\n\n# about two\n" + SAVED.partition("# about two\n")[2]
    assert result.removed == ["one"]


def test_a_rule_that_the_file_holds_already_is_not_written_again():
    result = merged(wanted(rule("one", 1, ttl=7)), (TARGET, SAVED))
    assert (result.text, result.there) == (None, ["one"])


def test_a_rule_of_another_file_is_refused_with_what_to_write_there_and_the_others_are_saved():
    main = text("x", 8) + text("y", 9) + text("z", 7)
    changes = [*wanted(rule("x", 8, enabled=False), rule("y", 9, ttl=5), rule("n", 1)), Wanted("z", None)]
    result = merged(changes, (MAIN, main))
    assert result.text == f"{HEADING}\n{text('n', 1)}"
    assert result.refused == [
        f"x stands in a file that save leaves alone: write enabled = false at {MAIN}:1",
        f"y stands in a file that save leaves alone: put this in its place at {MAIN}:4\n"
        + text("y", 9, "ttl = 5\n").rstrip(),
        f"z was deleted, but stands in a file that save leaves alone: delete it at {MAIN}:7",
    ]


def test_a_rule_whose_file_was_edited_to_what_runs_needs_nothing():
    result = merged([*wanted(rule("x", 8, ttl=5)), Wanted("gone", None)], (MAIN, text("x", 8, "ttl = 5\n")))
    assert (result.text, result.there, result.refused) == (None, ["x"], [])


def test_a_file_that_is_bad_or_would_be_is_not_written():
    with pytest.raises(ConfigError, match=r"mcrelay.toml:4: rules.x.ttl: 0 is not"):
        merged(wanted(rule("n", 1)), (MAIN, text("x", 8, "ttl = 0\n")))
    with pytest.raises(ConfigError, match=r"has the same input"):
        merged(wanted(rule("n", 8)), (MAIN, text("x", 8)))


def test_defaults_of_the_files_do_not_change_what_is_saved():
    main = '[defaults]\nttl = 3\nallow = ["192.0.2.1"]\nenabled = false\n'
    result = merged(wanted(rule("n", 1)), (MAIN, main))
    assert result.text.endswith('outputs = ["10.9.0.1:5000"]\nallow = ["0.0.0.0/0"]\nttl = 64\nenabled = true\n')


ONE = 'input = "233.252.0.1:5000%in0", outputs = ["10.9.0.1"]'
TWO = 'input = "233.252.0.2:5000%in0", outputs = ["10.9.0.2"]'
OTHERWISE = {
    "inline tables": f"[rules]\none = {{ {ONE} }}\ntwo = {{ {TWO} }}\n",
    "one inline table": f"rules = {{ one = {{ {ONE} }}, two = {{ {TWO} }} }}\n",
    "dotted keys": "".join(
        f"rules.{name}.{key}\n"
        for keys in zip(ONE.split(", "), TWO.split(", "), strict=True)
        for name, key in zip(("one", "two"), keys, strict=True)
    ),
    "a sub-table elsewhere": f"[rules.one]\n{ONE.partition(', ')[2]}\n[rules.two]\n{TWO.replace(', ', chr(10))}\n"
    '[rules.one.input]\nfrom = "233.252.0.1:5000%in0"\n',
}


@pytest.mark.parametrize("there", OTHERWISE.values(), ids=OTHERWISE)
@pytest.mark.parametrize("change", [rule("one", 1, ttl=9), None], ids=["changed", "deleted"])
def test_a_rule_written_otherwise_is_changed_rightly_or_refused(there, change):
    assert set(parse_config([(TARGET, there)]).config.rules) == {"one", "two"}
    try:
        result = merged([Wanted("one", change)], (TARGET, there))
    except OperationError as error:
        said = str(error)
        assert said.endswith(": one is not written as save would; change it there by hand")
        return
    after = parse_config([(TARGET, result.text)]).config.rules
    assert same(after["two"], rule("two", 2))
    assert same(after.get("one"), change)


def test_sub_tables_windows_lines_and_strange_line_ends_are_understood():
    there = (
        '[rules.one]\r\ndescription = "a\u2028b\x85c"\r\noutputs = ["10.9.0.1"]\r\n[rules.one.input]\r\n'
        'from = "233.252.0.1:5000%in0"\r\n# two\r\n[rules.two]\r\ninput = "233.252.0.2:5000%in0"\r\n'
        'outputs = ["10.9.0.2"]\r\n'
    )
    result = merged(wanted(rule("one", 1, ttl=9)), (TARGET, there))
    assert result.text == text("one", 1, "ttl = 9\n") + there[there.index("# two") :]


@given(st.lists(rules("one"), min_size=1, max_size=2), st.integers(0, 3), rules("two"))
@hypothesis_settings(max_examples=100, deadline=None)
def test_whatever_is_saved_is_what_runs_after_a_restart_and_nothing_else_has_changed(ones, blank, two):
    """Saved, changed, saved again: beside a rule of the user's own, whose text stays."""
    first = toml_table(("rules", "two"), rule_table(two)) + "\n" * blank
    there = first
    for one in ones:
        try:
            result = merged(wanted(one), (TARGET, there))
        except ConfigError:  # the two rules may be in each other's way
            return
        there = result.text or there
        assert there.startswith(first)
        after = parse_config([(TARGET, there)]).config.rules
        assert same(after["one"], one)
        assert same(after["two"], two)
    assert merged([Wanted("one", None)], (TARGET, there)).text.rstrip("\n") == first.rstrip("\n")


# The command


@pytest.fixture
def etc(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "mcrelay.toml").write_text(text("x", 9))
    (tmp_path / "conf.d" / "10-other.toml").write_text(text("y", 8))
    return tmp_path


@pytest.fixture
def run(etc, monkeypatch):
    """`mcrelay save`, asked of a relay that was started with the two paths and has these run-time changes."""

    def call(*arguments, changes=(N,), paths=("mcrelay.toml", "conf.d")):
        told = [{"kind": "add", "name": each.name, "rule": rule_table(each)} for each in changes]
        answer = {"paths": [str(etc / path) for path in paths], "instance": None, "changes": told}
        monkeypatch.setattr(saving, "ask", lambda *_, **__: answer)
        return CliRunner().invoke(saving.save, arguments)

    return call


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_command_writes_one_file_and_touches_no_other(etc, run):
    before = contents(etc)
    done = run()
    saved = etc / "conf.d" / "90-saved.toml"
    assert (done.exit_code, done.stderr) == (0, "")
    assert (
        done.stdout == f"saved n to {saved}\nnothing else is to be done: the next reload or start reads 90-saved.toml\n"
    )
    assert contents(etc) == before | {"conf.d/90-saved.toml": f"{HEADING}\n{text('n', 1)}"}
    assert run(changes=()).stdout == "nothing to save: what runs is what the files say\n"
    assert run().stdout == "in a file already: n\n"


def test_several_rules_are_said_in_one_line_and_nothing_is_done_with_while_one_is_refused(etc, run):
    done = run(changes=(rule("y", 8, ttl=3), N, rule("m", 2)))
    saved = etc / "conf.d" / "90-saved.toml"
    assert done.exit_code == 1
    assert done.stdout == f"saved n, m to {saved}\nthe next reload or start reads 90-saved.toml\n"
    assert done.stderr.startswith(f"mcrelay: y stands in a file that save leaves alone: put this in its place at {etc}")
    assert run(changes=(N, rule("m", 2))).stdout == "in a file already: n, m\n"


def test_a_folder_that_is_missing_is_said_to_be_made(etc, run):
    done = run("--to", str(etc / "no" / "such" / "file.toml"))
    assert str(done.exception).endswith("No such file or directory; make its folder, or name another file with --to")


def test_the_folder_is_made_and_a_file_that_is_not_read_is_said_so(etc, run):
    done = run(paths=["mcrelay.toml"])
    assert done.exit_code == 0
    assert (etc / "conf.d" / "90-saved.toml").exists()
    assert "the relay does not read" in done.stderr
    (etc / "conf.d" / "90-saved.toml").unlink()
    elsewhere = etc / "mine.toml"
    done = run("--to", str(elsewhere))
    assert done.exit_code == 0
    assert elsewhere.read_text() == f"{HEADING}\n{text('n', 1)}"
    assert f"start it with a further -c {elsewhere}" in done.stderr


def test_what_cannot_be_saved_is_said_and_the_exit_code_is_one(run):
    done = run(changes=[rule("y", 8, ttl=3), rule("n", 1)])
    assert done.exit_code == 1
    assert "saved n to" in done.stdout
    assert "y stands in a file that save leaves alone" in done.stderr
    assert "10-other.toml:1" in done.stderr


def test_a_new_file_can_be_read_by_whom_the_others_can_be_read_by(etc, run):
    (etc / "mcrelay.toml").chmod(0o640)
    with contextlib.suppress(PermissionError):
        os.chown(etc / "mcrelay.toml", -1, 65534)
    group = (etc / "mcrelay.toml").stat().st_gid
    (etc / "conf.d" / "10-other.toml").unlink()
    (etc / "conf.d").rmdir()
    before = os.umask(0o077)
    try:
        assert run(paths=["mcrelay.toml"]).exit_code == 0
    finally:
        os.umask(before)
    made = (etc / "conf.d" / "90-saved.toml").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_gid) == (0o640, group)
    assert stat.S_IMODE((etc / "conf.d").stat().st_mode) == 0o755


def test_mode_and_link_of_the_file_are_kept(etc, run):
    real = etc / "real.toml"
    real.write_text("# mine\n")
    real.chmod(0o600)
    saved = etc / "conf.d" / "90-saved.toml"
    saved.symlink_to(real)
    assert run().exit_code == 0
    assert saved.is_symlink()
    assert real.read_text() == f"# mine\n\n{text('n', 1)}"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_save_that_fails_leaves_the_old_file_and_no_draft(etc, run, monkeypatch, call):
    saved = etc / "conf.d" / "90-saved.toml"
    saved.write_text("# old\n")
    before = contents(etc)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    done = run()
    assert isinstance(done.exception, OperationError)
    assert "No space left on device; run this as a user who may write there, or name another file with --to" in str(
        done.exception
    )
    assert contents(etc) == before


def test_the_file_is_always_whole_and_two_saves_at_once_lose_nothing(etc, run, monkeypatch):
    """One answer for both: the second waits for the first, and finds its rule there."""
    seen = []
    original = os.rename

    def rename(*arguments, **options):
        seen.append((etc / "conf.d" / "90-saved.toml").exists())
        original(*arguments, **options)

    monkeypatch.setattr(os, "rename", rename)
    answer = {
        "paths": [str(etc / "mcrelay.toml"), str(etc / "conf.d")], "instance": None,
        "changes": [{"kind": "add", "name": "n", "rule": rule_table(rule("n", 1))}],
    }  # fmt: skip
    monkeypatch.setattr(saving, "ask", lambda *_, **__: answer)
    codes = []

    def call():
        try:
            saving.save.main([], standalone_mode=False)
        except SystemExit as end:
            codes.append(end.code)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert codes == [0] * 4
    assert seen == [False]
    assert (etc / "conf.d" / "90-saved.toml").read_text() == f"{HEADING}\n{text('n', 1)}"


def test_the_file_is_in_the_folder_that_the_relay_reads(tmp_path):
    (tmp_path / "site").mkdir()
    main = tmp_path / "mcrelay.toml"
    assert saved_path([main]) == tmp_path / "conf.d" / "90-saved.toml"
    assert saved_path([main, tmp_path / "site"]) == tmp_path / "site" / "90-saved.toml"
    assert saved_path(etc=tmp_path) == tmp_path / "conf.d" / "90-saved.toml"
    assert saved_path(instance="two", etc=tmp_path) == tmp_path / "two.conf.d" / "90-saved.toml"
