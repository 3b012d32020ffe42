"""The artefact relays, in a root: unprivileged, counted at a sink in another network namespace."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

from .report import ok, sh, starts_within, until
from .root import chroot

COUNT = 100_000
RATE = 20_000
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+net_raw",
          "--ambient-caps=+net_raw")  # fmt: skip
CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF = 12, 13, 39
INPUT = "192.168.168.55@226.2.2.2:2068%in0"
OUTPUT = "239.10.0.1:5004%out0"
RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUTPUT}"]\n'
SENT, HEARD = "226.2.2.2:2068%eth0", "239.10.0.1:5004%eth0"
FOLDER = "/var/tmp/lab"


def exact(got: dict, count: int = COUNT) -> bool:
    return got["received"] == got["unique"] == count and not any(
        got[each] for each in ("lost", "duplicated", "reordered", "corrupted")
    )


def told(got: dict, count: int = COUNT) -> str:
    return f"sent {count}, received {got['received']}: " + ", ".join(
        f"{got[each]} {each}" for each in ("lost", "duplicated", "reordered", "corrupted")
    )


def patiently(stream, count: int = COUNT) -> dict:
    """Repeat a stream, twice at most, that a busy machine has left in a full ring; nothing but loss is forgiven."""
    got = stream()
    for _ in range(2):
        if exact(got, count) or got["duplicated"] or got["reordered"] or got["corrupted"]:
            break
        print(f"      {told(got, count)}; again, the machine is busy")
        got = stream()
    return got


def relays(root: Path, mcrelay: str, *, prefix: tuple[str, ...] = NOBODY) -> None:
    """Send 100 000 datagrams through `mcrelay run`; the sender and the sink are the same artefact."""
    from mcrelay.commands.lab import standard_lab

    folder = root / FOLDER.lstrip("/")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    (folder / "mcrelay.toml").write_text(RULE)
    control = f"{FOLDER}/run/mcrelay.sock"
    inside = chroot(root)
    with standard_lab() as lab, (folder / "log").open("w") as log:
        lab.settle()
        begin = time.monotonic()
        relay = lab.relay.popen(
            *inside, *prefix, mcrelay, "run", "-c", f"{FOLDER}/mcrelay.toml", "--socket", control, stderr=log
        )
        try:
            until(lambda: "ready" in (folder / "log").read_text() or relay.poll() is not None, "READY")
            ok(relay.poll() is None, f"{mcrelay} run is READY after {(time.monotonic() - begin) * 1000:.0f} ms")
            facts = status(children(relay.pid)[-1])
            ok(
                facts["Uid"].split() == ["65534"] * 4 and int(facts["CapEff"], 16) == 1 << CAP_NET_RAW,
                f"it relays as uid {facts['Uid'].split()[1]} with capabilities {facts['CapEff']}",
            )
            got = patiently(lambda: _stream(lab, *inside, mcrelay))
            ok(exact(got), told(got))
            starts_within(500, "show", *inside, mcrelay, "show", "--socket", control)
            relay.send_signal(signal.SIGTERM)
            ok(relay.wait(timeout=10) == 0, "SIGTERM ends it with exit code 0")
            ok(not any((folder / "run").iterdir()), "no socket is left")
        except SystemExit:
            print((folder / "log").read_text())
            raise
        finally:
            if relay.poll() is None:
                relay.terminate()  # not SIGKILL, which the one-file executable cannot pass on to its child
                relay.wait(timeout=10)


def _stream(lab, *mcrelay: str) -> dict:
    sink = lab.sink.popen(*mcrelay, "recv", HEARD, "--count", str(COUNT), "--idle", "3", "-j", stdout=subprocess.PIPE)
    until(lambda: " 239.10.0.1\n" in lab.sink.run("ip", "maddr").stdout, "join of the sink")
    lab.source.run(*mcrelay, "send", SENT, "--rate", str(RATE), "--count", str(COUNT), "-j")
    return json.loads(sink.communicate(timeout=60)[0])


def children(pid: int) -> list[int]:
    """The process and its descendants, oldest first."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            found += [int(n) for n in Path(f"/proc/{each}/task/{each}/children").read_text().split()]
    return found


def status(pid: int) -> dict[str, str]:
    """What the kernel says of a process: proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def demo(root: Path) -> None:
    said = sh(*chroot(root), "mcrelay", "demo", check=False)
    print("      " + said.strip().replace("\n", "\n      "))
    ok(said.count("ok  ") == 5 and "FAIL" not in said, "mcrelay demo")
