"""Log lines on stderr: a verb and key=value, a line for each change of state; with a priority for journald; or JSON."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import select
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from mcrelay.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = 10_000  # that may wait to be written
FINISH_SECONDS = 1.0

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

_NUMBER = re.compile("-?(?:0|[1-9][0-9]{0,17})(?:[.][0-9]+)?")
_PAIR = re.compile(r"""(?:^|\s)([a-z_]+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S*[^\s:])""")


def _field(text: str) -> str | int | float:
    """A value as JSON has it: numbers become numbers, quoted text loses its quotes."""
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text.strip("'\"")


class _Journal(logging.Formatter):
    """sd-daemon(3): a line that starts with <N> has syslog priority N; the journal adds the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{PRIORITIES.get(record.levelno, 6)}>{super().format(record)}"


class _Json(logging.Formatter):
    """One object a line: time (Unix seconds), level, message, and the message's key=value pairs under ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        fields = {key: _field(value) for key, value in _PAIR.findall(message)}
        line = {"time": round(record.created, 6), "level": record.levelname.lower(), "message": message}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({**line, "fields": fields})


def _introduce(record: logging.LogRecord) -> bool:
    """Begin what a library logs (asyncio, aiohttp) with a verb as well, and say whose it is."""
    if record.name.partition(".")[0] != __name__.partition(".")[0]:
        record.msg, record.args = f"passes on from={record.name}: {record.getMessage()}", None
    return True


class _Unread(logging.Handler):
    """Writes a line if that cannot wait, else hands it to a thread: a log without a reader blocks only that thread.

    At most LINES wait. Further lines are lost, and their number is logged when there is room again.
    """

    def __init__(self, writer: logging.StreamHandler[Any]) -> None:
        super().__init__()
        self._writer = writer
        self._room = select.poll()
        self._room.register(writer.stream, select.POLLOUT)
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(LINES)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="mcrelay-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None  # its arguments may have changed by the time it is written
        # A pipe that can be written to has room for PIPE_BUF bytes: pipe(7).
        if not self._lines.unfinished_tasks and len(record.msg) < select.PIPE_BUF // 8 and self._room.poll(0):
            self._writer.handle(record)
            return
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def _write(self) -> None:
        while True:
            record = self._lines.get()
            self._writer.handle(record)
            if self._lost and self._lines.empty():
                lost, self._lost = self._lost, 0
                text = f"lost {lost} log lines: nobody read them"
                self._writer.handle(
                    logging.makeLogRecord({"name": __name__, "msg": text, "levelno": 30, "levelname": "WARNING"})
                )
            self._lines.task_done()

    def finish(self) -> bool:
        """Wait for the waiting lines, FINISH_SECONDS at most. Returns whether all were written."""
        until = time.monotonic() + FINISH_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.002)
        return not self._lines.unfinished_tasks


def set_aside() -> Callable[[], bool]:
    """Write log lines on a thread of their own from now on.

    Call the returned function before the process ends. It says whether all was written; if not, the thread holds
    stderr, and only os._exit ends the process. Call this after the change of user: a thread keeps the capabilities
    that it is started with. Raises OperationError if no thread can be started.
    """
    root = logging.getLogger()
    (writer,) = root.handlers
    assert isinstance(writer, logging.StreamHandler), "set_up made it"
    handler = _Unread(writer)
    try:
        handler.start()
    except RuntimeError as error:
        raise OperationError(f"log: {error}; raise the limit of processes (ulimit -u, LimitNPROC)") from None
    root.handlers[:] = [handler]
    return handler.finish


def set_up(*, as_json: bool = False, level: str = "info") -> None:
    """Log to stderr from now on, at *level* (a key of LEVELS) or above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_introduce)
    if as_json:
        handler.setFormatter(_Json())
    elif os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_Journal("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.raiseExceptions = False  # an error of the log itself cannot be logged
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    logging.getLogger("asyncio").setLevel(logging.WARNING)
