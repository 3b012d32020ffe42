"""Build pyx/*.pyx into mcrelay._core; everything else stands in pyproject.toml."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
SANITIZE = os.environ.get("MCRELAY_SANITIZE", "")  # "address,undefined" or "thread": make asan, make tsan
# pip compiles what it installs in place in a folder that it then removes: `make build` would compile all of it again.
CORE_LATER = "MCRELAY_CORE_LATER" in os.environ

# Cython looks a module's .pxd up by its importable name, mcrelay/_core/NAME.pxd.
# build/cimport shows it pyx/ under that name, so pyx/ itself can stay flat.
view = ROOT / "build" / "cimport" / "mcrelay" / "_core"
view.parent.mkdir(parents=True, exist_ok=True)
view.unlink(missing_ok=True)
view.symlink_to("../../../pyx", target_is_directory=True)


def build_program():
    """Compile what the kernel engine runs in the kernel; whether there is what that needs (clang and libbpf-dev)."""
    clang = shutil.which("clang")
    header = subprocess.run(["cc", "-E", "-include", "bpf/libbpf.h", "-"], input=b"", capture_output=True, check=False)
    if clang is None or header.returncode:
        print(f"made without the kernel engine: there is no {'libbpf-dev' if clang else 'clang'}", file=sys.stderr)
        return False
    headers = f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"  # asm/types.h
    flags = "-O2 -g -target bpf -mcpu=v3 -ffreestanding -fno-strict-aliasing -Wall -Wextra -Werror".split()
    target = ROOT / "mcrelay" / "_core" / "relay.bpf.o"
    subprocess.run([clang, *flags, "-I", headers, "-c", "pyx/relay.bpf.c", "-o", target], cwd=ROOT, check=True)
    return True


def core():
    """Every pyx/*.pyx as an extension module."""
    kernel_engine = build_program()
    warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
    flags = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-O1"] if SANITIZE else ["-O3"]
    extensions = [
        Extension(
            f"mcrelay._core.{source.stem}",
            [f"pyx/{source.name}"],
            include_dirs=["pyx"],
            extra_compile_args=[*flags, "-g", "-fno-strict-aliasing", *warnings],
            extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
            libraries=["bpf"] if source.stem == "program" else [],
        )
        for source in sorted((ROOT / "pyx").glob("*.pyx"))
        if source.stem != "program" or kernel_engine
    ]
    directives = {"language_level": 3, "auto_pickle": False, "embedsignature": True, "freethreading_compatible": True}
    return cythonize(
        extensions,
        include_path=["build/cimport"],
        compiler_directives=directives,
        emit_linenums=bool(SANITIZE),
        nthreads=os.cpu_count() or 1,
    )


# With "" named, an editable install is a path. Without, it is a finder that every start of Python imports.
setup(package_dir={"": "."}, ext_modules=[] if CORE_LATER else core())
