"""Draw docs/doctor.svg and docs/discover.svg from real runs: ``.venv/bin/python docs/pictures.py``, as root."""

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
MCRELAY = [sys.executable, "-m", "mcrelay"]
RULES = """
[rules.lobby]
input = "192.168.168.55@239.1.1.1:5001%in0"
outputs = ["239.10.0.1:5004%out0"]
[rules.studio]
input = "239.69.1.2:5004%in0"
outputs = ["239.10.0.2:5004%out0"]
"""
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


def picture(name: str, command: str, shown: str) -> None:
    """Draw what a terminal showed."""
    text = Text.from_ansi(shown.replace("\r", ""))
    width = max(100, *(line.cell_len for line in text.split("\n")))
    console = Console(record=True, width=min(width, 150), file=io.StringIO(), color_system="standard")
    console.print(Text(f"# {command}"))
    console.print(text)
    console.save_svg(str(DOCS / f"{name}.svg"), title="mcrelay")


def main() -> None:
    """Build a lab with senders of every kind, and look at it."""
    with standard_lab(querier=False) as lab, tempfile.TemporaryDirectory() as folder:
        lab.settle()

        def shown(command: str) -> str:
            """What the command prints on a terminal."""
            whole = f"{' '.join(MCRELAY)} {command}"
            done = lab.relay.run("script", "-qec", whole, "/dev/null", check=False)
            return done.stdout.rpartition("\033[H\033[J")[2].strip()

        rules, control = Path(folder, "mcrelay.toml"), Path(folder, "mcrelay.sock")
        rules.write_text(RULES)
        Path(folder).chmod(0o755)
        for sender in SENDERS:
            lab.source.popen(*sender)
        lab.source.popen(
            "ptp4l", "-i", "eth0", "-S", "-m", "--masterOnly", "1", "--uds_address", str(Path(folder, "ptp")),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        lab.relay.popen(*MCRELAY, "run", "-c", str(rules), "--socket", str(control), stderr=subprocess.DEVNULL)
        time.sleep(3)
        picture("doctor", "mcrelay doctor lobby", shown(f"doctor lobby --socket {control}"))
        picture("discover", "mcrelay discover in0 --duration 12", shown("discover in0 --duration 12"))


if __name__ == "__main__":
    main()
