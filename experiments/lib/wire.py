"""What goes over the wire: frames built and read, IGMP spoken and overheard, memberships, test datagrams."""

from __future__ import annotations

import contextlib
import ctypes
import json
import secrets
import select
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

from lab import pinned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab import Namespace

ETH_P_IP, ETH_P_ALL = 0x0800, 0x0003
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 1, 6, 23
PACKET_MR_MULTICAST = 0
SO_ATTACH_FILTER = 26
IGMP = 2

RECORDS = {1: "IS_IN", 2: "IS_EX", 3: "TO_IN", 4: "TO_EX", 5: "ALLOW", 6: "BLOCK"}
SIMPLE = {0x11: "query", 0x12: "v1 report", 0x16: "v2 report", 0x17: "v2 leave"}
MEMBER = {"IS_EX", "TO_EX", "v1 report", "v2 report"}  # for a join without sources
LEAVE = {"TO_IN", "v2 leave"}


class Message(NamedTuple):
    """One thing that one IGMP packet says about one group."""

    source: str
    kind: str
    group: str

    def __str__(self) -> str:
        return f"{self.source} {self.kind} {self.group}"


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def group_mac(group: str) -> bytes:
    low = struct.unpack("!I", socket.inet_aton(group))[0] & 0x7FFFFF
    return b"\x01\x00\x5e" + low.to_bytes(3, "big")


def ip_frame(
    source: str, target: str, protocol: int, body: bytes, *, ttl: int = 1, options: bytes = b"", mac: bytes = b""
) -> bytes:
    head = 20 + len(options)
    fields = (0x40 | head // 4, 0, head + len(body), 0, 0, ttl, protocol, 0)
    header = struct.pack("!BBHHHBBH", *fields) + socket.inet_aton(source) + socket.inet_aton(target) + options
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return (mac or group_mac(target)) + b"\x02\0\0\0\0\x01" + struct.pack("!H", ETH_P_IP) + header + body


ROUTER_ALERT = b"\x94\x04\x00\x00"


def udp_frame(source: str, target: str, port: int, payload: bytes, *, mac: bytes = b"") -> bytes:
    """A datagram without a UDP checksum: for sources that no stack of ours would send from."""
    body = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload
    return ip_frame(source, target, socket.IPPROTO_UDP, body, ttl=8, mac=mac)


def query(group: str | None = None, *, source: str = "192.0.2.2", version: int = 3, response_s: float = 0.5) -> bytes:
    body = struct.pack("!BBH4s", 0x11, int(response_s * 10), 0, socket.inet_aton(group or "0.0.0.0"))
    if version == 3:
        body += struct.pack("!BBH", 2, 0, 0)  # robustness 2, no sources
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ip_frame(source, group or "224.0.0.1", IGMP, body, options=ROUTER_ALERT)


def report(group: str, *, source: str, record: int = 4) -> bytes:
    """An IGMPv3 report as a program can send it without the kernel's help."""
    body = struct.pack("!BBHHHBBH4s", 0x22, 0, 0, 0, 1, record, 0, 0, socket.inet_aton(group))
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ip_frame(source, "224.0.0.22", IGMP, body, options=ROUTER_ALERT)


def igmp(frame: bytes) -> Iterator[Message]:
    if frame[12:14] != b"\x08\x00" or frame[23] != IGMP:
        return
    source = socket.inet_ntoa(frame[26:30])
    body = frame[14 + (frame[14] & 15) * 4 :]
    if body[0] == 0x22:
        at = 8
        for _ in range(struct.unpack("!H", body[6:8])[0]):
            kind, extra, sources = struct.unpack("!BBH", body[at : at + 4])
            yield Message(source, RECORDS[kind], socket.inet_ntoa(body[at + 4 : at + 8]))
            at += 8 + 4 * (sources + extra)
    elif body[0] in SIMPLE:
        yield Message(source, SIMPLE[body[0]], socket.inet_ntoa(body[4:8]))


class Tap:
    """An AF_PACKET socket on one interface: hears, and speaks whole frames."""

    def __init__(
        self, ns: Namespace, ifname: str = "eth0", protocol: int = ETH_P_ALL, *, program: list | None = None
    ) -> None:
        self.sock = ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # hears nothing until it is bound
        self.sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        if program:
            attach_filter(self.sock, program)
        with ns:
            self.sock.bind((ifname, protocol))

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, frame: bytes) -> None:
        self.sock.send(frame)

    def frames(self, seconds: float) -> Iterator[bytes]:
        """Every frame heard within the time."""
        end = time.monotonic() + seconds
        while True:
            ready = select.select([self.sock], [], [], max(0.0, end - time.monotonic()))[0]
            if not ready:
                return
            try:
                yield self.sock.recv(65535)
            except OSError:  # ENETDOWN: said once when the link goes, then capture goes on
                continue

    def drain(self) -> None:
        for _ in self.frames(0):
            pass

    def listen(self, seconds: float, until: Callable[[Message], bool] | None = None) -> list[Message]:
        """The IGMP messages of the next seconds, or up to the first one that satisfies `until`."""
        heard = []
        for frame in self.frames(seconds):
            for message in igmp(frame):
                heard.append(message)
                if until and until(message):
                    return heard
        return heard


def about(heard: list[Message], group: str, kinds: set[str]) -> int:
    """How many of the messages say one of these kinds of things about the group."""
    return sum(message.group == group and message.kind in kinds for message in heard)


def attach_filter(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(buffer)))


DROP_ALL = [(0x06, 0, 0, 0)]


def join(sock: socket.socket, ns: Namespace, group: str, ifname: str = "eth0") -> None:
    """By interface index: an address would be resolved by the routing table, which may not know the way."""
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership(group, ns.index(ifname)))


def leave(sock: socket.socket, ns: Namespace, group: str, ifname: str = "eth0") -> None:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership(group, ns.index(ifname)))


def membership(group: str, ifindex: int) -> bytes:
    return struct.pack("=4s4si", socket.inet_aton(group), b"\0" * 4, ifindex)


def helper(ns: Namespace, *groups: str, ifname: str = "eth0", port: int | None = None) -> socket.socket:
    """The helper socket: joins, keeps the smallest buffer the kernel grants, is never read. Normally unbound."""
    sock = ns.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    if port:
        sock.bind(("0.0.0.0", port))
    for group in groups:
        join(sock, ns, group, ifname)
    return sock


def take_all(sock: socket.socket) -> int:
    """Datagrams that wait in a socket; they are taken out."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.recv(65535, socket.MSG_DONTWAIT)
            count += 1
    return count


class Stream:
    """Test datagrams to one group. Each carries this run's random id and a sequence number, so nothing else counts."""

    def __init__(self, ns: Namespace, group: str, port: int = 9999, ifname: str = "eth0") -> None:
        self.ns = ns
        self.run_id, self.sent, self.to = secrets.token_bytes(8), 0, (group, port)
        self.sock = ns.socket()
        request = membership("0.0.0.0", ns.index(ifname))
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)

    def send(self, count: int = 10) -> set[int]:
        """Send; the sequence numbers sent."""
        first, self.sent = self.sent, self.sent + count
        for sequence in range(first, self.sent):
            self.sock.sendto(self.payload(sequence), self.to)
        return set(range(first, self.sent))

    def payload(self, sequence: int) -> bytes:
        return self.run_id + struct.pack("!Q", sequence)

    def sequence(self, frame: bytes) -> int | None:
        """Which of our datagrams a frame holds, if any."""
        if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_UDP:
            return None
        at = 14 + (frame[14] & 15) * 4
        group, port = socket.inet_ntoa(frame[30:34]), struct.unpack("!H", frame[at + 2 : at + 4])[0]
        payload = frame[at + 8 :]
        if (group, port) != self.to or payload[:8] != self.run_id:
            return None
        return struct.unpack("!Q", payload[8:16])[0]

    def arrive_at(self, tap: Tap, count: int = 10, settle_s: float = 0.2) -> int:
        """Send, and how many different ones of just these the tap then hears."""
        sent = self.send(count)
        return len(sent & {self.sequence(frame) for frame in tap.frames(settle_s)})

    def paced(self, pace: str, *, rate: int, count: int, size: int = 1316, burst: int = 64) -> subprocess.Popen[str]:
        """The compiled sender, on core 0, sending as this stream; it prints one JSON line when it is done."""
        self.sock.connect(self.to)
        fd = self.sock.fileno()
        words = [pace, fd, self.run_id.hex(), size, rate, count, burst]
        return self.ns.popen(pinned(0, [str(word) for word in words]), stdout=subprocess.PIPE, pass_fds=[fd])


def packet_statistics(sock: socket.socket) -> tuple[int, int]:
    """Frames and drops of an AF_PACKET socket since the last call, for reading them clears them."""
    packets, drops = struct.unpack("=II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return packets, drops


class Relay:
    """The compiled prototype relay on core 1 of its namespace, ready to receive."""

    def __init__(
        self,
        program: str,
        ns: Namespace,
        expect: int,
        *,
        tap: str = "all",
        version: int = 3,
        timeout_ms: int = 1,
        group: str = "239.1.1.1",
        way: str = "none",
        run: int = 64,
        out: str = "eth0",
        to: tuple[str, int] = ("239.2.2.2", 8888),
    ) -> None:
        words = [program, tap, version, timeout_ms, "eth0", group, 9999, way, run, out, *to, expect]
        self.process = ns.popen(pinned(1, [str(word) for word in words]), stdout=subprocess.PIPE)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the relay did not start: exit {self.process.wait()}")

    def result(self) -> dict[str, float]:
        return json.loads(self.process.communicate(timeout=60)[0])
