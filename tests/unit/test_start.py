"""The first lines of the command: signals have a quiet end, whether Python or a loader has set them up."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

LEFT_ALONE = "from signal import *; signal(SIGINT, SIG_DFL); signal(SIGPIPE, SIG_DFL); del signal; "
SAYS = "import mcrelay.start, signal; print(signal.getsignal(signal.SIGPIPE).name, signal.getsignal(signal.SIGINT))"


def end(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **options).stdout


@pytest.mark.parametrize("before", ["", LEFT_ALONE], ids=["python", "a loader that leaves signals alone"])
def test_ctrl_c_has_a_quiet_end_and_a_closed_pipe_is_an_error(before):
    said = end(f"{before}{SAYS}")
    assert said.startswith("SIG_IGN <function _end")


def test_who_ignores_ctrl_c_goes_on_to():
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    assert end(SAYS, **ignoring) == f"SIG_IGN {signal.SIG_IGN}\n"
