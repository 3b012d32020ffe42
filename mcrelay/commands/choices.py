"""What a person who looks at `mcrelay top` has chosen to see, key by key. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mcrelay.commands.watched import Record, Seen

SORTS = {"n": "name", "p": "pkts", "b": "bits", "l": "lost", "a": "age"}
STEPS = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -10, "page down": 10, "home": -(1 << 30), "end": 1 << 30}


@dataclass(slots=True)
class View:
    """What is looked at, and how."""

    sort: str = "pkts"
    backwards: bool = False
    outputs: bool = True
    filter: str = ""
    typing: bool = False  # the filter
    paused: bool = False
    chosen: str = ""  # the rule that the details are about; the first one where there is no such rule
    top: int = 0  # the first line of the table that is shown


def order(seen: Seen, view: View) -> list[Record]:
    """The rules that the filter lets through (of `show stats`), as sorted. Ties go by name."""
    wanted = view.filter.lower()
    found = [each for each in seen.stats["rules"] if not wanted or wanted in _words(seen, each)]
    found.sort(key=lambda each: each["name"])
    if view.sort != "name":
        trends = seen.trends.trends
        keys: dict[str, Callable[[Record], Any]] = {
            "pkts": lambda each: -trends[each["name"], ""].packet_rate,
            "bits": lambda each: -trends[each["name"], ""].bit_rate,
            "lost": lambda each: (-trends[each["name"], ""].loss_rate, -trends[each["name"], ""].lost),
            "age": lambda each: -(each["last_packet_time"] or 0.0),
        }
        found.sort(key=keys[view.sort])
    if view.backwards:
        found.reverse()
    return found


def _words(seen: Seen, rule: Record) -> str:
    known = seen.rules.get(rule["name"], {})
    parts = [rule["name"], known.get("description") or "", seen.state(rule)]
    parts += [each["from"] for each in known.get("inputs", ())] + [each["to"] for each in rule["outputs"]]
    return " ".join(parts).lower()


def press(seen: Seen, view: View, key: str) -> bool:
    """Do what a key says. False: it is over."""
    if view.typing:
        _edit(view, key)
    elif key == "q":
        return False
    elif key in STEPS:
        _move(view, order(seen, view), STEPS[key])
    elif key in SORTS:
        view.sort, view.backwards = SORTS[key], False
    elif key == "r":
        view.backwards = not view.backwards
    elif key == "o":
        view.outputs = not view.outputs
    elif key == "/":
        view.typing = True
    elif key == "escape":
        view.filter = ""
    elif key == " ":
        view.paused = not view.paused
    return True


def _edit(view: View, key: str) -> None:
    if key == "enter":
        view.typing = False
    elif key == "escape":
        view.typing, view.filter = False, ""
    elif key == "backspace":
        view.filter = view.filter[:-1]
    elif len(key) == 1 and key.isprintable():
        view.filter += key


def _move(view: View, rules: Sequence[Record], by: int) -> None:
    """Choose the rule so many places further on, or the nearest there is."""
    names = [each["name"] for each in rules]
    if names:
        at = names.index(view.chosen) if view.chosen in names else 0
        view.chosen = names[min(max(0, at + by), len(names) - 1)]
