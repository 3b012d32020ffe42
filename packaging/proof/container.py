"""A Debian root booted with systemd-nspawn, in a network of its own, and the lab around it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

from .report import CLEAN, sh, until
from .root import ROOTS, TREE
from .traffic import HEARD, RATE, SENT, children, patiently, status

EXAMPLES = TREE / "packaging" / "systemd"
TOOL = "/usr/local/bin/mcrelay-tool"  # the one-file executable: an upgrade of the package does not change it
MEMBERSHIP = "020202E2"  # 226.2.2.2 as /proc/net/igmp has it


class Container:
    """The booted root. Commands run inside, with no terminal and no variable of ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._log = (ROOTS / "boot.log").open("w")
        self._nspawn = subprocess.Popen(
            ["systemd-nspawn", "--register=no", "--keep-unit", "-b", "--private-network", "-D", str(root),
             "--machine", f"mcrelay-proof-{os.getpid()}", "--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_BPF",
             "--system-call-filter=bpf"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        try:
            until(lambda: self._init() is not None, "container")
            self.leader = self._init()
            until(
                lambda: self("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"},
                "boot",
                60,
            )
        except SystemExit:
            self._nspawn.kill()
            print((ROOTS / "boot.log").read_text()[-3000:])
            raise

    def _init(self) -> int | None:
        """Find the process that is number 1 inside; nspawn starts others on the way there."""
        for each in children(self._nspawn.pid)[1:]:
            with contextlib.suppress(OSError, KeyError):
                if status(each)["NSpid"].split()[-1] == "1":
                    return each
        return None

    def close(self) -> None:
        """Power off, and pull the plug if that does not help."""
        with contextlib.suppress(SystemExit):
            self("systemctl", "poweroff", check=False)
        try:
            self._nspawn.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._log.close()

    def command(self, *command: object) -> list[str]:
        enter = ["nsenter", "-t", str(self.leader), *"-m -u -i -n -p".split()]  # noqa: SIM905
        return [*enter, f"--root=/proc/{self.leader}/root", "--wd", *CLEAN, *map(str, command)]

    def __call__(self, *command: object, **options) -> str:
        return sh(*self.command(*command), **options)

    def succeeds(self, *command: object) -> bool:
        return not subprocess.run(self.command(*command), capture_output=True, check=False).returncode

    def popen(self, *command: object) -> subprocess.Popen:
        return subprocess.Popen(self.command(*command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    # --- what a service is doing

    def main_pid(self, unit: str = "mcrelay") -> int:
        return int(self("systemctl", "show", "-P", "MainPID", unit).strip() or 0)

    def ready(self, unit: str = "mcrelay") -> bool:
        return self.state(unit) == "active"

    def state(self, unit: str = "mcrelay") -> str:
        return self("systemctl", "is-active", unit, check=False).strip()

    def main(self, unit: str = "mcrelay") -> Path:
        """Return the /proc folder of a unit's main process, as this machine sees it."""
        inside = self.main_pid(unit)
        for each in children(self.leader):
            with contextlib.suppress(OSError, KeyError):
                if status(each)["NSpid"].split()[-1] == str(inside):
                    return Path(f"/proc/{each}")
        raise SystemExit(f"FAIL  {unit} has no process")

    def facts(self, unit: str = "mcrelay") -> dict[str, str]:
        return status(int(self.main(unit).name))

    def kill(self, name: str, unit: str = "mcrelay") -> None:
        self("systemctl", "kill", "-s", name, "--kill-who=main", unit)

    def journal(self, unit: str = "mcrelay", lines: int = 20) -> str:
        return self("journalctl", "-u", unit, "-n", lines, "--no-pager", check=False)

    def dropin(self, name: str, unit: str = "mcrelay", text: str | None = None) -> contextlib.AbstractContextManager:
        """Have a drop-in, one of the examples or *text*, for the length of a ``with``."""
        return _dropin(self, name, unit, text)

    def configure(self, text: str, name: str = "conf.d/x.toml") -> None:
        path = self.root / "etc/mcrelay" / name
        path.write_text(text)

    # --- traffic

    def stream(self, count: int) -> dict:
        """Send through the relay, and return what the sink got."""
        return patiently(lambda: self.end(*self.begin(count)), count)

    def begin(self, count: int, rate: int = RATE) -> tuple[subprocess.Popen, subprocess.Popen]:
        inside = ("ip", "netns", "exec")
        sink = self.popen(*inside, "sink", TOOL, "recv", HEARD, "--count", count, "--idle", 4, "-j")
        until(lambda: " 239.10.0.1\n" in self("ip", "-n", "sink", "maddr"), "join of the sink")
        time.sleep(0.2)
        source = self.popen(*inside, "source", TOOL, "send", SENT, "--rate", rate, "--count", count, "-j")
        return sink, source

    def end(self, sink: subprocess.Popen, source: subprocess.Popen) -> dict:
        source.communicate(timeout=120)
        return json.loads(sink.communicate(timeout=30)[0])

    def stats(self) -> str:
        """Say where each relay lost something, for a proof that failed."""
        run = Path(f"/proc/{self.leader}/root/run")
        sockets = [f"/run/{each.relative_to(run)}" for each in run.glob("mcrelay*/mcrelay.sock")]
        return "\n".join(self(TOOL, "show", "stats", "--socket", each, check=False) for each in sockets)

    @contextlib.contextmanager
    def lab(self, relay: str | None = None):
        """Draw source eth0 --- in0 (the container, or its namespace *relay*) out0 --- eth0 sink."""
        names = ["source", "sink", *([relay] if relay else [])]
        for name in names:
            self("ip", "netns", "add", name)
            self("ip", "-n", name, "link", "set", "lo", "up")
        inside = ["-n", relay] if relay else []
        for link, peer, address in (("in0", "source", "192.0.2.1/24"), ("out0", "sink", "198.51.100.1/24")):
            self("ip", *inside, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", peer)
            self("ip", *inside, "addr", "add", address, "dev", link)
            self("ip", *inside, "link", "set", link, "up")
        self("ip", "-n", "source", "addr", "add", "192.168.168.55/24", "dev", "eth0")
        self("ip", "-n", "sink", "addr", "add", "198.51.100.2/24", "dev", "eth0")
        for name in ("source", "sink"):
            self("ip", "-n", name, "link", "set", "eth0", "up")
            self("ip", "-n", name, "route", "add", "224.0.0.0/4", "dev", "eth0")
        for place in (inside, ["-n", "source"], ["-n", "sink"]):  # a link drops everything until its carrier is noticed
            up = lambda place=place: " state DOWN " not in self("ip", *place, "link", "show", "type", "veth")  # noqa: E731
            until(up, "carrier")
        yield
        for name in names:
            self("ip", "netns", "del", name)

    @property
    def joined(self) -> bool:
        """Whether the container's own network is a member of the group that the rule reads."""
        return MEMBERSHIP in Path(f"/proc/{self.leader}/net/igmp").read_text()

    @contextlib.contextmanager
    def staying_joined(self):
        """Watch the membership for the length of a ``with``; the list that is yielded gets every lapse."""
        lapses: list[float] = []
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.01):
                if not self.joined:
                    lapses.append(time.monotonic())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield lapses
        finally:
            over.set()
            watcher.join()


@contextlib.contextmanager
def _dropin(box: Container, name: str, unit: str, text: str | None):
    folder = box.root / f"etc/systemd/system/{unit}.service.d"
    folder.mkdir(parents=True, exist_ok=True)
    if text is None:
        shutil.copy2(EXAMPLES / name, folder / name)
    else:
        (folder / name).write_text(text)
    box("systemctl", "daemon-reload")
    yield
    (folder / name).unlink()
    box("systemctl", "daemon-reload")


@contextlib.contextmanager
def booted(root: Path):
    """Boot a root; when the proof fails, show what the relays logged."""
    box = Container(root)
    try:
        yield box
    except BaseException:
        print(box.journal("mcrelay*", 60), box.stats())
        raise
    finally:
        box.close()
