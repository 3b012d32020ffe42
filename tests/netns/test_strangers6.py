"""IPv6 behind a switch that prunes, between programs nobody here wrote: iperf, ffmpeg at both ends; and the demo."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

import pytest
from support.relay import assert_adds_up, relaying
from support.traffic import MCRELAY, memberships, wait_for

from mcrelay.commands.lab import SOURCE_ADDRESS6

pytestmark = pytest.mark.net

GROUP, OUT = "ff15::1234", "ff15::99"
RULES = f"""
[rules.x]
input = "[{SOURCE_ADDRESS6}]@[{GROUP}]:5001%in0"
outputs = ["[{OUT}]:5001%out0"]
"""
FFMPEG = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "warning"]


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed: make test installs it")


def listed(relay) -> bool:
    return any(GROUP in each for each in relay.lab.mdb().get("to-relay", ()))


def test_iperf_and_the_table_of_the_switch():
    needs("iperf")
    with relaying(RULES, ipv6=True) as relay:
        relay.wait_for(lambda: listed(relay), "entry in the switch")
        server = relay.lab.sink.popen(
            "iperf", "-s", "-u", "-V", "-B", f"{OUT}%eth0", "-i", "1", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        wait_for(lambda: memberships(relay.lab.sink)[OUT], "iperf to join", 10)
        client = ["iperf", "-c", f"{GROUP}%eth0", "-u", "-V", "-T", "16", "-b", "5M", "-t", "3"]
        relay.lab.source.run(*client, timeout=30)
        time.sleep(0.5)
        server.terminate()
        said = server.communicate(timeout=10)[0]
        relayed = relay.at_rest()
        assert_adds_up(relayed)
        counts = [tuple(map(int, found)) for found in re.findall(r"\s(\d+)/\s*(\d+) \(", said)]
        assert counts, said
        assert sum(lost for lost, _ in counts) == 0, said
        assert sum(total for _, total in counts) > 1000, said
        relay.stop()
        wait_for(lambda: not listed(relay), "the switch to forget it", 5)


def test_ffmpeg_plays_without_a_continuity_error():
    needs("ffmpeg")
    with relaying(RULES, ipv6=True) as relay:
        relay.wait_for(lambda: listed(relay), "entry in the switch")
        receiver = relay.lab.sink.popen(
            *FFMPEG, "-i", f"udp://[{OUT}]:5001?timeout=15000000", "-t", "3", "-c", "copy", "-f", "null", "-",
            stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_for(lambda: memberships(relay.lab.sink)[OUT], "ffmpeg to join", 20)
        relay.lab.source.popen(
            *FFMPEG, "-re", "-f", "lavfi", "-i", "testsrc=size=320x180:rate=25", "-t", "20", "-c:v", "mpeg2video",
            "-g", "12", "-f", "mpegts", f"udp://[{GROUP}]:5001?pkt_size=1316&ttl=16",
        )  # fmt: skip
        _, said = receiver.communicate(timeout=60)
        assert receiver.returncode == 0, said
        assert "Continuity" not in said, said
        assert "corrupt" not in said, said
        assert relay.rule()["rx_packets"] > 20


def test_the_demo_of_ipv6_ends_well(namespaces):
    done = subprocess.run([*MCRELAY, "demo", "--ipv6"], capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 duplicated, 0 reordered, 0 corrupted" in done.stdout
    assert "the switch lists ff1e::2:2:2 on its port" in done.stdout
