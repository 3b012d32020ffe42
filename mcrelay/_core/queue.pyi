from typing import final

@final
class Scratch:
    def __new__(cls) -> Scratch: ...
