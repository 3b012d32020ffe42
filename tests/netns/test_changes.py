"""Changing a running relay: what is asked for happens, and a bystander's steady stream notices nothing of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib

import pytest
from support.relay import GROUP, INPUT, assert_adds_up, both_engines, every_way, relaying
from support.traffic import MCRELAY, assert_exact, heard, receiver, report, send, sender
from support.ways import way

from mcrelay.config.parse import parse_config
from mcrelay.control.client import RefusedError, ask
from mcrelay.errors import ConfigError

pytestmark = pytest.mark.net

RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'
OTHER = '[rules.other]\ninput = "239.7.7.7:5000%in0"\noutputs = ["239.10.0.9:5004%out0"]\n'
TWO = ("239.11.0.1:5004%out0", "239.11.0.2:5004%out0")
RATE = 20_000
# A block is closed after 1 ms however little it holds, so 128 of them are 128 ms: less than a busy machine may take the
# CPU from the worker. What a change does to a stream is the question here, and not that.
ROOMY = '[links.in0]\nring = "128MiB"\n' + RULE


def table(n: int, **options):
    outputs = [f"239.11.0.{n}:5004%out0", f"10.9.0.{n}:7000"]
    return way().rule({"input": f"239.6.0.{n}:5000%in0", "outputs": outputs, **options})


def run(relay, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
    """One of the commands, as a person types it."""
    done = subprocess.run(
        [*MCRELAY, *arguments, "--socket", relay.socket], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


def bad(relay, *arguments: str) -> str:
    """A command that is refused, and changes nothing."""
    before = relay.show("config")
    done = run(relay, *arguments, code=2)
    assert relay.show("config") == before
    return done.stderr


@contextlib.contextmanager
def bystander(relay):
    """A steady stream through rule x, that has to arrive as if nothing happened; it ends when asked to."""
    sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
    source = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", RATE, "--duration", 100)
    relay.wait_for(lambda: relay.rule("x")["rx_packets"] > RATE / 10, "stream")
    began = time.monotonic()
    before = relay.rule("x")["rx_packets"]
    yield
    time.sleep(0.5)
    passed = relay.rule("x")["rx_packets"] - before
    assert passed > 0.5 * RATE * (time.monotonic() - began), "the stream was steady, and its counters were kept"
    assert source.poll() is None
    source.send_signal(signal.SIGINT)
    sent = report(source)["sent"]
    stats = relay.at_rest()
    got = heard(sink, relay.lab.sink)
    assert_adds_up(stats)
    assert relay.link("in0")["ring_dropped_frames"] == 0
    x = relay.rule("x")
    assert x["rx_packets"] == sent, f"before the relay's rule: {stats['links']}"
    assert x["outputs"][0]["tx_packets"] == sent, f"in the relay: {x}"
    assert_exact(got, sent)


def names(relay) -> dict[str, str]:
    return {each["name"]: each["origin"] for each in relay.show("rules")}


def descriptors(relay) -> int:
    return len(os.listdir(f"/proc/{relay.process.pid}/fd"))


# What a bystander does not notice


@every_way
def test_two_hundred_adds_and_deletes():
    with relaying(ROOMY) as relay:
        held = descriptors(relay)
        with bystander(relay):
            for i in range(200):
                ask(relay.socket, "add", name=f"n{i}", rule=table(1 + i % 100))
                assert f"n{i}" in names(relay)
                if i % 2:
                    ask(relay.socket, "delete", name=f"n{i - 1}")
                    ask(relay.socket, "delete", name=f"n{i}")
        assert names(relay) == {"x": "file"}
        assert relay.show("stats")["workers"][0]["generation"] >= 400
        relay.wait_for(lambda: descriptors(relay) == held, "all descriptors back", 3)
        assert [each["group"] for each in relay.show("groups")] == [way().source(GROUP)]


@every_way
def test_a_new_input_or_output_leaves_the_books_in_order():
    """A changed input goes on with what the rule had received; a new output begins with what it came too late for."""
    outputs = ["239.10.0.1:5004%out0", "239.10.0.2:5004%out0"]
    with relaying(RULE) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        late = receiver(relay.lab.sink, "239.10.0.2:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 500)
        relay.at_rest()
        relay.reload(f'[rules.x]\ninput = "239.7.7.7:5000%in0"\noutputs = {json.dumps(outputs)}\n')
        send(relay.lab.source, "239.7.7.7:5000%eth0", "--count", 300)
        relay.at_rest()
        ask(relay.socket, "replace", name="x", rule=way().rule({"input": INPUT, "outputs": outputs}))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 200)
        assert_adds_up(relay.at_rest())
        rule = relay.rule("x")
        assert rule["rx_packets"] == 1000
        assert [(each["since_packets"], each["tx_packets"]) for each in rule["outputs"]] == [(0, 1000), (500, 500)]
        assert heard(sink, relay.lab.sink)["received"] == 1000
        assert heard(late, relay.lab.sink)["received"] == 500


@every_way
def test_replacing_enabling_disabling_reloading_and_saving():
    with relaying(ROOMY + OTHER) as relay, bystander(relay):
        for i in range(30):
            ask(relay.socket, "replace", name="other", rule=table(1 + i % 3, ttl=1 + i))
            ask(relay.socket, "disable", name="other")
            ask(relay.socket, "enable", name="other")
            relay.write(ROOMY + (OTHER if i % 2 else ""))
            told = ask(relay.socket, "reload", dry_run=True)
            assert list(told["gone"]) == ["other"]
            told = ask(relay.socket, "reload", keep_runtime=i % 3 == 0)
            assert list(told["gone"]) == ([] if i % 3 == 0 else ["other"])
            relay.write(ROOMY + "[rules.bad]\ninput = 17\n")
            with pytest.raises(ConfigError, match=r"rules\.bad"):
                ask(relay.socket, "reload")
            relay.write(ROOMY + OTHER)
            ask(relay.socket, "reload")
        ask(relay.socket, "add", name="kept", rule=table(50))
        run(relay, "save", "--to", str(relay.config.parent / "saved.toml"))
        relay.config.write_text("this is = not [toml\n")
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_for(lambda: "by=SIGHUP" in relay.log.read_text(), "refusal")
        assert names(relay) == {"x": "file", "other": "file", "kept": "runtime"}


@both_engines
@pytest.mark.alone
def test_clients_of_every_bad_kind():
    """Idle, amid a line, deaf, hung up amid a change, garbage, 100 MB: all at once, while others change things."""
    with relaying(ROOMY) as relay, bystander(relay), contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            made = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            made.connect(relay.socket)
            made.settimeout(10)
            return made

        def pour() -> None:
            with contextlib.suppress(ConnectionError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as each:
                each.connect(relay.socket)
                for _ in range(100):
                    each.sendall(b"x" * (1 << 20))

        def change(mine: int) -> None:
            for i in range(20):
                ask(relay.socket, "add", name=f"n{mine}-{i}", rule=table(10 * mine + i % 2 + 1))
                ask(relay.socket, "delete", name=f"n{mine}-{i}")
                done.append(mine)

        done: list[int] = []
        idle = [connect() for _ in range(100)]
        for each in idle[50:]:
            with contextlib.suppress(ConnectionError):  # there is no room for so many
                each.sendall(b'{"command":"add","arg')
        threads = [threading.Thread(target=change, args=(i,)) for i in range(6)]
        threads += [threading.Thread(target=pour) for _ in range(3)]
        for each in threads:
            each.start()
        for i in range(50):
            garbage = connect()
            garbage.sendall(os.urandom(2000) + b"\n")
            hasty = connect()
            arguments = {"name": f"hasty{i}", "rule": table(200 + i)}
            hasty.sendall(json.dumps({"command": "add", "arguments": arguments}).encode() + b"\n")
            hasty.close()
            deaf = connect()
            deaf.sendall(b'{"command":"show","arguments":{"noun":"stats"}}\n' * 100)
            time.sleep(0.03)
        for each in threads:
            each.join(60)
        assert sorted(done) == sorted([*range(6)] * 20)
        wanted = {"x", *(f"hasty{i}" for i in range(50))}
        relay.wait_for(lambda: names(relay).keys() == wanted, "every change of who has hung up")
        begin = time.monotonic()
        assert relay.show("rules")
        assert time.monotonic() - begin < 2


@every_way
def test_an_unchanged_output_of_a_changed_rule_loses_nothing():
    with relaying(ROOMY, sinks=2) as relay, bystander(relay):
        for i in range(60):
            to = f"239.10.1.{i % 5}:5004%out1"
            second = [to, {"to": to, "ttl": 1 + i, "dscp": i}, {"to": to, "source_port": 30_000 + i}, None][i % 4]
            rule = way().rule({"input": INPUT, "outputs": ["239.10.0.1:5004%out0", *([second] if second else [])]})
            more = [{}, {"description": "again"}, {"allow": [way().network("192.168.168.0/24")]}, {"shared": True}][
                i // 4 % 4
            ]
            ask(relay.socket, "replace", name="x", rule=rule | more)
        assert names(relay) == {"x": "runtime"}


# What the reply says is so


@every_way
def test_a_datagram_sent_right_after_the_reply_is_relayed_by_the_new_rule():
    """The bridge floods here, so that only the relay decides; the control: before the reply nothing is relayed."""
    family = socket.AF_INET if way().taken == 4 else socket.AF_INET6
    with relaying(RULE, querier=False) as relay, relay.lab.source.socket(family) as source:
        if family == socket.AF_INET:
            source.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.168.168.55"))
        else:
            source.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, relay.lab.source.ifindex("eth0"))
        for i in range(1, 51):
            to = (way().source(f"239.6.0.{i}"), 5000)
            name = f"n{i}"
            source.sendto(b"before", to)
            time.sleep(0.01)
            ask(relay.socket, "add", name=name, rule=table(i))
            source.sendto(b"added", to)
            relay.wait_for(lambda name=name: relay.rule(name)["rx_packets"] == 1, "the datagram", 2)
            ask(relay.socket, "disable", name=name)
            source.sendto(b"disabled", to)
            ask(relay.socket, "enable", name=name)
            source.sendto(b"enabled", to)
            relay.wait_for(lambda name=name: relay.rule(name)["rx_packets"] >= 2, "the next", 2)
        time.sleep(0.2)
        for rule in relay.at_rest()["rules"][1:]:
            assert rule["rx_packets"] == 2, rule
            assert rule["outputs"][0]["tx_packets"] == 2, rule


@every_way
def test_a_rule_that_is_added_runs_as_the_command_line_says():
    with relaying("[defaults]\nttl = 77\n" + RULE) as relay:
        taken, first, second = way().input("239.6.0.1:5000%in0"), *map(way().output, TWO)
        out = run(
            relay, "add", "y", taken, first, f'{{ to = "{second}", ttl = 3 }}', "--dscp", "46", "--description",
            "it's new",
        ).stdout  # fmt: skip
        assert out == "y: active (only until the next reload or restart; `mcrelay save` writes it to a file)\n"
        sinks = [receiver(relay.lab.sink, f"239.11.0.{i}:5004%eth0", "--count", 300) for i in (1, 2)]
        relay.heard_by_switch()
        send(relay.lab.source, "239.6.0.1:5000%eth0", "--count", 300)
        for sink, ttl in zip(sinks, (16, 3), strict=True):
            got = report(sink)
            assert_exact(got, 300)
            assert (got["ttl"], got["tos"]) == ({str(ttl): 300}, {str(46 << 2): 300})
        assert run(relay, "disable", "y").stdout.startswith("y: disabled")
        assert run(relay, "enable", "y").stdout.startswith("y: active")
        assert run(relay, "disable", "x").stdout.startswith("x: disabled (only until")
        assert run(relay, "enable", "x").stdout == "x: active\n"
        assert run(relay, "delete", "y").stdout == "y: deleted\n"
        assert run(relay, "delete", "x").stdout == (
            "x: deleted (only until the next reload or restart: it stands in a file)\n"
        )
        assert relay.show("rules") == []


@both_engines
def test_what_cannot_be_is_refused_with_everything_that_is_wrong_and_changes_nothing():
    with relaying(RULE) as relay:
        assert bad(relay, "add", "x", "239.6.0.1:5000%in0", "10.9.0.1") == (
            "mcrelay: there is a rule 'x' already; take another name, or say mcrelay replace x\n"
        )
        for command in (["replace", "xx", "239.6.0.1:5000%in0", "10.9.0.1"], ["delete", "xx"], ["enable", "xx"]):
            assert bad(relay, *command) == "mcrelay: there is no rule 'xx'; did you mean x?\n"
        assert "`mcrelay show` lists those that are" in bad(relay, "disable", "nothing-like-it")
        said = bad(relay, "add", "y", INPUT, "239.10.0.1:5004%out0", "nonsense", "--ttl", "0").splitlines()
        assert [line.split(": ")[1] for line in said] == [
            "INPUT", "OUTPUT 1", "OUTPUT 2", "--ttl",
        ]  # fmt: skip
        assert f"rules.x ({relay.config}:2) has the same input" in said[0]
        assert bad(relay, "add", "no/name", "239.6.0.1:5000%in0", "10.9.0.1")
        assert bad(relay, "add", "y", "239.6.0.1:5000%in0")
        for arguments in ({"name": "y", "rule": None}, {"name": "y", "rule": {"input": None, "outputs": []}}, {}):
            with pytest.raises(RefusedError) as refused:
                ask(relay.socket, "add", **arguments)
            assert refused.value.exit_code == 2
        warned = run(relay, "add", "y", "239.6.0.1:5000%inn0", "10.9.0.1")
        assert "link inn0 does not exist here" in warned.stderr
        assert "did you mean in0?" in warned.stderr
        assert warned.stdout.startswith("y: pending: link inn0 does not exist")


@both_engines
def test_every_change_is_logged_in_one_line_with_who_made_it():
    with relaying(RULE) as relay:
        ask(relay.socket, "add", name="y", rule=table(1))
        ask(relay.socket, "disable", name="y")
        with pytest.raises(ConfigError):
            ask(relay.socket, "replace", name="y", rule=table(1, ttl=0))
        ask(relay.socket, "reload", dry_run=True)
        ask(relay.socket, "reload")
        relay.process.send_signal(signal.SIGHUP)
        by = f"uid={os.getuid()} user=root pid={os.getpid()}"
        relay.wait_for(lambda: "by=SIGHUP" in relay.log.read_text(), "SIGHUP")
        lines = relay.log.read_text().splitlines()
        assert [line.partition("change=")[2] for line in lines if "change=" in line] == [
            f"add rule=y {by}",
            f"disable rule=y {by}",
            f"reload added=none removed=y changed=none {by}",
            "reload added=none removed=none changed=none by=SIGHUP",
        ]
        assert sum("refused replace: command line: rules.y.ttl:" in line and by in line for line in lines) == 1
        assert any(
            "lost a run-time change rule=y" in line and "mcrelay add y 239.6.0.1:5000%in0" in line for line in lines
        )


# Reload and save


def shell(command: str) -> None:
    """Run a printed command as it stands."""
    path = os.path.dirname(sys.executable)
    subprocess.run(["sh", "-c", command], check=True, env=os.environ | {"PATH": f"{path}:{os.environ['PATH']}"})


@both_engines
def test_a_reload_names_what_goes_and_the_commands_bring_it_back():
    with relaying(RULE + OTHER) as relay:
        run(relay, "add", "y", "239.6.0.1:5000%in0", "10.9.0.1", "--ttl", "8", "--description", "it's $HOME & `new`")
        run(relay, "replace", "other", "239.7.7.7:5000%in0", '{ to = "10.9.0.2", ttl = 9 }', "10.9.0.3", "--disabled")
        run(relay, "delete", "x")
        before = relay.show("config")
        told = run(relay, "reload", "--dry-run").stdout
        assert relay.show("config") == before
        assert told.startswith("+ x\n- y\n~ other\n")
        assert "enabled: false -> true" in told
        assert told.endswith("nothing was changed; it would be 2 rules\n")
        done = run(relay, "reload").stdout
        assert done.endswith("reloaded: 2 rules: 2 active\n")
        assert names(relay) == {"x": "file", "other": "file"}
        commands = [line.strip() for line in done.splitlines() if line.startswith("  mcrelay ")]
        assert len(commands) == 3
        for command in commands:
            shell(command)
        after = relay.show("config")
        assert after["rules"] == {name: after["rules"][name] for name in before["rules"]} == before["rules"]


@both_engines
def test_a_reload_that_keeps_run_time_changes_takes_the_rest_and_refuses_a_conflict():
    with relaying(RULE + OTHER) as relay:
        run(relay, "add", "y", "239.6.0.1:5000%in0", "10.9.0.1", "--ttl", "8")
        run(relay, "disable", "other")
        relay.write(RULE.replace("%out0", '%out0", "10.9.0.9') + OTHER)
        told = run(relay, "reload", "--keep-runtime").stdout
        assert told.startswith("~ x\n    output 10.9.0.9:2068 added\nreloaded: 3 rules: ")
        assert names(relay) == {"x": "file", "other": "runtime", "y": "runtime"}
        assert relay.state("other") == "disabled"
        relay.config.write_text(RULE + '[rules.z]\ninput = "239.6.0.1:5000%in0"\noutputs = ["10.9.0.7"]\n')
        for flags in (["--dry-run"], []):
            said = bad(relay, "reload", "--keep-runtime", *flags)
            assert f"y: INPUT: rules.z ({relay.config}:5) has the same input" in said
        run(relay, "delete", "y")
        assert "\nreloaded: 2 rules: " in run(relay, "reload", "--keep-runtime").stdout


@both_engines
def test_keys_that_need_a_restart_are_named_and_the_rest_is_applied():
    with relaying(RULE) as relay:
        relay.config.write_text('[relay]\ncpus = [0]\n[links.in0]\nring = "8MiB"\n' + RULE + OTHER)
        for flags in (["--dry-run"], [], []):
            told = run(relay, "reload", *flags).stdout
            assert "! relay.cpus changed: restart the relay to apply it\n" in told
            assert "! links.in0 changed: restart the relay to apply it\n" in told
        assert names(relay) == {"x": "file", "other": "file"}
        assert "needs a restart key=relay.cpus" in relay.log.read_text()


def restart(relay, *more: str) -> None:
    """The relay again, with another folder to read."""
    if relay.process.poll() is None:
        relay.stop()
    paths = [word for path in (str(relay.config), *more) for word in ("-c", path)]
    with relay.log.open("w") as log:
        relay.process = relay.lab.relay.popen(*MCRELAY, "run", *paths, "--socket", relay.socket, stderr=log)
    relay.wait_for(lambda: "ready" in relay.log.read_text(), "READY")


@both_engines
def test_what_was_saved_belongs_to_the_files_and_survives_a_restart():
    with relaying(RULE) as relay:
        folder = relay.config.parent / "conf.d"
        folder.mkdir()
        (folder / "10-mine.toml").write_text("# nothing yet\n" + OTHER)
        main = relay.config.read_text()
        restart(relay, str(folder))
        run(relay, "add", "y", "239.6.0.1:5000%in0", "239.11.0.1:5004%out0", "--ttl", "8")
        send(relay.lab.source, "239.6.0.1:5000%eth0", "--count", 10)
        counted = relay.rule("y")["rx_packets"]
        assert run(relay, "save").stdout == (
            f"saved y to {folder}/90-saved.toml\n"
            "nothing else is to be done: the next reload or start reads 90-saved.toml\n"
        )
        assert run(relay, "reload").stdout.startswith("nothing changed: 3 rules: ")
        assert names(relay) == {"x": "file", "other": "file", "y": "file"}
        assert relay.rule("y")["rx_packets"] == counted
        assert run(relay, "save").stdout == "nothing to save: what runs is what the files say\n"
        run(relay, "replace", "y", "239.6.0.1:5000%in0", "239.11.0.1:5004%out0", "--ttl", "9")
        run(relay, "add", "z", "239.6.0.2:5000%in0", "239.11.0.2:5004%out0")
        run(relay, "disable", "x")
        run(relay, "delete", "other")
        done = run(relay, "save", code=1)
        alone = "stands in a file that save leaves alone"
        assert done.stderr.splitlines() == [
            f"mcrelay: other was deleted, but {alone}: delete it at {folder}/10-mine.toml:2",
            f"mcrelay: x {alone}: write enabled = false at {relay.config}:1",
        ]
        assert (folder / "10-mine.toml").read_text() == "# nothing yet\n" + OTHER
        assert relay.config.read_text() == main
        wanted = relay.show("config")["rules"]
        restart(relay, str(folder))
        assert names(relay) == dict.fromkeys(("x", "other", "y", "z"), "file")
        now = relay.show("config")["rules"]
        assert {name: now[name] for name in ("y", "z")} == {name: wanted[name] for name in ("y", "z")}
        assert sorted(os.listdir(folder)) == ["10-mine.toml", "90-saved.toml"]


@both_engines
def test_save_has_the_rights_of_who_says_it():
    with relaying(RULE) as relay:
        run(relay, "add", "y", "239.6.0.1:5000%in0", "239.11.0.1:5004%out0")
        folder = relay.config.parent
        folder.chmod(0o755)
        os.chmod(f"{relay.socket[:-5]}-ro.sock", 0o666)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
        done = subprocess.run(
            [*nobody, *MCRELAY, "save", "--socket", relay.socket], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr == (
            f"mcrelay: cannot write {folder}/conf.d/90-saved.toml: Permission denied; "
            "run this as a user who may write there, or name another file with --to\n"
        )
        refused = subprocess.run(
            [*nobody, *MCRELAY, "delete", "y", "--socket", relay.socket], capture_output=True, text=True, check=False
        )
        assert refused.returncode == 1
        assert "no permission to use" in refused.stderr
        assert names(relay) == {"x": "file", "y": "runtime"}


@both_engines
def test_show_config_is_a_file_that_makes_a_relay_run_the_same():
    with relaying("[defaults]\nttl = 5\n" + RULE + OTHER) as relay:
        run(relay, "add", "y", "239.6.0.1:5000%in0", '{ to = "10.9.0.1", ttl = 9 }', "10.9.0.2")
        text = run(relay, "show", "config").stdout
        tables = json.loads(run(relay, "show", "c", "-j").stdout)
        assert tomllib.loads(text) == {key: value for key, value in tables.items() if value}
        assert tables["rules"]["x"]["ttl"] == 5
        before = relay.show("rules")
        relay.config.write_text(text)
        assert run(relay, "reload").stdout.startswith("nothing changed: 3 rules: ")
        after = relay.show("rules")
        assert [each | {"origin": "file"} for each in before] == after
        assert parse_config([("f.toml", text)]).config.relay.control == relay.socket
