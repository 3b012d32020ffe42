"""Counters of the process before us: what is not understood is let go of, and counts begin at 0."""

from __future__ import annotations

import json
import os

import pytest

from mcrelay.engine.handover import COUNTERS, DESCRIPTION, LAYOUT, Described, Description, Handover


class Keeper:
    def __init__(self) -> None:
        self.kept: dict[str, int] = {}
        self.forgotten: list[str] = []

    def store(self, fd: int, name: str) -> None:
        self.kept[name] = os.dup(fd)

    def forget(self, name: str) -> None:
        self.forgotten.append(name)


def left(text: bytes) -> list[tuple[str, int]]:
    fd = os.memfd_create("left")
    os.write(fd, text)
    return [(f"{COUNTERS}{DESCRIPTION}", fd)]


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"{}", json.dumps({"layout": LAYOUT + 1}).encode(), json.dumps({"layout": LAYOUT}).encode()],
)
def test_a_description_that_is_not_understood_is_closed_and_forgotten(text):
    keeper = Keeper()
    inherited = left(text)
    handover = Handover(keeper, inherited)
    assert handover.pending
    assert handover.take() is None
    assert not handover.pending
    assert keeper.forgotten == [f"{COUNTERS}{DESCRIPTION}"]
    with pytest.raises(OSError):
        os.fstat(inherited[0][1])


def test_what_is_described_is_read_again_by_the_next_process():
    """Without slots: what stood in maps is for tests with a kernel. The latest description is the one that holds."""
    keeper = Keeper()
    handover = Handover(keeper, [])
    maps = {name: os.open(os.devnull, os.O_RDONLY) for name in ("received", "sent", "frames")}
    long = Description({("a" * 50, "in"): Described((), (1, 2), 3)}, {}, {})
    handover.keep(maps, long)
    handover.keep(
        maps,
        Description(
            {("x", "in"): Described((), (5, 50), 7)},
            {("x", "out"): Described((), (4, 40, 0), 1)},
            {"in0": Described((), (5, 0))},
        ),
    )
    assert len(keeper.kept) == 4
    former = Handover(keeper, keeper.kept.items()).take()
    assert former is not None
    assert former.inputs == {("x", "in"): Described((), (5, 50, 0), 7)}
    assert former.outputs == {("x", "out"): Described((), (4, 40, 0), 1)}
    assert former.links == {"in0": Described((), (5, 0))}
    handover.forget()
    assert sorted(keeper.forgotten[-4:]) == sorted(keeper.kept)
    for fd in maps.values():
        os.close(fd)


def test_without_a_keeper_nothing_is_kept():
    handover = Handover(None, [])
    handover.keep({}, Description({}, {}, {}))
    handover.forget()
    handover.close()
    assert not handover.pending
