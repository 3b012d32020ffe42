"""Counters of the kernel engine over a restart.

The program counts on while the process is away, in maps that the service manager keeps with a description of them: a
file in memory that says whose counters stand where, and what they had before. The next process adds all of it up once
the former program has seen its last packet. Main thread.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcrelay.engine import program

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mcrelay.engine.table import Keeper
    from mcrelay.model.state import CounterKey

log = logging.getLogger(__name__)
COUNTERS = "kernel-counters-"  # names in the keeper's hands begin so; a map's name or `description` follows
MAPS = ("received", "sent", "frames")
DESCRIPTION = "description"
LAYOUT = 1  # of the description
DESCRIBED_MAX = 1 << 26  # bytes


@dataclass(frozen=True, slots=True)
class Described:
    """One counter of a description: the slots that it has in its map, and what it had before them.

    ``beside`` is what stands in no map: of an input Unix nanoseconds of the last datagram, of an output its ``since``.
    """

    slots: tuple[int, ...]
    past: tuple[int, ...]
    beside: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """Whose counters stand where. Links by name, the others by rule and stream."""

    inputs: Mapping[CounterKey, Described]
    outputs: Mapping[CounterKey, Described]
    links: Mapping[str, Described]


@dataclass(frozen=True, slots=True)
class Former:
    """What the process before us has counted, as in a Description, and nothing more in any slot.

    Of an input there is a third count: of CLOCK_MONOTONIC, the nanoseconds of the last datagram in a slot.
    """

    inputs: dict[CounterKey, Described]
    outputs: dict[CounterKey, Described]
    links: dict[str, Described]


class Handover:
    """What a keeper has of the process before us, and has of us."""

    def __init__(self, keeper: Keeper | None, inherited: Iterable[tuple[str, int]]) -> None:
        self._keeper = keeper
        self._left = {name.removeprefix(COUNTERS): fd for name, fd in inherited if name.startswith(COUNTERS)}
        self._description = -1

    @property
    def pending(self) -> bool:
        """Whether there is something of the process before us."""
        return bool(self._left)

    def take(self) -> Former | None:
        """Add up what the former process has counted, now that it counts no more; None if it cannot be understood."""
        try:
            return _add_up(self._left)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("cannot read the counters of the former process, they begin at 0: %s", error)
            return None
        finally:
            self.release()

    def release(self) -> None:
        """Let go of what the former process has left."""
        for name, fd in self._left.items():
            if self._keeper is not None:
                self._keeper.forget(f"{COUNTERS}{name}")
            os.close(fd)
        self._left = {}

    def keep(self, maps: Mapping[str, int], description: Description) -> None:
        """Have the keeper hold our maps, and describe what stands in them now."""
        if self._keeper is None:
            return
        if self._description < 0:
            self._description = os.memfd_create("mcrelay-counters", os.MFD_CLOEXEC)
            self._keeper.store(self._description, f"{COUNTERS}{DESCRIPTION}")
            for name in MAPS:
                self._keeper.store(maps[name], f"{COUNTERS}{name}")
        parts = {"inputs": description.inputs, "outputs": description.outputs}
        described: dict[str, Any] = {
            kind: [[*key, each.slots, each.past, each.beside] for key, each in part.items()]
            for kind, part in parts.items()
        }
        described["links"] = [[name, each.slots, each.past] for name, each in description.links.items()]
        text = json.dumps({"layout": LAYOUT, **described}).encode()
        os.pwrite(self._description, text, 0)
        os.ftruncate(self._description, len(text))

    def forget(self) -> None:
        """Have the keeper let go of ours."""
        if self._description < 0 or self._keeper is None:
            return
        for name in (DESCRIPTION, *MAPS):
            self._keeper.forget(f"{COUNTERS}{name}")
        self.close()

    def close(self) -> None:
        """Close what is ours; the keeper has its own descriptors."""
        if self._description >= 0:
            os.close(self._description)
        self._description = -1


def _add_up(left: Mapping[str, int]) -> Former | None:
    if not left:
        return None
    text: Any = json.loads(os.pread(left[DESCRIPTION], DESCRIBED_MAX, 0))
    if text["layout"] != LAYOUT:
        raise ValueError(f"their description has the layout {text['layout']}")

    def total(name: str, slots: Iterable[int], past: Iterable[int], beside: int = 0, newest: int = -1) -> Described:
        sums = list(past)
        for slot in slots:
            more = program.read_counters(left[name], slot, len(sums), newest)
            sums = [max(a, b) if i == newest else a + b for i, (a, b) in enumerate(zip(sums, more, strict=True))]
        return Described((), tuple(sums), beside)

    return Former(
        {(rule, end): total("received", slots, (*past, 0), ns, 2) for rule, end, slots, past, ns in text["inputs"]},
        {(rule, end): total("sent", slots, past, since) for rule, end, slots, past, since in text["outputs"]},
        {name: total("frames", slots, past) for name, slots, past in text["links"]},
    )
