from ipaddress import IPv4Address
from typing import final

@final
class GsoState:
    def __new__(cls, allowed: bool = True) -> GsoState: ...
    def ask_again(self) -> None: ...
    @property
    def allowed(self) -> bool: ...

@final
class EgressSocket:
    @property
    def sndbuf(self) -> int: ...
    @property
    def source_port(self) -> int: ...
    @property
    def workers(self) -> int: ...
    def __new__(
        cls,
        address: int,
        port: int,
        gso: GsoState,
        *,
        ifindex: int = 0,
        link: str = "",
        source_address: int = 0,
        source_port: int = 0,
        exact_port: bool = False,
        ttl: int = 16,
        dscp: int = -1,
        payload_max: int = 0,
        workers: int = 1,
        df: bool = False,
        bind_source: bool = False,
    ) -> EgressSocket: ...
    def ask_again(self) -> None: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    @property
    def local_address(self) -> IPv4Address: ...
