from typing import TypeAlias, final

from .counters import Block
from .egress import EgressSocket
from .ring import RingSocket

_Prefix: TypeAlias = tuple[int, int]
_Output: TypeAlias = tuple[EgressSocket | None, Block, int, bool]
_Input: TypeAlias = tuple[int, int, int, int, Block, list[_Prefix], list[_Output]]

@final
class PlanOwner:
    def __new__(cls, generation: int, rings: list[RingSocket], inputs: list[_Input]) -> PlanOwner: ...
    @property
    def generation(self) -> int: ...
