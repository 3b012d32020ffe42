"""Tables as wide as the terminal, numbers for people and for programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcrelay.commands.demo import IPV4, IPV6
from mcrelay.commands.table import bit_rate, columns, digits, fold, render

HEADER = ["RULE", "STATE", "INPUT", "OUTPUT"]
ROWS = [
    ["x", "active", "192.168.168.55@226.2.2.2:2068%in0", "239.10.0.1:5004%out0"],
    ["", "", "", "239.10.0.2:5004%out0"],
    ["longer", "pending", "239.1.1.1:5000%in0", "10.9.0.7:7000"],
]


def test_a_pipe_has_one_record_a_line():
    lines = render(HEADER, ROWS, colour=False).splitlines()
    assert [line.split() for line in lines] == [HEADER, ROWS[0], [*ROWS[0][:3], ROWS[1][3]], ROWS[2]]


@pytest.mark.parametrize("width", range(40, 120))
def test_a_terminal_has_no_line_wider_than_itself(width):
    text = render(HEADER, ROWS, colour=False, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert sorted(text.split()) == sorted([*HEADER, *(cell for row in ROWS for cell in row if cell)])


def test_what_does_not_fit_stands_indented_in_a_second_line():
    assert render(HEADER, ROWS, colour=False, width=60) == (
        "RULE    STATE    INPUT\n"
        "  OUTPUT\n"
        "x       active   192.168.168.55@226.2.2.2:2068%in0\n"
        "  239.10.0.1:5004%out0\n"
        "  239.10.0.2:5004%out0\n"
        "longer  pending  239.1.1.1:5000%in0\n"
        "  10.9.0.7:7000"
    )


@pytest.mark.parametrize(("terminal", "shown"), [(True, "12 345 678"), (False, "12345678")])
def test_digits_are_grouped_for_people_and_plain_in_a_pipe(monkeypatch, terminal, shown):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert digits(12_345_678) == shown
    assert digits(1.25, 1) in {"1.2", "1.3"}


@pytest.mark.parametrize(
    ("bits", "shown"),
    [(0, "0 bit/s"), (999, "999 bit/s"), (999.7, "1 kbit/s"), (52_640_000, "52.6 Mbit/s"), (1e10, "10 Gbit/s")],
)
def test_bit_rates_have_the_unit_that_fits(bits, shown):
    assert bit_rate(bits) == shown


def test_a_sentence_is_folded_for_a_terminal_alone():
    text = "x: error: " + "word " * 40
    assert fold(text, None) == text
    assert all(len(line) <= 60 for line in fold(text, 60).splitlines())


def test_a_command_in_a_sentence_stays_whole_so_that_it_can_be_copied():
    text = "see whether it leaves its sender, and where it ends: `tcpdump -ni LINK host 239.1.1.1`; then mend it"
    for width in range(40, 100):
        assert "`tcpdump -ni LINK host 239.1.1.1`" in fold(text, width)
    assert "sender, and\n" in fold(text, 40)


def test_make_help_fits_a_terminal():
    root = Path(__file__).resolve().parents[3]
    shown = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "release-check" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_the_demos_drawing_fits_a_terminal(family):
    assert max(map(len, family.picture.splitlines())) <= 80


@pytest.mark.parametrize(("said", "width"), [("100", 100), ("wide", 60), ("-3", 60), ("0", 60), ("", 60)])
def test_a_width_that_the_environment_does_not_say_in_digits_is_asked_of_the_terminal(monkeypatch, said, width):
    monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((60, 24)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1)
    assert columns() == width
