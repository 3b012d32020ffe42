from typing import final

VERDICTS: tuple[str, ...]
REFUSALS: tuple[str, ...]
DROPS: tuple[str, ...]
SEND_ERRORS: tuple[str, ...]
FRAME_FIELDS: tuple[str, ...]
FRAGMENT_FIELDS: tuple[str, ...]
INPUT_FIELDS: tuple[str, ...]
OUTPUT_FIELDS: tuple[str, ...]
TIME_BOUNDS_NS: tuple[int, ...]
TIME_FIELDS: tuple[str, ...]
STREAM_FIELDS: tuple[str, ...]
RTP_FIELDS: tuple[str, ...]
TRANSPORT_FIELDS: tuple[str, ...]

@final
class CounterBlock:
    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> int: ...
    def __new__(cls, fields: tuple[str, ...], groups: int = 1) -> CounterBlock: ...
    def read(self) -> tuple[int, ...]: ...
    def read_groups(self) -> dict[int, tuple[int, ...]]: ...
