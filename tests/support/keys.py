"""Values for every key of the configuration, from its row: so that a new key is tested without a line here."""

from __future__ import annotations

from hypothesis import strategies as st

from mcrelay.config.schema import not_yet
from mcrelay.model.values import Each, text

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def read(row, value):
    """What the model has of a value, by the row's own check."""
    if isinstance(row.check, Each):
        return row.check.whole([row.check.item(each) for each in value])
    return row.check(value)


def legal(row):
    """Some values that a key may have, as TOML has them, and that are built: each bound, word and example."""
    examples = row.check.examples
    few = [*examples] if len(examples) < 10 else [examples[0], examples[len(examples) // 2], examples[-1]]
    return [value for value in (*few, *row.check.words) if not not_yet(row.key, read(row, value))]


def another(row):
    """A value that a key may have and that is not its default, as TOML has it; None where only that is built."""
    return next((value for value in legal(row) if read(row, value) != row.default), None)


def values(row):
    """Any value of a key that is built, for hypothesis; the likely ones often."""
    likely = st.sampled_from(legal(row))
    if row.check is text:
        return TEXTS
    if isinstance(row.check, Each):
        return st.lists(st.sampled_from(row.check.item.examples), min_size=1, max_size=3)
    if isinstance(row.check.examples, range) and row.check.examples[0] in legal(row):
        likely |= st.sampled_from(row.check.examples)
    if row.default_for is not None:  # what is the default of one stream is none of another's
        likely |= st.sampled_from([row.default, 64])
    return likely
