"""Which files make a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcrelay.config import files
from mcrelay.config.files import config_paths, load, read
from mcrelay.errors import ConfigError
from mcrelay.model.instance import control_path

RULE = '[rules.{0}]\ninput = "233.252.0.{1}:5000%eth0"\noutputs = ["10.9.0.{1}"]\n'


@pytest.fixture
def etc(tmp_path):
    """An /etc/mcrelay with a main file, two in conf.d, and an instance called site."""
    made = tmp_path / "etc"
    for name, n in {
        "mcrelay.toml": 1,
        "conf.d/20-b.toml": 2,
        "conf.d/10-a.toml": 3,
        "site.toml": 4,
        "site.conf.d/x.toml": 5,
    }.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RULE.format(f"r{n}", n))
    (made / "conf.d" / "notes.txt").write_text("not mine")
    (made / "conf.d" / ".hidden.toml").write_text("not mine")
    return made


def names(paths, etc):
    return [str(path.relative_to(etc)) for path in paths]


def said(call, *args, **options):
    with pytest.raises(ConfigError) as caught:
        call(*args, **options)
    assert caught.value.exit_code == 2
    return [str(c) for c in caught.value.complaints]


def test_the_main_file_comes_first_and_conf_d_in_order(etc):
    assert names(config_paths(etc=etc), etc) == ["mcrelay.toml", "conf.d/10-a.toml", "conf.d/20-b.toml"]


def test_an_instance_has_files_and_a_socket_of_its_own(etc):
    assert names(config_paths(instance="site", etc=etc), etc) == ["site.toml", "site.conf.d/x.toml"]
    assert control_path("site") == "/run/mcrelay-site/mcrelay.sock"
    assert load(instance="site", etc=etc).config.relay.control == "/run/mcrelay-site/mcrelay.sock"


def test_without_an_instance_the_socket_is_the_default_one(etc):
    assert control_path() == control_path("mcrelay") == "/run/mcrelay/mcrelay.sock"
    assert load(etc=etc).config.relay.control == "/run/mcrelay/mcrelay.sock"


def test_named_paths_replace_the_installed_ones(etc):
    paths = [etc / "site.toml", etc / "conf.d"]
    assert names(config_paths(paths, etc=etc), etc) == ["site.toml", "conf.d/10-a.toml", "conf.d/20-b.toml"]


def test_named_paths_leave_an_instance_its_socket(etc):
    assert load([etc / "mcrelay.toml"], "site").config.relay.control == "/run/mcrelay-site/mcrelay.sock"


def test_a_file_named_twice_is_read_once(etc):
    paths = [etc / "conf.d", etc / "conf.d" / ".." / "conf.d" / "10-a.toml"]
    assert names(config_paths(paths), etc) == ["conf.d/10-a.toml", "conf.d/20-b.toml"]


@pytest.mark.parametrize("missing", ["mcrelay.toml", "conf.d"])
def test_either_of_main_file_and_conf_d_may_be_missing(etc, missing):
    (etc / missing).rename(etc / "away")
    assert config_paths(etc=etc)


def test_with_neither_it_says_what_to_create(tmp_path):
    assert said(config_paths, etc=tmp_path) == [
        (
            f"{tmp_path}/mcrelay.toml:0: file: does not exist; "
            f"create it (or {tmp_path}/conf.d/NAME.toml), or name a file with -c"
        )
    ]
    assert said(config_paths, instance="tv", etc=tmp_path) == [
        (
            f"{tmp_path}/tv.toml:0: file: does not exist; "
            f"create it (or {tmp_path}/tv.conf.d/NAME.toml), or name a file with -c"
        )
    ]


def test_every_named_path_that_is_missing_or_empty_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    assert said(config_paths, [tmp_path / "no.toml", tmp_path / "empty"]) == [
        f"{tmp_path}/empty:0: file: holds no *.toml; name a file, or a directory that has one",
        f"{tmp_path}/no.toml:0: file: does not exist; name a file, or a directory for its *.toml",
    ]


@pytest.mark.parametrize("name", ["../site", "", "a b", "-x", "a" * 64])
def test_an_instance_is_named_like_a_rule(name):
    assert "cannot be an instance's name" in said(config_paths, instance=name)[0]
    assert "cannot be an instance's name" in said(control_path, name)[0]


def test_a_file_that_cannot_be_read_keeps_none_of_the_others_from_being_checked(etc):
    (etc / "conf.d" / "15.toml").mkdir()
    (etc / "conf.d" / "20-b.toml").write_text("ttl = 1")
    assert said(load, etc=etc) == [
        f"{etc}/conf.d/15.toml:0: file: cannot be read: Is a directory; check the path and who may read it",
        f"{etc}/conf.d/20-b.toml:1: ttl: cannot stand here; it belongs in [rules.NAME]",
    ]


def test_an_unreadable_file_alone_is_enough_to_refuse(etc):
    (etc / "conf.d" / "15.toml").mkdir()
    assert len(said(load, etc=etc)) == 1


def test_a_refused_stat_is_a_complaint(monkeypatch, etc):
    def refuse(self, **_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", refuse)
    expected = "cannot be read: Permission denied; check the path and who may read it"
    assert said(config_paths, [etc / "a"]) == [f"{etc}/a:0: file: {expected}"]
    assert said(config_paths, etc=etc) == [f"{etc}/mcrelay.toml:0: file: {expected}"]


def test_a_file_that_is_not_utf_8_is_told_with_its_line(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# one\n# caf\xe9\n")
    assert said(load, [path]) == [f"{path}:2: TOML: byte 0xe9 is not UTF-8 text; save the file as UTF-8"]


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf" + RULE.format("x", 1).replace("\n", "\r\n").encode())
    assert list(load([path]).config.rules) == ["x"]
    assert read([path])[0][0][0] == str(path)


def test_rules_come_in_the_order_of_the_files(etc):
    parsed = load(etc=etc)
    config, warnings = parsed.config, parsed.warnings
    assert list(config.rules) == ["r1", "r3", "r2"]
    assert warnings == ()


def test_missing_links_are_warned_of_when_the_links_are_given(etc):
    assert [str(w) for w in load([etc / "mcrelay.toml"], existing=["eth1"]).warnings] == [
        (
            f"{etc}/mcrelay.toml:2: rules.r1.input: link eth0 does not exist here; "
            "the rule stays pending until it appears (did you mean eth1?)"
        )
    ]
    assert load([etc / "mcrelay.toml"], existing=["eth0"]).warnings == ()


def test_the_installed_place_is_etc():
    assert Path("/etc/mcrelay") == files.ETC
