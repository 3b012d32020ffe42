"""`mcrelay` whose installed file is another one: ``upgraded.py FILE COMMAND…``; what changes FILE is an upgrade."""

from __future__ import annotations

import sys
from pathlib import Path

from mcrelay import cli
from mcrelay.linux import installed

if __name__ == "__main__":
    installed.Installed.__init__.__defaults__ = (Path(sys.argv.pop(1)),)
    cli.main()
