"""The health of real streams: what a filter of ours takes out of them is what the relay, tshark and ffmpeg find."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
from collections import Counter

import pytest
from support.relay import GROUP, INPUT, SOURCE, assert_adds_up, relaying
from support.traffic import assert_exact, receiver, report, send, wait_for

pytestmark = pytest.mark.net

OUT = "239.10.0.1:5004%out0"
ADDRESS = "127.0.0.1:19736"
STREAM = [
    "ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc=size=320x180:rate=25", "-f", "lavfi",
    "-i", "sine=frequency=440", "-t", "4", "-c:v", "mpeg2video", "-b:v", "1M", "-c:a", "mp2",
]  # fmt: skip
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")


def config(health: str, more: str = "") -> str:
    return (
        f'[relay]\nmetrics = "{ADDRESS}"\n'
        f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUT}"]\nhealth = "{health}"\n{more}'
    )


class Filter:
    """What comes to a port on lo of the source goes on to the group: the datagrams that ``passes`` names the copies
    of, in the order of their arrival."""

    def __init__(self, lab, passes):
        self.passed, self.seen = [], 0
        self._passes = passes
        self._in = lab.source.socket()
        self._in.bind(("127.0.0.1", 0))
        self._in.settimeout(0.1)
        self.port = self._in.getsockname()[1]
        self._out = lab.source.socket()
        self._out.bind((SOURCE, 0))
        self._out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        self._out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(SOURCE))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while True:
            try:
                payload = self._in.recv(65536)
            except TimeoutError:
                if self._ended.is_set():
                    return
                continue
            for _ in range(int(self._passes(self.seen))):
                self._out.sendto(payload, (GROUP, 2068))
                self.passed.append(payload)
            self.seen += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        self._in.close()
        self._out.close()


@contextlib.contextmanager
def recorded(lab, folder):
    """What passes the source's link meanwhile, as tshark writes it; ended when the block ends."""
    file = folder / "sent.pcap"
    command = ["tshark", "-q", "-i", "eth0", "-f", f"udp and dst host {GROUP}", "-w", str(file)]
    child = lab.source.popen(*command, stderr=subprocess.DEVNULL)
    size = lambda: file.exists() and file.stat().st_size  # noqa: E731
    wait_for(size, "tshark to capture", 30)
    try:
        yield file
    finally:
        child.terminate()
        child.wait()


def health(relay):
    return relay.rule()["health"]


def settled(relay):
    """What was found, once the silence after the stream has been noticed."""
    wait_for(lambda: health(relay)["silent"], "silence")
    return health(relay)


def metrics(relay) -> dict[str, float]:
    """Every series of the rule's health, by name."""
    command = ["curl", "-s", f"http://{ADDRESS}/metrics"]
    text = relay.lab.relay.run(*command).stdout
    found = re.findall(r"^(mcrelay_health_\w+)\{[^}]*\} (\S+)$", text, re.M)
    return {name: float(value) for name, value in found}


@needs_ffmpeg
@needs_tshark
def test_losses_and_jitter_of_an_rtp_stream_are_those_that_tshark_finds(tmp_path):
    with relaying(config("auto")) as relay:
        assert health(relay)["rtp"]["packets"] == health(relay)["ts"]["packets"] == 0
        assert set(metrics(relay).values()) == {0, 1}  # it is silent
        taken = lambda number: number % 37 != 20 and not 90 <= number < 96  # noqa: E731
        with recorded(relay.lab, tmp_path) as file, Filter(relay.lab, taken) as between:
            url = f"rtp://127.0.0.1:{between.port}?pkt_size=1328"
            relay.lab.source.run(*STREAM, "-f", "rtp_mpegts", url, timeout=60)
            wait_for(lambda: relay.rule()["rx_packets"] == len(between.passed), "all of it")
            found = settled(relay)
        decode = ["-d", "udp.port==2068,rtp", "-z", "rtp,streams"]
        said = subprocess.run(["tshark", "-r", str(file), "-q", *decode], capture_output=True, text=True, check=True)
        (row,) = re.findall(r"0x([0-9A-F]{8}) .*? (\d+) +(-?\d+) \(.*?%\)((?: +[-.\d]+)+)", said.stdout)
        sequences = [int.from_bytes(each[2:4], "big") for each in between.passed]
        expected = (sequences[-1] - sequences[0]) % 65536 + 1
        rtp = found["rtp"]
        assert (rtp["packets"], rtp["lost"]) == (int(row[1]), int(row[2]))
        assert rtp["lost"] == expected - len(sequences) > 10
        assert f"{rtp['ssrc']:08X}" == row[0]
        assert (rtp["payload_type"], rtp["clock_rate"]) == (33, 90_000)
        assert rtp["duplicated"] == rtp["reordered"] == rtp["ssrc_changes"] == found["unrecognised"] == 0
        # One veth apart: the relay's time stamps are not those of tshark, by what this machine does meanwhile.
        assert 0 < rtp["jitter_seconds"] <= rtp["jitter_max_seconds"] < 1
        values = metrics(relay)
        assert values["mcrelay_health_rtp_lost_total"] == rtp["lost"]
        assert values["mcrelay_health_rtp_packets_total"] == rtp["packets"]
        assert values["mcrelay_health_ts_continuity_errors_total"] == found["ts"]["continuity_errors"] > 0
        relay.reload(config("auto", 'description = "the same stream"\n'))
        assert health(relay)["rtp"]["lost"] == rtp["lost"]


@needs_ffmpeg
def test_continuity_errors_of_a_transport_stream_are_those_that_ffmpeg_warns_of(tmp_path):
    with relaying(config("ts")) as relay:
        assert health(relay)["rtp"] is None
        # The first datagrams name the streams: ffmpeg knows none before it has read them.
        taken = lambda number: number < 30 or number % 29 != 13  # noqa: E731
        sink = relay.lab.sink.popen(
            "ffmpeg", "-v", "debug", "-i", "udp://239.10.0.1:5004?localaddr=198.51.100.2&timeout=3000000",
            "-map", "0", "-c", "copy", "-f", "null", "-", stderr=subprocess.PIPE,
        )  # fmt: skip
        with Filter(relay.lab, taken) as between:
            url = f"udp://127.0.0.1:{between.port}?pkt_size=1316"
            relay.lab.source.run(*STREAM, "-muxrate", "2M", "-f", "mpegts", url, timeout=60)
            wait_for(lambda: relay.rule()["rx_packets"] == len(between.passed), "all of it")
            found = settled(relay)["ts"]
        _, said = sink.communicate(timeout=30)
        warned = Counter(re.findall(r"Continuity check failed for pid (\d+)", said))
        assert found["continuity_errors_by_pid"] == dict(warned) != {}
        assert found["packets"] == sum(len(each) // 188 for each in between.passed)
        assert found["sync_errors"] == found["transport_errors"] == 0
        assert found["bit_rate"] == pytest.approx(2_000_000, rel=0.1)  # what is lost is missing in it
        assert found["continuity_errors"] == sum(found["continuity_errors_by_pid"].values())


def test_what_comes_twice_is_counted_and_a_silence_too():
    with relaying(config("rtp")) as relay:
        with Filter(relay.lab, lambda number: 2 if number == 20 else 1) as between, relay.lab.source.socket() as out:
            rtp = lambda number: b"\x80\x21" + number.to_bytes(2, "big") + bytes(4) + b"same" + bytes(20)  # noqa: E731
            for number in (*range(40), 41, 40, *range(42, 60)):
                out.sendto(rtp(number), ("127.0.0.1", between.port))
            wait_for(lambda: relay.rule()["rx_packets"] == 61, "all of it")
            wait_for(lambda: health(relay)["silent"], "silence")
            out.sendto(rtp(60), ("127.0.0.1", between.port))
            wait_for(lambda: relay.rule()["rx_packets"] == 62, "one more")
            found = settled(relay)
    rtp = found["rtp"]
    assert (rtp["packets"], rtp["lost"], rtp["duplicated"], rtp["reordered"]) == (62, 0, 1, 1)
    assert found["silences"] == 2
    assert found["silence_seconds"] > 2


def test_a_rule_that_is_looked_at_goes_by_the_ring_and_says_so(kernel_engine):
    with relaying(config("rtp", 'engine = "kernel"\n')) as relay:
        (rule,) = relay.show("rules")
        assert (rule["engine"], rule["engine_reason"]) == ("ring", "health is the ring's to look at")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 1000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 1000, "--rate", 5000)
        assert_exact(report(sink), 1000)
        assert health(relay)["unrecognised"] == 1000


@pytest.mark.parametrize("options", [(), ("--gso", 40)], ids=["singles", "superframes"])
def test_every_datagram_is_in_the_histogram_of_its_rule_and_none_of_a_rule_without_health_is_looked_at(options):
    """Also with an output that cannot send, and each in one bucket."""
    text = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUT}", "198.51.100.77:9"]\n'
    with relaying(text) as relay:
        assert relay.rule()["relay_seconds"]["count"] == 0
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 20_000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 20_000, "--rate", 20_000, *options)
        assert_exact(report(sink), 20_000)
        stats = relay.at_rest()
        assert_adds_up(stats)
        (rule,) = stats["rules"]
        assert rule["health"] is None
        times = rule["relay_seconds"]
        assert times["count"] == times["buckets"]["+Inf"] == rule["rx_packets"] == 20_000
        assert 0 < times["sum"] < 20_000
        assert list(times["buckets"].values()) == sorted(times["buckets"].values())
        assert json.loads(json.dumps(times)) == times


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_what_was_found_and_how_long_it_took(tmp_path):
    with relaying(config("auto")) as relay:
        with relay.lab.source.socket() as out:
            out.bind((SOURCE, 0))
            for number in (0, 1, *range(20, 220)):
                out.sendto(b"\x80\x21" + number.to_bytes(2, "big") + bytes(28), (GROUP, 2068))
        wait_for(lambda: relay.rule()["rx_packets"] == 202, "all of it")
        command = [
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=5000", "--dump-dom", f"http://{ADDRESS}/",
        ]  # fmt: skip
        page = relay.lab.relay.run(*command, timeout=60).stdout
    assert '<span class="hurt">RTP: lost 18, duplicated 0, reordered 0' in page
    assert "MPEG-TS: continuity errors 0" in page
    assert re.search(r"99 % (within|beyond) [\d.]+ ms", page)
