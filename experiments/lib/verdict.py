"""Numbers, the verdicts that follow from them, and the record of both in result.json beside the script.

A verdict is a rule over named numbers, kept as text, so anyone can work it out again from the record alone.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lab import enter_privileged

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
NOISE = 2.0  # a measured number within this factor of the recorded one says nothing new


class Experiment:
    """One run: collect numbers, state claims, compare with the record."""

    def __init__(self, folder: str | Path, argv: list[str] | None = None) -> None:
        self.folder = Path(folder).resolve()
        if self.folder.is_file():
            self.folder = self.folder.parent
        self.numbers: dict[str, int | float | str] = {}
        self.verdicts: dict[str, dict[str, object]] = {}
        self.skipped: dict[str, str] = {}
        parser = argparse.ArgumentParser(
            description="Exit 0: as recorded; 1: a verdict differs; anything else: broken."
        )
        parser.add_argument("--check", action="store_true", help="compare with result.json, never write it")
        self.check = parser.parse_args(argv).check  # compare only

    def say(self, text: str) -> None:
        print(text, flush=True)

    def count(self, name: str, value: int) -> int:
        """A number that comes out the same on every run."""
        self.numbers[name] = int(value)
        self.say(f"  {name} = {int(value)}")
        return value

    def measure(self, name: str, value: float) -> float:
        """A number with noise: three digits are kept."""
        self.numbers[name] = float(f"{value:.3g}")
        self.say(f"  {name} = {self.numbers[name]:g}")
        return value

    def text(self, name: str, value: str) -> str:
        """What a program said, where a rule compares words."""
        self.numbers[name] = value
        self.say(f"  {name} = {value}")
        return value

    def claim(self, name: str, sentence: str, rule: str) -> None:
        """State a verdict: it holds if the rule, an expression over the numbers, is true."""
        self.verdicts[name] = {"claim": sentence, "rule": rule, "holds": holds(rule, self.numbers)}

    def skip(self, name: str, reason: str) -> None:
        """What cannot be tried here: its recorded verdict stands, and nothing is rewritten."""
        self.skipped[name] = reason

    def finish(self) -> int:
        recorded = load(self.folder)
        width = max(map(len, self.verdicts), default=0)
        for name, verdict in self.verdicts.items():
            word = "holds" if verdict["holds"] else "FAILS"
            self.say(f"{word}  {name:{width}}  {verdict['claim']}  [{verdict['rule']}]")
        for name, reason in self.skipped.items():
            self.say(f"skip   {name}: {reason}")
        differences = compare(recorded, self.verdicts, self.skipped)
        if self.check and not recorded:
            differences = ["there is no record to compare with"]
        for difference in differences:
            self.say(f"DIFFERS from the record: {difference}")
        if not (self.check or self.skipped):
            self._write(recorded)
        return 1 if differences else 0

    def _write(self, recorded: dict) -> None:
        result = {
            "experiment": self.folder.name,
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "kernel": re.match(r"[\d.]*", platform.release())[0].rstrip("."),
            "machine": f"{platform.machine()}, {cpu_model()}, {os.cpu_count()} CPUs",
            "numbers": self.numbers,
            "verdicts": self.verdicts,
        }
        if same(recorded, result):
            return
        path = self.folder / "result.json"
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        self.say(f"wrote {path.parent.name}/{path.name}")


def holds(rule: str, numbers: dict[str, int | float | str]) -> bool:
    return bool(eval(rule, {"__builtins__": {}}, dict(numbers)))


def load(folder: Path) -> dict:
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def compare(recorded: dict, verdicts: dict, skipped: dict) -> list[str]:
    """What a run says otherwise than the record; a first run has nothing to differ from."""
    old = recorded.get("verdicts")
    if old is None:
        return []
    lines = []
    for name in sorted(old.keys() | verdicts.keys()):
        was, now = (side.get(name, {}).get("holds") for side in (old, verdicts))
        if name not in skipped and was is not now:
            words = {True: "held", False: "failed", None: "was absent"}
            lines.append(f"{name}: {words[was]} then, {words[now]} now")
    return lines


def same(recorded: dict, result: dict) -> bool:
    """Whether writing the result would only churn: same place, same verdicts, same counts, measures within noise."""
    if any(recorded.get(key) != result[key] for key in ("kernel", "machine", "verdicts")):
        return False
    old, new = recorded["numbers"], result["numbers"]
    return list(old) == list(new) and all(alike(old[name], new[name]) for name in new)


def alike(old: float | str, new: float | str) -> bool:
    if not (isinstance(old, float) and isinstance(new, float)):
        return old == new
    low, high = sorted((abs(old), abs(new)))
    return high <= NOISE * low or high < 1e-9


def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "unknown CPU"


def alternating(names: list[str], rounds: int, measure: Callable[[str], T]) -> list[dict[str, T]]:
    """Measure each in turn, round after round; each round starts with another, so that none is always the first."""
    turns = [names[n % len(names) :] + names[: n % len(names)] for n in range(rounds)]
    return [{name: measure(name) for name in turn} for turn in turns]


def run(main: Callable[[Experiment], None], script: str) -> None:
    """The body of every script: privileges, the experiment, the verdicts, the exit code."""
    experiment = Experiment(script)
    enter_privileged()
    try:
        main(experiment)
    except Exception:
        traceback.print_exc()
        sys.exit(2)
    sys.exit(experiment.finish())
