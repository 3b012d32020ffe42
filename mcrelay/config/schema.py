"""The keys of each table, made from the rows of the model; and the values that are not built yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcrelay.errors import SettingError
from mcrelay.model import values
from mcrelay.model.option import rows
from mcrelay.model.rule import Input, LinkSettings, Output, RelaySettings, Rule
from mcrelay.model.wording import written

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.model.option import Option

RELAY = rows(RelaySettings)
LINK = rows(LinkSettings)
INPUT = rows(Input)
OUTPUT = rows(Output)
OWN = rows(Rule)
TEXTS = {key: row for key, row in OWN.items() if row.check is values.text}  # a rule begins with them
COMMON = {key: row for key, row in OUTPUT.items() if row.inherited}  # what a rule may say for all its outputs
RULE: dict[str, Option] = TEXTS | INPUT | COMMON | OWN  # what may stand on a rule, in the order in which it is written

# What a stream or a rule may say and is not built yet.
_STREAMS: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    (
        "inputs",
        lambda _: True,
        "inputs",
        (
            "write one rule for each input, with shared = true where they share an output (where two inputs carry the"
            " same datagrams, receivers then get each of them twice: name one of the two)"
        ),
    ),
)
# Known and not built yet: key, which values of it, how the complaint calls it, what to do instead. A word is moved in
# its row from `later` to the others when relay/compile.py knows it: until then that raises NotBuiltError.
NOT_YET = _STREAMS + tuple(
    (key, each.refuses, each.what, each.remedy) for key, row in (RELAY | LINK | RULE).items() for each in row.not_yet
)


def not_yet(key: str, value: Any) -> SettingError | None:
    """Return why a legal value is refused, or None if it is built."""
    for name, refuses, what, remedy in NOT_YET:
        if name == key and refuses(value):
            return SettingError(f"{what.format(written(value))} is not supported yet", remedy)
    return None


def never(row: Option) -> bool:
    """Whether only the default is built, so that help and manual leave the key out."""
    legal = [*row.check.words, *row.check.later, *row.check.examples]
    return all(not_yet(row.key, value) for value in legal if value != row.default)
