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


ENGINES = ("ring", "kernel")
FAMILIES = {"IPv4": Way(), "IPv6": Way(6, 6)}
DIRECTIONS = {**FAMILIES, "IPv4 to IPv6": Way(4, 6), "IPv6 to IPv4": Way(6, 4)}


def ways_of(engines, directions):
    """The parameters of a fixture: each direction with each engine."""
    return [
        pytest.param((engine, way), id=f"{engine} {name}") for name, way in directions.items() for engine in engines
    ]


def _go(request, monkeypatch):
    engine, families = request.param
    if engine == "kernel":
        request.getfixturevalue("kernel_engine")
    monkeypatch.setattr(RelayUnderTest, "engine", engine)
    monkeypatch.setattr(ways, "used", families)
    return families


@pytest.fixture(params=ways_of(ENGINES, DIRECTIONS))
def way(request, monkeypatch):
    """A test that asks for it runs with each engine, for each family, and from each to the other."""
    return _go(request, monkeypatch)


@pytest.fixture(params=ways_of(["ring"], DIRECTIONS))
def ring_way(request, monkeypatch):
    """The same for what is the ring's alone to do."""
    return _go(request, monkeypatch)


@pytest.fixture(params=ways_of(["kernel"], DIRECTIONS))
def kernel_way(request, monkeypatch):
    """The same for what the kernel engine alone does."""
    return _go(request, monkeypatch)


@pytest.fixture(params=ways_of(ENGINES, FAMILIES))
def family(request, monkeypatch):
    """`way` without the ways from one family to the other."""
    return _go(request, monkeypatch)
