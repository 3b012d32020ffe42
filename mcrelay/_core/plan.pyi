from collections.abc import Iterable
from typing import final

from .counters import CounterBlock
from .egress import EgressSocket
from .policer import PolicerState
from .queue import Scratch
from .ring import RingSocket

@final
class PlanOwner:
    @property
    def sealed(self) -> bool: ...
    def __new__(cls, generation: int, *, scratch: Scratch | None = None, worker: int = 0) -> PlanOwner: ...
    def add_ring(self, ring: RingSocket, *, loopback: bool = False) -> int: ...
    def add_flow(self) -> int: ...
    def add_output(
        self,
        *,
        flow: int,
        socket: EgressSocket | None,
        counters: CounterBlock,
        burst: int,
        keep_dscp: bool,
        keep_ttl: bool = False,
        hops: int = 0,
    ) -> None: ...
    def add_input(
        self,
        *,
        flow: int,
        ring: int,
        group: int,
        source: int = 0,
        port: int,
        counters: CounterBlock,
        allow: Iterable[tuple[int, int]] = (),
        policer: PolicerState | None = None,
        label: tuple[str, str] | None = None,
        bypassed: bool = False,
    ) -> int: ...
    def add_own(self, *, source: int, source_port: int, address: int, port: int) -> None: ...
    def add_beginning(self, *, output: CounterBlock, of_input: CounterBlock) -> None: ...
    def explain(
        self, frame: bytes, *, ring: int, tci: int | None = None
    ) -> tuple[str, tuple[str, str] | None, str | None]: ...
    def seal(self) -> PlanOwner: ...
    @property
    def generation(self) -> int: ...
