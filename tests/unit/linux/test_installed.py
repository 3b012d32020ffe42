"""The one-file executable: its parent is who the manager knows."""

from __future__ import annotations

import os
import sys

from mcrelay.linux import installed
from mcrelay.linux.systemd import Notifier, Watchdog, take_inherited


def as_one_file(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/usr/local/bin/mcrelay")


def test_only_what_unpacked_itself_is_unpacked(monkeypatch, tmp_path):
    assert not installed.unpacked()
    as_one_file(monkeypatch)
    assert installed.unpacked()
    monkeypatch.setattr(sys, "executable", "/usr/lib/mcrelay/mcrelay")
    monkeypatch.setattr(installed, "__file__", "/usr/lib/mcrelay/lib/mcrelay/linux/installed.pyc")
    assert not installed.unpacked()


def test_the_watchdog_and_the_store_of_the_parent_are_ours(monkeypatch):
    for key, value in (("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", str(os.getppid()))):
        monkeypatch.setenv(key, value)
    assert Watchdog(Notifier("")).seconds == 0
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    monkeypatch.setenv("LISTEN_FDS", "0")
    assert take_inherited() == []
    as_one_file(monkeypatch)
    assert Watchdog(Notifier("")).seconds == 1
