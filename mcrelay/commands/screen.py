"""What ``mcrelay top`` draws: the relay as it was last seen, in as many lines and columns as there are. Pure."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcrelay.commands import health
from mcrelay.commands.choices import SORTS, order
from mcrelay.model.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mcrelay.commands.choices import View
    from mcrelay.commands.trends import Trend
    from mcrelay.commands.watched import Record, Seen

SPARKS, PLAIN_SPARKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
STYLES = {"active": "green", "pending": "yellow", "parked": "yellow", "losing": "yellow", "error": "red"}
WIDE = 116  # columns from which on the reasons stand beside what was lost
UNITS = ("", "k", "M", "G", "T")
NUMBERS = ("PKT/S", "BIT/S", "LOST", "LAST")
DETAILS = 4  # lines at most about the chosen rule
FEW = 3  # groups of a rule that are told one by one


@dataclass(frozen=True, slots=True)
class Piece:
    """Text in one style of rich; "" is plain."""

    text: str
    style: str = ""


Line = list[Piece]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table; *cell* gets a rule, or None and one of its outputs."""

    title: str
    width: int
    right: bool
    cell: Callable[[Seen, Record, Record | None], Piece]


def draw(seen: Seen, view: View, width: int, height: int, *, plain: bool = False) -> list[Line]:
    """Exactly *height* lines, none longer than *width*. *plain*: with the letters of ASCII alone."""
    rules = order(seen, view)
    chosen = _chosen(view, rules)
    above = [_title(seen, view, width), *_links(seen, width, 2 if height < 30 else 5)]
    below = [
        *(_details(seen, chosen, plain=plain) if chosen else [])[: DETAILS if height >= 20 else 1],
        _keys(view, len(rules), plain=plain),
    ]
    room = max(1, height - len(above) - len(below) - 1)
    columns = _columns(width, plain=plain)
    lines = [*above, *_table(seen, view, rules, columns, room), *below]
    if len(lines) > height:
        lines = [*lines[: height - 1], lines[-1]]
    return [_cut(each, width) for each in lines]


def _chosen(view: View, rules: Sequence[Record]) -> Record | None:
    return next((each for each in rules if each["name"] == view.chosen), rules[0] if rules else None)


def _table(seen: Seen, view: View, rules: Sequence[Record], columns: Sequence[Column], room: int) -> list[Line]:
    """The heading and *room* lines; cells are made of these alone, however many rules there are."""
    chosen = _chosen(view, rules)
    begins, count = [], 0  # where each rule's lines begin
    for each in rules:
        begins.append(count)
        count += 1 + (len(each["outputs"]) if view.outputs else 0)
        if each is chosen:
            view.top = max(min(view.top, begins[-1]), min(count - room, begins[-1]))
    view.top = max(0, min(view.top, count - room))
    heading = [Piece(_fitted(each.title, each), "bold reverse") for each in columns]
    lines = [_spaced(heading, "bold reverse")]
    for begin, rule in zip(begins, rules, strict=True):
        if begin >= view.top + room:
            break
        outputs: list[Record | None] = [None, *rule["outputs"]] if view.outputs else [None]
        if begin + len(outputs) <= view.top:
            continue
        for i, output in enumerate(outputs):
            if view.top <= begin + i < view.top + room:
                lines.append(_row(seen, columns, rule, output, chosen=rule is chosen))
    if not rules:
        lines.append([Piece("no rule matches the filter" if view.filter else "no rules", "dim")])
    return lines + [[] for _ in range(room + 1 - len(lines))]


def _row(seen: Seen, columns: Sequence[Column], rule: Record, output: Record | None, *, chosen: bool) -> Line:
    pieces = []
    for number, column in enumerate(columns):
        piece = column.cell(seen, rule, output)
        style = f"{piece.style} bold" if chosen and output is None and number == 0 else piece.style
        pieces.append(Piece(_fitted(piece.text, column), style.strip()))
    return [Piece(">" if chosen and output is None else " ", "bold"), *_spaced(pieces)[1:]]


def rows(seen: Seen, view: View) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of the whole table, for a pipe: every rule and output is one line."""
    columns = [each for each in _columns(WIDE + 40) if each.title.strip() != "LAST MINUTE"]
    columns.insert(1, Column("OUTPUT", 0, False, lambda _, __, output: Piece(output["to"] if output else "-")))
    columns[0] = Column("RULE", 0, False, lambda _, rule, __: Piece(rule["name"]))
    header = [each.title for each in columns]
    lines = [(rule, output) for rule in order(seen, view) for output in (None, *rule["outputs"])]
    return header, [[each.cell(seen, *line).text or "-" for each in columns] for line in lines]


def _columns(width: int, *, plain: bool = False) -> list[Column]:
    """What fits: the name and the last minute take what is left over."""
    columns = [
        Column("STATE", 8, False, _state_cell),
        Column("IGMP", 4, False, _igmp_cell),
        Column("PKT/S", 6, True, lambda seen, rule, output: Piece(scaled(_trend(seen, rule, output).packet_rate))),
        Column("BIT/S", 6, True, lambda seen, rule, output: Piece(scaled(_trend(seen, rule, output).bit_rate))),
        Column("LOST", 6, True, _lost_cell),
        Column("LAST", 5, True, _last_cell),
    ]
    if width >= WIDE:
        columns.append(Column("WHY", min(40, width - WIDE + 16), False, _why_cell))
    left = width - 1 - sum(each.width + 1 for each in columns)
    minute = max(8, min(60, left // 3))
    name = max(8, left - minute - 1)

    def spark(seen: Seen, rule: Record, output: Record | None) -> Piece:
        key = (rule["name"], output["to"] if output else "")
        return Piece(sparkline(seen.trends.minute(key, minute), PLAIN_SPARKS if plain else SPARKS), "cyan")

    def named(_: Seen, rule: Record, output: Record | None) -> Piece:
        return Piece(rule["name"]) if output is None else Piece(f"{'->' if plain else '→'} {output['to']}", "dim")

    title = "LAST MINUTE" if minute >= 11 else "MINUTE"
    return [Column("RULE", name, False, named), *columns, Column(title, minute, False, spark)]


def _trend(seen: Seen, rule: Record, output: Record | None) -> Trend:
    return seen.trends.trends[rule["name"], output["to"] if output else ""]


def _state_cell(seen: Seen, rule: Record, output: Record | None) -> Piece:
    state = seen.state(rule)
    if output is not None:
        known = seen.rules.get(rule["name"], {})
        state = next((each["state"] for each in known.get("outputs", ()) if each["to"] == output["to"]), "?")
    return Piece(state, STYLES.get(state, "dim"))


def _igmp_cell(seen: Seen, rule: Record, output: Record | None) -> Piece:
    """The IGMP version that the membership is spoken in, while it stands."""
    held = seen.memberships(rule) if output is None else []
    if not held:
        return Piece("" if output else "-", "dim")
    if any(each["state"] == "error" for each in held):
        return Piece("no", "red")
    if any(each["state"] == "pending" for each in held):
        return Piece("wait", "yellow")
    return Piece(f"v{held[0]['version']}" if held[0]["version"] else "yes", "green")


def _lost_cell(seen: Seen, rule: Record, output: Record | None) -> Piece:
    trend = _trend(seen, rule, output)
    return Piece(scaled(trend.lost), "bold red" if trend.loss_rate else "yellow" if trend.lost else "dim")


def _last_cell(seen: Seen, rule: Record, output: Record | None) -> Piece:
    if output is not None:
        return Piece("")
    age = _age(seen, rule["last_packet_time"])
    return Piece(age, "" if age in {"now", "never"} else "yellow")


def _why_cell(_: Seen, rule: Record, output: Record | None) -> Piece:
    return Piece(_counts(output["tx_errors"] if output else rule["drops"]), "yellow")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {scaled(count)}" for reason, count in counts.items() if count)


def _age(seen: Seen, moment: float | None) -> str:
    """How long before the relay's last answer, in five letters."""
    if not moment:
        return "never"
    seconds = max(0.0, seen.stats["time"] - moment)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 2 else "now"


def _title(seen: Seen, view: View, width: int) -> Line:
    if seen.trouble:
        return [Piece(f"mcrelay top: no answer, trying again: {seen.trouble}", "bold red")]
    states: dict[str, int] = {}
    for each in seen.rules.values():
        states[each["state"]] = states.get(each["state"], 0) + 1
    count = len(seen.stats["rules"])
    parts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    trends = seen.trends.trends
    into = [trends[each["name"], ""] for each in seen.stats["rules"]]
    out = [trends[each["name"], output["to"]] for each in seen.stats["rules"] for output in each["outputs"]]
    packets = {
        word: f"{scaled(sum(each.packet_rate for each in part))}/s " for word, part in (("in", into), ("out", out))
    }
    bits = {word: f"{scaled(sum(each.bit_rate for each in part))}bit/s" for word, part in (("in", into), ("out", out))}
    clock = time.strftime("  %H:%M:%S  ", time.localtime(seen.stats["time"]))
    head = [Piece("mcrelay top", "bold"), Piece(clock)] if width >= WIDE else []
    tail = [Piece("  paused", "bold yellow")] * view.paused
    room = width - sum(len(each.text) for each in (*head, *tail))
    rules = f"{counted(count, 'rule')}{f': {parts}' if parts else ''}"
    text = f"{rules}   in {packets['in']}{bits['in']}  out {packets['out']}{bits['out']}"
    if len(text) > room:  # rather without the packets than without the end
        text = f"{rules}  in {bits['in']}  out {bits['out']}"
    return [*head, Piece(text), *tail]


def _links(seen: Seen, width: int, most: int) -> list[Line]:
    """The links that rules listen on: carrier, who queries, what found no room; and what is wrong there."""
    counted_there = {each["ifname"]: each for each in seen.stats["links"]}
    lines: list[Line] = []
    for link in seen.links:
        counts = counted_there.get(link["ifname"])
        if counts is None or counts["filter"] is None:
            continue
        queriers = [each for each in (link["querier"], link.get("mld_querier")) if each]
        asks = ", ".join(
            f"querier {each['address']} v{each['version']} {_age(seen, each['last_seen_time'])}" for each in queriers
        )
        dropped = counts["ring_dropped_frames"]
        lost = Piece(f", {scaled(dropped)} frames found no room", "red") if dropped else Piece("")
        others = _counts({verdict: n for verdict, n in counts["frames"].items() if verdict != "relayed"})
        line = [Piece(f"{link['ifname']} "), Piece(link["operstate"], "green" if link["operstate"] == "UP" else "red")]
        line += [Piece(f", {asks or 'no querier'}"), lost, Piece(f", not relayed: {others}" if others else "", "dim")]
        line += [Piece(f"; {each['text']}", "yellow") for each in link["warnings"][:1]]
        lines.append([each for each in line if each.text])
    if len(lines) > most:
        more = len(lines) - most + 1
        lines = [*lines[: most - 1], [Piece(f"and {counted(more, 'link')} more: mcrelay show links", "dim")]]
    return lines


def _details(seen: Seen, counts: Record, *, plain: bool) -> list[Line]:
    """What there is to say of a rule (of `show stats`)."""
    rule, arrow = seen.rules.get(counts["name"], {}), "->" if plain else "→"
    held = seen.memberships(counts)
    joined = ", ".join(f"{each['group']} {each['state']}" for each in held)
    if len(held) > FEW:
        states = Counter(each["state"] for each in held)
        joined = ", ".join(f"{number} groups {state}" for state, number in states.items())
    inputs = ", ".join(each["from"] for each in rule.get("inputs", ()))
    lines: list[Line] = [[Piece(counts["name"], "bold"), Piece(f": {inputs}{f' ({joined})' if joined else ''}")]]
    losses = [f"drops: {_counts(counts['drops'])}"] if any(counts["drops"].values()) else []
    losses += [
        f"{arrow} {each['to']}: {_counts(each['tx_errors'])}"
        for each in counts["outputs"]
        if any(each["tx_errors"].values())
    ]
    if losses:
        lines.append([Piece("  " + "; ".join(losses), "yellow")])
    if words := health.summary(counts.get("health")):
        lines.append([Piece(f"  health: {words}")])
    engine = rule.get("engine_reason")
    held_up = dict.fromkeys(each.get("reason") for each in held)
    reasons = [rule.get("reason"), *held_up, engine and f"by the ring: {engine}"]
    reasons[1:1] = [
        f"{arrow} {each['to']}: {each['reason']}"
        for each in rule.get("outputs", ())
        if each["reason"] and each["reason"] != rule["reason"]
    ]
    return lines + [[Piece(f"  {text}", "yellow")] for text in reasons if text]


def _keys(view: View, count: int, *, plain: bool) -> Line:
    """The keys, always: nobody reads a manual for this. While the filter is typed, the filter."""
    if view.typing:
        return [Piece("filter: ", "bold"), Piece(f"{view.filter}_"), Piece("  Enter keeps it, Esc clears it", "dim")]
    line = [Piece("q", "bold"), Piece(" quit  "), Piece("jk" if plain else "↑↓", "bold"), Piece("  sort:")]
    for word in (*SORTS.values(), "reverse"):
        chosen = word == view.sort or (word == "reverse" and view.backwards)
        line += [Piece(" "), *_initial(word, "reverse" if chosen else "")]
    line += [Piece("  "), *_initial("outputs", "" if view.outputs else "reverse"), Piece(" "), *_initial("/filter")]
    if view.filter:
        line.append(Piece(f" {view.filter}: {count}", "reverse"))
    return [*line, Piece(" "), Piece("space", "bold"), Piece(" pause", "reverse" if view.paused else "")]


def _initial(word: str, style: str = "") -> Line:
    """A word whose first letter is its key."""
    return [Piece(word[0], f"{style} bold underline".strip()), Piece(word[1:], style)]


def scaled(number: float) -> str:
    """Three or four digits and a unit: 0, 12, 1.2k, 100M."""
    unit = 0
    while number >= 999.5 and unit < len(UNITS) - 1:
        number /= 1000
        unit += 1
    decimals = 1 if 0 < number < 9.95 and (unit or number % 1 >= 0.05) else 0
    return f"{number:.{decimals}f}{UNITS[unit]}"


def sparkline(rates: Sequence[float | None], marks: str) -> str:
    """One mark a rate, as high as it is beside the largest of them; a space where nothing is known."""
    most = max((each for each in rates if each is not None), default=0.0) or 1.0
    top = len(marks) - 1
    return "".join(" " if each is None else marks[min(top, int(each / most * top + 0.999))] for each in rates)


def _fitted(text: str, column: Column) -> str:
    """As wide as the column; what is longer is cut in the middle, where streams differ least."""
    if len(text) > column.width:
        end = (column.width - 1) // 2
        text = f"{text[: column.width - end - 1]}~{text[len(text) - end :]}"
    return text.rjust(column.width) if column.right else text.ljust(column.width)


def _spaced(pieces: Sequence[Piece], style: str = "") -> Line:
    return [each for piece in pieces for each in (Piece(" ", style), piece)]


def _cut(line: Line, width: int) -> Line:
    found, used = [], 0
    for piece in line:
        text = "".join(each if each.isprintable() else "?" for each in piece.text)[: width - used]
        used += len(text)
        found.append(Piece(text, piece.style))
    return found
