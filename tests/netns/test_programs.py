"""Programs nobody here wrote agree: iperf 2 counts no loss, ffmpeg reads a transport stream without an error."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

import pytest
from support.relay import assert_adds_up, relaying
from support.traffic import memberships, wait_for

pytestmark = pytest.mark.net

RULE = '[rules.x]\ninput = "226.2.2.2:2068%in0"\noutputs = ["239.10.0.1:5004%out0"]\n'


@pytest.fixture(scope="module", autouse=True)
def _installed():
    missing = [name for name in ("iperf", "ffmpeg") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: make test installs it")


def test_iperf_reports_no_loss_of_a_relayed_stream():
    with relaying(RULE.replace("2068", "5001").replace("5004", "5001")) as relay:
        command = ["iperf", "-s", "-u", "-B", "239.10.0.1%eth0", "-w", "4M", "-i", "1"]
        server = relay.lab.sink.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for(lambda: memberships(relay.lab.sink)["239.10.0.1"], "iperf to join")
        client = "iperf -c 226.2.2.2 -u -T 4 -b 100M -t 5 -l 1316 -B 192.168.168.55"
        relay.lab.source.run(*client.split())
        time.sleep(1)
        server.terminate()
        text, _ = server.communicate(timeout=10)
        intervals = re.findall(r"\s(\d+)/\s*(\d+) \(", text)
        assert sum(int(total) for _, total in intervals) > 40_000, text
        assert all(int(lost) == 0 for lost, _ in intervals), text
        assert_adds_up(relay.at_rest())


READ = """
    ffmpeg -hide_banner -nostdin -loglevel level+warning
    -i udp://239.10.0.1:5004?localaddr=198.51.100.2&fifo_size=100000&buffer_size=4000000
    -map 0 -c copy -t 4 -f framehash -
"""
WRITE = """
    ffmpeg -hide_banner -nostdin -loglevel error -re -f lavfi -i testsrc2=size=320x180:rate=25
    -f lavfi -i sine=frequency=440 -t 8 -c:v mpeg2video -b:v 2M -c:a mp2 -f mpegts
    udp://226.2.2.2:2068?pkt_size=1316&localaddr=192.168.168.55&ttl=4
"""


def test_ffmpeg_reads_a_relayed_transport_stream_without_an_error():
    with relaying(RULE) as relay:
        reader = relay.lab.sink.popen(*READ.split(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(lambda: memberships(relay.lab.sink)["239.10.0.1"], "ffmpeg to join", 20)
        relay.lab.source.run(*WRITE.split())
        frames, complaints = reader.communicate(timeout=20)
        pictures = [line for line in frames.splitlines() if line.startswith("0,")]
        assert len(pictures) >= 75, complaints
        assert complaints == ""
        assert_adds_up(relay.at_rest())
