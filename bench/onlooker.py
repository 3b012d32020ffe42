"""Who looks at a relay under test: its metrics are scraped each second, and what a rule carries is captured.

    onlooker.py ADDRESS COMMAND...

COMMAND is a capture, which is started again whenever it ends: a capture is bounded. Until SIGTERM.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

EVERY_SECONDS = 1.0


def main() -> None:
    address, *capture = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    running: subprocess.Popen[bytes] | None = None
    try:
        while True:
            if capture and (running is None or running.poll() is not None):
                running = subprocess.Popen(capture, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with suppress(OSError), urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                answer.read()
            time.sleep(EVERY_SECONDS)
    finally:
        if running is not None:
            running.terminate()
            running.wait()


if __name__ == "__main__":
    main()
