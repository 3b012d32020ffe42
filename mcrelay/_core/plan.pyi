from collections.abc import Iterable
from typing import final

from .counters import CounterBlock
from .egress import EgressSocket
from .health import HealthState
from .kept import KeptMemory
from .policer import PolicerState
from .queue import Scratch
from .ring import RingSocket

@final
class PlanOwner:
    @property
    def sealed(self) -> bool: ...
    def __new__(cls, generation: int, *, scratch: Scratch | None = None, worker: int = 0) -> PlanOwner: ...
    def add_ring(self, ring: RingSocket, *, loopback: bool = False) -> int: ...
    def add_flow(self, *, times: CounterBlock | None = None, addressed: bool = False, lanes: int = 1) -> int: ...
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
        kept: KeptMemory | None = None,
        mac: int = 0,
        group: int | bytes = 0,
        port: int = 0,
        spans: Iterable[tuple[int, int, int]] = (),
    ) -> None: ...
    def add_input(
        self,
        *,
        flow: int,
        ring: int,
        group: int | bytes,
        source: int | bytes = 0,
        port: int = 0,
        spans: Iterable[tuple[int, int]] = (),
        counters: CounterBlock,
        allow: Iterable[tuple[int | bytes, int | bytes]] = (),
        policer: PolicerState | None = None,
        label: tuple[str, str] | None = None,
        bypassed: bool = False,
        health: HealthState | None = None,
        vlan: int | None = 0,
    ) -> int: ...
    def add_own(
        self, *, source: int | bytes, source_port: int, address: int | bytes, port: int, groups: int = 1
    ) -> None: ...
    def add_kept(self, memory: KeptMemory) -> None: ...
    def add_beginning(self, *, output: CounterBlock, of_input: CounterBlock) -> None: ...
    def explain(
        self, frame: bytes, *, ring: int, tci: int | None = None
    ) -> tuple[str, tuple[str, str] | None, str | None]: ...
    def seal(self) -> PlanOwner: ...
    @property
    def generation(self) -> int: ...
