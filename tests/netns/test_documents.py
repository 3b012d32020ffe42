"""Every command of README and docs, run as it stands there; what is shown of its output is what it prints."""

from __future__ import annotations

import contextlib
import json
import re
import shlex

import click
import pytest
from support import documents
from support.documents import ROOT, Step, clean, differs, left_out, steps, walk

from mcrelay.cli import COMMANDS, cli

PAPERS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WALKED = [path for path in PAPERS if steps(path.read_text())]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.net
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", WALKED, ids=lambda path: path.name)
def test_what_a_document_says_is_what_happens(path):
    if reason := documents.missing():
        pytest.skip(reason)
    walk(path)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_what_a_document_links_to_is_there(path):
    for target in LINK.findall(path.read_text()):
        file, _, heading = target.partition("#")
        if file.startswith("http"):
            continue
        other = (path.parent / file).resolve() if file else path
        assert other.exists(), target
        if heading:
            titles = re.findall("(?m)^#+ (.*)$", other.read_text())
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_no_command_stands_in_a_block_that_is_not_run(path):
    """A block is of a kind that is walked, or another language's."""
    fences = re.findall(r"(?m)^ *```(.*)$", path.read_text())
    assert set(fences[::2]) <= {"console", "sh", "text", "toml", "yaml"}
    assert set(fences[1::2]) <= {""}


# Every command line of a document that is not run as it stands there (tests/support/documents.py says why).
NOT_RUN = """
README.md: make demo
README.md: make test
README.md: apt install ./mcrelay_0.1.0_amd64.deb
README.md: install -m 755 mcrelay /usr/local/bin/
nothing-arrives.md: sudo ip link add link eth1 name eth1.100 type vlan id 100
nothing-arrives.md: sudo ip link set eth1.100 up
operating.md: sudo cp /usr/share/doc/mcrelay/examples/kernel-engine.conf /etc/systemd/system/mcrelay.service.d/
operating.md: docker run --rm --network host --cap-drop ALL --cap-add NET_RAW --cap-add SETUID --cap-add SETGID \\
operating.md: sudo apt purge mcrelay
ten-minutes.md: ffplay udp://239.10.0.1:5004
ten-minutes.md: vlc udp://@239.10.0.1:5004
upgrading.md: sudo apt install ./mcrelay_0.1.0_amd64.deb
"""


def test_the_commands_that_are_not_run_are_these_alone():
    found = []
    for path in PAPERS:
        for step in steps(path.read_text()):
            if isinstance(step, Step) and left_out(step):
                found.append(f"{path.name}: {step.command.splitlines()[0].partition(' #')[0].strip()}")
    assert found == NOT_RUN.split("\n")[1:-1]


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_a_command_in_a_sentence_is_one_that_can_be_typed(path):
    """Of a command line in a sentence or a table: the command, its options and the number of its words."""
    prose = re.sub(r"(?s)```.*?```|<!--.*?-->", "", path.read_text())
    for line in re.findall(r"`(?:sudo )?(?:\.venv/bin/)?mcrelay ([^`\n]+)`", prose):
        words = shlex.split(line)
        if words[0].startswith("-"):
            words.insert(0, "")
        elif len(words) == 1:
            assert words[0] in COMMANDS, line
            continue
        command = cli.get_command(click.Context(cli), words[0]) if words[0] else cli
        assert command is not None, line
        with contextlib.suppress(click.exceptions.Exit):
            command.make_context(words[0], words[1:])


def test_the_index_has_every_document_once():
    named = LINK.findall((ROOT / "docs/README.md").read_text())
    here = sorted(path.name for path in PAPERS[1:] if path.name != "README.md")
    assert sorted(name for name in named if "/" not in name) == here


def test_a_json_key_that_a_document_names_exists():
    shapes = json.dumps([*map(str, documents.json_paths())])
    for path in PAPERS:
        for key in re.findall(r"jq [^\n]*?\.(\w+_\w+)", path.read_text()):
            assert key in shapes, f"{path.name}: {key}"


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["in 4 573  out 4 573  lost 0"], ["in 12 345  out 12 345  lost 0"]),
        (["to 239.1.1.1 port 5001"], ["to 239.1.1.1  port 5001"]),
        (["a", "...", "c"], ["a", "x", "y", "c"]),
        (["...", "c"], ["x", "c"]),
        (["took 3.1 ms"], ["took 12.0 us"]),
        (["a", "b"], ["a", "12:00:01 INFO heard link=eth1 querier=0.0.0.0 version=3", "b"]),
        (["queries eth1 in IGMP version 3, 4 s ago"], ["queries eth1 in IGMP version 3, and this host hears it"]),
    ],
)
def test_what_varies_from_run_to_run_is_no_difference(shown, printed):
    assert differs(shown, printed) == ""


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["to port 5001"], ["to port 5002"]),
        (["to 239.1.1.1:5000%eth0"], ["to 239.1.1.2:5000%eth0"]),
        (["active"], ["pending"]),
        (["a"], ["a", "b"]),
        (["a", "b"], ["a"]),
        (["a", "...", "c"], ["a", "x"]),
        (["1 rule"], ["no rule"]),
        (["a"], ["12:00:01 WARNING warns link=eth1 warning=silent-querier", "a"]),
        (["queries eth1 in IGMP version 3, 4 s ago"], ["queries eth1 in MLD version 2, 4 s ago"]),
    ],
)
def test_what_is_told_otherwise_is_a_difference(shown, printed):
    assert differs(shown, printed)


def test_of_a_line_that_is_written_anew_the_last_counts():
    assert clean("\r\x1b[Kin 1\r\x1b[Kin 2\r\x1b[K\x1b[1mreceived 2\x1b[0m\n") == ["received 2"]
    assert clean("flows\n\x1b[H\x1b[Jflows again\n") == ["flows again"]
