"""What is inside the executables and under which licence, for `mcrelay version --licenses`.

Nothing is guessed: a library that is not in the table below stops the build, and so does one that may not be shipped.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

# Shared libraries of the build machine: SPDX licence, by the name before ".so"
LIBRARIES = {
    "libbpf": "LGPL-2.1-only OR BSD-2-Clause",
    "libbz2": "bzip2-1.0.6",
    "libcrypto": "Apache-2.0",
    "libelf": "GPL-2.0-or-later OR LGPL-3.0-or-later",
    "libexpat": "MIT",
    "libffi": "MIT",
    "libgcc_s": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "liblzma": "0BSD",
    "libpython": "PSF-2.0",
    "libsqlite3": "blessing",
    "libssl": "Apache-2.0",
    "libstdc++": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "libuuid": "BSD-3-Clause",
    "libz": "Zlib",
    "libzstd": "BSD-3-Clause",
}
# Distributions that offer a choice, or say their licence in a way that no program understands
DISTRIBUTIONS = {
    "pyroute2": "Apache-2.0 OR GPL-2.0-or-later",
    "pyinstaller": "GPL-2.0-or-later WITH Bootloader-exception",
}
BOOTLOADER = "the executable's first instructions; the exception lets programs of any licence be shipped with it"


class LicenseError(Exception):
    """Something inside has no licence, or one that does not let us ship it."""


def of(analysis) -> list[dict[str, str]]:
    """List every component of a PyInstaller analysis."""
    stdlib, packages = _where()
    names, libraries = set(), set()
    for _, source, kind in [*analysis.pure, *analysis.binaries, *analysis.datas]:
        path = Path(source)
        if packages in path.parents:
            names.add(_distribution(path.relative_to(packages)))
        elif stdlib not in path.parents and kind == "BINARY":
            libraries.add(path)
    names.discard(None)
    inside = [_python(stdlib), *(_package(name) for name in sorted(names, key=str.lower))]
    inside += [_library(path) for path in sorted(libraries) if not path.name.startswith("libpython")]
    inside.append(_package("pyinstaller") | {"name": "PyInstaller bootloader", "what": BOOTLOADER})
    for each in inside:
        _check(each)
    return inside


def as_json(inside: list[dict[str, str]]) -> str:
    """Spell the list as the file that is put inside."""
    return json.dumps(inside, indent=1)


def _where() -> tuple[Path, Path]:
    paths = sysconfig.get_paths()
    return Path(os.path.realpath(paths["stdlib"])), Path(paths["purelib"])


def _distribution(path: Path) -> str | None:
    """Name the distribution that a file of site-packages belongs to."""
    top = path.parts[0]
    if top.endswith((".dist-info", ".egg-info")):
        return top.split("-")[0].replace("_", "-").lower()
    found = importlib.metadata.packages_distributions().get(top.split(".")[0])
    if found is None:
        raise LicenseError(f"{path} belongs to no distribution")
    return found[0].lower()


def _package(name: str) -> dict[str, str]:
    found = importlib.metadata.distribution(name)
    license_ = DISTRIBUTIONS.get(name.lower()) or found.metadata["License-Expression"] or _classified(found)
    texts = [
        Path(str(found.locate_file(file))).read_text(errors="replace")
        for file in found.files or []
        if re.search(r"(?i)(^|/)(licen[cs]e|copying|notice)[^/]*$", str(file)) and ".dist-info" in str(file)
    ]
    return {"name": found.metadata["Name"], "version": found.version, "license": license_, "text": "\n".join(texts)}


def _classified(found: importlib.metadata.Distribution) -> str:
    """Say what the classifiers, or the free text, call the licence."""
    classes = [each for each in found.metadata.get_all("Classifier") or [] if each.startswith("License ::")]
    known = {
        "Apache Software License": "Apache-2.0",
        "BSD License": "BSD-3-Clause",
        "MIT License": "MIT",
        "Python Software Foundation License": "PSF-2.0",
    }
    named = [known[name] for each in classes if (name := each.rsplit(" :: ", 1)[-1]) in known]
    return " AND ".join(named) or found.metadata["License"] or ""


def _python(stdlib: Path) -> dict[str, str]:
    texts = [path for path in (stdlib / "LICENSE.txt", Path("/usr/share/doc/python3/copyright")) if path.exists()]
    text = texts[0].read_text() if texts else ""
    return {"name": "Python", "version": sys.version.split()[0], "license": "PSF-2.0", "text": text}


def _library(path: Path) -> dict[str, str]:
    """Describe a library of the system: its licence from the table, text and version from Debian's package."""
    name = re.sub(r"(-[\d.]+)?\.so.*", "", path.name)
    if name not in LIBRARIES:
        raise LicenseError(
            f"{path} is not in the table of packaging/licenses.py: add it there, or exclude what needs it"
        )
    real = Path(os.path.realpath(path))
    merged = [str(real), str(real).removeprefix("/usr")]  # dpkg may know it under either
    version = text = ""
    for spelling in merged:
        owner = subprocess.run(["dpkg", "-S", spelling], capture_output=True, text=True, check=False)
        if owner.returncode == 0:
            package = owner.stdout.split(": ")[0].split(",")[0]
            version = subprocess.run(
                ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=True
            ).stdout
            copyright_ = Path("/usr/share/doc", package.split(":")[0], "copyright")
            text = copyright_.read_text() if copyright_.exists() else ""
            break
    return {"name": name, "version": version or "unknown", "license": LIBRARIES[name], "text": text}


def _check(component: dict[str, str]) -> None:
    """Let nothing in that has no licence, or only a GPL one without an exception for us."""
    license_ = component["license"]
    if not license_:
        raise LicenseError(f"{component['name']} does not say its licence: look, and add it to packaging/licenses.py")
    choices = re.split(r"\s+OR\s+", license_)
    if all(choice.startswith(("GPL", "AGPL")) and "WITH" not in choice for choice in choices):
        raise LicenseError(f"{component['name']} is {license_}: it must not be inside")
