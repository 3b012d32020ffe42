"""Build pyx/*.pyx into mcrelay._core; everything else stands in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
SANITIZE = os.environ.get("MCRELAY_SANITIZE", "")  # "address,undefined" or "thread": make asan, make tsan

# Cython looks a module's .pxd up by its importable name, mcrelay/_core/NAME.pxd.
# build/cimport shows it pyx/ under that name, so pyx/ itself can stay flat.
view = ROOT / "build" / "cimport" / "mcrelay" / "_core"
view.parent.mkdir(parents=True, exist_ok=True)
view.unlink(missing_ok=True)
view.symlink_to("../../../pyx", target_is_directory=True)

warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
flags = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-O1"] if SANITIZE else ["-O3"]
extensions = [
    Extension(
        f"mcrelay._core.{source.stem}",
        [f"pyx/{source.name}"],
        include_dirs=["pyx"],
        extra_compile_args=[*flags, "-g", "-fno-strict-aliasing", *warnings],
        extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
    )
    for source in sorted((ROOT / "pyx").glob("*.pyx"))
]
directives = {"language_level": 3, "auto_pickle": False, "embedsignature": True, "freethreading_compatible": True}
setup(
    ext_modules=cythonize(
        extensions,
        include_path=["build/cimport"],
        compiler_directives=directives,
        emit_linenums=bool(SANITIZE),
        nthreads=os.cpu_count() or 1,
    )
)
