from typing import final

VERDICTS: tuple[str, ...]
DROPS: tuple[str, ...]
SEND_ERRORS: tuple[str, ...]
FRAME_WORDS: int
INPUT_WORDS: int
OUTPUT_WORDS: int

@final
class Block:
    def __new__(cls, words: int) -> Block: ...
    def read(self) -> tuple[int, ...]: ...
