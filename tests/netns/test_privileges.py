"""A relay that root starts becomes an ordinary user before its first thread, and relays, reloads and ends as one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.accounts import as_root
from support.relay import GROUP, INPUT, assert_adds_up, relaying
from support.traffic import MCRELAY, assert_exact, receiver, report, send

import mcrelay
from mcrelay.linux.capabilities import CAP_NET_RAW, successor

pytestmark = [pytest.mark.net, as_root]

OUT = "239.10.0.1:5004%out0"
RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUT}"]\n'
MORE = '[rules.y]\ninput = "239.1.1.1:5000%in0"\noutputs = ["239.10.0.2:5004%out0"]\n'

# Takes /proc and /sys away, then becomes the command: what a bare container has.
BARE = 'mount -t tmpfs tmpfs /sys && mount -t tmpfs tmpfs /proc && exec "$@"'

# The command, with every module that it imports once it has dropped its privileges, on stderr.
WATCHED = """
import logging, sys
dropped = []
class Filter(logging.Filter):
    def filter(self, record):
        dropped.append(True)
        return True
def hook(event, arguments):
    if event in {"import", "ctypes.dlopen"} and dropped and arguments[0]:
        print(f"late {event} of {arguments[0]}", file=sys.stderr, flush=True)
sys.addaudithook(hook)
logging.getLogger("mcrelay.linux.capabilities").addFilter(Filter())
from mcrelay.cli import main
main()
"""

UP = (
    "ip link add in0 type veth peer name out0; ip link set in0 up; ip link set out0 up; "
    "ip addr add 192.0.2.1/24 dev out0"
)
LINKS = ["unshare", "-n", "sh", "-c", f'{UP} && exec "$@"', "sh"]

# The command from a tree that only root can read, with an error once it goes on as somebody else.
FAILING = WATCHED.replace(
    "from mcrelay.cli import main\n",
    """
tree, error = sys.argv.pop(1), sys.argv.pop(1)
sys.path.insert(0, tree)
import mcrelay.cli
from mcrelay.errors import OperationError
from mcrelay.relay.service import Service
async def fail(*_):
    assert dropped
    raise eval(error)
Service.run = fail
assert mcrelay.__file__.startswith(tree)
from mcrelay.cli import main
""",
)
FAILURES = {
    "OperationError('a sentence')": "mcrelay: a sentence",
    "OSError(24, 'Too many open files')": "Too many open files",
    "PermissionError(13, 'Permission denied', '/x')": "mcrelay: /x: Permission denied",
    "RuntimeError('unheard of')": "mcrelay: a fault of mcrelay's own, please report it: RuntimeError: unheard of",
}


def threads(pid: int) -> list[dict[str, str]]:
    """/proc/PID/task/*/status."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as status:
            found.append(dict(line.strip().split(":\t", 1) for line in status))
    return found


def relays_exactly(relay, count: int = 20_000) -> None:
    sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", count)
    send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 20_000, "--count", count)
    assert_exact(report(sink), count)
    assert_adds_up(relay.at_rest())


def test_every_thread_is_an_ordinary_users_with_cap_net_raw_alone():
    with relaying(RULE) as relay:
        uid = successor().uid
        found = threads(relay.process.pid)
        assert len(found) > 1
        for each in found:
            assert each["Uid"].split() == [str(uid)] * 4
            assert int(each["CapEff"], 16) == int(each["CapPrm"], 16) == int(each["CapBnd"], 16) == 1 << CAP_NET_RAW
            assert each["NoNewPrivs"] == "1"
        assert f"uid={uid}" in relay.log.read_text()
        assert "capabilities=cap_net_raw\n" in relay.log.read_text()
        relays_exactly(relay)
        relay.reload(RULE + MORE)
        assert [each["name"] for each in relay.show("rules")] == ["x", "y"]
        relay.stop()
        assert os.listdir(os.path.dirname(relay.socket)) == []


def test_sockets_in_a_folder_of_roots_are_taken_over_by_the_next_relay():
    with relaying(RULE) as relay:
        relay.stop()
        folder = os.path.dirname(relay.socket)
        os.chown(folder, 0, 0)
        for _ in range(2):
            relay.start()
            relay.stop()
            assert "mcrelay.sock stays behind: Permission denied" in relay.log.read_text()


def test_a_reload_of_a_file_that_only_root_can_read_is_refused_and_was_announced():
    with relaying(RULE) as relay:
        relay.stop()
        relay.config.chmod(0o600)
        relay.start()
        assert f"cannot read {relay.config}: a reload will be refused; allow it with `chgrp" in relay.log.read_text()
        answer = subprocess.run(
            [*MCRELAY, "reload", "--socket", relay.socket], capture_output=True, text=True, check=False
        )
        assert answer.returncode == 2
        assert f"{relay.config}:0: file: cannot be read: Permission denied" in answer.stderr
        relays_exactly(relay, 1000)


def test_relay_without_a_file_drops_too():
    with relaying(RULE) as relay:
        one = relay.lab.relay.popen(
            *MCRELAY, "relay", "239.1.1.1:5000%in0", "239.10.0.2:5004%out0", stderr=subprocess.PIPE
        )
        while "state=active" not in one.stderr.readline():
            pass
        assert {each["Uid"].split()[1] for each in threads(one.pid)} == {str(successor().uid)}


def test_it_relays_where_neither_proc_nor_sys_is_mounted():
    with relaying(RULE) as relay:
        relay.stop()
        with relay.log.open("w") as log:
            relay.process = relay.lab.relay.popen(
                "unshare", "-m", "sh", "-c", BARE, "sh",
                *MCRELAY, "run", "-c", str(relay.config), "--socket", relay.socket, stderr=log,
            )  # fmt: skip
        relay.wait_for(lambda: "ready" in relay.log.read_text(), "READY")
        assert not os.path.exists(f"/proc/{relay.process.pid}/root/proc/self")
        relays_exactly(relay)
        relay.reload(RULE + MORE)
        for noun in ("rules", "stats", "links", "groups", "config"):
            assert relay.show(noun)
        relay.stop()
        assert "Traceback" not in relay.log.read_text()


def test_nothing_is_imported_once_it_has_dropped():
    """An upgrade may replace the files under a relay that runs, and the user may not be able to read them at all."""
    with relaying(RULE) as relay:
        relay.stop()
        relay.config.write_text(f"{RULE}exclusive = true\n")
        with relay.log.open("w") as log:
            relay.process = relay.lab.relay.popen(
                sys.executable, "-c", WATCHED, "run", "-c", str(relay.config), "--socket", relay.socket, stderr=log
            )  # fmt: skip
        relay.wait_for(lambda: "ready" in relay.log.read_text(), "READY")
        assert relay.show("rules")[0]["exclusive"]["state"] == "on"
        relays_exactly(relay, 1000)
        for noun in ("rules", "stats", "links", "groups", "config"):
            relay.show(noun)
        relay.reload(RULE + MORE)
        for command in (
            ["add", "z", "239.1.1.2:5000%in0", "239.10.0.3:5004%out0"],
            ["add", "u", "239.1.1.3:5000%in0", "198.51.100.2:5004"],
            ["replace", "z", "239.1.1.2:5000%in0", "239.10.0.4:5004%out0"],
            ["disable", "z"],
            ["enable", "z"],
            ["add", "bad", "239.1.1.2:5000%in0", "nonsense"],
            ["reload", "--dry-run"],
            ["reload", "--keep-runtime"],
        ):
            subprocess.run([*MCRELAY, *command, "--socket", relay.socket], capture_output=True, check=False)
        relay.config.write_text("[rules.bad]\ninput = 1\n")
        relay.process.send_signal(1)
        relay.wait_for(lambda: "refused" in relay.log.read_text(), "refusal")
        relay.lab.relay.ip("link set out0 down", "link set out0 up", "link del in0")
        relay.wait_for(lambda: relay.state() == "pending", "pending")
        relay.stop()
        late = [line for line in relay.log.read_text().splitlines() if line.startswith("late")]
        assert late == []


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize("command", ["run", "relay"])
def test_an_error_is_a_sentence_where_the_program_can_no_longer_be_read(command, error, tmp_path):
    """Nothing of it is imported late: neither what prints the error nor what finds where it was."""
    shutil.copytree(Path(mcrelay.__file__).parent, tmp_path / "tree" / "mcrelay")
    (tmp_path / "tree").chmod(0o700)
    (tmp_path / "x.toml").write_text(RULE)
    words = {"run": ["-c", str(tmp_path / "x.toml"), "--socket", str(tmp_path / "s")], "relay": [INPUT, OUT]}
    answer = subprocess.run(
        [*LINKS, sys.executable, "-c", FAILING, tmp_path / "tree", error, command, *words[command]],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert answer.returncode == 1
    assert FAILURES[error] in answer.stderr.splitlines()[-1]
    assert "Traceback" not in answer.stderr
    assert "late" not in answer.stderr


@pytest.mark.parametrize("most", range(6, 23, 2))
def test_too_few_files_are_refused_in_a_sentence_that_says_how_many_it_needs(most, tmp_path):
    (tmp_path / "x.toml").write_text(RULE)
    run = [*MCRELAY, "run", "-c", tmp_path / "x.toml", "--socket", tmp_path / "s"]
    answer = subprocess.run(
        [*LINKS, "timeout", "-s", "INT", "3", "prlimit", f"--nofile={most}:{most}", *run],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert "raise LimitNOFILE" in answer.stderr, answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "how", [("setpriv",), ("setpriv", "--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service")]
)
def test_a_reserved_source_port_is_opened_by_whom_root_started_and_by_nobody_else(how):
    reserved = RULE.replace('["239.10.0.1:5004%out0"]', '[{ to = "239.10.0.1:5004%out0", source_port = 319 }]')
    ambient = len(how) > 1
    with relaying(RULE if ambient else reserved) as relay:
        if ambient:  # by then nothing in the files asks for it
            relay.stop()
            with relay.log.open("w") as log:
                relay.process = relay.lab.relay.popen(
                    *how, *MCRELAY, "run", "-c", str(relay.config), "--socket", relay.socket, stderr=log
                )
            relay.wait_for(lambda: "ready" in relay.log.read_text(), "READY")
            relay.reload(reserved)
        assert "cap_net_bind_service" in relay.log.read_text()
        assert relay.show("rules")[0]["outputs"][0]["source_port"] == 319
        relays_exactly(relay, 1000)
    with relaying(RULE) as relay:
        relay.reload(reserved)
        assert relay.state() == "error"
        reason = relay.show("rules")[0]["reason"]
        assert "source port 319 is a reserved one" in reason
        assert "ip_unprivileged_port_start=319" in reason


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (["setpriv", "--reuid", "1000", "--clear-groups"], "uid 1000 may be given it and has not got it"),
        (["setpriv", "--bounding-set", "-net_raw"], "run it as root (in a container: with --cap-add NET_RAW)"),
    ],
    ids=["an ordinary user", "not in the bounding set"],
)
def test_what_keeps_cap_net_raw_away_is_told_apart(how, said, tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(RULE)
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    run = [*how, *MCRELAY, "run", "-c", str(file), "--socket", str(tmp_path / "s")]
    answer = subprocess.run(run, capture_output=True, text=True, check=False, timeout=20)
    assert answer.returncode == 1
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("mount", "said"),
    [
        ("mount -t tmpfs -o ro tmpfs $0", "mount something that can be written there"),
        ("mount -t tmpfs -o nr_inodes=1 tmpfs $0", "make room there"),
    ],
    ids=["read-only", "full"],
)
def test_sockets_that_cannot_be_made_say_what_helps_and_not_to_be_root(mount, said, tmp_path):
    file, folder = tmp_path / "x.toml", tmp_path / "run"
    file.write_text(RULE)
    folder.mkdir()
    run = [*MCRELAY, "run", "-c", str(file), "--socket", str(folder / "s")]
    answer = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', str(folder), *run],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert answer.returncode == 1
    assert said in answer.stderr
    assert "as root" not in answer.stderr
