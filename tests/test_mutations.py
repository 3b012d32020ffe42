"""The list of faults by which the rows of the table of packets are shown to fail is whole, and fits the code."""

from __future__ import annotations

import pytest
from mutations import ROOT, faults
from netns.test_packets import ROWS

FAULTS = faults()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_can_be_made(fault):
    assert fault.made_in((ROOT / fault.file).read_text())
    assert fault.rows or fault.tests


def test_every_row_fails_with_some_fault():
    assert {row for fault in FAULTS for row in fault.rows} == {row.what for row in ROWS}
