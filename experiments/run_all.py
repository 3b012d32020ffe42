#!/usr/bin/env python3
"""Run the experiments and compare their verdicts with the recorded ones.

    experiments/run_all.py             all of them, and rewrite what has changed in the results
    experiments/run_all.py --quick     those that measure no speed: for CI
    experiments/run_all.py --check     compare only, write nothing
    experiments/run_all.py --recount   run nothing: do the recorded verdicts follow from the recorded numbers?
    experiments/run_all.py 004 012     only these

Exit 0: every verdict is as recorded. Exit 1: one differs, or an experiment broke; its output is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from verdict import holds

HERE = Path(__file__).resolve().parent
# These time what they do, so they run one at a time; the others mostly wait, so they wait together.
MEASURES_SPEED = {
    "003-helper-under-load",
    "009-filter-cost",
    "011-ring-version",
    "012-ways-out",
    "013-capture-point",
    "014-packet-superframes",
    "016-small-slots",
    "017-kept-source",
}
AT_ONCE = 4
TIMEOUT_S, TOO_SLOW = 180, 3


class Outcome(NamedTuple):
    name: str
    code: int
    seconds: float
    output: str


def experiments() -> list[str]:
    return ["poc_helper_socket_igmp", *sorted(folder.name for folder in HERE.glob("[0-9][0-9][0-9]-*"))]


running: set[subprocess.Popen[str]] = set()


def run(name: str, options: list[str]) -> Outcome:
    script = HERE / name / "run.py"
    command = [sys.executable, str(script)] if script.exists() else [str(HERE / name / "run_test.sh"), "--all"]
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    running.add(process)
    try:
        output, code = process.communicate(timeout=TIMEOUT_S)[0], process.returncode
    except subprocess.TimeoutExpired:
        process.terminate()
        output, code = process.communicate()[0], TOO_SLOW
    running.discard(process)
    return Outcome(name, code, time.monotonic() - began, output)


def interrupted(*_: object) -> NoReturn:
    """What the experiments built goes with their processes, so ending those is all there is to clean up."""
    for process in list(running):
        process.terminate()
    os._exit(130)


def show(outcome: Outcome) -> Outcome:
    words = {0: "as recorded", 1: "DIFFERS", TOO_SLOW: "TOO SLOW"}
    lines = outcome.output.splitlines()
    counted = sum(line.startswith(("holds ", "FAILS ")) for line in lines)
    print(f"{outcome.name:26} {outcome.seconds:6.1f} s  {counted:3} verdicts  {words.get(outcome.code, 'BROKEN')}")
    for line in lines if outcome.code else [line for line in lines if line.startswith(("skip ", "wrote "))]:
        print(f"    {line}")
    sys.stdout.flush()
    return outcome


def recount(names: list[str]) -> int:
    """Work every recorded verdict out again from the numbers beside it."""
    wrong = 0
    for name in names:
        record = json.loads((HERE / name / "result.json").read_text())
        for claim, verdict in record["verdicts"].items():
            if holds(verdict["rule"], record["numbers"]) is not verdict["holds"]:
                print(f"{name}: {claim} does not follow from the numbers recorded beside it")
                wrong += 1
    print(f"{len(names)} records, {wrong} verdicts that do not follow from their numbers")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out those that measure speed")
    parser.add_argument("--check", action="store_true", help="compare with the results, do not write them")
    parser.add_argument("--recount", action="store_true", help="run nothing, check the records themselves")
    parser.add_argument("names", nargs="*", help="folders, or how they begin")
    given = parser.parse_args()

    chosen = [n for n in experiments() if not given.names or n.startswith(tuple(given.names))]
    if not chosen:
        parser.error(f"no such experiment; there are {', '.join(experiments())}")
    if given.recount:
        return recount(chosen)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    options = ["--check"] if given.check else []
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as together:
        calm = [name for name in chosen if name not in MEASURES_SPEED]
        outcomes = list(map(show, together.map(lambda name: run(name, options), calm)))
    if not given.quick:
        outcomes += [show(run(name, options)) for name in chosen if name in MEASURES_SPEED]
    wrong = [outcome.name for outcome in outcomes if outcome.code]
    print(f"{len(outcomes)} experiments in {time.monotonic() - began:.0f} s: ", end="")
    print(f"not as recorded: {', '.join(wrong)}" if wrong else "every verdict is as recorded")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
