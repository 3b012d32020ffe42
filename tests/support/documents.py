"""The commands of a document, run in namespaces as they stand there, and what they print beside what is shown.

In a ``console`` block ``$`` is the relay host, ``extender$`` and ``receiver$`` are the others; ``^C`` is Ctrl-C, a line
``...`` stands for any lines. A ``sh`` block has commands to paste; a ``text`` block after it, what the last one prints.
A ``toml`` block after a path is written there; any other one has to be right. A comment ``<!-- lab`` holds
commands that a reader does not see: they make the traffic and break what is to be found.

``.venv/bin/python tests/support/documents.py docs/x.md`` writes into a document what its commands print now.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))

import msgspec  # noqa: E402
from support.traffic import wait_for  # noqa: E402

from mcrelay import __version__  # noqa: E402
from mcrelay.commands.lab import Lab, bridge, forwarding, missing_privilege  # noqa: E402
from mcrelay.config.parse import parse_config  # noqa: E402
from mcrelay.linux.programs import search_path  # noqa: E402
from mcrelay.relay.shapes import SHAPES  # noqa: E402

STANDINS = ROOT / "tests/support/standins"
COLUMNS = 120
PROMPT = re.compile(r"(extender|receiver|switch)?\$ (.*)")
# Command lines that are not run as they stand, and why; `left_out` says what is looked at instead.
ELSEWHERE = {
    r"(?:sudo )?apt install \./mcrelay_\S+_amd64\.deb": "needs a Debian to install on: packaging/proof has one",
    r"sudo apt purge mcrelay": "the same",
    r"install -m 755 mcrelay /usr/local/bin/": "changes this machine: packaging/proof runs that file in a bare root",
    r"sudo cp /usr/share/doc/mcrelay/examples/\S+ \S+": "is the package's: the file is looked for in its source",
    r"ffplay \S+": "needs a screen",
    r"vlc \S+": "the same",
    r"docker run .*": "needs a container engine",
    r"sudo ip link (?:add link eth1 name|set) eth1\.100 .*": "needs 8021q, which not every kernel has",
}
MAKE = re.compile(r"(?:sudo )?make( [a-z -]+)?")


@dataclass
class Step:
    """One command: where it runs, what is shown of it (None: nothing is), and where that stands in the document."""

    host: str
    command: str
    line: int
    begin: int
    shown: list[str] | None = None
    end: int = 0
    hidden: bool = False


@dataclass
class Text:
    """A file that a document has its reader write (``path``), or would have (None)."""

    text: str
    line: int
    path: str | None


def steps(document: str) -> list[Step | Text]:
    """Read what a document has its reader do, in its order."""
    found: list[Step | Text] = []
    lines = document.split("\n")
    number = 0
    while number < len(lines):
        line = lines[number]
        if match := re.fullmatch(r"( *)```(console|sh|text|toml)|<!-- lab", line):
            end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() in {"```", "-->"})
            body = [each.removeprefix(match[1] or "") for each in lines[number + 1 : end]]
            if match[2] == "toml":
                path = re.search(r"`(/[\w./-]+\.toml)`[^`]*$", "\n".join(lines[max(0, number - 3) : number]))
                found.append(Text("\n".join(body), number + 1, path and path[1]))
            elif match[2] == "text":  # what the last command of the block before prints
                found[-1].shown, found[-1].end, found[-1].begin = body, end, number + 1
            else:
                prompt = "$ " if match[2] == "sh" else ""
                found += _commands([f"{prompt}{each}" for each in body], number + 1, hidden=match[2] is None)
            number = end
        number += 1
    return found


def _commands(body: list[str], first: int, *, hidden: bool) -> list[Step]:
    found: list[Step] = []
    for number, line in enumerate(body, first):
        if match := PROMPT.fullmatch(line):
            found.append(Step(match[1] or "relay", match[2], number, number + 1, end=number + 1, hidden=hidden))
        elif found[-1].command.endswith("\\"):
            found[-1].command += f"\n{line}"
            found[-1].begin = found[-1].end = number + 1
        else:
            found[-1].shown = [*(found[-1].shown or []), line]
            found[-1].end = number + 1
    return found


def clean(printed: str) -> list[str]:
    """What a terminal shows of it in the end: no colours, and of a line that was written anew the last."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07", "", re.split(r"\x1b\[2J|\x1b\[H\x1b\[J", printed)[-1])
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
NUMBER = re.compile(r"\d[\d,.:]*")
QUERIER = re.compile(r"INFO heard link=\S+ querier=")  # a line of the log when the network happens to ask
ASKED = re.compile(r"(queries \S+ in \w+ version) (?:now|N and this host hears it)$")  # before doctor looked, or then


def pattern(line: str) -> str:
    """A line without what varies from run to run: numbers, but for those of addresses, ports, links and names."""
    words = line.split()
    for i, word in enumerate(words):
        if ADDRESS.search(word):
            words[i] = re.sub(r"(192\.168\.168\.55)[.:]\d+|(192\.0\.2\.1)[.:]\d{5}", r"\1\2:N", word)  # a free port
        elif (i and words[i - 1] == "port") or (word[0].isalpha() and "=" not in word):
            continue
        else:
            words[i] = NUMBER.sub("N", word)
    text = re.sub(r"N(?: N)+\b", "N", " ".join(words))  # thousands stand apart
    text = ASKED.sub(r"\1 N", re.sub(r"\bN (?:s|min) ago\b", "now", text))
    return re.sub(r"\bN [kMG]?(bit/s|iB)\b|\bN [num]?(s)\b", r"N \1\2", re.sub(r"[─━]+", "-", text))


def unfold(lines: list[str]) -> list[str]:
    """Put long sentences together again, whose numbers decide where they are folded."""
    whole: list[str] = []
    for line in lines:
        if whole and len(whole[-1]) > COLUMNS - 30 and re.match(r"  \S", line):
            whole[-1] += f" {line.strip()}"
        else:
            whole.append(line)
    return whole


def differs(shown: list[str], printed: list[str]) -> str:
    """Say where what was printed is not what is shown; "" where it is."""
    want, have = ([pattern(line) for line in unfold(each) if not QUERIER.search(line)] for each in (shown, printed))
    parts = [list(group) for skip, group in itertools.groupby(want, lambda line: line == "...") if not skip]
    place = 0
    for i, part in enumerate(parts):
        fixed = i == 0 and want[0] != "..."
        last = i == len(parts) - 1 and want[-1] != "..."
        places = [0] if fixed else [len(have) - len(part)] if last else range(place, len(have))
        for start in places:
            if start >= place and have[start : start + len(part)] == part:
                place = start + len(part)
                break
        else:
            return f"shown:   {part}\nprinted: {have[place:] if not fixed else have}"
    if want[-1:] != ["..."] and place != len(have):
        return f"printed, and not shown: {have[place:]}"
    return ""


@dataclass
class Running:
    """A command on a terminal of its own."""

    host: str
    process: subprocess.Popen[bytes]
    master: int
    printed: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
            while data := os.read(self.master, 65536):
                self.printed += data
        os.close(self.master)

    def lines(self, begin: int = 0) -> list[str]:
        return clean(self.printed[begin:].decode(errors="replace").replace("\r\n", "\n"))

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, seconds: float) -> int:
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.interrupt()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.wait(5)


class Hosts:
    """The hosts that documents speak of, with their own /etc and /run.

    ::

        extender eth0 ---- [br0 switch, querier] ---- eth1 relay eth0 ---- eth0 receiver
        192.168.168.55/24                    198.51.100.1/24   192.0.2.1/24   192.0.2.7/24
    """

    def __enter__(self) -> Hosts:
        self._stack = contextlib.ExitStack()
        self.lab = self._stack.enter_context(Lab())
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.folder.chmod(0o755)
        self.running: list[Running] = []
        extender, switch, relay, receiver = self.lab.add("extender", "switch", "relay", "receiver")
        self.hosts = {"extender": extender, "switch": switch, "relay": relay, "receiver": receiver}
        relay.sysctl({"ipv4.conf.all.rp_filter": 1, "ipv4.conf.default.rp_filter": 1})
        self.lab.veth(
            (extender, "eth0", switch, "port1"), (switch, "port2", relay, "eth1"), (relay, "eth0", receiver, "eth0")
        )
        extender.ip("addr add 192.168.168.55/24 dev eth0", "link set eth0 up", "route add 224.0.0.0/4 dev eth0")
        relay.ip("addr add 198.51.100.1/24 dev eth1", "addr add 192.0.2.1/24 dev eth0", "link set eth1 up")
        relay.ip("link set eth0 up", "route add default via 192.0.2.254")
        receiver.ip("addr add 192.0.2.7/24 dev eth0", "link set eth0 up", "route add 224.0.0.0/4 dev eth0")
        receiver.ip("addr add 192.0.2.254/24 dev eth0", "addr add 203.0.113.9/32 dev lo")
        bridge(switch, "br0", ["port1", "port2"])
        for namespace in self.lab.namespaces:
            namespace.wait_until_up()
        wait_for(lambda: forwarding(switch), "the switch to forward")
        self._own_etc_and_run()
        self.write("/etc/mcrelay/mcrelay.toml", (ROOT / "packaging/mcrelay.toml").read_text())
        (self.folder / ".venv").symlink_to(ROOT / ".venv")
        return self

    def _own_etc_and_run(self) -> None:
        """A mount namespace in which /etc and /run are what they are on the host, and what changes there is ours."""
        read, write = os.pipe()
        script = (
            "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w && chmod 755 /mnt/u &&"
            " mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w /etc && mkdir /etc/mcrelay &&"
            " mount -t tmpfs -o mode=755 tmpfs /mnt && mkdir /mnt/netns && mount --rbind /run/netns /mnt/netns &&"
            " mount -n --move /mnt /run && echo && exec sleep 1000"
        )
        self._holder = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=write)
        os.close(write)
        with os.fdopen(read) as said:
            assert said.readline() == "\n", "no mount namespace with an /etc and a /run of its own"

    def __exit__(self, *_: object) -> None:
        for each in reversed(self.running):
            each.end()
        pid = Path(f"/proc/{self._holder.pid}/root/run/mcrelay.pid")
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(pid.read_text()), signal.SIGTERM)
        self._holder.kill()
        self._holder.wait()
        self._stack.close()

    def start(self, host: str, command: str) -> Running:
        """Begin a command line there, on a terminal."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
        inside = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wdns={self.folder}"]
        environment = {
            **{k: v for k, v in os.environ.items() if k not in {"CI", "COLUMNS", "MCRELAY_SOCKET"}},
            "PATH": f"{STANDINS}:{ROOT}/.venv/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "NO_COLOR": "1", "TERM": "xterm", "LC_ALL": "C.UTF-8",
        }  # fmt: skip
        process = subprocess.Popen(
            [*inside, *self.hosts[host].command("bash", "-o", "pipefail", "-c", command)],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.running.append(Running(host, process, master))
        return self.running[-1]

    def write(self, path: str, text: str) -> None:
        """Put a file into the relay host."""
        target = Path(f"/proc/{self._holder.pid}/root{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def missing() -> str | None:
    """Say what a walk needs and this machine does not have, or None."""
    absent = [name for name in ("jq", "socat", "tcpdump", "nstat", "nft") if not shutil.which(name, path=search_path())]
    return f"{', '.join(absent)} not installed" if absent else missing_privilege()


def json_paths() -> list[str]:
    """Every key that `show -j` prints."""
    return [key for shape in SHAPES.values() for key in re.findall(r"'?(\w+)'?", str(msgspec.json.schema(shape)))]


def left_out(step: Step) -> str:
    """Why a command is not run as it stands; "" if it is. Raises AssertionError where it names what is not there."""
    command = step.command.partition(" #")[0].strip()
    words = shlex.split(command.replace("\\\n", " "))
    if MAKE.fullmatch(command):
        subprocess.run(["make", "-n", *words[words.index("make") + 1 :]], cwd=ROOT, check=True, capture_output=True)
        return "would build or test all of it: make says what it would do"
    reason = next((why for kind, why in ELSEWHERE.items() if re.fullmatch(kind, command, re.DOTALL)), "")
    if reason:
        for word in words:
            if package := re.search(r"mcrelay_(\S+)_amd64\.deb", word):
                assert package[1] == __version__, word
            if word.startswith("/usr/share/doc/mcrelay/examples/"):
                assert (ROOT / "packaging/systemd" / Path(word).name).exists(), word
    return reason


def walk(document: Path, actual: dict[int, tuple[int, list[str]]] | None = None) -> None:
    """Do what a document says. Raises AssertionError where it is not as it says, unless *actual* is to be filled."""
    update = actual is not None
    with Hosts() as hosts:
        for each in steps(document.read_text()):
            where = f"{document.name}:{each.line + 1}"
            if isinstance(each, Text):
                if each.path:
                    hosts.write(each.path, f"{each.text}\n")
                else:
                    parse_config([(where, each.text)])  # as check does; its complaints name the place
                continue
            if left_out(each):
                continue
            if each.hidden and each.command == "stop":  # what the document has left running on the relay host
                for running in hosts.running:
                    if running.host == "relay":
                        running.end()
                continue
            command, background = each.command, each.command.endswith(" &")
            running = hosts.start(each.host, command.removesuffix(" &"))
            if background:
                if "mcrelay relay" in command:
                    wait_for(lambda r=running: "state=active" in "".join(r.lines()), f"{where} to relay", 60)
                else:
                    time.sleep(0.3)  # a sender, whose beginning nothing shows
                continue
            shown = each.shown
            if shown and "^C" in shown:
                before = shown[: shown.index("^C")]
                if update:
                    wait_for(running.lines, "the first line", 60)
                    time.sleep(5)
                else:
                    with contextlib.suppress(AssertionError):
                        wait_for(lambda b=before, r=running: not differs(b, r.lines()), "what is shown", 60)
                first, size = running.lines(), len(running.printed)
                assert update or not differs(before, first), f"{where}: {command}\n{differs(before, first)}"
                running.interrupt()
                running.wait(30)
                printed = [*first, "^C", *running.lines(size)]
            elif shown is None and re.match(r"(sudo )?mcrelay run\b", command):
                time.sleep(1)
                assert running.process.poll() is None, f"{where}: {running.lines()}"
                continue
            else:
                code = running.wait(120)
                printed = running.lines()
                assert shown or code == 0, f"{where}: {command}\nexit code {code}: {printed}"
            if shown is None:
                continue
            if update:
                actual[each.begin] = (each.end, printed)
            else:
                assert not differs(shown, printed), f"{where}: {command}\n{differs(shown, printed)}"


def main(path: Path) -> None:
    """Write into a document what its commands print; a part that is left out ("...") stays as it is."""
    lines, actual = path.read_text().split("\n"), {}
    try:
        walk(path, actual)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        print(error)
    for begin, (end, printed) in sorted(actual.items(), reverse=True):
        if "..." not in lines[begin:end]:
            lines[begin:end] = printed
        elif differs(lines[begin:end], printed):
            print(f"{path}:{begin}: {differs(lines[begin:end], printed)}\n" + "\n".join(printed))
    path.write_text("\n".join(lines))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
