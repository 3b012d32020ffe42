"""What tests with real traffic share: which engine forwards."""

from __future__ import annotations

import errno
import functools

import pytest
from support.relay import RelayUnderTest

from mcrelay.engine import program


@functools.cache
def no_kernel_engine() -> str:
    """Why there is none here; nothing where there is."""
    if not program.BUILT:
        return "made without the kernel engine: no clang or libbpf-dev"
    try:
        program.load({}).close()
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        return "the kernel engine needs CAP_BPF outside of any user namespace"
    return ""


@pytest.fixture
def kernel_engine():
    """Skips the test, with the reason, where there is no kernel engine."""
    if reason := no_kernel_engine():
        pytest.skip(reason)


@pytest.fixture(params=["ring", "kernel"])
def engine(request, monkeypatch):
    """A test that asks for it runs once for each, as the default of every rule."""
    if request.param == "kernel":
        request.getfixturevalue("kernel_engine")
    monkeypatch.setattr(RelayUnderTest, "engine", request.param)
    return request.param
