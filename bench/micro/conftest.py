"""Builds loops.pyx once a session, beside the core that it looks into, as optimised as the core is."""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The compiled loops.pyx."""
    from Cython.Compiler import Main  # noqa: PLC0415  development only

    compiler: Any = Main  # it has no hints

    folder = tmp_path_factory.mktemp("loops")
    options = compiler.CompilationOptions(
        language_level=3, include_path=[str(ROOT / "build/cimport")], output_file=str(folder / "loops.c")
    )
    assert compiler.compile_single(str(ROOT / "bench/micro/loops.pyx"), options, "loops").num_errors == 0
    target = folder / f"loops{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [f"-I{path}" for path in (sysconfig.get_path("include"), ROOT / "pyx")]
    command: list[str | Path] = [
        "gcc",
        "-shared",
        "-fPIC",
        "-O3",
        "-fno-strict-aliasing",
        *includes,
        "-o",
        target,
        folder / "loops.c",
    ]
    subprocess.run(command, check=True)
    spec = importlib.util.spec_from_file_location("loops", target)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
