"""The long run: traffic of every kind while links come and go, files are reloaded and the relay is restarted.

    make soak                     an hour
    make soak SOAK=10m RATE=500   ten minutes, 500 datagrams a second

As root, between namespaces of its own. In turns of two minutes: traffic begins, everything happens to the relay,
traffic ends, and once all is at rest the accounts have to be exact and every datagram at its sink. What the process
holds is looked at all the time, and its metrics are scraped. Writes soak.json and soak.png; exit code 1 if anything
was lost, wrong or grew.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.manager import Manager, start_again
from support.relay import RelayUnderTest, assert_adds_up, relaying
from support.traffic import MCRELAY

from mcrelay.control.client import ask
from mcrelay.errors import ControlError
from soak import backlog
from soak.chart import draw
from soak.load import METRICS_PORT, PATIENCE_SECONDS, RUNS, Traffic, rules

if TYPE_CHECKING:
    from collections.abc import Iterator

TURN_SECONDS = 120.0
SAMPLE_SECONDS = 5.0
LIVES = 4  # the relay is restarted so often that each of its lives is that part of the run
WARM_UP = 0.25  # of a life: caches and pools reach their size in it
GROWTH_KIB = 2048  # of resident memory in a life after that: what allocators round to
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process held at one moment. Seconds since the run began."""

    seconds: float
    life: int
    resident_kib: int
    descriptors: int
    threads: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: what each sink heard of what was sent, and what was wrong."""

    number: int
    seconds: float  # since the run began, at its end
    restarted: bool
    sinks: dict[str, dict[str, Any]]
    frames: dict[str, int]  # of in0, by verdict
    ring_dropped: int  # frames of the turn that found no room
    backlog_dropped: int  # frames of the whole machine that the kernel lost between the ends of veth pairs
    faults: list[str]


@dataclass(slots=True)
class Run:
    """All of it, as soak.json has it."""

    rate: int
    scrapes: int = 0  # of /metrics, that were answered
    samples: list[Sample] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Watch:
    """Looks at the process all the time, on a thread of its own."""

    def __init__(self, relay: RelayUnderTest, run: Run) -> None:
        self.began = time.monotonic()
        self.life = 0
        self._relay, self._run = relay, run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            try:
                self._run.samples.append(self._sample(self._relay.process.pid))
                self._scrape()
            except (OSError, StopIteration, http.client.HTTPException):  # it is being restarted
                continue

    def _scrape(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", METRICS_PORT, timeout=SAMPLE_SECONDS)) as held:
            self._relay.lab.relay.call(held.connect)
            held.request("GET", "/metrics")
            held.getresponse().read()
        self._run.scrapes += 1

    def _sample(self, pid: int) -> Sample:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return Sample(
            seconds=round(self.seconds, 1),
            life=self.life,
            resident_kib=next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")),
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            threads=len(os.listdir(f"/proc/{pid}/task")),
            cpu_seconds=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        )


def events(relay: RelayUnderTest) -> None:
    """Everything that happens in a turn; the streams of in0 to out0 must not notice."""
    host, source, sink = relay.lab.relay, relay.lab.source, relay.lab.sinks[1]
    relay.reload(rules(more=True))
    host.ip(
        f"link add in1 type veth peer name extra0 netns {source.name}",
        "link set in1 up",
        "addr add 203.0.113.1/24 dev in1",
    )
    relay.wait_for(lambda: relay.state("visitor") != "pending", "the visitor's rule on its link", PATIENCE_SECONDS)
    capture = ["capture", f"{RUNS.name}-0", "-w", os.devnull, "--duration", "5", "--socket", relay.socket]
    captured = host.popen(*MCRELAY, *capture, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    sink.ip("link set eth0 down")
    relay.wait_for(lambda: _parked(relay), "an output without carrier", PATIENCE_SECONDS)
    added = {"input": "239.7.7.7:5000%in0", "outputs": ["239.10.9.3:5004%out0"]}
    ask(relay.socket, "add", name="added", rule=added)
    ask(relay.socket, "delete", name="added")
    sink.ip("link set eth0 up")
    relay.wait_for(lambda: not _parked(relay), "an output that has its carrier again", PATIENCE_SECONDS)
    host.ip("link del in1")
    relay.wait_for(lambda: relay.state("visitor") == "pending", "the visitor's rule without its link", PATIENCE_SECONDS)
    relay.reload(rules())
    said = captured.communicate(timeout=PATIENCE_SECONDS)[1]
    assert captured.returncode == 0, f"capture: {said}"


def _parked(relay: RelayUnderTest) -> bool:
    fan = next(each for each in relay.show("rules") if each["name"] == "fan-0")
    return any(each["state"] == "parked" for each in fan["outputs"])


def restart(relay: RelayUnderTest, manager: Manager) -> None:
    """What `systemctl restart` does, with the store of descriptors that systemd keeps."""
    relay.process.send_signal(signal.SIGTERM)
    relay.process.wait(timeout=PATIENCE_SECONDS)
    start_again(relay, manager, {"NOTIFY_SOCKET": manager.path})
    relay.wait_for(
        lambda: any(each["state"] == "active" for each in relay.show("rules")), "the next process", PATIENCE_SECONDS
    )


def take_turn(relay: RelayUnderTest, number: int, rate: int, seconds: float, manager: Manager | None) -> Turn:
    """One turn. With a *manager* the relay is restarted in it: only then something may be lost."""
    faults = []
    before, first = backlog.dropped(), _of_in0(relay.show("stats"))
    until = time.monotonic() + seconds
    traffic = Traffic(relay, rate)
    if manager is not None:
        restart(relay, manager)
    events(relay)
    time.sleep(max(0.0, until - time.monotonic()))
    stats, sinks, frames = traffic.end()
    link = _of_in0(stats)
    lost = link["ring_dropped_frames"] - first["ring_dropped_frames"]
    try:
        assert_adds_up(stats)
    except AssertionError as error:
        faults.append(f"turn {number}: the accounts do not add up: {error}")
    if manager is None:
        came = lost + sum(link[key] - first[key] for key in ("rx_frames", "kernel_frames"))
        if came != frames:
            faults.append(f"turn {number}: {frames} frames were sent to the relay, and it knows of {came}")
        if lost:
            faults.append(f"turn {number}: {lost} frames found no room in the ring")
    for name, got in sinks.items():
        wrong = {key: got[key] for key in ("lost", "duplicated", "reordered", "corrupted", "foreign") if got[key]}
        if manager is not None:
            wrong.pop("lost", None)
        elif got["received"] != got["sent"]:
            wrong["missing"] = got["sent"] - got["received"]
        if wrong:
            faults.append(f"turn {number}: {name}: {wrong} of {got['sent']}")
    return Turn(
        number,
        0.0,
        restarted=manager is not None,
        sinks={name: _kept(got) for name, got in sinks.items()},
        frames=link["frames"],
        ring_dropped=lost,
        backlog_dropped=backlog.dropped() - before,
        faults=faults,
    )


def _of_in0(stats: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in stats["links"] if each["ifname"] == "in0")


def _kept(got: dict[str, Any]) -> dict[str, Any]:
    counts = ("sent", "received", "lost", "duplicated", "reordered", "corrupted", "socket_dropped")
    return {key: got[key] for key in counts} | {"latency_us": got["latency_us"]}


def grown(samples: list[Sample]) -> list[str]:
    """What the process held more at the end of a life than once it was warm.

    The least of each half counts: a change holds more for a moment, a leak all the time.
    """
    found = []
    for life in sorted({each.life for each in samples}):
        held = [each for each in samples if each.life == life]
        warm = held[int(len(held) * WARM_UP) :]
        if len(warm) < 4:
            continue
        half = len(warm) // 2
        for name, most in (("resident_kib", GROWTH_KIB), ("descriptors", 0), ("threads", 0)):
            before, after = (min(getattr(each, name) for each in part) for part in (warm[:half], warm[half:]))
            if after - before > most:
                found.append(f"life {life + 1}: {name} grew from {before} to {after}")
    return found


@contextmanager
def relay_under_a_manager(folder: Path) -> Iterator[tuple[RelayUnderTest, Manager]]:
    """The relay with all rules, and a service manager that keeps its descriptors."""
    with (
        Manager(folder) as manager,
        relaying(rules(), environment={"NOTIFY_SOCKET": manager.path}, sinks=2) as relay,
    ):
        yield relay, manager


def seconds_of(text: str) -> float:
    """10m, 2h, 90s or 90."""
    found = re.fullmatch(r"(\d+)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: write 600, 600s, 10m or 2h")
    return float(found[1]) * UNITS[found[2]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--duration", type=seconds_of, default=3600.0)
    parser.add_argument("--rate", type=int, default=1000, help="datagrams a second, of all kinds together")
    parser.add_argument("--to", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    run = Run(options.rate)
    turns = max(2, round(options.duration / TURN_SECONDS))
    seconds = options.duration / turns
    with tempfile.TemporaryDirectory() as folder, backlog.room():
        Path(folder).chmod(0o755)
        with relay_under_a_manager(Path(folder)) as (relay, manager), Watch(relay, run) as watch:
            for number in range(turns):
                life = number * LIVES // turns
                restarting = life != watch.life
                watch.life = life
                due = (number + 1) * seconds - watch.seconds  # a turn that took longer makes the next one shorter
                try:
                    turn = take_turn(relay, number + 1, options.rate, due - 5, manager if restarting else None)
                except KeyboardInterrupt:
                    break  # what there is by then is written
                except (AssertionError, ControlError) as error:
                    run.faults.append(f"turn {number + 1}: {error}")
                    print(run.faults[-1], flush=True)
                    if relay.process.poll() is not None:
                        break
                    for namespace in (relay.lab.source, relay.lab.sink):
                        namespace.kill()  # the next turn has its own traffic
                    continue
                run.turns.append(Turn(**{**asdict(turn), "seconds": round(watch.seconds, 1)}))
                run.faults += turn.faults
                done = sum(each["received"] for each in turn.sinks.values())
                print(
                    f"turn {number + 1} of {turns}: {done} datagrams, {'; '.join(turn.faults) or 'exact'}", flush=True
                )
    run.faults += grown(run.samples)
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "soak.json").write_text(json.dumps(asdict(run)) + "\n")
    draw(asdict(run), options.to / "soak.png")
    received = sum(each["received"] for turn in run.turns for each in turn.sinks.values())
    print(f"{received} datagrams in {len(run.turns)} turns; {'; '.join(run.faults) or 'nothing lost, nothing grew'}")
    return 1 if run.faults else 0


if __name__ == "__main__":
    sys.exit(main())
