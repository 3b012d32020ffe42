"""Inside the virtual machine: a rule that asks for the kernel engine relays; by which engine, and why, is printed."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from report import until

from mcrelay.commands.lab import standard_lab

COUNT = 3000
RATE = 300  # an emulated machine is slow
PATIENCE = 240
TOOL = [sys.executable, "-m", "mcrelay"]
RULE = """
[rules.x]
input = "192.168.168.55@226.2.2.2:2068%in0"
outputs = ["239.10.0.1:5004%out0"]
engine = "kernel"
"""


def main() -> None:
    """Print one line of JSON."""
    for module in ("veth", "bridge", "sch_tbf", "nf_tables"):
        subprocess.run(["modprobe", module], check=False)
    with standard_lab() as lab, tempfile.TemporaryDirectory() as name:
        lab.settle()
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "x.toml").write_text(RULE)
        control = str(folder / "run/mcrelay.sock")
        with (folder / "log").open("w") as log:
            relay = lab.relay.popen(*TOOL, "run", "-c", str(folder / "x.toml"), "--socket", control, stderr=log)
        until(lambda: "ready" in (folder / "log").read_text(), "READY", PATIENCE)
        sink = lab.sink.popen(
            *TOOL, "recv", "239.10.0.1:5004%eth0", "--count", str(COUNT), "-j",
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: "239.10.0.1" in lab.sink.run("ip", "maddr").stdout, "join", PATIENCE)
        lab.source.run(*TOOL, "send", "226.2.2.2:2068%eth0", "--count", str(COUNT), "--rate", str(RATE), "-j")
        got = json.loads(sink.communicate(timeout=PATIENCE)[0])
        (rule,) = json.loads(lab.relay.run(*TOOL, "show", "rules", "-j", "--socket", control).stdout)
        relay.terminate()
        relay.wait(PATIENCE)
    counted = ("received", "lost", "duplicated", "reordered", "corrupted")
    print(json.dumps(
        {"kernel": platform.release(), "engine": rule["engine"], "reason": rule["engine_reason"]}
        | {key: got[key] for key in counted}
    ))  # fmt: skip


main()
