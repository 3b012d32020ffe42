from typing import final

VERDICTS: tuple[str, ...]
DROPS: tuple[str, ...]
SEND_ERRORS: tuple[str, ...]
FRAME_WORDS: int
INPUT_WORDS: int
OUTPUT_WORDS: int

@final
class CounterBlock:
    def __new__(cls, words: int) -> CounterBlock: ...
    def read(self) -> tuple[int, ...]: ...
