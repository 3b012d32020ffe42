from ipaddress import IPv4Address, IPv6Address
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
        address: int | bytes,
        port: int,
        gso: GsoState,
        *,
        ifindex: int = 0,
        link: str = "",
        source_address: int | bytes | None = None,
        source_port: int = 0,
        exact_port: bool = False,
        ttl: int = 16,
        dscp: int = -1,
        payload_max: int = 0,
        workers: int = 1,
        df: bool = False,
        bind_source: bool = False,
        keep_address: bool = False,
        keep_port: bool = False,
        port_sockets: int = 8,
        addressed: bool = False,
        vlan: int = 0,
        mac: int = 0,
    ) -> EgressSocket: ...
    def ask_again(self) -> None: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    @property
    def local_address(self) -> IPv4Address | IPv6Address: ...
