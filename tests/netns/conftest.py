"""What tests with real traffic share: which engine forwards."""

from __future__ import annotations

import errno
import functools

import pytest
from support import ways
from support.relay import RelayUnderTest
from support.ways import Way

from mcrelay.engine import program


@functools.cache
def no_kernel_engine() -> str:
    """Why there is none here; nothing where there is."""
    if not program.BUILT:
        return "made without the kernel engine: no clang or libbpf-dev"
    try:
        program.probe_hook()
    except OSError as error:
        if error.errno == errno.EPERM:
            return "the kernel engine needs CAP_BPF outside of any user namespace"
        return f"this kernel has no tcx hook: {error}"
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


WAYS = {
    "ring": ("ring", Way()),
    "kernel": ("kernel", Way()),
    "IPv6": ("ring", Way(6, 6)),
    "IPv4 to IPv6": ("ring", Way(4, 6)),
    "IPv6 to IPv4": ("ring", Way(6, 4)),
}


def _go(request, monkeypatch):
    engine, families = request.param
    if engine == "kernel":
        request.getfixturevalue("kernel_engine")
    monkeypatch.setattr(RelayUnderTest, "engine", engine)
    monkeypatch.setattr(ways, "used", families)
    return families


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request, monkeypatch):
    """A test that asks for it runs for each engine, for IPv6, and from each family to the other."""
    return _go(request, monkeypatch)


@pytest.fixture(
    params=[each for name, each in WAYS.items() if name != "kernel"], ids=[n for n in WAYS if n != "kernel"]
)
def ring_way(request, monkeypatch):
    """The same for what is the ring's alone to do."""
    return _go(request, monkeypatch)


@pytest.fixture(params=list(WAYS.values())[:3], ids=list(WAYS)[:3])
def family(request, monkeypatch):
    """`way` without the ways from one family to the other."""
    return _go(request, monkeypatch)
