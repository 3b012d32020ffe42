from collections.abc import Iterable, Sequence
from typing import TypeAlias, final

from .counters import CounterBlock
from .egress import EgressSocket
from .policer import PolicerState
from .queue import Scratch
from .ring import RingSocket

_Prefix: TypeAlias = tuple[int, int]
_Output: TypeAlias = tuple[EgressSocket | None, CounterBlock, int, bool]
_Plain: TypeAlias = tuple[int, int, int, int, CounterBlock, list[_Prefix], list[_Output]]
_Policed: TypeAlias = tuple[int, int, int, int, CounterBlock, list[_Prefix], list[_Output], PolicerState | None]

@final
class PlanOwner:
    def __new__(
        cls,
        generation: int,
        rings: list[RingSocket],
        inputs: Sequence[_Plain | _Policed],
        own: Iterable[tuple[int, int, int, int]] = (),
        loopback: Iterable[int] = (),
        scratch: Scratch | None = None,
        worker: int = 0,
        beginnings: Iterable[tuple[CounterBlock, CounterBlock]] = (),
    ) -> PlanOwner: ...
    @property
    def generation(self) -> int: ...
