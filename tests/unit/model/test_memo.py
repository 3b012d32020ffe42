"""A kept answer is given for the same question only."""

from __future__ import annotations

import pytest

from mcrelay.model.memo import Memo


def counted():
    """A function that remembers what it was asked."""
    asked = []

    def add(first, second=0):
        asked.append((first, second))
        return [first, second]

    return Memo(add), asked


def test_the_same_question_has_the_same_object_as_its_answer():
    memo, asked = counted()
    assert memo(1, 2) is memo(1, 2)
    assert asked == [(1, 2)]


@pytest.mark.parametrize("other", [lambda memo: memo(2, 2), lambda memo: memo(1), lambda memo: memo(1, second=2)])
def test_another_question_is_asked_anew_and_then_the_first_one_too(other):
    memo, asked = counted()
    memo(1, 2)
    other(memo)
    memo(1, 2)
    assert len(asked) == 3


def test_equal_arguments_are_the_same_and_identical_ones_are_not_compared():
    class Loud:
        def __eq__(self, other):
            raise AssertionError("compared")

        __hash__ = None

    memo, asked = counted()
    loud = Loud()
    memo(loud)
    memo(loud)
    assert len(asked) == 1
    memo, asked = counted()
    memo((1, [2]))
    memo((1, [2]))
    assert len(asked) == 1


def test_what_raised_is_asked_again():
    asked = []

    def fail(_):
        asked.append(1)
        raise ValueError

    memo = Memo(fail)
    for _ in range(2):
        with pytest.raises(ValueError):
            memo(1)
    assert len(asked) == 2
