"""`mcrelay discover`: senders nobody here wrote are named rightly, and each rule that is printed is taken as it is."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest
from support.frames import frame, tagged
from support.igmpwire import send_frame
from support.traffic import MCRELAY, send, sender, wait_for

from mcrelay.commands.lab import standard_lab
from mcrelay.config.parse import parse_config

pytestmark = pytest.mark.net

FFMPEG = "ffmpeg -hide_banner -nostdin -loglevel error -re -f lavfi -i"


def needs(*programs: str) -> None:
    missing = [name for name in programs if shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin") is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: make test installs it")


@pytest.fixture
def flooding():
    """The standard lab, whose bridge floods."""
    with standard_lab(querier=False) as lab:
        lab.settle()
        yield lab


def discovering(lab, *arguments: str):
    """A look whose packet socket is there by the time this returns."""

    def taps() -> int:
        return len(lab.relay.run("ss", "-0", "-n", "-H").stdout.splitlines())

    before = taps()
    child = lab.relay.popen(
        *MCRELAY, "discover", "in0", "-j", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip
    wait_for(lambda: taps() > before or child.poll() is not None, "the look to begin", 30)
    return child


def found(child) -> dict[str, dict]:
    """The flows, by group and port."""
    out, complaints = child.communicate(timeout=30)
    assert child.returncode == 0, complaints
    assert complaints == "", complaints
    return {f"{each['group']}:{each['port']}": each for each in json.loads(out)}


def discover(lab, seconds: float, *arguments: str) -> dict[str, dict]:
    return found(discovering(lab, "--duration", str(seconds), *arguments))


def runs(text: str) -> None:
    """A rule is taken as it was printed, once its link is filled in."""
    (rule,) = parse_config([("x.toml", text.replace("%LINK", "%out0"))]).config.rules.values()
    assert rule.inputs


def test_a_transport_stream_of_ffmpeg_is_named_with_its_service(flooding):
    needs("ffmpeg")
    flooding.source.popen(
        *FFMPEG.split(), "testsrc2=size=320x180:rate=25", "-c:v", "mpeg2video", "-f", "mpegts",
        "-metadata", "service_name=Lobby Channel", "-metadata", "service_provider=us",
        "udp://239.1.1.1:5000?pkt_size=1316&localaddr=192.168.168.55&ttl=4",
    )  # fmt: skip
    flow = discover(flooding, 4)["239.1.1.1:5000"]
    assert (flow["content"], flow["detail"]) == ("MPEG-TS", "MPEG-TS Lobby Channel")
    assert (flow["source"], flow["ttl"], flow["size_max"], flow["vlan"]) == ("192.168.168.55", 4, 1316, None)
    assert flow["rate"] > 10
    runs(flow["rule"])


def test_an_rtp_stream_that_sap_announces_is_found_by_its_announcement():
    """The bridge prunes: neither is there until it is joined, and the stream is joined because it was announced."""
    needs("ffmpeg")
    with standard_lab() as lab:
        lab.settle()
        lab.source.popen(
            *FFMPEG.split(), "sine=frequency=440", "-c:a", "pcm_mulaw", "-ar", "8000", "-ac", "1",
            "-metadata", "title=Studio One", "-f", "sap", "sap://239.69.1.2:5004?announce_addr=224.2.127.254&ttl=8",
        )  # fmt: skip
        assert "239.69.1.2:5004" not in discover(lab, 2)
        flows = discover(lab, 12, "--join", "announced")
        assert flows["224.2.127.254:9875"]["content"] == "SAP"
        assert "Studio One at 239.69.1.2:5004" in flows["224.2.127.254:9875"]["detail"]
        flow = flows["239.69.1.2:5004"]
        assert flow["content"] == "RTP"
        assert flow["detail"].startswith("RTP payload type 0, PCMU, announced as Studio One")
        runs(flow["rule"])


def test_an_mdns_responder_is_named(flooding, tmp_path):
    needs("avahi-daemon")
    configuration = tmp_path / "avahi.conf"
    configuration.write_text(
        "[server]\nhost-name=lobbybox\nuse-ipv4=yes\nuse-ipv6=no\nenable-dbus=no\nallow-interfaces=eth0\n"
    )
    child = discovering(flooding, "--duration", "6")
    time.sleep(1)
    flooding.source.popen(
        "unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /run && mkdir /run/avahi-daemon && exec "$@"', "sh",
        "avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits", "-f", str(configuration),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    flow = found(child)["224.0.0.251:5353"]
    assert flow["content"] == "mDNS"
    assert ".local" in flow["detail"] or ".arpa" in flow["detail"]
    assert "ttl = 255\nsource_port = 5353" in flow["rule"]
    runs(flow["rule"])


def test_a_ptp_clock_is_named(flooding, tmp_path):
    needs("ptp4l")
    flooding.source.popen(
        "ptp4l", "-i", "eth0", "-S", "-m", "--masterOnly", "1", "--domainNumber", "5",
        "--uds_address", str(tmp_path / "ptp"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    flows = discover(flooding, 12)
    flow = flows["224.0.1.129:320"]
    assert flow["content"] == "PTP"
    assert "domain 5, clock " in flow["detail"]


def test_a_vlan_a_fragment_and_this_host_itself_are_told(flooding):
    child = discovering(flooding, "--duration", "5")
    time.sleep(1.5)
    for _ in range(5):
        send_frame(flooding.switch, "to-relay", tagged(frame(b"x" * 60, group="239.2.2.2"), 7))
    send(flooding.source, "239.3.3.3:5000%eth0", "--count", 3, "--size", 4000)
    send(flooding.relay, "239.4.4.4:5000%in0", "--count", 3)
    flows = found(child)
    assert flows["239.2.2.2:2068"]["vlan"] == 7
    assert "ip link add link in0 name in0.7 type vlan id 7" in flows["239.2.2.2:2068"]["rule"] or (
        "vlan = 7" in flows["239.2.2.2:2068"]["rule"]
    )
    runs(flows["239.2.2.2:2068"]["rule"])
    assert flows["239.3.3.3:5000"]["fragments"] == 3
    assert flows["239.4.4.4:5000"]["outgoing"] is True
    assert flows["239.4.4.4:5000"]["rule"] is None


def test_the_rate_of_merged_datagrams_is_that_of_datagrams(flooding):
    child = discovering(flooding, "--duration", "4")
    time.sleep(1)
    send(flooding.source, "239.1.1.1:5000%eth0", "--rate", 10_000, "--duration", 2, "--size", 200, "--gso", 20)
    flow = found(child)["239.1.1.1:5000"]
    assert flow["packets"] == 20_000
    assert flow["rate"] == pytest.approx(10_000, rel=0.1)
    assert flow["size_max"] == 200


def test_a_flood_of_made_up_sources_takes_no_memory_and_hides_no_stream(flooding):
    steady = sender(flooding.source, "239.1.1.1:5000%eth0", "--rate", 100)
    child = discovering(flooding, "--duration", "6")
    time.sleep(1)
    with flooding.source.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        for number in range(40_000):
            source = socket.inet_ntoa(struct.pack("!I", 0x0A000000 + number))
            raw.sendto(frame(b"x", source=source, group="239.9.9.9"), ("eth0", 0))
    with open(f"/proc/{child.pid}/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    out, _ = child.communicate(timeout=30)
    steady.send_signal(signal.SIGINT)
    steady.communicate(timeout=10)
    flows = json.loads(out)
    assert resident < 100_000  # KiB
    assert len(flows) <= 2048 + 512
    assert next(each for each in flows if each["group"] == "239.1.1.1")["packets"] > 300


def test_it_prints_a_table_and_rules_that_check_takes(flooding, tmp_path):
    child = sender(flooding.source, "239.1.1.1:5000%eth0", "--rate", 100)
    done = flooding.relay.run(*MCRELAY, "discover", "in0", "--duration", "2")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=10)
    assert done.stdout.startswith("in0: 1 flow in 2 s\nSOURCE")
    assert '[rules.239-1-1-1-5000]\ninput = "192.168.168.55@239.1.1.1:5000%in0"' in done.stdout
    rules = done.stdout.partition("\n\n")[2]
    (tmp_path / "x.toml").write_text(rules.replace("%LINK", "%out0"))
    assert flooding.relay.run(*MCRELAY, "check", "-c", str(tmp_path / "x.toml")).returncode == 0
    for asked, text in (("nothing", "there is no link nothing"), ("--join=10.0.0.1 in0", "groups are")):
        refused = flooding.relay.run(*MCRELAY, "discover", *asked.split(), check=False)
        assert refused.returncode in {1, 2}
        assert text in refused.stderr
