"""Fixtures that every folder shares."""

from __future__ import annotations

import functools
import os
import signal
from typing import TYPE_CHECKING

import pytest

from mcrelay.commands.lab import Lab, StandardLab, missing_privilege, standard_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

# What the caller's shell says of its terminal, and where his own relay listens: nothing that is tested here.
for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "MCRELAY_SOCKET"):
    os.environ.pop(name, None)
# Where this is set, every relay and every command that a test starts compiles the whole of mcrelay again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A shell starts what goes on in the background with Ctrl-C ignored, and whatever a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

privilege = functools.cache(missing_privilege)


@pytest.fixture
def namespaces() -> Iterator[Lab]:
    """An empty Lab: add namespaces and links of your own. All is removed after the test."""
    if reason := privilege():
        pytest.skip(reason)
    with Lab() as lab:
        yield lab


@pytest.fixture
def lab() -> Iterator[StandardLab]:
    """source --- switch --- relay --- sink, the bridge already pruning: see mcrelay.commands.lab.StandardLab."""
    if reason := privilege():
        pytest.skip(reason)
    with standard_lab() as made:
        made.settle()
        yield made


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """On a CI machine nothing may be skipped: a test that did not run has proved nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and exitstatus == pytest.ExitCode.OK and os.environ.get("CI"):
        reporter.write_line(f"{len(skipped)} tests were skipped, and CI expects none", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
