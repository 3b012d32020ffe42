from typing import final

VERDICTS: tuple[str, ...]
REFUSALS: tuple[str, ...]
DROPS: tuple[str, ...]
SEND_ERRORS: tuple[str, ...]
FRAME_FIELDS: tuple[str, ...]
FRAGMENT_FIELDS: tuple[str, ...]
INPUT_FIELDS: tuple[str, ...]
OUTPUT_FIELDS: tuple[str, ...]

@final
class CounterBlock:
    @property
    def fields(self) -> tuple[str, ...]: ...
    def __new__(cls, fields: tuple[str, ...]) -> CounterBlock: ...
    def read(self) -> tuple[int, ...]: ...
