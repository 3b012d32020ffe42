from typing import final

@final
class KeptMemory:
    def __new__(cls) -> KeptMemory: ...
