"""Which streams of many have a datagram in common: groups, ranges and ports. Pure.

Ranges are whole prefixes, so two of them are apart, or one holds the other. A stream is therefore found under its own
prefix and under those that hold it, of the lengths that occur: the usual configuration, without ranges, has one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from mcrelay.model.ports import have_common

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator

    from mcrelay.model.stream import Stream

Item = TypeVar("Item")


def meet(a: Stream, b: Stream) -> bool:
    """Whether one datagram can match both, apart from links and sources."""
    bits = max(a.host_bits, b.host_bits)
    same = a.address.version == b.address.version and int(a.address) >> bits == int(b.address) >> bits
    return same and have_common(a.port, b.port)


class Overlaps(Generic[Item]):
    """Streams, each with what it belongs to, in order. Those with another *link* never meet.

    *streams* are all that will be added or asked for: of them only their lengths are kept.
    """

    def __init__(self, streams: Iterable[Stream]) -> None:
        self._bits = sorted({stream.host_bits for stream in streams})
        self._exact: dict[Hashable, dict[object, list[tuple[Stream, Item]]]] = {}  # by prefix, then by port
        self._within: dict[Hashable, list[tuple[Stream, Item]]] = {}  # by prefix: what is longer than it

    def add(self, link: Hashable, stream: Stream, item: Item) -> None:
        """Take one in."""
        own = (stream, item)
        for bits in self._bits:
            if bits == stream.host_bits:
                by_port = self._exact.setdefault(_prefix(link, stream, bits), {})
                by_port.setdefault(stream.port if isinstance(stream.port, int) else None, []).append(own)
            elif bits > stream.host_bits:
                self._within.setdefault(_prefix(link, stream, bits), []).append(own)

    def meeting(self, link: Hashable, stream: Stream, *, ports: bool = True) -> Iterator[tuple[Stream, Item]]:
        """Go through what has a datagram in common with the stream; without *ports*, a group."""
        for bits in self._bits:
            if bits < stream.host_bits:
                continue
            by_port = self._exact.get(_prefix(link, stream, bits), {})
            for held in _with_port(by_port, stream) if ports else by_port.values():
                yield from (each for each in held if not ports or have_common(each[0].port, stream.port))
        for each in self._within.get(_prefix(link, stream, stream.host_bits), ()):
            if not ports or have_common(each[0].port, stream.port):
                yield each


def _prefix(link: Hashable, stream: Stream, bits: int) -> Hashable:
    return link, stream.address.version, bits, int(stream.address) >> bits


def _with_port(
    by_port: dict[object, list[tuple[Stream, Item]]], stream: Stream
) -> Collection[list[tuple[Stream, Item]]]:
    """Those of one prefix that may have the stream's port: the same number, or several."""
    if not isinstance(stream.port, int):
        return by_port.values()
    return [by_port.get(stream.port, []), by_port.get(None, [])]
