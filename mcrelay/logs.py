"""Log lines on stderr: key=value, one a state change; under journald with the priority it understands; or JSON."""

from __future__ import annotations

import json
import logging
import os
import re
import sys

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

_PAIR = re.compile(r"""(?:^|\s)([a-z_]+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s:]+)""")


class _Journal(logging.Formatter):
    """sd-daemon(3): a line that starts with <N> has syslog priority N; the journal adds the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{PRIORITIES.get(record.levelno, 6)}>{super().format(record)}"


class _Json(logging.Formatter):
    """One object a line: time (Unix seconds), level, message, and the message's key=value pairs under ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        fields = {key: value.strip("'\"") for key, value in _PAIR.findall(message)}
        line = {"time": round(record.created, 6), "level": record.levelname.lower(), "message": message}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({**line, "fields": fields})


def set_up(*, as_json: bool = False) -> None:
    """Log to stderr from now on."""
    handler = logging.StreamHandler(sys.stderr)
    if as_json:
        handler.setFormatter(_Json())
    elif os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_Journal("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
