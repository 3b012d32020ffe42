"""`mcrelay top` on a terminal, with a real relay behind it."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest
from support.relay import GROUP, INPUT, relaying
from support.terminal import Terminal
from support.traffic import MCRELAY, sender

pytestmark = pytest.mark.net

RULES = f"""
[rules.lobby]
input = "{INPUT}"
outputs = ["239.10.0.1:5004%out0"]
[rules.idle]
input = "239.7.7.7:5000%in0"
outputs = ["239.10.0.2:5004%out0"]
"""
COLOUR = re.compile(r"\033\[[0-9;]*3[0-7][0-9;]*m")
ERASE = re.compile(r"\033\[[0-3]?[JK]")


@pytest.fixture(scope="module")
def relay():
    """A relay with a stream of 500 datagrams a second."""
    with relaying(RULES) as running:
        sender(running.lab.source, f"{GROUP}:2068%eth0", "--rate", 500)
        running.wait_for(lambda: running.rule("lobby")["rx_packets"], "the stream")
        yield running


def top(relay, **options):
    return Terminal(*MCRELAY, "top", "--socket", relay.socket, **options)


def flows(frame):
    """Whether the rule is seen to carry its stream."""
    line = next((each for each in frame if each[1:].startswith("lobby")), "")
    found = re.match(r".lobby +active +v3 +(\d+) ", line)
    return found is not None and 300 < int(found[1]) < 800


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (160, 50)])
def test_the_picture_fills_the_terminal_and_is_never_erased_between_frames(relay, columns, lines):
    with top(relay, columns=columns, lines=lines) as terminal:
        frame = terminal.wait_for(flows, "the stream's rate")
        assert len(frame) == lines
        assert all(len(line) <= columns for line in frame)
        assert frame[1].startswith("in0 UP, ")
        assert frame[-1].startswith("q quit")
        terminal.wait_for(lambda frame: any("██" in each for each in frame), "the last minute")
        assert not ERASE.search(terminal.drawn.partition("\033[H")[2]), "what is erased first is seen to flicker"
        terminal.press("q")
        assert terminal.end() == 0


def test_keys_sort_and_filter_and_hide_outputs(relay):
    with top(relay) as terminal:
        terminal.wait_for(flows, "the stream's rate")
        terminal.press("n")
        terminal.wait_for(lambda frame: frame[3][1:].startswith("idle"), "names in order")
        terminal.press("o")
        terminal.wait_for(lambda frame: frame[4][1:].startswith("lobby"), "rules alone")
        terminal.press("/lob\r")
        terminal.wait_for(lambda frame: frame[3].startswith(">lobby") and not frame[4].strip(), "what is filtered")
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.parametrize("end", ["q", "\x03", signal.SIGTERM])
def test_however_it_ends_the_terminal_is_as_it_was_found(relay, end):
    with top(relay) as terminal:
        terminal.wait_for(lambda frame: "lobby" in str(frame), "a picture")
        assert terminal.settings != terminal.before
        if isinstance(end, str):
            terminal.press(end)
        else:
            terminal.process.send_signal(end)
        assert terminal.end() == 0
        assert terminal.settings == terminal.before
        assert terminal.drawn.rstrip().endswith(("\033[?25h", "\033[?1049l")), repr(terminal.drawn[-60:])
        assert "Traceback" not in terminal.drawn


def test_another_size_of_the_terminal_is_drawn_at_once(relay):
    with top(relay) as terminal:
        terminal.wait_for(flows, "the stream's rate")
        terminal.resize(120, 30)
        frame = terminal.wait_for(lambda frame: len(frame) == 30, "a taller picture")
        assert any("WHY" in line for line in frame)
        terminal.interrupt()
        assert terminal.end() == 0


def test_no_color_is_honoured(relay):
    with top(relay) as terminal:
        terminal.wait_for(flows, "the stream's rate")
        assert COLOUR.search(terminal.drawn)
    with top(relay, environment={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for(flows, "the stream's rate")
        assert not COLOUR.search(terminal.drawn)


@pytest.mark.parametrize("terminal_type", [None, "dumb"])
def test_where_nothing_can_be_drawn_one_plain_look_is_printed(relay, terminal_type):
    command = [*MCRELAY, "top", "--socket", relay.socket]
    if terminal_type is None:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    else:
        with Terminal(*command, environment={"TERM": terminal_type}) as terminal:
            assert terminal.end(30) == 0
            shown = terminal.drawn
    assert "\033" not in shown
    assert re.search(r"^lobby +- +active +v3 +\d{3} ", shown, re.MULTILINE), shown
    assert re.search(r"^lobby +239.10.0.1:5004%out0 +active ", shown, re.MULTILINE), shown


def test_without_a_relay_it_says_so(tmp_path):
    done = subprocess.run(
        [*MCRELAY, "top", "--socket", str(tmp_path / "none.sock")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "no relay is running" in done.stderr


def test_a_relay_that_stops_is_said_and_the_next_one_is_found():
    with relaying(RULES) as relay, top(relay) as terminal:
        terminal.wait_for(lambda frame: "lobby" in str(frame), "a picture")
        relay.stop()
        frame = terminal.wait_for(lambda frame: "no answer, trying again" in frame[0], "word of the end")
        assert any("lobby" in line for line in frame), "what was known stays"
        relay.start()
        terminal.wait_for(lambda frame: "2 rules" in frame[0], "the next relay")
        terminal.press("q")
        assert terminal.end() == 0
