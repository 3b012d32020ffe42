"""The experiments as tests: their records are consistent, and the first of them succeeds and can fail.

The whole quick set is `experiments/run_all.py --quick`, which CI runs by itself.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mcrelay.commands import lab

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
FOLDERS = sorted(path.parent for path in EXPERIMENTS.glob("*/README.md"))


def helper_socket(*arguments: str) -> subprocess.CompletedProcess[str]:
    if reason := lab.missing_privilege():
        pytest.skip(reason)
    script = EXPERIMENTS / "poc_helper_socket_igmp" / "run_test.sh"
    return subprocess.run([script, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_recorded_verdicts_follow_from_recorded_numbers():
    done = subprocess.run(
        [sys.executable, EXPERIMENTS / "run_all.py", "--recount"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_folder_is_complete_and_listed(folder: Path):
    assert {"README.md", "result.json"} <= {path.name for path in folder.iterdir()}
    text = (folder / "README.md").read_text()
    for heading in ("Question", "Method", "Numbers", "Verdict", "Consequence for mcrelay"):
        assert f"## {heading}" in text
    assert f"({folder.name}/)" in (EXPERIMENTS / "README.md").read_text()


@pytest.mark.net
def test_helper_socket_experiment_succeeds():
    done = helper_socket()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.net
@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("join", "no-report"),
        ("background", "not-ours"),
        ("filter", "capture-blind"),
        ("bound-helper", "helper-readable"),
    ],
)
def test_helper_socket_experiment_fails_when_broken(case: str, reason: str):
    done = helper_socket("--break", case)
    assert done.returncode == 1
    assert f"({reason})" in done.stdout
