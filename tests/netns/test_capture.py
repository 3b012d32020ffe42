"""`mcrelay capture`: tshark reads it, tags are in place, and it ends where it is told to."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections import Counter

import pytest
from support.frames import frame, parts, six, six_parts, tagged
from support.relay import GROUP, INPUT, SOURCE, both_engines, every_way, relaying, ring_ways
from support.traffic import MCRELAY, heard, receiver, send, wait_for
from support.ways import way

pytestmark = pytest.mark.net

OUT = "239.10.0.1:5004%out0"
OTHER = {"source": "192.168.168.56", "group": "226.2.2.3"}
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


@every_way
def test_what_a_rule_sends_is_captured_beside_what_arrives_for_it(tmp_path):
    assert_both_sides_are_captured(tmp_path / "x.pcapng", "")


@ring_ways
def test_what_a_rule_sends_is_captured_with_its_tag(tmp_path):
    """The core writes that tag into the frame: the kernel knows nothing of it."""
    assert_both_sides_are_captured(tmp_path / "x.pcapng", "100")


def assert_both_sides_are_captured(path, tag: str) -> None:
    """Of 20 datagrams in a frame each, and of 20 in three fragments each, on either side.

    A frame of IPv6 that has a tag is in no fragments: there, what is larger than the MTU does not leave.
    """
    config = RULE if not tag else RULE.replace(f'"{OUT}"', f'{{ to = "{OUT}", vlan = {tag} }}')
    with relaying(config) as relay:
        child = capturing(relay.lab.relay, "x", "-w", str(path), "--sent", "--socket", relay.socket)
        for size in (200, 3000):
            send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 20, "--size", size, "--rate", 1000)
        relay.at_rest()
        said = end(child)
    cut = not (tag and way().sent == 6)
    assert said.startswith(f"{160 if cut else 100} frames in ")
    rows = tshark(
        path, "frame.interface_name", "frame.packet_flags_direction", "vlan.id", "ip.dst", "ipv6.dst", "udp.length"
    )
    found = Counter((link, int(direction, 0), vlan, four or six) for link, direction, vlan, four, six, _ in rows)
    assert found == {
        ("in0", 1, "", way().source(GROUP)): 80,
        ("out0", 2, tag, way().sink("239.10.0.1")): 80 if cut else 20,
    }
    whole = Counter((row[0], row[-1]) for row in rows if row[-1])  # tshark puts fragments together
    left = [("out0", "3008")] if cut else []
    assert whole == dict.fromkeys([("in0", "208"), ("in0", "3008"), ("out0", "208"), *left], 20)


@both_engines
def test_unless_it_is_asked_for_what_this_host_sends_is_not_captured(tmp_path):
    """The input's link is the output's, too: the capture is there, and nobody pays for it."""
    config = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%in0"]\n'
    with relaying(config) as relay:
        paths = {what: str(tmp_path / f"{what}.pcapng") for what in ("x", "in0")}
        children = [
            capturing(relay.lab.relay, what, "-w", path, "--socket", relay.socket) for what, path in paths.items()
        ]
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 20)
        relay.at_rest()
        assert relay.rule()["outputs"][0]["tx_packets"] == 20
        for child in children:
            end(child)
    for path in paths.values():
        rows = tshark(path, "frame.packet_flags_direction", "udp.dstport")
        assert {int(row[0], 0) for row in rows} == {1}
        assert [row[1] for row in rows if row[1]] == ["2068"] * 20


TAKEN = {"none": ["", "0"], "7": ["7"], "any": ["", "0", "7", "8"]}  # tags of frames, by vlan of the input
SIX = "[2001:db8:168::55]@[ff3e::226:2:2:2]"


@pytest.mark.parametrize(("make", "cut", "ends"), [(frame, parts, f"{SOURCE}@{GROUP}"), (six, six_parts, SIX)])
@pytest.mark.parametrize("vlan", TAKEN)
def test_a_rule_is_captured_with_its_tags_and_without_what_misses_it(tmp_path, vlan, make, cut, ends):
    path = tmp_path / "x.pcapng"
    asked = vlan if vlan.isdigit() else f'"{vlan}"'
    to = "239.10.0.1:5004,5006%out0"
    config = f'[rules.x]\ninput = {{ from = "{ends}:2068,2070%in0", vlan = {asked} }}\noutputs = ["{to}"]\n'
    other = {"source": "2001:db8:168::56", "group": "ff3e::226:2:2:3"} if ":" in ends else OTHER
    taken = [make(b"first"), make(b"of the other port", port=2070), *cut(bytes(2000), 1200)]
    missing = [make(b"port", port=2069), *(make(b"x", **{key: value}) for key, value in other.items())]
    with relaying(config, ipv6=True) as relay:
        child = capturing(relay.lab.relay, "x", "-w", str(path), "--socket", relay.socket)
        for data in taken + missing:
            raw(relay.lab.switch, "to-relay", data)
            for tag in (0x6000, 0x6007, 8):
                raw(relay.lab.switch, "to-relay", tagged(data, tag))
        relay.at_rest()
        end(child)
    rows = tshark(path, "vlan.id", "frame.len")
    assert Counter(map(tuple, rows)) == Counter(
        (tag, str(len(data) + 4 * bool(tag))) for tag in TAKEN[vlan] for data in taken
    )
    assert {int(row[0]) for row in tshark(path, "vlan.priority") if row[0]} <= {0, 3}


def test_what_a_rule_takes_of_this_hosts_own_is_captured(tmp_path):
    path = tmp_path / "x.pcapng"
    config = f'[rules.x]\ninput = {{ from = "239.7.7.7:5000%in0", own = true }}\noutputs = ["{OUT}"]\n'
    with relaying(config) as relay:
        child = capturing(relay.lab.relay, "x", "-w", str(path), "--socket", relay.socket)
        send(relay.lab.relay, "239.7.7.7:5000%in0", "--count", 20)
        relay.at_rest()
        end(child)
    rows = tshark(path, "frame.interface_name", "frame.packet_flags_direction", "ip.dst")
    assert [(link, int(direction, 0), group) for link, direction, group in rows] == [("in0", 2, "239.7.7.7")] * 20


def test_every_group_of_a_range_is_captured_and_what_leaves_by_a_route(tmp_path):
    path = tmp_path / "x.pcapng"
    wide = '[rules.x]\ninput = "239.1.1.0/30:5000%in0"\noutputs = ["239.9.0.0/30:5000%out0"]\n'
    host = '[rules.y]\ninput = "239.2.2.2:5000%in0"\noutputs = ["198.51.100.2:7000"]\n'
    with relaying(wide + host) as relay:
        child = capturing(relay.lab.relay, "x", "-w", str(path), "--sent", "--socket", relay.socket)
        send(relay.lab.source, "239.1.1.0/30:5000%eth0", "--count", 5)
        relay.at_rest()
        end(child)
        found = {row[0] for row in tshark(path, "ip.dst")}
        assert found == {f"239.{network}.{i}" for network in ("1.1", "9.0") for i in range(4)}
        sink = receiver(relay.lab.sink, "198.51.100.2:7000")
        child = capturing(relay.lab.relay, "y", "-w", str(path), "--sent", "--socket", relay.socket)
        send(relay.lab.source, "239.2.2.2:5000%eth0", "--count", 5)
        relay.at_rest()
        said = end(child)
        assert heard(sink, relay.lab.sink)["received"] == 5
    assert said.startswith("10 frames in ")
    assert [row[0] for row in tshark(path, "ip.dst", "frame.interface_name") if row[1] == "out0"] == [
        "198.51.100.2"
    ] * 5


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
    child = capturing(lab.relay, "in0", "-w", str(path), "--snaplen", "80", "--sent")
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
