"""How much work a call is, whatever the machine and however busy it is: the bytecodes that it executes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FEW, MANY = 60, 480


def steps(work: Callable[[], object]) -> int:
    """Count them. What C functions do within (a dict, a sort, a copy) counts as one."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def growth(prepare: Callable[[int], Callable[[], object]]) -> float:
    """How many times as much each of many costs as each of few: 1 where the work is linear, up to 8 where quadratic.

    ``prepare(n)`` gives the work for *n* things, and itself is not counted.
    """
    few, many = steps(prepare(FEW)), steps(prepare(MANY))
    return many / few * FEW / MANY
