"""Classic BPF programs for the capture sockets (linux/filter.h, networking/filter.rst): pure.

A ring's filter passes every IPv4 UDP frame whose destination is in one of the group ranges, whatever its port,
source, VLAN or fragment, so that near misses are counted; and never a frame this host sent. The kernel has taken the
VLAN tag off before the filter runs, so offsets are those of an untagged frame.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Address

LIMIT = 4096  # instructions: BPF_MAXINSNS of linux/bpf_common.h
LEAF = 4  # ranges compared one by one; the tree halves down to that

_LD_WORD, _LD_HALF, _LD_BYTE = 0x20, 0x28, 0x30  # BPF_LD | BPF_ABS | size
_LDX_HEADER, _LD_HALF_BEHIND = 0xB1, 0x48  # BPF_LDX | BPF_MSH: the length of the IPv4 header; BPF_LD | BPF_IND
_JA, _JEQ, _JGT, _JGE, _JSET, _RET = 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
_TAX, _TXA = 0x07, 0x87  # BPF_MISC: the accumulator kept aside, and back
_MUL, _SHIFT_RIGHT, _MODULO, _RETURN_A = 0x24, 0x74, 0x94, 0x16  # BPF_ALU | operation | BPF_K; BPF_RET | BPF_A
_PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
_VLAN_TAG, _VLAN_PRESENT = 0xFFFFF000 + 44, 0xFFFFF000 + 48
_OUTGOING = 4  # PACKET_OUTGOING of linux/if_packet.h
_ACCEPT = (_RET, 0, 0, 0x00040000)
_DROP = (_RET, 0, 0, 0)

_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF
_GOLDEN = 0x9E3779B1  # 2^32 less the golden ratio of it, odd: neighbours are spread evenly

Instruction = tuple[int, int, int, int]
Range = tuple[int, int]
Share = tuple[int, int]  # which of how many workers

# From the destination to a number whose remainders are even: `dealer` and a filter with a share say the same.
_MIXED: list[Instruction] = [(_MUL, 0, 0, _GOLDEN), (_SHIFT_RIGHT, 0, 0, 16)]


def ranges_of(groups: Iterable[IPv4Address]) -> list[Range]:
    """Sorted, disjoint, inclusive ranges that hold exactly these addresses."""
    ranges: list[Range] = []
    for address in sorted({int(group) for group in groups}):
        if ranges and ranges[-1][1] + 1 == address:
            ranges[-1] = (ranges[-1][0], address)
        else:
            ranges.append((address, address))
    return ranges


def widen(ranges: Sequence[Range], most: int) -> list[Range]:
    """At most ``most`` ranges that hold all of ``ranges``: the narrowest gaps are given up first."""
    if len(ranges) <= most:
        return list(ranges)
    gaps = sorted(range(1, len(ranges)), key=lambda i: ranges[i][0] - ranges[i - 1][1])
    kept = sorted(gaps[len(ranges) - most :])
    edges = [0, *kept, len(ranges)]
    return [(ranges[a][0], ranges[b - 1][1]) for a, b in itertools.pairwise(edges)]


def group_filter(ranges: Sequence[Range], share: Share | None = None, *, outgoing: bool = False) -> bytes:
    """The program for a ring, as struct sock_filter bytes; with ``share`` for that worker's groups alone.

    With *outgoing* it passes what this host sends to the groups, and nothing else. A second VLAN tag, that of QinQ, is
    still in the frame: the destination then stands four bytes further on. Raises ValueError beyond LIMIT.
    """
    search: list[Instruction] = []
    if share is not None:
        number, workers = share
        search += [(_TAX, 0, 0, 0), *_MIXED, (_MODULO, 0, 0, workers), (_JEQ, 1, 0, number), _DROP, (_TXA, 0, 0, 0)]
    search += _search(ranges)
    program: list[Instruction] = [
        (_LD_WORD, 0, 0, _PACKET_TYPE),
        (_JEQ, *((1, 0) if outgoing else (0, 1)), _OUTGOING),
        _DROP,
        (_LD_HALF, 0, 0, 12),
        (_JEQ, 3, 0, 0x0800),
        (_JEQ, 5, 0, 0x8100),
        (_JEQ, 4, 0, 0x88A8),
        _DROP,
        (_LD_BYTE, 0, 0, 23),
        (_JEQ, 7, 0, 17),
        _DROP,
        (_LD_HALF, 0, 0, 16),
        (_JEQ, 1, 0, 0x0800),
        _DROP,
        (_LD_BYTE, 0, 0, 27),
        (_JEQ, 3, 0, 17),
        _DROP,
        (_LD_WORD, 0, 0, 30),
        (_JA, 0, 0, 1),
        (_LD_WORD, 0, 0, 34),
        *search,
    ]
    if len(program) > LIMIT:
        raise ValueError(f"{len(program)} BPF instructions, the kernel takes {LIMIT}")
    return _encode(program)


def dealer() -> bytes:
    """The program that says whose a frame is, modulo the number of workers (PACKET_FANOUT_CBPF of packet(7)).

    By the destination alone: datagrams, fragments and superframes of a group stay together and in order.
    """
    return _encode([(_LD_WORD, 0, 0, _NETWORK_HEADER + 16), *_MIXED, (_RETURN_A, 0, 0, 0)])


def fitting_filter(
    groups: Iterable[IPv4Address], most: int = LIMIT, share: Share | None = None, *, outgoing: bool = False
) -> tuple[bytes, bool]:
    """The narrowest program of at most ``most`` instructions, and whether it is exact."""
    exact = ranges_of(groups)
    count = len(exact)
    while True:
        try:
            program = group_filter(widen(exact, count), share, outgoing=outgoing)
        except ValueError:
            program = b""
        if program and len(program) <= 8 * most:
            return program, count == len(exact)
        if count <= 1:
            raise ValueError(f"no BPF program fits in {most} instructions")
        count = count * 7 // 8


def igmp_filter() -> bytes:
    """IGMP of this link, received and sent, and not that of a VLAN on it: there a link of its own answers."""
    return _encode(
        [
            (_LD_HALF, 0, 0, 12),
            (_JEQ, 0, 7, 0x0800),
            (_LD_BYTE, 0, 0, 23),
            (_JEQ, 0, 5, 2),
            (_LD_WORD, 0, 0, _VLAN_PRESENT),
            (_JEQ, 2, 0, 0),
            (_LD_WORD, 0, 0, _VLAN_TAG),
            (_JSET, 1, 0, 0x0FFF),  # VID 0 is no VLAN but a priority
            _ACCEPT,
            _DROP,
        ]
    )


def multicast_filter() -> bytes:
    """IPv4 UDP to any group and all IGMP, received and sent: for commands that look at a whole link.

    The tag of a VLAN is off by then; a second one is still in the frame.
    """
    return _encode(
        [
            (_LD_HALF, 0, 0, 12),
            (_JEQ, 3, 0, 0x0800),
            (_JEQ, 7, 0, 0x8100),
            (_JEQ, 6, 0, 0x88A8),
            _DROP,
            (_LD_BYTE, 0, 0, 23),
            (_JEQ, 11, 0, 2),
            (_JEQ, 0, 11, 17),
            (_LD_WORD, 0, 0, 30),
            (_JA, 0, 0, 6),
            (_LD_HALF, 0, 0, 16),
            (_JEQ, 0, 7, 0x0800),
            (_LD_BYTE, 0, 0, 27),
            (_JEQ, 4, 0, 2),
            (_JEQ, 0, 4, 17),
            (_LD_WORD, 0, 0, 34),
            (_JGE, 0, 2, 0xE0000000),
            (_JGT, 1, 0, 0xEFFFFFFF),
            _ACCEPT,
            _DROP,
        ]
    )


def stream_filter(group: IPv4Address, port: int, source: IPv4Address | None) -> bytes:
    """Whole datagrams of one stream, received: what a UDP socket that had joined would get. For untagged frames."""
    return _encode(
        [
            (_LD_HALF, 0, 0, 12),
            (_JEQ, 0, 14, 0x0800),
            (_LD_WORD, 0, 0, 30),
            (_JEQ, 0, 12, int(group)),
            (_LD_BYTE, 0, 0, 23),
            (_JEQ, 0, 10, 17),
            (_LD_WORD, 0, 0, 26),
            (_JEQ, 0, 8, int(source)) if source else (_JA, 0, 0, 0),
            (_LD_HALF, 0, 0, 20),
            (_JSET, 6, 0, 0x3FFF),  # a fragment
            (_LDX_HEADER, 0, 0, 14),
            (_LD_HALF_BEHIND, 0, 0, 16),
            (_JEQ, 0, 3, port),
            (_LD_WORD, 0, 0, _PACKET_TYPE),
            (_JEQ, 1, 0, _OUTGOING),
            _ACCEPT,
            _DROP,
        ]
    )


def _search(ranges: Sequence[Range]) -> list[Instruction]:
    """Binary search of the accumulator over sorted ranges; ends in a return on every path."""
    if len(ranges) <= LEAF:
        return _leaf(ranges)
    middle = len(ranges) // 2
    left, right = _search(ranges[:middle]), _search(ranges[middle:])
    pivot = ranges[middle][0]
    if len(left) <= 255:  # a conditional jump reaches that far
        return [(_JGE, len(left), 0, pivot), *left, *right]
    return [(_JGE, 0, 1, pivot), (_JA, 0, 0, len(left)), *left, *right]


def _leaf(ranges: Sequence[Range]) -> list[Instruction]:
    tests: list[tuple[int, int]] = []  # (jump code, value); a hit goes to accept
    for low, high in ranges:
        if low == high:
            tests.append((_JEQ, low))
        else:
            tests.extend([(_JGE, low), (_JGT, high)])
    code: list[Instruction] = []
    for i, (jump, value) in enumerate(tests):
        accept = len(tests) - 1 - i
        drop = accept + 1
        if jump == _JEQ:
            code.append((jump, accept, 0 if i + 1 < len(tests) else drop, value))
        elif jump == _JGE:  # below this range, and not in an earlier one
            code.append((jump, 0, drop, value))
        else:
            code.append((jump, 0 if i + 1 < len(tests) else drop, accept, value))
    return [*code, _ACCEPT, _DROP] if code else [_DROP]


def _encode(program: Sequence[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
