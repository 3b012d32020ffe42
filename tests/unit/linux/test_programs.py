"""Where the system's programs are looked for."""

from __future__ import annotations

from mcrelay.linux.programs import search_path


def test_the_users_own_path_comes_first_and_the_folders_it_may_lack_last(monkeypatch):
    monkeypatch.setenv("PATH", "/own")
    assert search_path() == "/own:/usr/sbin:/sbin"


def test_without_a_path_the_usual_folders_are_searched(monkeypatch):
    monkeypatch.delenv("PATH")
    assert search_path().split(":") == ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
