"""The references in docs are what their script makes of the code as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


@pytest.mark.parametrize("name", reference.TEXTS)
def test_the_committed_text_is_what_the_script_makes(name):
    made, committed = reference.TEXTS[name](), (DOCS / name).read_text()
    assert made == committed, "run .venv/bin/python docs/reference.py, and commit what it writes"


def test_no_key_of_the_json_goes_without_a_text():
    bare = [path for shape in reference.SHAPES.values() for path, _, text in reference._keys(shape, "") if not text]
    assert bare == []
