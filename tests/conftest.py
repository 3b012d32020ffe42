"""Fixtures that every folder shares."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from mcrelay import netns

if TYPE_CHECKING:
    from collections.abc import Iterator

privilege = functools.cache(netns.missing_privilege)


@pytest.fixture
def namespaces() -> Iterator[netns.Lab]:
    """An empty Lab: add namespaces and links of your own. All is removed after the test."""
    if reason := privilege():
        pytest.skip(reason)
    with netns.Lab() as lab:
        yield lab


@pytest.fixture
def lab() -> Iterator[netns.StandardLab]:
    """source --- switch --- relay --- sink, the bridge already pruning: see mcrelay.netns.StandardLab."""
    if reason := privilege():
        pytest.skip(reason)
    with netns.standard_lab() as made:
        made.settle()
        yield made
