"""The command that checks a configuration."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface

import pytest
from click.testing import CliRunner

from mcrelay.commands import check as module
from mcrelay.commands.check import check
from mcrelay.linux import process
from mcrelay.model.link import Link

GOOD = '[rules.{0}]\ninput = "233.252.0.{1}:5000%eth0"\noutputs = ["10.9.0.{1}"]\n'

TEN_FAULTS = """\
[relay]
workers = 0

[links.eth1]
ring = "32MB"

[defaults]
ttl = 300

[rules.one]
input = "233.252.0.1:5000"
outputs = ["233.252.0.2:5000%eth1"]

[rules.two]
input = "233.252.0.3:5000%eth1"
outputs = []

[rules.three]
input = "233.252.0.3:5000%eth1"
outputs = ["10.9.0.7:0"]
source_adress = "auto"

[rules.four]
input = "233.252.0.4:5000@eth1"
outputs = ["233.252.0.2:5000%eth1"]
"""

TEN_LINES = """\
2: relay.workers: 0 is not a number from 1 to 256; write workers = 1
5: links.eth1.ring: "32MB" is not a size; write "32MiB"
8: defaults.ttl: 300 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16
11: rules.one.input: 233.252.0.1:5000 names no link; add the link that it arrives on, e.g. 233.252.0.1:5000%eth0
16: rules.two.outputs: an empty list sends nothing; write outputs = ["233.252.0.1:5000%eth0"], or enabled = false to pause the rule
19: rules.three.input: rules.two (F:15) has the same input; put all outputs into one rule
20: rules.three.outputs[0]: port 0 cannot be used; a port is 1 to 65535, e.g. 10.9.0.7:5000
21: rules.three.source_adress: unknown key; did you mean source_address?
24: rules.four.input: '@eth1' names no address; a link stands after %: 233.252.0.4:5000%eth1
25: rules.four.outputs[0]: rules.one (F:12) sends to 233.252.0.2:5000%eth1 too; send to another group or port, or say shared = true in both rules
"""  # noqa: E501


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the command on files given by name and text, on a machine that has lo and eth0."""
    monkeypatch.setattr(module.socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    monkeypatch.setattr(module, "links_now", dict)

    def call(*options, **files):
        arguments = []
        for name, text in files.items():
            path = tmp_path / f"{name}.toml"
            path.write_text(text)
            arguments += ["-c", str(path)]
        result = CliRunner().invoke(check, [*options, *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return call


def test_a_good_configuration_is_one_line_on_stdout(run):
    result = run(a=GOOD.format("a", 1), b=GOOD.format("b", 2) + GOOD.format("c", 3))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "2 files, 3 rules: no complaints\n", "")


def test_one_of_each_is_told_in_the_singular(run):
    assert run(a=GOOD.format("a", 1)).stdout == "1 file, 1 rule: no complaints\n"


def test_a_file_of_ten_faults_is_told_in_ten_lines(run, tmp_path):
    file = f"{tmp_path}/f.toml"
    result = run(f=TEN_FAULTS)
    assert (result.exit_code, result.stdout) == (2, "")
    expected = [f"{file}:{line}".replace("(F:", f"({file}:") for line in TEN_LINES.splitlines()]
    assert len(expected) == 10
    assert result.stderr.splitlines() == expected


def test_files_are_told_in_order_of_name_and_line(run, tmp_path):
    result = run(b="x = 1\n", a="y = 1\nz = 1\n")
    assert [line.removeprefix(f"{tmp_path}/").partition(": ")[0] for line in result.stderr.splitlines()] == [
        "a.toml:1",
        "a.toml:2",
        "b.toml:1",
    ]


WARNED = GOOD.format("a", 1).replace("eth0", "eth1")


def test_a_warning_does_not_fail_the_check(run, tmp_path):
    result = run(a=WARNED)
    assert result.exit_code == 0
    assert result.stdout == "1 file, 1 rule: 1 warning\n"
    assert result.stderr == (
        f"warning: {tmp_path}/a.toml:2: rules.a.input: link eth1 does not exist here; "
        "the rule stays pending until it appears (did you mean eth0?)\n"
    )


def test_strict_fails_on_warnings_and_not_without(run):
    result = run("--strict", a=WARNED)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("warning: ")
    assert run("--strict", a=GOOD.format("a", 1)).exit_code == 0


def test_json_has_files_rules_and_complaints(run, tmp_path):
    result = run("-j", a=WARNED)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert json.loads(result.stdout) == {
        "files": [f"{tmp_path}/a.toml"],
        "rules": 1,
        "complaints": [
            {
                "file": f"{tmp_path}/a.toml",
                "line": 2,
                "key": "rules.a.input",
                "problem": "link eth1 does not exist here",
                "remedy": "the rule stays pending until it appears (did you mean eth0?)",
                "warning": True,
            }
        ],
    }


def test_json_of_a_bad_configuration_fails_as_well(run):
    result = run("-j", a="x = 1")
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert (told["rules"], [c["line"] for c in told["complaints"]]) == (0, [1])


def test_a_missing_file_is_told_and_no_traceback(run, tmp_path):
    result = run("-c", str(tmp_path / "no.toml"))
    assert result.exit_code == 2
    assert result.stderr == (
        f"{tmp_path}/no.toml:0: file: does not exist; name a file, or a directory for its *.toml\n"
    )


def test_an_instance_that_is_not_installed_is_told(run):
    result = run("-i", "no-such-instance")
    assert result.exit_code == 2
    assert result.stderr.startswith("/etc/mcrelay/no-such-instance.toml:0: file: does not exist; create it")


def test_help_has_an_example(run):
    result = run("--help")
    assert result.exit_code == 0
    assert "  mcrelay check -c site.toml --strict\n" in result.stdout


@pytest.mark.parametrize("master", ["br0", "bond0"])
def test_an_input_on_a_port_is_refused_and_a_disabled_rule_is_not(run, monkeypatch, master):
    port = Link("eth0", 2, up=True, carrier=True, operstate="UP", mtu=1500, master=master)
    monkeypatch.setattr(module, "links_now", lambda: {"eth0": port})
    result = run(a=GOOD.format("a", 1) + GOOD.format("b", 2) + "enabled = false\n")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f":2: rules.a.input: eth0 is a port of {master}, where this host hears no query" in line
    assert f"; take the input from {master}: " in line


@pytest.mark.parametrize(("kind", "hardware"), [("infiniband", 32), ("can", 280), ("wpan", 804)])
def test_an_input_that_cannot_be_captured_is_refused(run, monkeypatch, kind, hardware):
    link = Link("eth0", 2, up=True, carrier=True, operstate="UP", mtu=1500, hardware=hardware)
    monkeypatch.setattr(module, "links_now", lambda: {"eth0": link})
    result = run(a=GOOD.format("a", 1) + GOOD.format("b", 2) + "enabled = false\n")
    assert result.exit_code == 2, kind
    (line,) = result.stderr.splitlines()
    assert f":2: rules.a.input: link eth0 carries no Ethernet frames (ARPHRD {hardware}); take the input from" in line


def test_an_input_link_without_an_address_is_warned_of(run, monkeypatch):
    link = Link("eth0", 2, up=True, carrier=True, operstate="UP", mtu=1500)
    monkeypatch.setattr(module, "links_now", lambda: {"eth0": link})
    result = run(a=GOOD.format("a", 1))
    assert result.exit_code == 0
    assert "rules.a.input: eth0 has no IPv4 address, so its reports come from 0.0.0.0" in result.stderr


@pytest.mark.parametrize(
    ("mtus", "df", "said"),
    [
        ((9000, 1500), "false", "datagrams of more than 1472 bytes leave in fragments"),
        ((1500, 1400), "true", "datagrams of more than 1372 bytes are counted as lost (mtu)"),
        ((1500, 1500), "true", ""),
        ((1400, 1500), "true", ""),
    ],
)
def test_an_output_whose_link_takes_less_than_the_input_brings_is_warned_of(run, monkeypatch, mtus, df, said):
    address = (IPv4Interface("192.0.2.1/24"),)
    links = {
        name: Link(name, i, up=True, carrier=True, operstate="UP", mtu=mtu, addresses=address)
        for i, (name, mtu) in enumerate(zip(("eth0", "eth1"), mtus, strict=True), 1)
    }
    monkeypatch.setattr(module, "links_now", lambda: links)
    monkeypatch.setattr(module.socket, "if_nameindex", lambda: [(1, "eth0"), (2, "eth1")])
    wide = '[rules.{}]\ninput = "239.1.1.{}:5000%eth0"\noutputs = ["10.9.0.{}", "239.9.9.{}:5000%eth1"]\ndf = {}\n'
    result = run(a=wide.format("a", 1, 1, 1, df) + wide.format("b", 2, 2, 2, df) + "enabled = false\n")
    assert result.exit_code == 0
    lines = [line for line in result.stderr.splitlines() if "MTU" in line]
    assert len(lines) == bool(said)
    assert all(
        f"rules.a.outputs[1]: the MTU of eth1 is {mtus[1]}, that of the input {mtus[0]}: {said}" in s for s in lines
    )


def test_where_netlink_is_closed_the_rest_is_checked(run, monkeypatch):
    def closed():
        raise PermissionError

    monkeypatch.setattr(module, "links_now", closed)
    assert run(a=GOOD.format("a", 1)).stdout == "1 file, 1 rule: no complaints\n"


@pytest.mark.parametrize(
    ("port", "start", "warned"), [(319, 1024, True), (123, 1024, True), (319, 319, False), (1024, 1024, False)]
)
def test_a_source_port_that_an_ordinary_user_cannot_open_is_warned_of(run, monkeypatch, port, start, warned):
    monkeypatch.setattr(process.procfs, "read", lambda *_: start)
    outputs = f'outputs = [{{ to = "10.9.0.1", source_port = {port} }}]'
    result = run(a=GOOD.format("a", 1).replace('outputs = ["10.9.0.1"]', outputs))
    assert result.exit_code == 0
    assert (f"source port {port} is a reserved one" in result.stderr) == warned
    assert (f"ip_unprivileged_port_start={port}" in result.stderr) == warned
