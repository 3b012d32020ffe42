"""docs/reading-show.md explains every word that `show` prints, and no word that it does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from mcrelay._core.counters import DROPS, SEND_ERRORS, VERDICTS
from mcrelay.model.plan import RuleState

PAGE = (Path(__file__).resolve().parents[3] / "docs/reading-show.md").read_text()


def words(heading: str) -> list[str]:
    """The first cells of the table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("States of a rule", get_args(RuleState)),
        ("Drops of a rule", DROPS),
        ("Errors of an output", SEND_ERRORS),
        ("Verdicts of a frame", VERDICTS),
    ],
)
def test_every_word_has_a_row(heading, known):
    assert sorted(words(heading)) == sorted(known)
