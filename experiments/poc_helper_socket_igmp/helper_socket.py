"""The eight steps of the helper-socket experiment, in the namespaces that run_test.sh has made.

One process holds the sender's socket and the relay's, so no step can run ahead of another, and only datagrams
that carry this run's random id are ever counted.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, die_with_parent, libc
from verdict import Experiment

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
GROUP, PORT, COUNT = "239.255.1.1", 9999, 10
GROUP_MAC = "01:00:5e:7f:01:01"
LINK, SENDER_LINK = "veth-relay", "veth-sender"
REPORT_WAIT_S, SETTLE_S = 2.0, 0.5
DEFAULT_RCVBUF_FLOOR = 65536  # no kernel's minimum is this large, every kernel's default is larger
CAP_NET_RAW = 13

# case -> (what is broken, the step that must notice, the reason it must give)
CASES = {
    "join": ("the helper socket joins nothing", 5, "no-report"),
    "join-fd": ("the join is tried on a descriptor that is closed already", 2, "join-refused"),
    "mac-filter": ("the kernel joins nothing, but a forged report goes out", 5, "no-mac-filter"),
    "rcvbuf": ("the helper keeps its default receive buffer", 3, "buffer-not-minimal"),
    "capture": ("the program lacks CAP_NET_RAW", 4, "capture-refused"),
    "receive": ("the sender sends into another link", 6, "nothing-arrived"),
    "background": ("only other people's traffic arrives, as many frames of it as are waited for", 6, "not-ours"),
    "some": ("the sender sends 7 of the 10", 6, "only-some"),
    "duplicate": ("10 datagrams arrive, but one of them is a copy of another", 6, "only-some"),
    "filter": ("a filter on the AF_PACKET socket drops everything", 6, "capture-blind"),
    "wrong-link": ("the AF_PACKET socket is bound to another interface", 6, "capture-blind"),
    "helper-instead": ("the helper is bound to the port, and the AF_PACKET socket is blind", 6, "helper-instead"),
    "helper-error": ("the helper is connected to a port that refuses it", 7, "helper-error"),
    "membership": ("the membership is given up between receiving and asking", 7, "membership-lost"),
    "bound-helper": ("the helper is bound to the port", 8, "helper-readable"),
}


class Failed(Exception):
    """The experiment's own FAILURE: where, which, and in words."""

    def __init__(self, step: int, reason: str, words: str) -> None:
        super().__init__(f"FAILURE at step {step} ({reason}): {words}")


def step(number: int, title: str) -> None:
    print(f"\n[Step {number}] {title}")


def good(text: str) -> None:
    print(f"  ok  {text}")


def note(text: str) -> None:
    print(f"      {text}")


class Run:
    """The experiment with at most one thing broken."""

    def __init__(self, broken: str) -> None:
        self.broken = broken
        self.sender, self.relay = Namespace("sender"), Namespace("relay")
        self.wire = wire.Tap(self.sender, SENDER_LINK)  # the far end of the cable: hears what really left
        self.stream = wire.Stream(self.sender, GROUP, PORT, SENDER_LINK)

    def steps(self) -> None:
        self.create_helper()
        self.join()
        self.shrink_buffer()
        self.create_capture()
        self.settle()
        self.receive()
        self.helper_status()
        self.helper_empty()

    def create_helper(self) -> None:
        step(1, "Create the helper socket (AF_INET, SOCK_DGRAM)")
        self.helper = self.relay.socket()
        good(f"helper socket is descriptor {self.helper.fileno()}, not bound to any port")
        if self.broken in {"bound-helper", "helper-instead"}:
            self.helper.bind(("0.0.0.0", PORT))
            note(f"broken: bound to port {PORT}")
        if self.broken == "helper-error":
            self.helper.connect(("192.168.100.2", 9))
            self.helper.send(b"refused")
            note("broken: connected to a closed port of the sender")

    def join(self) -> None:
        step(2, f"Join {GROUP} on the helper socket")
        if self.broken in {"join", "mac-filter"}:
            note("broken: not joined")
            return
        joining = self.helper
        if self.broken == "join-fd":
            joining = self.relay.socket()
            joining.close()
        try:
            wire.join(joining, self.relay, GROUP, LINK)
        except OSError as error:
            raise Failed(2, "join-refused", f"IP_ADD_MEMBERSHIP was refused: {error.strerror}") from error
        good(f"joined on {LINK} by its interface index")

    def shrink_buffer(self) -> None:
        step(3, "Give the helper socket the smallest receive buffer")
        if self.broken != "rcvbuf":
            self.helper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        size = self.helper.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        if size >= DEFAULT_RCVBUF_FLOOR:
            raise Failed(3, "buffer-not-minimal", f"SO_RCVBUF is {size} bytes, which is no minimum")
        good(f"asked for 1 byte, the kernel grants its minimum of {size}")

    def create_capture(self) -> None:
        step(4, "Create the AF_PACKET socket")
        if self.broken == "capture":
            drop_capability(CAP_NET_RAW)
        blind = wire.DROP_ALL if self.broken in {"filter", "helper-instead"} else None
        link = "lo" if self.broken == "wrong-link" else LINK
        try:
            self.capture = wire.Tap(self.relay, link, program=blind)
        except PermissionError as error:
            raise Failed(4, "capture-refused", f"AF_PACKET was refused: {error.strerror} (CAP_NET_RAW?)") from error
        good(f"AF_PACKET socket is descriptor {self.capture.sock.fileno()}, ETH_P_ALL on {link}")

    def settle(self) -> None:
        step(5, "Settle: the join must show on the cable and in the MAC filter")
        if self.broken == "mac-filter":
            with wire.Tap(self.relay, LINK) as forger:
                forger.send(wire.report(GROUP, source="192.168.100.1"))
        heard = self.wire.listen(REPORT_WAIT_S, until=lambda m: m.group == GROUP and m.kind in wire.MEMBER)
        if not wire.about(heard, GROUP, wire.MEMBER):
            raise Failed(
                5, "no-report", f"no IGMP report for {GROUP} reached the far end of the cable in {REPORT_WAIT_S:g} s"
            )
        good(f"heard at the sender's end: {heard[-1]}")
        macs = self.relay.mac_filter(LINK)
        if GROUP_MAC not in macs:
            raise Failed(
                5, "no-mac-filter", f"{LINK} was never told to accept {GROUP_MAC}; it accepts {', '.join(macs)}"
            )
        good(f"{LINK} accepts {GROUP_MAC}")

    def receive(self) -> None:
        step(6, f"Receive {COUNT} datagrams to {GROUP}:{PORT} on the AF_PACKET socket")
        note(f"only datagrams with the run id {self.stream.run_id.hex()} count")
        self.capture.drain()
        before = self.relay.counter("UdpIgnoredMulti")
        self.send()
        seen: list[int] = []
        strangers = to_group = 0
        for frame in self.capture.frames(SETTLE_S):
            sequence = self.stream.sequence(frame)
            if sequence is None:
                strangers += 1
                to_group += frame[30:34] == socket.inet_aton(GROUP)
                continue
            seen.append(sequence)
            note(describe(frame, sequence))
        if strangers:
            note(f"{strangers} other frames were heard and not counted")
        if set(seen) != set(range(COUNT)):
            reached_stack = self.relay.counter("UdpIgnoredMulti") - before
            self.explain(seen, strangers, to_group, reached_stack)
        good(f"all {COUNT} arrived")

    def explain(self, seen: list[int], strangers: int, to_group: int, reached_stack: int) -> None:
        """Name the failure: which stage of the path still saw the datagrams."""
        distinct, waiting = len(set(seen)), wire.take_all(self.helper)
        missing = " ".join(str(n) for n in range(COUNT) if n not in seen)
        if distinct:
            copies = len(seen) - distinct
            raise Failed(6, "only-some", f"{distinct} of {COUNT} arrived ({copies} copies), missing: {missing}")
        if waiting:
            raise Failed(
                6, "helper-instead", f"0 of {COUNT} reached the AF_PACKET socket; {waiting} wait in the helper socket"
            )
        if to_group:
            raise Failed(
                6, "not-ours", f"0 of {COUNT} arrived; the {strangers} frames heard were not sent by this run's sender"
            )
        if reached_stack:
            raise Failed(
                6,
                "capture-blind",
                f"0 of {COUNT} reached the AF_PACKET socket, though the IP stack counted {reached_stack} of them",
            )
        raise Failed(6, "nothing-arrived", f"0 of {COUNT} arrived, and the IP stack of the relay counted none either")

    def send(self) -> None:
        """What the sender does, honestly or not."""
        match self.broken:
            case "receive":
                self.sender.run("ip link set lo up")
                run_id, self.stream = self.stream.run_id, wire.Stream(self.sender, GROUP, PORT, "lo")
                self.stream.run_id = run_id
                self.stream.send(COUNT)
            case "background":
                wire.Stream(self.sender, GROUP, PORT, SENDER_LINK).send(COUNT)
                for _ in range(COUNT):
                    self.wire.send(wire.query(source="192.168.100.2"))
            case "some":
                self.stream.send(7)
            case "duplicate":
                self.stream.send(COUNT - 1)
                self.stream.sent -= 1
                self.stream.send(1)
            case _:
                self.stream.send(COUNT)

    def helper_status(self) -> None:
        step(7, "Ask the helper socket how it is")
        if self.broken == "membership":
            wire.leave(self.helper, self.relay, GROUP, LINK)
        size = self.helper.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        error = self.helper.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise Failed(7, "helper-error", f"the helper socket reports: {os.strerror(error)}")
        if GROUP not in self.relay.joined(LINK):
            raise Failed(7, "membership-lost", f"/proc/net/igmp no longer lists {GROUP} on {LINK}")
        good(f"no error, still a member, receive buffer {size} bytes")

    def helper_empty(self) -> None:
        step(8, "The helper socket must have nothing to read")
        waiting = wire.take_all(self.helper)
        if waiting:
            raise Failed(8, "helper-readable", f"{waiting} datagrams wait in the helper socket that nobody will read")
        good("nothing to read")


def describe(frame: bytes, sequence: int) -> str:
    source, group = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    ports = struct.unpack("!HH", frame[34:38])
    return f"[{sequence + 1:2}] {len(frame)} bytes  {source}:{ports[0]} -> {group}:{ports[1]}"


def drop_capability(number: int) -> None:
    """Give one capability up for the rest of this process."""
    header = struct.pack("=Ii", 0x20080522, 0)
    held = ctypes.create_string_buffer(24)
    libc.capget(header, held)
    words = list(struct.unpack("=6I", held.raw))
    words[0] &= ~(1 << number)
    libc.capset(header, struct.pack("=6I", *words))


def experiment(broken: str) -> int:
    print("Helper socket experiment: joins by one socket, packets by another")
    print(f"  group {GROUP}, port {PORT}, interface {LINK}")
    if broken:
        print(f"  broken on purpose ({broken}): {CASES[broken][0]}")
    started = time.monotonic()
    try:
        Run(broken).steps()
    except Failed as failure:
        print(f"\n{failure}")
        return 1
    print(f"""
SUCCESS: the helper socket pattern works ({time.monotonic() - started:.1f} s)
  - joining on a socket that nobody reads sent an IGMP report and opened the MAC filter
  - all {COUNT} datagrams of this run's sender arrived at the AF_PACKET socket
  - the helper socket has no error and nothing to read""")
    return 0


def outcomes(script: str) -> Iterator[tuple[str, str]]:
    """How the experiment and each broken form of it end: exit code, step and reason."""
    for case in ("", *CASES):
        command = [script, "--break", case] if case else [script]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, preexec_fn=die_with_parent
        )
        last = re.search(r"^(SUCCESS|FAILURE at step \d+ \([\w-]+\)).*", done.stdout, re.MULTILINE)
        words = last[1] if last else "no verdict"
        print(f"\n{case or 'nothing broken'}\n  {last[0] if last else done.stdout + done.stderr}")
        yield case, f"exit {done.returncode}, {words}"


def record(script: str, argv: list[str]) -> int:
    """The whole table, with its verdicts in result.json."""
    result = Experiment(HERE, argv)
    for case, outcome in outcomes(script):
        name = case.replace("-", "_")
        if not case:
            result.text("unbroken", outcome)
            result.claim("pattern-works", "unbroken, the experiment succeeds", "unbroken == 'exit 0, SUCCESS'")
            continue
        what, at, reason = CASES[case]
        result.text(f"broken_{name}", outcome)
        expected = f"exit 1, FAILURE at step {at} ({reason})"
        result.claim(f"notices-{case}", f"notices when {what}", f"broken_{name} == '{expected}'")
    return result.finish()


def main() -> int:
    die_with_parent()
    if sys.argv[1:2] == ["--all"]:
        return record(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description="Started by run_test.sh.")
    parser.add_argument("--break", dest="broken", choices=CASES, default="", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--list", action="store_true", help="what can be broken, and which step must notice")
    given = parser.parse_args()
    if given.list:
        for case, (what, at, reason) in CASES.items():
            print(f"{case:15} {what}: step {at}, {reason}")
        return 0
    return experiment(given.broken)


if __name__ == "__main__":
    sys.exit(main())
