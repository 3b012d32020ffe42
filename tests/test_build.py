"""What `make` does the first time: the core is compiled once, in place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_what_installs_in_place_leaves_the_core_to_the_build(tmp_path):
    installs = re.findall(r"(?m)^\t@?(.*pip install .*-e .*)$", (ROOT / "Makefile").read_text())
    assert installs
    assert all(each.startswith("MCRELAY_CORE_LATER=1 ") for each in installs)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path],
        cwd=ROOT, env=os.environ | {"MCRELAY_CORE_LATER": "1"}, check=True,
    )  # fmt: skip
    assert list(tmp_path.rglob("*")) == []
