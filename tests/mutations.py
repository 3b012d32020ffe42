"""Break the code one line at a time, and see the tests fail that are said to: ``.venv/bin/python tests/mutations.py``.

As root, in a tree without changes, which it leaves as it was: each fault of mutations.toml is made, the core compiled
again where it is one of pyx/, and its rows and tests run. A word on the command line takes the faults that have it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".toml")
TABLE = "tests/netns/test_packets.py"


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of a file that ``becomes`` another, and what has to fail: rows of the table of packets, and tests."""

    what: str
    file: str
    was: str
    becomes: str
    rows: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()

    def made_in(self, text: str) -> str:
        """The text of the file with the fault. Raises ValueError unless it has that line once."""
        if text.count(f"\n{self.was}\n") != 1:
            raise ValueError(f"{self.file} has not one line {self.was.strip()!r}: {self.what}")
        return text.replace(f"\n{self.was}\n", f"\n{self.becomes}\n")


def faults() -> list[Fault]:
    """All of mutations.toml."""
    return [
        Fault(**{key: tuple(held) if isinstance(held, list) else held for key, held in table.items()})
        for table in tomllib.loads(LIST.read_text())["fault"]
    ]


def compile_core() -> None:
    """Make the core from pyx/ as it is."""
    subprocess.run(["bash", ".ci/compile", sys.executable], cwd=ROOT, check=True)


def survivors(fault: Fault) -> list[str]:
    """What should fail with a fault and does not; the whole test where that never ran."""
    wanted = [f"{TABLE}::test_packets[{row}]" for row in fault.rows] + list(fault.tests)
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report.name}", *wanted],
            cwd=ROOT, check=False, capture_output=True,
        )  # fmt: skip
        cases = ET.parse(report.name).iter("testcase")
        failed = [case for case in cases if case.find("failure") is not None]
    names = {case.get("name", "") for case in failed}
    modules = {case.get("classname", "") for case in failed}
    return [row for row in fault.rows if f"test_packets[{row}]" not in names] + [
        test for test in fault.tests if test.removesuffix(".py").replace("/", ".") not in modules
    ]


def tried(fault: Fault) -> list[str]:
    """Make a fault, run what is to fail, and put the file back."""
    file = ROOT / fault.file
    good = file.read_text()
    try:
        file.write_text(fault.made_in(good))
        if fault.file.startswith("pyx/"):
            compile_core()
        return survivors(fault)
    finally:
        file.write_text(good)


def main(words: list[str]) -> int:
    """Try the faults; how many were not noticed everywhere."""
    if subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT, check=False).returncode:
        print("the tree has changes: commit them first")
        return 2
    unnoticed = 0
    chosen = [each for each in faults() if all(word in each.what for word in words)]
    begun = time.monotonic()
    try:
        for fault in chosen:
            alive = tried(fault)
            unnoticed += bool(alive)
            says = "NOT NOTICED by " + "; ".join(alive) if alive else f"{len(fault.rows) + len(fault.tests)} fail"
            print(f"{fault.what}: {says}", flush=True)
    finally:
        compile_core()
    print(f"{len(chosen)} faults, {unnoticed} not noticed, in {time.monotonic() - begun:.0f} s")
    return min(unnoticed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
