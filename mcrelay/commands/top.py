"""``mcrelay top``: the running relay, live."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from mcrelay.commands import screen
from mcrelay.commands.choices import View, press
from mcrelay.commands.keyboard import keys_at_once, read_keys
from mcrelay.commands.options import relay_options
from mcrelay.commands.show import ask_any
from mcrelay.commands.table import colourful, render
from mcrelay.commands.watched import Seen
from mcrelay.control.client import ask
from mcrelay.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY_SECONDS = 1.0
SHARE = 4  # thousands of rules take the relay a while to tell: it is left alone for four times as long,
PAUSE_SECONDS = 4.0  # but no longer, as a busy host takes longer than the relay does; less before there are rates
OFTEN, NOUNS = ("stats",), ("stats", "rules", "links", "groups")
SELDOM = 5  # all of the nouns are asked for every fifth time
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(epilog="\b\nExample:\n  mcrelay top")
@relay_options
def top(socket_path: str | None) -> None:
    """Watch the running relay: what each rule and output carries and loses, and the last minute of it.

    The keys are shown in the last line. In a pipe: one look, as a table. A relay of thousands of rules takes a while to
    tell of them all, and is asked less often then, each few seconds.
    """
    _, socket_path = ask_any(socket_path, "version")
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        click.echo(_once(socket_path))
        return
    _live(socket_path)


def _once(socket_path: str | None) -> str:
    """One look: two questions, a second apart."""
    seen = Seen()
    seen.take(_ask(socket_path, NOUNS))
    time.sleep(EVERY_SECONDS)
    seen.take(_ask(socket_path, OFTEN))
    header, rows = screen.rows(seen, View(sort="name"))
    return render(header, rows, colour=False, right=screen.NUMBERS) if rows else "no rules"


def _ask(socket_path: str | None, nouns: tuple[str, ...]) -> dict[str, Any]:
    """What the relay says now, by noun. Raises ControlError."""
    return {noun: ask(socket_path, "show", read_only=True, noun=noun) for noun in nouns}


class _Poller:
    """Asks on a thread of its own, so that keys are heard while the relay thinks; *wake* is written to afterwards.

    ``seen`` is its work: look at it under the lock.
    """

    def __init__(self, socket_path: str | None, wake: int) -> None:
        self.lock = threading.Lock()
        self.seen = Seen()
        self.paused = False
        self._socket_path, self._wake = socket_path, wake
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()  # an answer that is still to come is not waited for

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            began = time.monotonic()
            if not self.paused:
                number = self._look(number)
            took = time.monotonic() - began
            with contextlib.suppress(OSError):  # closed: it is over
                os.write(self._wake, b"\0")
            self._stop.wait(pause(took, number))

    def _look(self, number: int) -> int:
        """Ask for the time of this number. Returns the next one: it begins anew after trouble."""
        try:
            answers = _ask(self._socket_path, NOUNS if number % SELDOM == 0 else OFTEN)
        except ControlError as error:
            with self.lock:
                self.seen.lose(str(error).partition(";")[0])
            return 0
        with self.lock:
            self.seen.take(answers)
        return number + 1


def pause(took: float, number: int) -> float:
    """Seconds until the relay is asked again, after so many looks, the last of which took so many seconds."""
    longest = PAUSE_SECONDS if number > 1 else EVERY_SECONDS
    return max(EVERY_SECONDS - took, min(SHARE * took, longest))


def _live(socket_path: str | None) -> None:
    """Draw until a key, Ctrl-C or another signal ends it; the terminal is left as it was found."""
    from rich.console import Console, Group  # noqa: PLC0415  for this command alone
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False, no_color=not colourful() or None)
    plain = not console.encoding.lower().startswith("utf")
    view = View()

    def picture(seen: Seen) -> Group:
        width, height = console.size
        lines = screen.draw(seen, view, width, height, plain=plain)
        return Group(*(Text.assemble(*((each.text, each.style) for each in line), no_wrap=True) for line in lines))

    with contextlib.ExitStack() as stack:
        keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
        if keyboard is not None:
            stack.enter_context(keys_at_once(keyboard))
        wake, stopped = stack.enter_context(_signals())
        poller = stack.enter_context(_Poller(socket_path, wake[1]))
        live = stack.enter_context(
            Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        )
        while not stopped:
            heard = select.select([wake[0], *([] if keyboard is None else [keyboard])], [], [])[0]
            if wake[0] in heard:
                os.read(wake[0], 4096)
            with poller.lock:
                if keyboard in heard and not _pressed(poller.seen, view, keyboard):
                    break
                poller.paused = view.paused
                drawn = picture(poller.seen)
            live.update(drawn, refresh=True)


def _pressed(seen: Seen, view: View, keyboard: int) -> bool:
    """Do what the keys say that were pressed. False: it is over, also where the terminal is gone."""
    try:
        return all(press(seen, view, key) for key in read_keys(keyboard))
    except (EOFError, OSError):
        return False


@contextlib.contextmanager
def _signals() -> Iterator[tuple[tuple[int, int], list[int]]]:
    """A pipe that every signal writes to, a new size of the terminal too, and the list of those that say: end."""
    wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    stopped: list[int] = []
    before = {}
    for number in (*ENDS, signal.SIGWINCH):
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGWINCH:
            say = (lambda got, _: stopped.append(got)) if number in ENDS else (lambda *_: None)
            before[number] = signal.signal(number, say)
    signal.set_wakeup_fd(wake[1], warn_on_full_buffer=False)
    try:
        yield wake, stopped
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        for end in wake:
            os.close(end)
