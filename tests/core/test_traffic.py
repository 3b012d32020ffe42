"""The compiled sender and receiver over loopback, with payloads made by hand from the layout in payload.pxd."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mcrelay._core.traffic import Receiver, Sender

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.core
SEAL = 0x6D637231


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A receiving socket and one connected to it."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
    ):
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sink.bind(("127.0.0.1", 0))
        out.connect(sink.getsockname())
        yield sink, out


def counts(sockets: tuple[socket.socket, socket.socket], payloads: list[bytes], expected: int = 0) -> dict[str, int]:
    """What a Receiver makes of the payloads, less what is 0."""
    sink, out = sockets
    receiver = Receiver([sink.fileno()], expected=expected)
    thread = threading.Thread(target=receiver.run)
    thread.start()
    for number, payload in enumerate(payloads):
        out.send(payload)
        while number - receiver.received > 500:  # loopback drops what finds the buffer full
            time.sleep(0.0001)
    until = time.monotonic() + 20
    while receiver.received < len(payloads) and time.monotonic() < until:
        time.sleep(0.001)
    receiver.stop()
    thread.join()
    account = receiver.stream(0)
    assert account.pop("received") == len(payloads)
    assert account.pop("bytes") == sum(map(len, payloads))
    return {key: count for key, count in account.items() if count}


def numbered(*sequences: int) -> list[bytes]:
    """Payloads of 8 bytes: a sequence number and its seal."""
    return [struct.pack(">II", sequence & 0xFFFFFFFF, (sequence ^ SEAL) & 0xFFFFFFFF) for sequence in sequences]


def sample(size: int, count: int = 3) -> list[bytes]:
    """Datagrams as a Sender makes them."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
    ):
        sink.bind(("127.0.0.1", 0))
        out.connect(sink.getsockname())
        sender = Sender([out.fileno()], [size], rate=1e6, count=count)
        sender.run()
        assert (sender.sent, sender.sent_bytes, sender.errors) == (count, count * size, 0)
        return [sink.recv(65536) for _ in range(count)]


@pytest.mark.parametrize("size", [8, 12, 17, 32, 40, 41, 100, 1472])
def test_no_flipped_bit_goes_unseen(sockets: tuple[socket.socket, socket.socket], size: int) -> None:
    """Where a seal fits, a wrong sequence never counts; where the check fits, no other field can change either."""
    first, middle, last = sample(size)
    bits = {8: 64, 12: 96, 17: 128, 32: 128}.get(size, 8 * size)  # those that something vouches for
    number = int.from_bytes(middle, "big")
    spoilt = [(number ^ 1 << 8 * size - 1 - bit).to_bytes(size, "big") for bit in range(bits)]
    seen = counts(sockets, [first, *spoilt, last])
    if size in {17, 32}:  # too short for the check: a wrong stream number is taken at its word
        assert seen.pop("foreign") == 16
        bits -= 16
    assert seen == {"unique": 2, "lost": 1, "corrupted": bits}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7])
def test_flips_in_the_smallest(sockets: tuple[socket.socket, socket.socket], size: int) -> None:
    """Below 8 bytes the bytes that are not the sequence are still checked."""
    first, middle, _ = sample(size)
    spoilt = middle[:-1] + bytes([middle[-1] ^ 1])
    assert counts(sockets, [first, spoilt])["corrupted"] == 1


def test_four_bytes_carry_the_order(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Loss, order and duplicates are seen without a seal; a number far off is damage, not a loss of millions."""
    payloads = [struct.pack(">I", sequence) for sequence in (0, 1, 3, 2, 3, 6, 1 << 30)]
    assert counts(sockets, payloads) == {"unique": 5, "reordered": 1, "duplicated": 1, "lost": 2, "corrupted": 1}


def test_empty_and_tiny_are_unnumbered(sockets: tuple[socket.socket, socket.socket]) -> None:
    """They use up no sequence number, and count towards what is expected."""
    payloads = [b"", b"m", b"mc", b"mcr", *numbered(0, 1)]
    assert counts(sockets, payloads) == {"unnumbered": 4, "unique": 2}
    assert counts(sockets, payloads, expected=10) == {"unnumbered": 4, "unique": 2, "lost": 4}


def test_sequence_goes_on_past_32_bits(sockets: tuple[socket.socket, socket.socket]) -> None:
    """The wire has 32 bits; the account goes on."""
    sequences = [(1 << 32) - 3, (1 << 32) - 2, 1 << 32, (1 << 32) - 1, (1 << 32) + 1, (1 << 32) - 3]
    assert counts(sockets, numbered(*sequences)) == {"unique": 5, "reordered": 1, "duplicated": 1}


def test_duplicates_are_found_far_back(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Across chunks of the bitmap, also when a chunk is full and its memory given back."""
    sequences = [*range(70000), 0, 1, 65535, 65536, 69999, 1 << 25, (1 << 25) + 1, 5]
    lost = (1 << 25) - 70000
    assert counts(sockets, numbered(*sequences)) == {"unique": 70002, "duplicated": 6, "lost": lost}


def test_any_order_gives_the_same_sums(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Shuffled, with gaps and repeats: unique, duplicated and lost do not depend on order."""
    chance = random.Random(7)
    present = chance.sample(range(20000), 15000)
    repeated = chance.choices(present, k=2000)
    sequences = present + repeated
    chance.shuffle(sequences)
    seen = counts(sockets, numbered(*sequences))
    assert (seen["unique"], seen["duplicated"]) == (15000, 2000)
    assert seen["lost"] == max(present) - min(present) + 1 - 15000


def test_receiver_tells_source_and_delay(sockets: tuple[socket.socket, socket.socket]) -> None:
    """A delay is what passed since the datagram was due, also when it was sent late."""
    sink, out = sockets
    sender = Sender([out.fileno()], [100], rate=1000, count=1)
    sender.run()
    time.sleep(0.05)
    receiver = Receiver([sink.fileno()], expected=1)
    receiver.run()
    host, port = out.getsockname()
    assert receiver.sources() == {(int.from_bytes(socket.inet_aton(host), "big"), port): 1}
    shortest, longest = receiver.delay_ns(0.5), receiver.delay_ns(1)
    assert shortest is not None
    assert longest is not None
    assert 50_000_000 <= longest < 1_000_000_000
    assert abs(shortest - longest) <= longest / 100


def test_sizes_cycle_and_range(sockets: tuple[socket.socket, socket.socket]) -> None:
    """A cycle is followed by each stream; a range is used from end to end."""
    sink, out = sockets
    Sender([out.fileno(), out.fileno()], [4, 50, 9], rate=1e6, count=6).run()
    assert sorted(len(sink.recv(100)) for _ in range(12)) == sorted([4, 50, 9] * 4)
    Sender([out.fileno()], [60, 63], rate=1e6, random_sizes=True, count=400).run()
    assert {len(sink.recv(100)) for _ in range(400)} == {60, 61, 62, 63}


def test_stop_is_noticed_soon(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Also in the middle of a long sleep."""
    sink, out = sockets
    for worker in (Sender([out.fileno()], [10], rate=0.01), Receiver([sink.fileno()])):
        thread = threading.Thread(target=worker.run)
        thread.start()
        time.sleep(0.05)
        start = time.monotonic()
        worker.stop()
        thread.join()
        assert time.monotonic() - start < 0.5


def test_duration_limits_both(sockets: tuple[socket.socket, socket.socket]) -> None:
    """So many seconds of the schedule; so many seconds of listening."""
    sink, out = sockets
    sender = Sender([out.fileno()], [10], rate=1000, duration=0.1)
    sender.run()
    assert sender.sent == 100
    start = time.monotonic()
    Receiver([sink.fileno()], duration=0.1).run()
    assert 0.1 <= time.monotonic() - start < 0.6


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": []},
        {"sizes": [65508]},
        {"sizes": [-1]},
        {"rate": 0},
        {"gso": 65},
        {"gso": 2, "sizes": [10, 20]},
        {"gso": 2, "sizes": [0]},
        {"gso": 64, "sizes": [1316]},
        {"random_sizes": True, "sizes": [9, 8]},
    ],
)
def test_impossible_senders_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="size"):
        Sender([0], **{"sizes": [10], "rate": 1, **options})  # type: ignore[arg-type]
