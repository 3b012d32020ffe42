from typing import final

@final
class PolicerState:
    def __new__(cls, rate: int, bits: bool) -> PolicerState: ...
