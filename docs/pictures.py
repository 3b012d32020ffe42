"""Draw the pictures of docs from real runs: ``.venv/bin/python docs/pictures.py [NAME]...``, as root."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mcrelay.commands.lab import standard_lab

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))
import dashboard  # noqa: E402
from support.prometheus import Prometheus  # noqa: E402
from support.terminal import HOME, Terminal  # noqa: E402  how a terminal is had is the tests' knowledge

ADDRESS = "127.0.0.1:19736"
MINUTE_SECONDS = 62  # of spark lines
MCRELAY = [sys.executable, "-m", "mcrelay"]
RULES = f"""
[relay]
metrics = "{ADDRESS}"
[rules.cameras]
input = "239.1.2.1:6000%in0"
outputs = ["239.10.0.3:5004%out0", "239.10.0.4:5004%out0", "239.11.0.1:5004%out1"]
[rules.later]
input = "239.9.9.9:5000%vlan7"
outputs = ["239.10.0.5:5004%out0"]
[rules.lobby]
input = "192.168.168.55@239.1.1.1:5001%in0"
outputs = ["239.10.0.1:5004%out0"]
[rules.studio]
input = "239.69.1.2:5004%in0"
outputs = ["239.10.0.2:5004%out0"]
health = "rtp"
"""
COLUMNS = 122
ALERTS = DOCS.parent / "packaging" / "prometheus" / "alerts.yml"
NOT_SENT = "table inet refuses { chain out { type filter hook output priority 0; ip daddr 239.10.0.4 drop; }; }"
FFMPEG = "ffmpeg -hide_banner -nostdin -loglevel error -re -f lavfi -i"
SENDERS = [
    [
        *FFMPEG.split(), "testsrc2=size=320x180:rate=25", "-c:v", "mpeg2video", "-b:v", "2M", "-f", "mpegts",
        "-metadata", "service_name=Lobby", "udp://239.1.1.1:5000?pkt_size=1316&localaddr=192.168.168.55&ttl=4",
    ],
    [
        *FFMPEG.split(), "sine=frequency=440", "-c:a", "pcm_mulaw", "-ar", "8000", "-ac", "1",
        "-metadata", "title=Studio One", "-f", "sap", "sap://239.69.1.2:5004?announce_addr=224.2.127.254&ttl=8",
    ],
]  # fmt: skip


def last_line(shown: str) -> str:
    """Keep of a line that is written anew, again and again, what stood there last, and show where Ctrl-C came."""
    kept: list[str] = []
    for line in shown.replace("\r\n", "\n").split("\n"):
        parts = line.split("\r")
        text = next((each for each in reversed(parts) if each.removeprefix("\x1b[K")), "").removeprefix("\x1b[K")
        ended = [each for each in parts[:-1] if each.startswith("\x1b[Kin ")]
        if text.startswith("received") and ended:
            kept += [ended[-1].removeprefix("\x1b[K"), "^C"]
        kept.append(text)
    return "\n".join(kept)


def picture(name: str, command: str, shown: str) -> None:
    """Draw what a terminal showed."""
    text = Text.from_ansi(last_line(shown).replace("\r", ""))
    width = max(100, *(line.cell_len for line in text.split("\n")))
    console = Console(record=True, width=min(width, 150), file=io.StringIO(), color_system="standard")
    console.print(Text(f"# {command}"))
    console.print(text)
    console.save_svg(str(DOCS / f"{name}.svg"), title="mcrelay")


def main(*names: str) -> None:
    """Build a lab with senders of every kind, and look at it."""
    with standard_lab(querier=False, sinks=2) as lab, tempfile.TemporaryDirectory() as folder:
        lab.settle()

        def shown(command: str, seconds: int = 0) -> str:
            """What the command prints on a terminal, ended by Ctrl-C after so long."""
            ending = f"timeout -s INT {seconds} " if seconds else ""
            whole = f"stty cols {COLUMNS} rows 50; exec {ending}{' '.join(MCRELAY)} {command}"
            inside = lab.relay.command("script", "-qec", whole, "/dev/null")
            done = subprocess.run(inside, capture_output=True, check=False)  # bytes: each carriage return counts
            return done.stdout.decode().rpartition("\033[H\033[J")[2].strip("\r\n")

        rules, control = Path(folder, "mcrelay.toml"), Path(folder, "mcrelay.sock")
        rules.write_text(RULES)
        Path(folder).chmod(0o755)
        for sender in SENDERS:
            lab.source.popen(*sender)
        lab.source.popen(*MCRELAY, "send", "239.1.2.1:6000%eth0", "--rate", "400", stdout=subprocess.DEVNULL)
        lab.source.popen(
            "ptp4l", "-i", "eth0", "-S", "-m", "--masterOnly", "1", "--uds_address", str(Path(folder, "ptp")),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        lab.relay.popen(*MCRELAY, "run", "-c", str(rules), "--socket", str(control), stderr=subprocess.DEVNULL)
        while not control.exists():
            time.sleep(0.1)
        time.sleep(12)
        ask = f"--socket {control}"
        streams = "239.69.1.2:5004%in0 239.10.0.3:5004%out0"
        for name, command, more, seconds in (
            ("show", "show", ask, 0),
            ("stats", "show stats", ask, 0),
            ("relay", f"relay {streams}", "", 15),
            ("demo", "demo", "", 0),
            ("doctor", "doctor lobby", ask, 0),
            ("discover", "discover in0 --duration 12", "", 0),
        ):
            if not names or name in names:
                picture(name, f"mcrelay {command}", shown(f"{command} {more}", seconds))

        if not names or "dashboard" in names:
            with Prometheus(lab.relay, ALERTS.read_text(), Path(folder), ADDRESS) as watching:
                time.sleep(MINUTE_SECONDS / 2)
                lab.relay.run("nft", NOT_SENT)
                time.sleep(MINUTE_SECONDS / 2)
                dashboard.draw(watching, MINUTE_SECONDS, DOCS / "dashboard.png")
                lab.relay.run("nft", "delete table inet refuses")
        if not names or "top" in names:
            lab.sinks[1].ip("link set eth0 down")  # an output is parked then
            with Terminal(*MCRELAY, "top", "--socket", str(control), columns=100, lines=24) as terminal:
                until = time.monotonic() + MINUTE_SECONDS
                terminal.wait_for(lambda _: time.monotonic() > until, "a minute", 2 * MINUTE_SECONDS)
                picture("top", "mcrelay top", terminal.drawn.split(HOME)[-2])
                terminal.press("q")
                terminal.end()
        if not names or "page" in names:
            for file, size in (("page.png", "1100,900"), ("page-phone.png", "500,1400")):
                lab.relay.run(
                    "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/chromium",
                    f"--window-size={size}", "--virtual-time-budget=20000", f"--screenshot={DOCS / file}",
                    f"http://{ADDRESS}/", timeout=120,
                )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
