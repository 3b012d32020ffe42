"""`mcrelay capture`: tshark reads it, tags are in place, and it ends where it is told to."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time

import pytest
from support.frames import frame, tagged
from support.relay import GROUP, INPUT, relaying
from support.traffic import MCRELAY, send, wait_for

pytestmark = pytest.mark.net

OUT = "239.10.0.1:5004%out0"
RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUT}"]\n'


def tshark(path, *fields: str) -> list[list[str]]:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: make test installs it")
    named = [part for field in fields for part in ("-e", field)]
    done = subprocess.run(["tshark", "-n", "-r", str(path), "-T", "fields", *named], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def capturing(namespace, *arguments: str, **options):
    """A capture whose packet sockets are there by the time this returns."""

    def count() -> int:
        return len(namespace.run("ss", "-0", "-n", "-H").stdout.splitlines())

    before = count()
    child = namespace.popen(*MCRELAY, "capture", *arguments, stderr=subprocess.PIPE, **options)

    def listens() -> bool:
        assert child.poll() is None, child.communicate()
        return count() > before

    wait_for(listens, "the capture to begin")
    time.sleep(0.3)
    return child


def end(child, number=signal.SIGINT) -> str:
    child.send_signal(number)
    _, said = child.communicate(timeout=10)
    assert child.returncode == 0, said
    return said


def raw(namespace, link: str, data: bytes, times: int = 1) -> None:
    with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        for _ in range(times):
            sock.sendto(data, (link, 0))


def test_a_rule_is_captured_where_it_comes_in_and_where_it_goes_out(tmp_path):
    path = tmp_path / "x.pcapng"
    with relaying(RULE) as relay:
        child = capturing(relay.lab.relay, "x", "-w", str(path), "--socket", relay.socket)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 50, "--size", 200)
        relay.at_rest()
        said = end(child)
    assert said.startswith("100 frames in ")
    rows = tshark(path, "frame.interface_name", "ip.dst", "udp.dstport", "udp.length", "frame.packet_flags_direction")
    coming = [row for row in rows if row[0] == "in0"]
    going = [row for row in rows if row[0] == "out0"]
    assert [row[1:4] for row in coming] == [[GROUP, "2068", "208"]] * 50
    assert [row[1:4] for row in going] == [["239.10.0.1", "5004", "208"]] * 50
    assert {int(row[4], 0) for row in coming} == {1}
    assert {int(row[4], 0) for row in going} == {2}


def test_merged_datagrams_are_cut_apart_with_right_checksums(tmp_path):
    path = tmp_path / "x.pcapng"
    with relaying(RULE) as relay:
        child = capturing(relay.lab.relay, "in0", "-w", str(path), "--socket", str(tmp_path / "none.sock"))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 400, "--size", 100, "--gso", 40)
        relay.at_rest()
        end(child, signal.SIGTERM)
    rows = tshark(path, "udp.length", "ip.len", "udp.dstport")
    assert [row[:2] for row in rows if row[2] == "2068"] == [["108", "128"]] * 400
    checked = ["-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    bad = "udp.checksum.status == 0 || ip.checksum.status == 0"
    done = subprocess.run(["tshark", "-n", "-r", str(path), *checked, "-Y", bad], capture_output=True, text=True)
    assert done.stdout == ""


def test_a_link_is_captured_with_its_vlan_tags_in_place_and_its_igmp(lab, tmp_path):
    path = tmp_path / "in0.pcapng"
    child = capturing(lab.relay, "in0", "-w", str(path), "--snaplen", "80")
    data = frame(b"x" * 500, group="224.0.0.99")  # a switch floods 224.0.0.0/24
    raw(lab.switch, "to-relay", data)
    raw(lab.switch, "to-relay", tagged(data, 0x6007))
    raw(lab.switch, "to-relay", tagged(tagged(data, 9), 30, 0x88A8))
    raw(lab.switch, "to-relay", frame(b"unicast", group="192.0.2.1"))
    with lab.relay.socket() as member:
        member.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton("192.0.2.1")
        )
        time.sleep(0.5)
        end(child)
    whole = tshark(
        path, "vlan.id", "vlan.priority", "ieee8021ad.id", "ip.dst", "ip.proto", "frame.len", "frame.cap_len"
    )
    rows = [row for row in whole if row[4] == "17"]
    assert [row[3:] for row in rows] == [["224.0.0.99", "17", size, "80"] for size in ("542", "546", "550")]
    assert rows[0][:3] == ["", "", ""]
    assert rows[1][:3] == ["7", "3", ""]
    assert (rows[2][0], rows[2][2]) == ("9", "30")
    assert "2" in {row[4] for row in whole}  # and IGMP


def test_it_ends_after_a_count(lab, tmp_path):
    path = tmp_path / "in0.pcapng"
    child = capturing(lab.relay, "in0", "-w", str(path), "--count", "4")
    raw(lab.switch, "to-relay", frame(b"x", group="224.0.0.99"), 20)
    _, said = child.communicate(timeout=10)
    assert (child.returncode, said.partition(" in ")[0]) == (0, "4 frames")
    assert len(tshark(path, "frame.len")) == 4


def test_it_flows_through_a_pipe_and_ends_after_its_duration(lab):
    child = capturing(lab.relay, "in0", "-w", "-", "--duration", "1", stdout=subprocess.PIPE, text=False)
    begin = time.monotonic()
    raw(lab.switch, "to-relay", frame(b"hello", group="224.0.0.99"))
    out, said = child.communicate(timeout=10)
    assert child.returncode == 0
    assert time.monotonic() - begin < 5
    assert out[:4] == b"\x0a\x0d\x0d\x0a"
    assert b"hello" in out
    assert b" in 1.0 s" in said


def test_what_cannot_be_captured_is_said(lab, tmp_path):
    def refused(*arguments: str) -> str:
        done = lab.relay.run(*MCRELAY, "capture", *arguments, check=False)
        assert "Traceback" not in done.stderr
        return f"{done.returncode} {done.stderr}"

    nowhere = str(tmp_path / "none.sock")
    assert "2 mcrelay: 'nothing' is neither a rule that runs nor a link" in refused(
        "nothing", "-w", "x", "--socket", nowhere
    )
    assert "1 mcrelay: cannot write /nowhere/x: No such file" in refused("in0", "-w", "/nowhere/x")
    assert "1 mcrelay: cannot write /dev/full: No space left" in refused("in0", "-w", "/dev/full", "--duration", "1")
    lab.relay.ip("tuntap add dev tun0 mode tun", "link set tun0 up")
    assert "link tun0 carries no Ethernet frames" in refused("tun0", "-w", str(tmp_path / "x"))
