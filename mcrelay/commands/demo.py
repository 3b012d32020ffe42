"""``mcrelay demo``: see it work, without hardware or configuration.

The relay runs as a user would run it, between an appliance that the relay's host has no route to and a receiver, behind
a bridge that passes a group only to ports that joined it. The verdict is drawn from both ends, not from the relay.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcrelay.commands.lab import SOURCE_ADDRESS, missing_privilege, standard_lab
from mcrelay.commands.table import BOLD, GREEN, RED, colourful, digits, paint
from mcrelay.control.client import ask
from mcrelay.errors import ControlError, OperationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay.commands.lab import Namespace, StandardLab

GROUP = "226.2.2.2"
INPUT = f"{SOURCE_ADDRESS}@{GROUP}:2068%in0"
OUTPUT = "239.10.0.1:5004%out0"
RATE = 5000  # datagrams a second
SECONDS = 6
SIZE = 1316
ETH_P_IP = 0x0800
CONTROL = 100  # datagrams sent before the relay starts

PICTURE = f"""\
  source               switch                  relay                receiver
  {SOURCE_ADDRESS} -- bridge, snooping -- in0      out0 --- joined 239.10.0.1:5004
  sends {GROUP}       with a querier          no route back to the source
"""


@click.command(epilog="\b\nExample:\n  mcrelay demo")
def demo() -> None:
    """See it work: a sender, the relay and a receiver in network namespaces of their own, about 10 seconds."""
    trouble = missing_privilege()
    if trouble:
        raise OperationError(trouble)
    with standard_lab() as lab, tempfile.TemporaryDirectory(prefix="mcrelay-demo-") as folder:
        click.echo(PICTURE)
        passed = _Demo(lab, Path(folder)).run()
    sys.exit(0 if passed else 1)


def own_command() -> list[str]:
    """How to start this very program again, also from a frozen executable."""
    frozen = getattr(sys, "frozen", False)
    return [sys.executable] if frozen else [sys.executable, "-m", "mcrelay"]


class _Demo:
    """One run: control, relay, traffic, verdict."""

    def __init__(self, lab: StandardLab, folder: Path) -> None:
        self._lab = lab
        self._config = folder / "mcrelay.toml"
        self._control = str(folder / "mcrelay.sock")
        self._colour = colourful()

    def run(self) -> bool:
        self._lab.settle()
        unjoined = self._try_unjoined()
        relay = self._start_relay()
        joined = self._see_join()
        refused_before = reverse_path_drops(self._lab.relay)
        sent, got = self._pass_traffic()
        refused = reverse_path_drops(self._lab.relay) - refused_before
        stats = ask(self._control, "show", read_only=True, noun="stats")["rules"][0]
        relay.send_signal(signal.SIGTERM)
        relay.wait(timeout=5)
        left = self._see_leave()
        exact = got["unique"] == sent["sent"] and not (got["lost"] or got["duplicated"] or got["corrupted"])
        click.echo()
        return all([
            self._say(unjoined == 0, f"before it joined, the switch passed it {unjoined} of {CONTROL} datagrams"),
            self._say(joined, f"the relay joined: the switch lists {GROUP} on its port"),
            self._say(
                refused >= sent["sent"],
                f"the kernel alone would have dropped them: it refused {digits(refused)}"
                f" (no route to {SOURCE_ADDRESS})",
            ),
            self._say(
                exact,
                f"sent {digits(sent['sent'])}, relayed {digits(stats['rx_packets'])},"
                f" received {digits(got['unique'])}: "
                f"{got['lost']} lost, {got['duplicated']} duplicated, {got['reordered']} reordered, "
                f"{got['corrupted']} corrupted",
            ),
            self._say(left, "after the relay stopped, the switch no longer lists it"),
        ])  # fmt: skip

    def _try_unjoined(self) -> int:
        """Datagrams that reach the relay's link while nobody has joined: the control of the experiment."""
        wanted = socket.inet_aton(GROUP)
        found = 0
        with self._lab.relay.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as tap:
            tap.setblocking(False)
            self._send(rate=1000, total=CONTROL).communicate(timeout=10)
            with contextlib.suppress(BlockingIOError):
                while True:
                    found += tap.recv(2048)[30:34] == wanted  # the IPv4 destination behind an Ethernet header
        return found

    def _start_relay(self) -> subprocess.Popen[str]:
        self._config.write_text(f'[rules.demo]\ninput = "{INPUT}"\noutputs = ["{OUTPUT}"]\n')
        click.echo(f"$ mcrelay relay {INPUT} {OUTPUT}\n")
        arguments = ["run", "-c", str(self._config), "--socket", self._control]
        relay = self._lab.relay.popen(*own_command(), *arguments, stderr=subprocess.PIPE)
        for _ in _until(10):
            try:
                ask(self._control, "version", read_only=True)
            except ControlError:
                if relay.poll() is not None:
                    raise OperationError(f"the relay ended: {relay.stderr.read() if relay.stderr else ''}") from None
                continue
            return relay
        raise OperationError("the relay did not start within 10 s")

    def _see_join(self) -> bool:
        return any(_lists(self._lab) for _ in _until(3))

    def _see_leave(self) -> bool:
        return any(not _lists(self._lab) for _ in _until(3))

    def _pass_traffic(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Send, watch, receive; returns what each end says of itself."""
        total = RATE * SECONDS
        receiver = self._lab.sink.popen(
            *own_command(), "recv", "239.10.0.1:5004%eth0", "--count", str(total), "--idle", "2", "-j",
            stdout=subprocess.PIPE,
        )  # fmt: skip
        for _ in _until(5):
            if self._lab.sink.call(lambda: "239.10.0.1" in _joined()):
                break
        sender = self._send(rate=RATE, total=total)
        while sender.poll() is None:
            self._live()
            time.sleep(0.5)
        self._live(last=True)
        sent = json.loads(sender.communicate()[0])
        return sent, json.loads(receiver.communicate(timeout=10)[0])

    def _send(self, *, rate: int, total: int) -> subprocess.Popen[str]:
        return self._lab.source.popen(
            *own_command(), "send", f"{GROUP}:2068%eth0", "--rate", str(rate), "--count", str(total),
            "--size", str(SIZE), "-j",
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def _live(self, *, last: bool = False) -> None:
        """One line of what has come how far, in place on a terminal."""
        stats = ask(self._control, "show", read_only=True, noun="stats")["rules"][0]
        errors = sum(sum(each["tx_errors"].values()) for each in stats["outputs"])
        arrived = udp_delivered(self._lab.sink)
        line = (
            f"relay: in {digits(stats['rx_packets']):>7}  out {digits(stats['outputs'][0]['tx_packets']):>7}  "
            f"errors {errors}    receiver: {digits(arrived):>7}"
        )
        if sys.stdout.isatty():
            click.echo(f"\r{line}", nl=last)
        elif last:
            click.echo(line)

    def _say(self, good: bool, text: str) -> bool:
        mark = paint("ok  ", GREEN, on=self._colour) if good else paint("FAIL", RED, on=self._colour)
        click.echo(f"{mark}  {text if good else paint(text, BOLD, on=self._colour)}")
        return good


def _lists(lab: StandardLab) -> bool:
    return any(GROUP in group for group in lab.mdb().get("to-relay", set()))


def _until(seconds: float) -> Iterator[None]:
    """Turns of a waiting loop, 20 a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.05)


def _joined() -> str:
    """Groups joined in this thread's namespace, as `ip maddr` has them."""
    return subprocess.run(["ip", "maddr"], capture_output=True, text=True, check=True).stdout


def reverse_path_drops(namespace: Namespace) -> int:
    """Datagrams a kernel dropped for want of a route back to their source (IPReversePathFilter)."""
    return _counter(namespace, "netstat", "TcpExt", "IPReversePathFilter")


def udp_delivered(namespace: Namespace) -> int:
    """Datagrams sockets of a namespace were given."""
    return _counter(namespace, "snmp", "Udp", "InDatagrams")


def _counter(namespace: Namespace, file: str, family: str, name: str) -> int:
    """One counter of /proc/net/{snmp,netstat}: a line of names, then a line of values, for each family."""
    text = namespace.call(Path("/proc/thread-self/net", file).read_text)
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith(f"{family}:"))
    return int(dict(zip(names, values, strict=True))[name])
