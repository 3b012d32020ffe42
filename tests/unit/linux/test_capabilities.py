"""Whom a relay becomes, what it keeps, what it says of files that it can no longer read; what was installed since."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from support.accounts import as_root

from mcrelay.commands import show
from mcrelay.control import client, sockets
from mcrelay.control.client import ask
from mcrelay.errors import ControlError
from mcrelay.linux import capabilities
from mcrelay.linux.capabilities import CAP_NET_ADMIN, CAP_NET_RAW, NOBODY, Account, blocked, successor
from mcrelay.linux.installed import Installed


def in_child(code: str, *prefix: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own, as privileges are never got back."""
    head = "import logging, sys; logging.basicConfig(level=20, stream=sys.stdout, format='%(levelname)s %(message)s')\n"
    return subprocess.run(
        [*prefix, sys.executable, "-c", head + textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


DROP = """
    import os
    from mcrelay.linux import capabilities as privileges
    privileges.become_unprivileged(privileges.successor())
    facts = dict(line.split(":", 1) for line in open("/proc/thread-self/status"))
    for key in ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"):
        print(key, *facts[key].split())
"""


def test_an_ordinary_user_stays_who_he_is(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert successor() is None


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ({"mcrelay": 901, "nobody": 65534}, Account("mcrelay", 901, 901)),
        ({"nobody": 65534}, Account("nobody", 65534, 65534)),
        ({}, Account("65534", NOBODY, NOBODY)),
    ],
)
def test_root_becomes_mcrelay_else_nobody(monkeypatch, existing, expected):
    def getpwnam(name):
        return pwd.struct_passwd((name, "x", existing[name], existing[name], "", "/", "/bin/false"))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    assert successor() == expected


@as_root
def test_only_cap_net_raw_is_kept_and_nothing_can_be_regained():
    done = in_child(DROP)
    assert done.returncode == 0, done.stderr
    facts = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    uid = successor().uid
    assert facts["Uid"] == " ".join([str(uid)] * 4)
    assert int(facts["CapPrm"], 16) == int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 1 << CAP_NET_RAW
    assert int(facts["CapInh"], 16) == int(facts["CapAmb"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert facts["INFO"].endswith("capabilities=cap_net_raw")


@as_root
def test_cap_net_admin_is_kept_where_it_is_ambient():
    done = in_child(DROP, "setpriv", "--inh-caps=+net_admin,+net_raw", "--ambient-caps=+net_admin,+net_raw")
    facts = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert int(facts["CapEff"], 16) == 1 << CAP_NET_RAW | 1 << CAP_NET_ADMIN
    assert facts["INFO"].endswith("capabilities=cap_net_admin,cap_net_raw")


@as_root
def test_cap_net_admin_is_kept_for_what_needs_it_and_can_be_lent():
    drop = DROP.replace("import os", "import contextlib, os, subprocess")
    drop = drop.replace("successor())", "successor(), ['exclusive'])")
    lend = """
    for context in (privileges.lent(privileges.CAP_NET_ADMIN), contextlib.nullcontext()):
        with context:
            done = subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True)
            print("lent", done.stdout.decode().strip())
    """
    done = in_child(drop + lend.lstrip("\n"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    facts = dict(line.split(" ", 1) for line in lines)
    assert int(facts["CapEff"], 16) == 1 << CAP_NET_RAW | 1 << CAP_NET_ADMIN
    assert int(facts["CapInh"], 16) == int(facts["CapAmb"], 16) == 0
    assert facts["INFO"].endswith("capabilities=cap_net_admin,cap_net_raw cap_net_admin_for=exclusive")
    assert [int(line.split()[2], 16) for line in lines if line.startswith("lent")] == [1 << CAP_NET_ADMIN, 0]


@as_root
def test_root_that_cannot_change_its_user_gives_up_its_capabilities_and_says_so():
    done = in_child(DROP, "setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid")
    facts = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stderr
    assert "stays uid 0" in facts["WARNING"]
    assert facts["Uid"] == "0 0 0 0"
    assert int(facts["CapEff"], 16) == 1 << CAP_NET_RAW


def test_capabilities_are_what_proc_says():
    with open("/proc/thread-self/status") as status:
        permitted = next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm"))
    assert sum(1 << each for each in capabilities.capabilities()) == permitted


@as_root
def test_a_file_that_the_user_cannot_read_is_named_with_the_remedy(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from mcrelay.linux import capabilities as privileges
        privileges.become_unprivileged(privileges.successor())
        privileges.warn_of_blocked([Path(each) for each in sys.argv[1:]])
    """
    shut, opened, folder = tmp_path / "shut.toml", tmp_path / "open.toml", tmp_path / "conf.d"
    for each in (shut, opened):
        each.touch()
    shut.chmod(0o600)
    folder.mkdir(mode=0o700)
    (folder / "more.toml").touch()
    for each in (tmp_path, *tmp_path.parents):
        if each == Path(tempfile.gettempdir()):
            break
        each.chmod(0o755)
    paths = [shut, opened, folder, folder / "more.toml", tmp_path / "missing.toml"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    user, group = successor().name, "mcrelay" if successor().name == "mcrelay" else "nogroup"
    for path, rights in ((shut, "g+r"), (folder, "g+rx")):
        remedy = f"`chgrp {group} {path} && chmod {rights} {path}`"
        assert f"user {user} cannot read {path}: a reload will be refused; allow it with {remedy}\n" in done.stderr
    assert done.stderr.count("\n") == 2


def test_what_can_be_read_is_not_blocked(tmp_path):
    (tmp_path / "x.toml").touch()
    assert blocked(tmp_path / "x.toml") is None
    assert blocked(tmp_path) is None
    assert blocked(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("groups", "changes", "expected"),
    [
        ({"mcrelay-admin": 7, "mcrelay": 8}, True, ("chown", 7)),
        ({"mcrelay-admin": 7, "mcrelay": 8}, False, ("chown", 8)),
        ({"mcrelay": 8}, True, ("chmod", 0o600)),  # readers must not change anything
        ({}, True, None),
        ({}, False, None),
    ],
)
def test_a_socket_goes_to_the_group_that_may_use_it(monkeypatch, tmp_path, groups, changes, expected):
    done = []
    monkeypatch.setattr(sockets, "group_id", groups.get)
    monkeypatch.setattr(os, "getegid", lambda: 8)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: done.append(("chown", gid)))
    path = tmp_path / "x"
    path.touch(mode=0o660)
    sockets._share(path, changes=changes)
    if path.stat().st_mode & 0o777 == 0o600:
        done.append(("chmod", 0o600))
    assert done == ([expected] if expected else [])


def test_a_group_that_we_are_not_in_leaves_the_socket_to_our_own(monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(sockets, "group_id", {"mcrelay-admin": 7, "mcrelay": 8}.get)
    monkeypatch.setattr(os, "getegid", lambda: 8)
    monkeypatch.setattr(os, "chown", refuse)
    path = tmp_path / "x"
    path.touch()
    path.chmod(0o660)
    sockets._share(path, changes=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_whoever_may_not_use_a_socket_is_told_which_group_may(monkeypatch, tmp_path):
    refusing = MagicMock()
    refusing.return_value.__enter__.return_value.connect.side_effect = PermissionError
    path = tmp_path / "mcrelay.sock"
    for each in (path, client.read_only_path(path)):
        each.touch()
    monkeypatch.setenv("USER", "alice")
    monkeypatch.setattr(client.socket, "socket", refusing)
    monkeypatch.setattr(client.grp, "getgrgid", lambda _: client.grp.struct_group(("mcrelay", "x", 8, [])))
    with pytest.raises(ControlError, match=r"only group mcrelay may, .*as root: `usermod -aG mcrelay alice`") as caught:
        ask(str(path), "show", read_only=True, noun="rules")
    assert "mcrelay-ro.sock" in str(caught.value)


def test_a_replaced_executable_is_noticed_and_a_missing_one_is_not_one(tmp_path):
    executable = tmp_path / "mcrelay"
    executable.write_text("1")
    installed = Installed(executable)
    assert not installed.replaced
    executable.rename(tmp_path / "old")
    assert not installed.replaced
    executable.write_text("2")
    assert installed.replaced
    (tmp_path / "old").rename(executable)
    assert not installed.replaced


def test_show_says_that_a_restart_is_due():
    own = show.__version__
    assert show.restart_due({"version": own, "restart_due": False}) == ""
    assert show.restart_due({"version": own}) == ""
    assert show.restart_due({"version": own, "restart_due": True}).endswith(
        f"mcrelay {own} is running, another build of it is installed"
    )
    assert show.restart_due({"version": "0.0.1", "restart_due": True}).endswith(
        f"mcrelay 0.0.1 is running, mcrelay {own} is installed"
    )
