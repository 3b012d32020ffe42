"""Builds probe.pyx once a session, beside the core it looks into, with the same flags."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[2]
SANITIZE = os.environ.get("MCRELAY_SANITIZE", "")

# `make asan` preloads a sanitizer into Python. It is there by now, and children (gcc, ip) must go without.
os.environ.pop("LD_PRELOAD", None)

settings.register_profile("core", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("sanitized", settings.get_profile("core"), max_examples=50)
settings.load_profile("sanitized" if SANITIZE else "core")


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    """The compiled tests/core/probe.pyx."""
    return _build(ROOT / "tests/core/probe.pyx", tmp_path_factory.mktemp("probe"))


def _build(source, folder):
    from Cython.Compiler.Main import CompilationOptions, compile_single

    options = CompilationOptions(
        language_level=3,
        include_path=[str(ROOT / "build/cimport")],
        output_file=str(folder / "probe.c"),
        emit_linenums=bool(SANITIZE),
        compiler_directives={"auto_pickle": False, "freethreading_compatible": True},
    )
    result = compile_single(str(source), options, "probe")
    assert result.num_errors == 0
    target = folder / f"probe{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer"] if SANITIZE else []
    command = [
        *("gcc", "-shared", "-fPIC", "-O1", "-g", "-fno-strict-aliasing"),
        "-Dsendmmsg=scripted_sendmmsg",
        *flags,
        *(f"-I{folder}" for folder in (sysconfig.get_path("include"), ROOT / "pyx", ROOT / "tests/core")),
        *("-o", target, folder / "probe.c"),
    ]
    import subprocess

    subprocess.run(command, check=True)
    spec = importlib.util.spec_from_file_location("probe", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
