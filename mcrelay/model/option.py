"""The row of one configuration key: everything known about it. It stands at the field that holds the value."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.model.stream import Stream
    from mcrelay.model.values import Check, Each


@dataclass(frozen=True, slots=True)
class NotYet:
    """Legal values that are not built: which, how a complaint calls them ({} is the value), what to do instead."""

    refuses: Callable[[Any], bool]
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Option:
    """One key: its ``check``, its ``default``, and its text for ``--help`` and mcrelay.toml(5).

    Where it may stand follows from the class whose field it is: an option of Input or Output may stand there, on the
    rule and under ``[defaults]``; one of Rule on the rule and under ``[defaults]``. Each of these is a flag as well.
    One that is not ``inherited`` stands at its own input or output alone, and is no flag.
    """

    check: Check | Each
    metavar: str  # "" of what is true or false
    help: str  # without the default, which is appended
    manual: str  # likewise
    key: str  # as files and flags spell it
    flag: str  # the flag, without its dashes; where true is the default, it says the opposite
    field: str = ""  # of the class
    default: Any = None
    default_for: Callable[[Stream], Any] | None = None  # the default, where it depends on the stream
    default_words: str = ""  # the default in words, where the value tells too little
    default_help: str = ""  # the same for --help alone
    unlimited: Any = None  # what a file says for None, where [defaults] says something else
    instead: str = ""  # remedies for words that the check accepts and nothing else knows yet
    refused: tuple[NotYet, ...] = ()  # what else is not built
    inherited: bool = True  # else it stands at its own end alone

    @property
    def not_yet(self) -> tuple[NotYet, ...]:
        """Every value that is legal and not built yet."""
        words = (_word(self.key, word, self.instead) for word in self.check.later)
        return (*words, *self.refused)

    def default_of(self, stream: Stream | None) -> Any:
        """Give the default, for an output to *stream* where it depends on that."""
        return self.default_for(stream) if self.default_for and stream else self.default


def option(
    check: Check | Each,
    metavar: str = "",
    *,
    help: str = "",  # noqa: A002 -- as click calls it
    manual: str = "",
    key: str = "",
    flag: str = "",
    **more: Any,
) -> dict[str, Option]:
    """Make the metadata of a field that is a key.

    Unless said otherwise, key and flag are named like the field, and the manual says what ``--help`` says.
    """
    return {"option": Option(check, metavar, help, manual or help, key, flag, **more)}


def rows(kind: type[Any]) -> dict[str, Option]:
    """List the keys that a class of the model holds, in its order."""
    found = {}
    for each in fields(kind):
        row: Option | None = each.metadata.get("option")
        if row is not None:
            key = row.key or each.name
            default = None if each.default is MISSING else each.default
            flag = row.flag or key.replace("_", "-")
            found[key] = replace(row, key=key, flag=flag, field=each.name, default=default)
    return found


def _word(key: str, word: str, instead: str) -> NotYet:
    return NotYet(lambda value: value == word, f'{key} = "{word}"', instead)
