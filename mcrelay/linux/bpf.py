"""Classic BPF programs for the capture sockets (linux/filter.h, networking/filter.rst): pure.

A ring's filter passes every UDP frame of either family whose destination is in one of the group ranges. Port, source,
VLAN and fragmentation do not matter to it, so that near misses are counted. It passes no frame that this host sent. The
kernel strips the VLAN tag before the filter runs, so offsets are those of an untagged frame. An IPv6 frame passes also
where extension headers stand before what may be UDP.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Address

    from mcrelay.model.stream import Address

LIMIT = 4096  # instructions: BPF_MAXINSNS of linux/bpf_common.h
LEAF = 4  # below this many ranges the tree compares one by one

_LD_WORD, _LD_HALF, _LD_BYTE = 0x20, 0x28, 0x30  # BPF_LD | BPF_ABS | size
_LDX_HEADER, _LD_HALF_BEHIND = 0xB1, 0x48  # BPF_LDX | BPF_MSH: the length of the IPv4 header; BPF_LD | BPF_IND
_LD_WORD_BEHIND, _LD_BYTE_BEHIND, _LDX_NUMBER = 0x40, 0x50, 0x01  # BPF_LD | size | BPF_IND; BPF_LDX | BPF_IMM
_JA, _JEQ, _JGT, _JGE, _JSET, _RET = 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
_TAX, _TXA = 0x07, 0x87  # BPF_MISC: accumulator to index register, and back
_MUL, _SHIFT_RIGHT, _MODULO, _RETURN_A = 0x24, 0x74, 0x94, 0x16  # BPF_ALU | operation | BPF_K; BPF_RET | BPF_A
_PROTOCOL, _PACKET_TYPE = 0xFFFFF000, 0xFFFFF000 + 4  # SKF_AD_OFF and what is there: SKF_AD_PROTOCOL, _PKTTYPE
_VLAN_TAG, _VLAN_PRESENT = 0xFFFFF000 + 44, 0xFFFFF000 + 48
_OUTGOING = 4  # PACKET_OUTGOING of linux/if_packet.h
_ACCEPT = (_RET, 0, 0, 0x00040000)
_DROP = (_RET, 0, 0, 0)

_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF
_GOLDEN = 0x9E3779B1  # 2^32 less the golden ratio of it, odd: neighbours are spread evenly

ETHERNET_BYTES, TAG_BYTES = 14, 4
Instruction = tuple[int, int, int, int]
Range = tuple[int, int]
Share = tuple[int, int]  # (worker, number of workers)

# Hashes the destination so that remainders are even; `dealer` and a filter with a share use the same hash.
_MIXED: list[Instruction] = [(_MUL, 0, 0, _GOLDEN), (_SHIFT_RIGHT, 0, 0, 16)]


def ranges_of(groups: Iterable[Address]) -> list[Range]:
    """Sorted, disjoint, inclusive ranges that hold exactly these addresses, which are of one family."""
    ranges: list[Range] = []
    for address in sorted({int(group) for group in groups}):
        if ranges and ranges[-1][1] + 1 == address:
            ranges[-1] = (ranges[-1][0], address)
        else:
            ranges.append((address, address))
    return ranges


def widen(ranges: Sequence[Range], most: int) -> list[Range]:
    """At most ``most`` ranges that hold all of ``ranges``: the narrowest gaps are closed first."""
    if len(ranges) <= most:
        return list(ranges)
    gaps = sorted(range(1, len(ranges)), key=lambda i: ranges[i][0] - ranges[i - 1][1])
    kept = sorted(gaps[len(ranges) - most :])
    edges = [0, *kept, len(ranges)]
    return [(ranges[a][0], ranges[b - 1][1]) for a, b in itertools.pairwise(edges)]


def group_filter(
    ranges: Sequence[Range],
    share: Share | None = None,
    *,
    outgoing: bool = False,
    bare: bool = False,
    six: Sequence[Range] = (),
) -> bytes:
    """The program for a ring, as struct sock_filter bytes; with ``share`` for that worker's groups alone.

    *ranges* are of IPv4, *six* of IPv6.

    With *outgoing* it passes what this host sends to the groups, and nothing else. *bare* is for links without an
    Ethernet header. A second VLAN tag, that of QinQ, is still in the frame: the destination then stands four bytes
    further on. Raises ValueError beyond LIMIT.
    """
    search: list[Instruction] = []
    if share is not None:
        search += [(_TAX, 0, 0, 0), *_own_share(share), (_TXA, 0, 0, 0)]
    search += _search(ranges)
    four = list(_BARE if bare else _ETHERNET)
    if six:  # in place of what drops other EtherTypes
        for at, place in enumerate(_OTHERS_BARE if bare else _OTHERS):
            four[place] = (_JA, 0, 0, len(four) - place - 1 + len(search) + 2 * at)
        search += _six(six, share, bare=bare)
    program: list[Instruction] = [
        (_LD_WORD, 0, 0, _PACKET_TYPE),
        (_JEQ, *((1, 0) if outgoing else (0, 1)), _OUTGOING),
        _DROP,
        *four,
        *search,
    ]
    if len(program) > LIMIT:
        raise ValueError(f"{len(program)} BPF instructions, the kernel takes {LIMIT}")
    return _encode(program)


# Where the destination of IPv4 UDP is, in the accumulator; all else is dropped. The first are counted from the head of
# the frame, which is quickest; the second by the kernel's own mark, wherever a tunnel's packet begins.
_ETHERNET: list[Instruction] = [
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
]
_BARE: list[Instruction] = [
    (_LD_WORD, 0, 0, _PROTOCOL),
    (_JEQ, 1, 0, 0x0800),
    _DROP,
    (_LD_BYTE, 0, 0, _NETWORK_HEADER + 9),
    (_JEQ, 1, 0, 17),
    _DROP,
    (_LD_WORD, 0, 0, _NETWORK_HEADER + 16),
]


_OTHERS, _OTHERS_BARE = (4, 10), (2,)  # where these drop what is not IPv4: without and with a second tag

# Of an IPv6 packet's bytes: the next header, that of an extension header behind it, and the destination.
_NEXT, _NEXT_BUT_ONE, _DESTINATION_SIX = 6, 40, 24
_ICMP_SIX = 58


def _own_share(share: Share) -> list[Instruction]:
    """Drop what is another worker's, by the word of the destination in the accumulator."""
    number, workers = share
    return [*_MIXED, (_MODULO, 0, 0, workers), (_JEQ, 1, 0, number), _DROP]


def _six(ranges: Sequence[Range], share: Share | None, *, bare: bool) -> list[Instruction]:
    """What sees to frames that are not IPv4, with their EtherType in the accumulator.

    The index register has how much further on the packet stands: a second tag enters two instructions later. MLD, which
    is sent to the groups themselves behind a hop-by-hop header, is none of ours.
    """
    byte, word, at = (_LD_BYTE, _LD_WORD, _NETWORK_HEADER) if bare else (_LD_BYTE_BEHIND, _LD_WORD_BEHIND, 14)
    offset: list[Instruction] = [] if bare else [(_LDX_NUMBER, 0, 0, 0), (_JA, 0, 0, 1), (_LDX_NUMBER, 0, 0, 4)]
    owned = [(word, 0, 0, at + _DESTINATION_SIX + 12), *_own_share(share)] if share is not None else []
    return [
        *offset,
        (_JEQ, 1, 0, 0x86DD),
        _DROP,
        (byte, 0, 0, at + _NEXT),
        (_JEQ, 8, 0, 17),
        (_JEQ, 7, 0, 44),  # a fragment
        (_JEQ, 3, 0, 0),  # options for every hop, a routing header, options for the destination
        (_JEQ, 2, 0, 43),
        (_JEQ, 1, 0, 60),
        _DROP,
        (byte, 0, 0, at + _NEXT_BUT_ONE),
        (_JEQ, 0, 1, _ICMP_SIX),
        _DROP,
        *owned,
        *_wide(ranges, 128, word, at + _DESTINATION_SIX),
    ]


def dealer() -> bytes:
    """The program that chooses the worker of a frame, modulo their number (PACKET_FANOUT_CBPF of packet(7)).

    It looks at the destination only: datagrams, fragments and superframes of a group stay together and in order.
    """
    return _encode(
        [
            (_LD_WORD, 0, 0, _PROTOCOL),
            (_JEQ, 2, 0, 0x86DD),
            (_LD_WORD, 0, 0, _NETWORK_HEADER + 16),
            (_JA, 0, 0, 1),
            (_LD_WORD, 0, 0, _NETWORK_HEADER + _DESTINATION_SIX + 12),
            *_MIXED,
            (_RETURN_A, 0, 0, 0),
        ]
    )


def fitting_filter(
    groups: Iterable[Address],
    most: int = LIMIT,
    share: Share | None = None,
    *,
    outgoing: bool = False,
    bare: bool = False,
) -> tuple[bytes, bool]:
    """The narrowest program of at most ``most`` instructions, and whether it is exact."""
    groups = list(groups)
    four = ranges_of(group for group in groups if group.version == 4)
    six = ranges_of(group for group in groups if group.version == 6)
    counts = [len(four), len(six)]
    while True:
        wide = widen(six, counts[1])
        if counts[1] == 1 < len(six):  # by its first word alone, so that the code is short
            wide = [(wide[0][0] >> 96 << 96, wide[0][1] | (1 << 96) - 1)]
        try:
            program = group_filter(widen(four, counts[0]), share, outgoing=outgoing, bare=bare, six=wide)
        except ValueError:
            program = b""
        if program and len(program) <= 8 * most:
            return program, counts == [len(four), len(six)]
        if max(counts) <= 1:
            raise ValueError(f"no BPF program fits in {most} instructions")
        counts = [min(count, max(1, count * 7 // 8)) for count in counts]


# Accepts what is in no VLAN of the link; the last instruction drops, and others jump there.
_OF_THE_LINK = (
    (_LD_WORD, 0, 0, _VLAN_PRESENT),
    (_JEQ, 2, 0, 0),
    (_LD_WORD, 0, 0, _VLAN_TAG),
    (_JSET, 1, 0, 0x0FFF),  # VID 0 is a priority, not a VLAN
    _ACCEPT,
    _DROP,
)


def igmp_filter() -> bytes:
    """IGMP of this link, received and sent, without that of its VLANs: a VLAN's own link answers there."""
    return _encode(
        [
            (_LD_HALF, 0, 0, 12),
            (_JEQ, 0, 7, 0x0800),
            (_LD_BYTE, 0, 0, 23),
            (_JEQ, 0, 5, 2),
            *_OF_THE_LINK,
        ]
    )


def mld_filter() -> bytes:
    """ICMPv6 behind a hop-by-hop header, as all MLD is, received and sent, without that of the link's VLANs."""
    return _encode(
        [
            (_LD_HALF, 0, 0, 12),
            (_JEQ, 0, 9, 0x86DD),
            (_LD_BYTE, 0, 0, 20),
            (_JEQ, 0, 7, 0),
            (_LD_BYTE, 0, 0, 54),
            (_JEQ, 0, 5, 58),
            *_OF_THE_LINK,
        ]
    )


def multicast_filter() -> bytes:
    """UDP to any group, and all IGMP and MLD, received and sent: for commands that look at a whole link.

    Of IPv6 it is what a group gets with UDP or an extension header behind its own. The kernel has stripped the VLAN
    tag; a second one is still in the frame.
    """
    four, six = _to_groups(ETHERNET_BYTES), _to_groups6(ETHERNET_BYTES)
    tagged = 2 + len(four) + len(six)  # from the second test of a tag to where its frames are looked at
    return _encode(
        [
            (_LD_HALF, 0, 0, 12),
            (_JEQ, 4, 0, 0x0800),
            (_JEQ, 3 + len(four), 0, 0x86DD),
            (_JEQ, tagged, 0, 0x8100),
            (_JEQ, tagged - 1, 0, 0x88A8),
            _DROP,
            *four,
            *six,
            (_LD_HALF, 0, 0, 16),
            (_JEQ, 2, 0, 0x0800),
            (_JEQ, 1 + len(four), 0, 0x86DD),
            _DROP,
            *_to_groups(ETHERNET_BYTES + TAG_BYTES),
            *_to_groups6(ETHERNET_BYTES + TAG_BYTES),
        ]
    )


def _to_groups(at: int) -> list[Instruction]:
    """IGMP, and UDP to a group, of the IPv4 packet that begins there."""
    return [
        (_LD_BYTE, 0, 0, at + 9),
        (_JEQ, 4, 0, 2),
        (_JEQ, 0, 4, 17),
        (_LD_WORD, 0, 0, at + 16),
        (_JGE, 0, 2, 0xE0000000),
        (_JGT, 1, 0, 0xEFFFFFFF),
        _ACCEPT,
        _DROP,
    ]


def _to_groups6(at: int) -> list[Instruction]:
    """UDP, or an extension header, to a group, of the IPv6 packet that begins there."""
    return [
        (_LD_BYTE, 0, 0, at + 24),
        (_JEQ, 0, 6, 0xFF),
        (_LD_BYTE, 0, 0, at + 6),
        (_JEQ, 5, 0, 17),
        (_JEQ, 4, 0, 0),  # hop-by-hop, as MLD has
        (_JEQ, 3, 0, 43),  # routing
        (_JEQ, 2, 0, 44),  # fragment
        (_JEQ, 1, 0, 60),  # destination options
        _DROP,
        _ACCEPT,
    ]


def stream_filter(group: IPv4Address, port: int, source: IPv4Address | None) -> bytes:
    """Received whole datagrams of one stream, as a joined UDP socket would get them. For untagged frames."""
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


def _wide(ranges: Sequence[Range], bits: int, load: int, at: int) -> list[Instruction]:
    """Search an address of so many bits in the packet, word by word, over sorted ranges; ends as `_search`."""
    if bits == 32:
        return [(load, 0, 0, at), *_search(ranges)]
    rest = (1 << (bits - 32)) - 1
    cases: dict[Range, list[Range]] = {}  # of values of the first word: what the others may be
    for low, high in ranges:
        first, last = low >> (bits - 32), high >> (bits - 32)
        if first == last:
            cases.setdefault((first, first), []).append((low & rest, high & rest))
            continue
        cases.setdefault((first, first), []).append((low & rest, rest))
        if last - first > 1:
            cases[first + 1, last - 1] = [(0, rest)]
        cases.setdefault((last, last), []).append((0, high & rest))
    made = [
        (values, [_ACCEPT] if inner == [(0, rest)] else _wide(inner, bits - 32, load, at + 4))
        for values, inner in cases.items()
    ]
    return [(load, 0, 0, at), *_choose(made)]


def _choose(cases: Sequence[tuple[Range, list[Instruction]]]) -> list[Instruction]:
    """Go on by the accumulator's value with the code of one of the cases, which are sorted."""
    if len(cases) == 1:
        (low, high), code = cases[0]
        if low == high:
            return [(_JEQ, 1, 0, low), _DROP, *code]
        return [(_JGE, 1, 0, low), _DROP, (_JGT, 0, 1, high), _DROP, *code]
    middle = len(cases) // 2
    left, right = _choose(cases[:middle]), _choose(cases[middle:])
    return [(_JGE, 0, 1, cases[middle][0][0]), (_JA, 0, 0, len(left)), *left, *right]


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
