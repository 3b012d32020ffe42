"""The commands as a person runs them: what they print, how they end, what they leave."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.relay import GROUP, INPUT, assert_adds_up, relaying
from support.traffic import MCRELAY, assert_exact, receiver, report, send, wait_for

from mcrelay.commands.run import FEW_RULES

pytestmark = pytest.mark.net

OUT = "239.10.0.1:5004%out0"
RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUT}"]\n'


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*MCRELAY, *arguments], capture_output=True, text=True, timeout=60, **options)


def test_show_answers_in_columns_and_in_json_with_the_promised_keys():
    with relaying(RULE) as relay:
        shown = run("show", "--socket", relay.socket)
        assert shown.returncode == 0
        assert re.search(rf"^x +active +{re.escape(INPUT)} +{re.escape(OUT)}", shown.stdout, re.MULTILINE)
        assert "\033[" not in shown.stdout
        keys = {}
        for noun in ("rules", "stats", "links", "groups"):
            result = json.loads(run("show", noun[:3], "-j", "--socket", relay.socket).stdout)
            keys[noun] = set(result if noun == "stats" else result[0])
        assert keys["rules"] >= {"name", "origin", "state", "reason", "inputs", "outputs"}
        assert keys["stats"] >= {"uptime_seconds", "rules", "links", "workers"}
        assert keys["links"] >= {"ifname", "ifindex", "operstate", "mtu", "addresses", "querier"}
        assert keys["groups"] >= {"ifname", "group", "source", "state", "version"}
        rule = relay.show("rules")[0]
        assert rule["inputs"][0].keys() >= {"from", "iif", "group", "source", "port", "vlan", "state", "reason"}
        assert rule["outputs"][0].keys() >= {
            "to", "oif", "vlan", "source_address", "source_port", "ttl", "dscp", "state", "reason",
        }  # fmt: skip


def test_an_answer_about_many_rules_is_made_beside_the_main_loop_and_is_the_same():
    line = '[rules.r{0}]\ninput = "239.1.{1}.{2}:5000%nosuch0"\noutputs = ["239.2.{1}.{2}:5004%out0"]\n'
    many = "".join(line.format(i, i // 256, i % 256) for i in range(FEW_RULES + 1))
    with relaying(many) as relay:
        assert len(relay.show("rules")) == len(relay.show("stats")["rules"]) == FEW_RULES + 1
        assert len(relay.show("config")["rules"]) == FEW_RULES + 1
        relay.reload(many.partition("[rules.r9]")[0])
        assert [each["name"] for each in relay.show("rules")] == [f"r{i}" for i in range(9)]


def test_a_second_daemon_on_the_same_socket_is_refused_and_the_first_goes_on():
    with relaying(RULE) as relay:
        second = relay.lab.relay.run(
            *MCRELAY, "run", "-c", str(relay.config), "--socket", relay.socket, check=False
        )  # fmt: skip
        assert second.returncode == 1
        assert "another mcrelay is running" in second.stderr
        assert "Traceback" not in second.stderr
        assert relay.state() == "active"


def test_a_socket_left_behind_by_a_killed_daemon_is_taken_over():
    with relaying(RULE) as relay:
        relay.process.kill()
        relay.process.wait()
        assert os.path.exists(relay.socket)
        relay.start()
        assert relay.state() == "active"


def test_sighup_reloads_and_a_bad_file_changes_nothing():
    with relaying(RULE) as relay:
        relay.config.write_text(RULE + '[rules.y]\ninput = "239.1.1.1:5000%in0"\noutputs = ["239.10.0.2:5004%out0"]\n')
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_for(lambda: len(relay.show("rules")) == 2, "second rule")
        relay.config.write_text(RULE + "[rules.z]\ninput = 17\n")
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_for(lambda: "refused reload" in relay.log.read_text(), "refusal")
        assert f"{relay.config}:5" in relay.log.read_text()
        assert [each["name"] for each in relay.show("rules")] == ["x", "y"]
        answer = run("reload", "--socket", relay.socket)
        assert answer.returncode == 2
        assert f"{relay.config}:5" in answer.stderr
        relay.process.send_signal(signal.SIGUSR1)
        relay.wait_for(lambda: '"rx_packets"' in relay.log.read_text(), "status dump")


def test_systemd_is_told_ready_and_stopping(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        config = RULE + '[rules.late]\ninput = "239.1.1.1:5000%nowhere0"\noutputs = ["239.10.0.2:5004%out0"]\n'
        with relaying(config, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as relay:
            told = [manager.recv(1000).decode()]
            while not told[-1].startswith("READY=1"):
                told.append(manager.recv(1000).decode())
            assert told[-1].endswith("STATUS=2 rules: 1 active, 1 pending")
            relay.stop()
            while "STOPPING=1" not in told[-1]:
                told.append(manager.recv(1000).decode())


def test_relay_needs_no_file_and_says_what_it_relayed():
    with relaying(RULE.replace("2068", "2069")) as relay:
        one = relay.lab.relay.popen(
            *MCRELAY, "relay", INPUT, OUT, "--ttl", "5", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )  # fmt: skip
        while "changed rule=relay state=active" not in one.stderr.readline():
            assert one.poll() is None
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 500)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 500)
        got = report(sink)
        assert_exact(got, 500)
        assert got["ttl"] == {"5": 500}
        one.send_signal(signal.SIGINT)
        text, _ = one.communicate(timeout=5)
        assert one.returncode == 0
        assert re.search(r"received 500 datagrams, 658000 bytes", text)
        assert f"sent 500 to {OUT}" in text


def one_user_only() -> bool:
    """Whether this user namespace maps a single user (user_namespaces(7)): nobody to become."""
    with open("/proc/self/uid_map") as mapped:
        return mapped.read().split()[2] == "1"


@pytest.mark.skipif(one_user_only(), reason="this user namespace has no second user to run as")
def test_the_daemon_needs_only_cap_net_raw():
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    with relaying(RULE, environment=environment) as relay:
        relay.stop()
        os.chmod(relay.config.parent, 0o777)
        relay.log.unlink()
        with relay.log.open("w") as log:
            relay.process = relay.lab.relay.popen(
                "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+net_raw",
                "--ambient-caps=+net_raw", "--bounding-set=-all,+net_raw",
                *MCRELAY, "run", "-c", str(relay.config), "--socket", relay.socket, stderr=log,
            )  # fmt: skip
        relay.wait_for(lambda: "ready" in relay.log.read_text(), "READY")
        with open(f"/proc/{relay.process.pid}/status") as status:
            facts = dict(line.split(":\t", 1) for line in status)
        assert facts["Uid"].split()[0] == "65534"
        assert int(facts["CapEff"], 16) == 1 << 13  # CAP_NET_RAW of linux/capability.h
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 20_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 20_000, "--count", 20_000)
        assert_exact(report(sink), 20_000)
        assert_adds_up(relay.at_rest())


def test_without_privilege_it_says_so_in_one_line(tmp_path):
    (tmp_path / "x.toml").write_text(RULE)
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *MCRELAY, "run", "-c", str(tmp_path / "x.toml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "CAP_NET_RAW" in done.stderr


def test_show_without_a_relay_says_how_to_start_one(tmp_path):
    done = run("show", "--socket", str(tmp_path / "none.sock"))
    assert done.returncode == 1
    remedy = "start one with `mcrelay run` or `systemctl start mcrelay`, or say where with -i or --socket"
    assert done.stderr == f"mcrelay: no relay is running at {tmp_path}/none.sock: {remedy}\n"


@pytest.mark.parametrize(
    "arguments", [["show", "nonsense"], ["frobnicate"], ["relay", "239.1.1.1%in0", "x"], ["run", "--what"]]
)
def test_used_wrongly_it_exits_with_two_and_no_traceback(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_has_help_with_an_example():
    from mcrelay.cli import COMMANDS

    for name in COMMANDS:
        text = run(name, "--help").stdout
        assert "Example" in text, name
        assert f"mcrelay {name}" in text


def test_show_starts_quickly_because_it_imports_little():
    heavy = ("rich", "pyroute2", "msgspec", "asyncio", "mcrelay._core", "prometheus_client")
    code = f"import sys, mcrelay.cli, mcrelay.commands.show; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def start_demo() -> subprocess.Popen:
    return subprocess.Popen(
        [*MCRELAY, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip


def namespaces_of(child: subprocess.Popen) -> list[str]:
    """Namespaces bear the pid of who made them."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in names if name.startswith(f"mcr-{child.pid}-")]


@pytest.mark.alone
def test_the_demo_passes_and_leaves_nothing_behind():
    begin = time.monotonic()
    demo = start_demo()
    shown, complaints = demo.communicate(timeout=30)
    assert demo.returncode == 0, shown + complaints
    assert time.monotonic() - begin < 15
    assert shown.count("ok  ") == 5
    assert "0 lost, 0 duplicated, 0 reordered, 0 corrupted" in shown
    assert namespaces_of(demo) == []


def test_ctrl_c_in_the_demo_leaves_nothing_behind():
    demo = start_demo()
    wait_for(lambda: namespaces_of(demo), "namespaces of the demo", 30)
    os.killpg(demo.pid, signal.SIGINT)
    _, complaints = demo.communicate(timeout=10)
    assert demo.returncode == 1
    assert "Traceback" not in complaints
    assert namespaces_of(demo) == []
