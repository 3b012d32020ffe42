"""The figures that were set out to be reached, row by row, and whether they were. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from book import spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from book import Book, Key, Spread

FAMILIES = ("v4-v4", "v6-v6", "v4-v6", "v6-v4")  # workloads that have an account of their own
NO_TARGET = "say it"
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``met`` is None where there is no target, or nothing was measured."""

    figure: str
    target: str
    measured: str
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """Say it in a word."""
        return {True: "met", False: "not met", None: "-"}[self.met]


def rows(book: Book) -> list[Row]:
    """Compute every row from what was measured."""
    parts = (_rates, _kernel, _restarts, _worker, _shapes, _rules, _superframes, _families, _latency, _rest)
    return [row for part in parts for row in part(book)]


def _ratio(book: Book, figure: str, target: str, over: Key, under: Key, *, least: float = 0, most: float = 0) -> Row:
    found = book.ratio(over, under)
    return Row(figure, target, shown(found, "x", 2), _within(found, least, most))


def _plain(
    book: Book, figure: str, target: str, key: Key, *, unit: str, digits: int = 0, least: float = 0, most: float = 0
) -> Row:
    found = book.spread(*key)
    return Row(figure, target, shown(found, unit, digits), _within(found, least, most))


def _within(found: Spread | None, least: float, most: float) -> bool | None:
    if found is None or not (least or most):
        return None
    return found.median >= least if least else found.median <= most


def shown(found: Spread | None, unit: str, digits: int = 0) -> str:
    """Write a median with its spread."""
    if found is None:
        return NOT_MEASURED
    return f"{found.median:,.{digits}f} {unit} [{found.least:,.{digits}f}-{found.most:,.{digits}f}]".replace(" x", "x")


def _rates(book: Book) -> Iterator[Row]:
    smcroute = "1316", "smcroute", "rate"
    on_one = "1316", "smcroute", "pipeline"
    bare = "1316", "smcroute-bare", "rate"
    nft = "1316", "nft", "rate"
    yield _plain(book, "rate, 1 stream of 1316 B, equal cores", NO_TARGET, ("1316", "mcrelay", "rate"), unit="/s")
    yield _ratio(book, "  against smcroute, plain", ">= 1.0x", ("1316", "mcrelay", "rate"), smcroute, least=1.0)
    yield _ratio(book, "  against smcroute, exclusive", ">= 1.25x", ("1316", "exclusive", "rate"), smcroute, least=1.25)
    yield _ratio(book, "  against smcroute that joins nothing, plain", NO_TARGET, ("1316", "mcrelay", "rate"), bare)
    yield _ratio(
        book, "  against smcroute that joins nothing, exclusive", NO_TARGET, ("1316", "exclusive", "rate"), bare
    )
    yield _ratio(book, "  against nftables rewrite + fwd, plain", NO_TARGET, ("1316", "mcrelay", "rate"), nft)
    yield _ratio(book, "  against nftables rewrite + fwd, gro", "seek 1.0x", ("1316", "gro", "rate"), nft)
    best = "1316", "exclusive-gro", "rate"
    yield _ratio(book, "  against nftables rewrite + fwd, exclusive and gro", "seek 1.0x", best, nft)
    yield _ratio(book, "  against socat", ">= 8x", ("1316", "mcrelay", "rate"), ("1316", "socat", "rate"), least=8)
    yield _ratio(
        book, "pipeline: own core, against smcroute on one, plain", ">= 1.25x",
        ("1316", "mcrelay", "pipeline"), on_one, least=1.25,
    )  # fmt: skip
    yield _ratio(
        book, "pipeline: own core, against smcroute on one, exclusive", ">= 1.6x",
        ("1316", "exclusive", "pipeline"), on_one, least=1.6,
    )  # fmt: skip
    for path, title in (("mcrelay", "plain"), ("exclusive", "exclusive"), ("exclusive-gro", "exclusive and gro")):
        yield _ratio(
            book, f"cost of all cores against smcroute, {title}", NO_TARGET,
            ("1316", path, "cost_ns"), ("1316", "smcroute", "cost_ns"),
        )  # fmt: skip


def _kernel(book: Book) -> Iterator[Row]:
    smcroute, nft = ("1316", "smcroute", "rate"), ("1316", "nft", "rate")
    for peer, title, plain, exclusive in ((smcroute, "smcroute", 1.5, 2.0), (nft, "nftables rewrite + fwd", 1.1, 1.35)):
        for path, note, least in (("kernel", "plain", plain), ("kernel-exclusive", "exclusive", exclusive)):
            yield _ratio(
                book, f"kernel engine, 1316 B, equal cores, against {title}, {note}", f">= {least:g}x",
                ("1316", path, "rate"), peer, least=least,
            )  # fmt: skip
    for work, title in (
        ("64", "64 B"), ("mixed", "64/570/1400 B"), ("random", "80-400 B at random"),
        ("streams-100", "100 streams"), ("streams-1000", "1000 thin streams"),
    ):  # fmt: skip
        yield _ratio(
            book, f"  {title}, against smcroute, plain", ">= 1.3x",
            (work, "kernel", "rate"), (work, "smcroute", "rate"), least=1.3,
        )  # fmt: skip
    fifty = ("fanout-50", "kernel", "rate"), ("fanout-50", "mcrelay", "rate")
    yield _ratio(book, "  fan-out 50, copies a second, against the ring's", ">= 2x", *fifty, least=2)
    for traffic, title in (("1000", "1 000/s"), ("20000", "20 000/s"), ("100000", "100 000/s")):
        for name in ("p50", "p99"):
            figure = f"{name}@{traffic}"
            yield _ratio(
                book, f"  latency, {title}, {name} against kernel forwarding", "<= 1.2x",
                ("1316", "kernel", figure), ("1316", "smcroute", figure), most=1.2,
            )  # fmt: skip


def _restarts(book: Book) -> Iterator[Row]:
    """Losses in a restart and after `kill -9`; what the receiver itself could not keep is not the relay's.

    The ring may miss what comes in 1 s of a restart, and in 2 s after a crash.
    """
    for path, title, seconds in (
        ("kernel", "kernel engine", (0, 0)), ("kernel-exclusive", "kernel engine, exclusive", (0, 0)),
        ("mcrelay", "ring", (1, 2)),
    ):  # fmt: skip
        for by, what, gap in zip(("SIGTERM", "SIGKILL"), ("restart", "kill -9"), seconds, strict=True):
            most = gap * 100_000
            lost, twice, reordered, kept_out = (
                book.values("restart", path, f"{key}@{by}")
                for key in ("lost", "duplicated", "reordered", "socket_dropped")
            )
            wrong = [sum(each[:3]) - each[3] for each in zip(lost, twice, reordered, kept_out, strict=True)]
            yield Row(
                f"{what} at 100 000/s, {title}: lost, twice or out of order", f"<= {most:,}" if most else "0",
                shown(spread(wrong), "datagrams"), max(wrong) <= most if wrong else None,
            )  # fmt: skip


def _worker(book: Book) -> Iterator[Row]:
    singly = "1316", "burst-1", "worker_ns"
    yield _plain(
        book, "worker CPU per datagram, wire-segmented", NO_TARGET, ("1316", "mcrelay", "worker_ns"), unit="ns"
    )
    yield _ratio(book, "  against one send() each", "<= 0.5x", ("1316", "mcrelay", "worker_ns"), singly, most=0.5)
    yield _ratio(
        book, "  the same, device segmentation", "<= 0.25x", ("1316", "mcrelay+uso", "worker_ns"), singly, most=0.25
    )
    yield _ratio(
        book, "  against the plain C loop with runs", NO_TARGET,
        ("1316", "mcrelay", "worker_ns"), ("1316", "c-runs", "worker_ns"),
    )  # fmt: skip


def _shapes(book: Book) -> Iterator[Row]:
    for work, title in (
        ("64", "64 B"), ("mixed", "64/570/1400 B"), ("random", "80-400 B at random"),
        ("streams-100", "100 streams"), ("streams-1000", "1000 thin streams"),
    ):  # fmt: skip
        least = 0.0 if work == "streams-100" else 1.0
        for path, note in (("mcrelay", "plain"), ("exclusive", "exclusive"), ("workers-2", "2 workers")):
            if path == "mcrelay" or book.values(work, path, "rate"):
                yield _ratio(
                    book, f"{title}, equal cores, against smcroute, {note}",
                    ">= 1.0x" if least and path == "mcrelay" else NO_TARGET,
                    (work, path, "rate"), (work, "smcroute", "rate"), least=least if path == "mcrelay" else 0,
                )  # fmt: skip


def _rules(book: Book) -> Iterator[Row]:
    yield _ratio(
        book, "1 -> 10 000 rules, one busy: cost per datagram", "<= 1.1x",
        ("rules-10000", "mcrelay", "cost_ns"), ("rules-1", "mcrelay", "cost_ns"), most=1.1,
    )  # fmt: skip
    yield _ratio(
        book, "  the worker's part of it", NO_TARGET,
        ("rules-10000", "mcrelay", "worker_ns"), ("rules-1", "mcrelay", "worker_ns"),
    )  # fmt: skip
    for count, target, most in ((10, NO_TARGET, 0.0), (50, "<= 0.7x", 0.7)):
        yield _ratio(
            book, f"fan-out 1 -> {count}: cost per output datagram", target,
            (f"fanout-{count}", "mcrelay", "cost_ns"), ("fanout-1", "mcrelay", "cost_ns"), most=most,
        )  # fmt: skip


def _superframes(book: Book) -> Iterator[Row]:
    for path, title in (("mcrelay", "wire-segmented out"), ("mcrelay+uso", "device segments out")):
        found = book.spread("superframes", path, "rate")
        scale = 1316 * 8 / 1e9
        measured = (
            f"{found.median * scale:.1f} Gbit/s [{found.least * scale:.1f}-{found.most * scale:.1f}]"
            if found
            else NOT_MEASURED
        )
        reached = found.median * scale >= 10 if found else None
        yield Row(f"superframes in, {title}, one relay core", ">= 10 Gbit/s", measured, reached)


def _families(book: Book) -> Iterator[Row]:
    for path, engine, accounts in (("mcrelay", "ring", "workers-1"), ("kernel", "kernel engine", "kernel")):
        for work, way in (("v6-v6", "IPv6 to IPv6"), ("v4-v6", "IPv4 to IPv6"), ("v6-v4", "IPv6 to IPv4")):
            yield _ratio(
                book, f"{way}, {engine}, 1316 B, equal cores, against IPv4", ">= 0.9x",
                (work, path, "rate"), ("v4-v4", path, "rate"), least=0.9,
            )  # fmt: skip
            yield _ratio(
                book, "  cost of a datagram by threads", NO_TARGET,
                (work, path, "accounted_ns"), ("v4-v4", path, "accounted_ns"),
            )  # fmt: skip
        tried = [each for each in book.exact if each["path"] == accounts and each["workload"] in FAMILIES]
        yield _accounted(f"exact at 80 % of the highest rate, IPv4 and IPv6 to either, {engine}", tried)


def _latency(book: Book) -> Iterator[Row]:
    for traffic, title in (("20000", "20 000/s"), ("burst", "50 000 in 10 ms")):
        for name, bound in (("p50", 5.0), ("p99", 3.0)):
            figure = f"{name}@{traffic}"
            yield _ratio(
                book, f"latency profile, {title}, {name} against kernel forwarding", f"<= {bound:.0f}x",
                ("1316", "latency", figure), ("1316", "smcroute", figure), most=bound,
            )  # fmt: skip
    for path in ("latency", "throughput"):
        lost = book.spread("1316", path, "lost@burst")
        yield Row(
            f"{path} profile, bursts of 50 000 in 10 ms: lost", "0", shown(lost, "datagrams"),
            lost.most == 0 if lost else None,
        )  # fmt: skip
    for traffic, title in (("1000", "1 000/s"), ("20000", "20 000/s"), ("100000", "100 000/s")):
        yield _plain(
            book, f"throughput profile, {title}, p99", "<= 2000 us", ("1316", "throughput", f"p99@{traffic}"),
            unit="us", most=2000,
        )  # fmt: skip
    late = [
        (found.median, work, traffic)
        for work in book.works()
        for traffic in ("1000", "10000", "20000", "100000")
        if work != "1316" and (found := book.spread(work, "throughput", f"p99@{traffic}"))
    ]
    shape = "{1}, {2}/s: {0:,.0f} us".format(*max(late)) if late else NOT_MEASURED
    yield Row("  the latest p99 of all other workloads", NO_TARGET, shape)


def _rest(book: Book) -> Iterator[Row]:
    yield _plain(
        book, "1000 groups joined and forwarding from start", "<= 2 s", ("streams-1000", "mcrelay", "ready_seconds"),
        unit="s", digits=2, most=2,
    )  # fmt: skip
    yield _plain(
        book, "a range of 4096 groups joined and forwarding from start", "<= 3 s",
        ("range-4096", "mcrelay", "ready_seconds"), unit="s", digits=2, most=3,
    )  # fmt: skip
    yield _plain(
        book, "parse + lookup, 4096 rules, all of them busy", "<= 10 ns", ("micro", "core", "parse_and_find[4096]"),
        unit="ns", digits=1, most=10,
    )  # fmt: skip
    yield _plain(
        book, "  of all shapes: any port, a source, any VLAN", "<= 10 ns",
        ("micro", "core", "parse_and_find_with_all_shapes[all]"), unit="ns", digits=1, most=10,
    )  # fmt: skip
    yield _plain(
        book, "  one of them busy", NO_TARGET, ("micro", "core", "parse_and_find_one_busy"), unit="ns", digits=1
    )
    yield _plain(book, "memory, 1 link, under load", "<= 120 MB", ("1316", "mcrelay", "rss_mb"), unit="MB", most=120)
    lost = book.spread("flood", "mcrelay", "lost")
    flood = book.spread("flood", "mcrelay", "flood_rate")
    yield Row(
        "10 000/s beside a flood of unmatched groups: lost", "0",
        f"{shown(lost, 'datagrams')}, flood {flood.median:,.0f}/s" if flood else NOT_MEASURED,
        lost.most == 0 if lost else None,
    )  # fmt: skip
    for paths, title in (
        (("workers-1",), "1 worker"),
        (("workers-2",), "2 workers"),
        (("exclusive", "gro", "exclusive-gro"), "exclusive, gro and both"),
        (("kernel", "kernel-exclusive"), "kernel engine, also exclusive"),
    ):
        tried = [each for each in book.exact if each["path"] in paths and each["workload"] not in FAMILIES]
        yield _accounted(f"exact at 80 % of the highest rate, every workload, {title}", tried)


def _accounted(figure: str, tried: list[dict[str, Any]]) -> Row:
    good = sum(each["exact"] for each in tried)
    measured = f"{good} of {len(tried)} runs" if tried else NOT_MEASURED
    return Row(figure, "all", measured, good == len(tried) if tried else None)
