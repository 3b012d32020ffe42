from typing import final

@final
class PolicerState:
    @property
    def groups(self) -> int: ...
    def __new__(cls, rate: int, bits: bool, groups: int = 1) -> PolicerState: ...
