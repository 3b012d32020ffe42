"""`mcrelay` with other limits of the monitors: ``limited.py LIMITS-AS-JSON COMMAND…``. Nobody needs an option."""

from __future__ import annotations

import json
import sys

from mcrelay import cli
from mcrelay.igmp.needs import Limits
from mcrelay.relay import build

if __name__ == "__main__":
    build.LIMITS = Limits(**json.loads(sys.argv.pop(1)))
    cli.main()
