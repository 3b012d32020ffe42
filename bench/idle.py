"""What an idle relay costs on a host with many links: CPU of the whole process, at rest and while links change.

    .venv/bin/python bench/idle.py --links 2000 --seconds 20

One rule; the links are veth pairs in the relay's own namespace. As root.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from mcrelay.commands.lab import standard_lab

RULE = '[rules.x]\ninput = "226.2.2.2:2068%in0"\noutputs = ["239.10.0.1:5004%out0"]\n'
WORK = {
    "at rest": (),
    "a veth pair a second comes and goes": (
        "link add pod type veth peer name pod-peer", "link set pod up", "link del pod",
    ),
    "the output's link has another address every second": (
        "addr add 198.18.7.7/32 dev out0", "addr del 198.18.7.7/32 dev out0",
    ),
}  # fmt: skip


def cpu_seconds(pid: int) -> float:
    """User and system time so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    with standard_lab() as lab, tempfile.TemporaryDirectory() as folder:
        lines = [f"link add v{i} type veth peer name w{i}" for i in range(options.links // 2)]
        lab.relay.ip(*lines)
        config = Path(folder) / "x.toml"
        config.write_text(RULE)
        Path(folder).chmod(0o755)
        with (Path(folder) / "log").open("w+") as log:
            arguments = ["run", "-c", str(config), "--socket", f"{folder}/run/x.sock"]
            relay = lab.relay.popen(sys.executable, "-m", "mcrelay", *arguments, stderr=log)
            while "ready" not in (Path(folder) / "log").read_text():
                time.sleep(0.05)
            time.sleep(2)
            for what, work in WORK.items():
                begin, before = time.monotonic(), cpu_seconds(relay.pid)
                while time.monotonic() - begin < options.seconds:
                    lab.relay.ip(*work)
                    time.sleep(1)
                share = (cpu_seconds(relay.pid) - before) / (time.monotonic() - begin)
                print(f"{options.links} links, {what}: {100 * share:.2f} % of a core")
            relay.terminate()
            relay.wait(timeout=10)


if __name__ == "__main__":
    main()
