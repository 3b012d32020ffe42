"""What it costs to watch a relay with many rules: answers, with their series, size, time and CPU, and `mcrelay top`.

    .venv/bin/python bench/scrape.py --rules 10000

Idle rules of one input and one output each, between namespaces of its own. As root. "Main" is the CPU of the main
thread, which also reconciles; workers forward on in any case.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from idle import cpu_seconds

from mcrelay.commands.lab import standard_lab
from mcrelay.control.client import ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.commands.lab import Namespace

TOP_STARTS_SECONDS, TOP_SECONDS = 8, 30
ADDRESS = "127.0.0.1:19736"
RULE = '[rules.r{0}]\ninput = "239.1.{1}.{2}:5000%in0"\noutputs = ["239.101.{1}.{2}:5004%out0"]\n'


def _get(namespace: Namespace, path: str) -> bytes:
    answer: bytes = namespace.call(lambda: urllib.request.urlopen(f"http://{ADDRESS}{path}", timeout=60).read())
    return answer


def _cost(pid: int, question: Callable[[], bytes]) -> tuple[float, float, float, bytes]:
    """Seconds until the answer is there, CPU seconds of the relay and of its main thread, and the answer."""
    time.sleep(1)
    begin, before, main = time.monotonic(), cpu_seconds(pid), _main_seconds(pid)
    text = question()
    return time.monotonic() - begin, cpu_seconds(pid) - before, _main_seconds(pid) - main, text


def _watch(pid: int, socket_path: str, columns: int, lines: int) -> tuple[float, float]:
    """What `mcrelay top` on a terminal of that size takes of a core, and what it makes the relay take, for a while."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    command = [sys.executable, "-m", "mcrelay", "top", "--socket", socket_path]
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm-256color"}
    ) as top:
        _read(master, TOP_STARTS_SECONDS)
        begin, used, relay = time.monotonic(), cpu_seconds(top.pid), cpu_seconds(pid)
        _read(master, TOP_SECONDS)
        seconds = time.monotonic() - begin
        found = (cpu_seconds(top.pid) - used) / seconds, (cpu_seconds(pid) - relay) / seconds
        os.write(master, b"q")
        _read(master, 1)
    os.close(master)
    os.close(slave)
    return found


def _read(terminal: int, seconds: float) -> None:
    """Take what is drawn for so long."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            os.read(terminal, 65536)


def _main_seconds(pid: int) -> float:
    """CPU time of the first thread (proc(5): schedstat)."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with standard_lab(querier=False) as lab, tempfile.TemporaryDirectory() as folder:
        rules = "".join(RULE.format(i, i // 256, i % 256) for i in range(options.rules))
        config, log = Path(folder) / "x.toml", Path(folder) / "log"
        config.write_text(f'[relay]\nmetrics = "{ADDRESS}"\n{rules}')
        Path(folder).chmod(0o755)
        arguments = ["run", "-c", str(config), "--socket", f"{folder}/run/x.sock"]
        with log.open("w") as written:
            relay = lab.relay.popen(sys.executable, "-m", "mcrelay", *arguments, stderr=written)
        while "ready" not in log.read_text():
            time.sleep(0.1)
        time.sleep(5)  # its reports are on their way
        asked = {
            "/metrics": lambda: _get(lab.relay, "/metrics"),
            "show stats": lambda: json.dumps(
                ask(f"{folder}/run/x.sock", "show", read_only=True, noun="stats")
            ).encode(),
            "show rules": lambda: json.dumps(
                ask(f"{folder}/run/x.sock", "show", read_only=True, noun="rules")
            ).encode(),
        }
        print(f"{options.rules} rules, medians of {options.times}")
        for name, question in asked.items():
            rows = [_cost(relay.pid, question) for _ in range(options.times)]
            seconds, cpu, main = (statistics.median(column) for column in list(zip(*rows, strict=True))[:3])
            text = rows[-1][3]
            series = sum(not line.startswith(b"#") for line in text.splitlines())
            what = f"{series} series, " if name == "/metrics" else ""
            print(f"{name}: {what}{len(text) / 2**20:.1f} MiB, {seconds:.2f} s, CPU {cpu:.2f} s, main {main:.2f} s")
        for columns, lines in ((80, 24), (160, 50)):
            top, asked_of = _watch(relay.pid, f"{folder}/run/x.sock", columns, lines)
            print(f"top on {columns}x{lines}: {top:.1%} of a core, and {asked_of:.1%} of the relay")
        relay.terminate()
        relay.wait(timeout=30)


if __name__ == "__main__":
    main()
