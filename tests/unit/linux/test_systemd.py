from __future__ import annotations

import contextlib
import os
import socket
import threading

import pytest

from mcrelay.linux.systemd import Notifier, Watchdog, take_inherited


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)
        yield heard


@pytest.fixture
def notifier(manager, tmp_path):
    with contextlib.closing(Notifier(str(tmp_path / "notify"))) as ours:
        yield ours


def told(manager) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(1000).decode())
        except BlockingIOError:
            return messages


def test_without_a_manager_nothing_happens():
    Notifier("").send("READY=1")


def test_a_manager_that_has_gone_is_no_trouble(manager, notifier):
    manager.close()
    for _ in range(3):
        notifier.send("READY=1")


@pytest.mark.parametrize("stored", [False, True])
def test_a_manager_that_reads_nothing_is_not_waited_for_and_hears_what_lasts_later(manager, notifier, stored):
    def say():
        for number in range(100):  # there is room for about ten
            notifier.send(f"STATUS={number}")
            if stored:
                notifier.store(manager.fileno(), f"helper-{number}")
        notifier.send("READY=1")

    talking = threading.Thread(target=say, daemon=True)
    talking.start()
    talking.join(5)
    assert not talking.is_alive()
    heard = told(manager)
    for _ in range(50):
        notifier.flush()
        heard += told(manager)
    assert heard[0] == "STATUS=0"
    assert heard[-1] == "READY=1"
    assert sum(each.startswith("FDSTORE=1") for each in heard) == 100 * stored


def test_a_stored_socket_reaches_the_manager_and_can_be_forgotten(manager, notifier):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as helper:
        notifier.store(helper.fileno(), "helper-1-0")
        data, fds, _, _ = socket.recv_fds(manager, 1000, 4)
        assert data.decode().splitlines()[:2] == ["FDSTORE=1", "FDNAME=helper-1-0"]
        assert os.fstat(fds[0]).st_ino == os.fstat(helper.fileno()).st_ino
        os.close(fds[0])
    notifier.forget("helper-1-0")
    assert told(manager) == ["FDSTOREREMOVE=1\nFDNAME=helper-1-0"]


@pytest.mark.parametrize(
    ("fed", "said"),
    [
        ([(1,), (2,), (2,), (2,), (3,)], 3),
        ([(1, 1), (2, 1), (3, 1), (4, 1)], 1),  # the second stands still
        ([(1, 1), (2, 1), (2, 2), (2, 3), (3, 3)], 3),  # each turns, but never both between two looks
    ],
)
def test_the_watchdog_is_silent_when_a_loop_stands_still(manager, notifier, monkeypatch, fed, said):
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    watchdog = Watchdog(notifier)
    assert watchdog.seconds == 3
    for turns in fed:
        watchdog.feed(turns)
    assert told(manager) == ["WATCHDOG=1"] * said


def test_a_watchdog_meant_for_another_process_is_not_ours(monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Watchdog(Notifier("")).seconds == 0


def test_descriptors_meant_for_another_process_are_left_alone(monkeypatch):
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert take_inherited() == []
    assert "LISTEN_FDS" not in os.environ
