"""``mcrelay demo``: see it work, without hardware or configuration.

The relay runs as a user would run it, between an appliance to which its host has no route and a receiver. It stands
behind a bridge that passes a group only to ports that joined it. The result comes from both ends, not from the relay.
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
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcrelay.commands.lab import SOURCE_ADDRESS, SOURCE_ADDRESS6, missing_privilege, standard_lab
from mcrelay.commands.table import BOLD, GREEN, RED, colourful, columns, digits, fold, paint
from mcrelay.control.client import ask
from mcrelay.errors import ControlError, OperationError
from mcrelay.model.address import host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay.commands.lab import Namespace, StandardLab

RATE = 5000  # datagrams a second
SECONDS = 6
SIZE = 1316
CONTROL = 100  # datagrams sent before the relay starts


@dataclass(frozen=True, slots=True)
class _Family:
    """The streams of the demo: where they come from, and the groups that are joined and sent to."""

    source: str
    group: str
    sent: str
    ether_type: int
    group_at: int  # where the destination is in an Ethernet frame

    @property
    def input(self) -> str:
        return f"{host(ip_address(self.source))}@{self.end_of(self.group, 2068)}%in0"

    @property
    def output(self) -> str:
        return f"{self.end_of(self.sent, 5004)}%out0"

    @staticmethod
    def end_of(address: str, port: int) -> str:
        return f"{host(ip_address(address))}:{port}"

    @property
    def picture(self) -> str:
        return (
            "  source               switch                  relay                receiver\n"
            f"  {self.source} -- bridge, snooping -- in0      out0 -- joined {self.end_of(self.sent, 5004)}\n"
            f"  sends {self.group:<14} with a querier          no route back to the source\n"
        )


IPV4 = _Family(SOURCE_ADDRESS, "226.2.2.2", "239.10.0.1", 0x0800, 30)
IPV6 = _Family(SOURCE_ADDRESS6, "ff1e::2:2:2", "ff1e::a", 0x86DD, 38)


@click.command(epilog="\b\nExamples:\n  mcrelay demo\n  mcrelay demo --ipv6")
@click.option("--ipv6", is_flag=True, help="The same over IPv6.")
def demo(*, ipv6: bool) -> None:
    """See it work: a sender, the relay and a receiver in network namespaces of their own, about 10 seconds."""
    trouble = missing_privilege()
    if trouble:
        raise OperationError(trouble)
    family = IPV6 if ipv6 else IPV4
    with standard_lab(ipv6=ipv6) as lab, tempfile.TemporaryDirectory(prefix="mcrelay-demo-") as folder:
        click.echo(family.picture)
        passed = _Demo(lab, Path(folder), family).run()
    sys.exit(0 if passed else 1)


def own_command() -> list[str]:
    """The command that starts this program again, also from a frozen executable."""
    frozen = getattr(sys, "frozen", False)
    return [sys.executable] if frozen else [sys.executable, "-m", "mcrelay"]


class _Demo:
    """One run: control, relay, traffic, verdict."""

    def __init__(self, lab: StandardLab, folder: Path, family: _Family) -> None:
        self._lab = lab
        self._family = family
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
            self._say(joined, f"the relay joined: the switch lists {self._family.group} on its port"),
            self._family is IPV6  # which has no reverse-path filter: there the kernel routes no groups by itself
            or self._say(
                refused >= sent["sent"],
                f"the kernel alone would have dropped them: it refused {digits(refused)}"
                f" (no route to {self._family.source})",
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
        """Datagrams that reach the relay's link before anybody has joined: the control of the experiment."""
        wanted, at = ip_address(self._family.group).packed, self._family.group_at
        found = 0
        ether_type = socket.htons(self._family.ether_type)
        with self._lab.relay.socket(socket.AF_PACKET, socket.SOCK_RAW, ether_type) as tap:
            tap.setblocking(False)
            self._send(rate=1000, total=CONTROL).communicate(timeout=10)
            with contextlib.suppress(BlockingIOError):
                while True:
                    found += tap.recv(2048)[at : at + len(wanted)] == wanted
        return found

    def _start_relay(self) -> subprocess.Popen[str]:
        taken, sent = self._family.input, self._family.output
        self._config.write_text(f'[rules.demo]\ninput = "{taken}"\noutputs = ["{sent}"]\n')
        click.echo(f"$ mcrelay relay {taken} {sent}\n")
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
        return any(self._lists() for _ in _until(3))

    def _see_leave(self) -> bool:
        return any(not self._lists() for _ in _until(3))

    def _lists(self) -> bool:
        return any(self._family.group in group for group in self._lab.mdb().get("to-relay", set()))

    def _pass_traffic(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Send, watch, receive. Returns the result of each end."""
        total = RATE * SECONDS
        stream = f"{self._family.end_of(self._family.sent, 5004)}%eth0"
        receiver = self._lab.sink.popen(
            *own_command(), "recv", stream, "--count", str(total), "--idle", "2", "-j",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        for _ in _until(5):
            if self._lab.sink.call(lambda: self._family.sent in _joined()):
                break
        sender = self._send(rate=RATE, total=total)
        while sender.poll() is None:
            self._live()
            time.sleep(0.5)
        self._live(last=True)
        return _result(sender), _result(receiver)

    def _send(self, *, rate: int, total: int) -> subprocess.Popen[str]:
        stream = f"{self._family.end_of(self._family.group, 2068)}%eth0"
        return self._lab.source.popen(
            *own_command(), "send", stream, "--rate", str(rate), "--count", str(total), "--size", str(SIZE), "-j",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def _live(self, *, last: bool = False) -> None:
        """One line of progress, which a terminal overwrites."""
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
        said = fold(f"      {text}", columns(), 6)[6:]
        click.echo(f"{mark}  {said if good else paint(said, BOLD, on=self._colour)}")
        return good


def _result(end: subprocess.Popen[str]) -> dict[str, Any]:
    """Read what a sender or a receiver says at its end. Its own progress, on stderr, would disturb the live line."""
    result, said = end.communicate(timeout=10)
    if not result:
        raise OperationError(said.strip())
    found: dict[str, Any] = json.loads(result)
    return found


def _until(seconds: float) -> Iterator[None]:
    """Turns of a waiting loop, 20 a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.05)


def _joined() -> str:
    """Groups joined in this thread's namespace, as `ip maddr` lists them."""
    return subprocess.run(["ip", "maddr"], capture_output=True, text=True, check=True).stdout


def reverse_path_drops(namespace: Namespace) -> int:
    """Datagrams that the kernel dropped for lack of a route back to their source (IPReversePathFilter)."""
    return _counter(namespace, "netstat", "TcpExt", "IPReversePathFilter")


def udp_delivered(namespace: Namespace) -> int:
    """Datagrams that the sockets of a namespace received, of both families."""
    delivered = _counter(namespace, "snmp", "Udp", "InDatagrams")
    with contextlib.suppress(FileNotFoundError):  # IPv6 is not compiled in
        lines = namespace.call(Path("/proc/thread-self/net/snmp6").read_text).splitlines()
        delivered += int(dict(line.split() for line in lines).get("Udp6InDatagrams", 0))
    return delivered


def _counter(namespace: Namespace, file: str, family: str, name: str) -> int:
    """One counter of /proc/net/{snmp,netstat}: a line of names, then a line of values, for each family."""
    text = namespace.call(Path("/proc/thread-self/net", file).read_text)
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith(f"{family}:"))
    return int(dict(zip(names, values, strict=True))[name])
