"""The health of a stream: RTP as tshark counts it, transport streams as ffmpeg does, and what neither of them tells."""

from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess
from collections import Counter

import pytest
from core.loops import ACCEPT_ALL, From, Running, To, Wire, plan_of, read, settle
from hypothesis import given
from hypothesis import strategies as st
from support.frames import frame, parts

from mcrelay._core.counters import TIME_BOUNDS_NS
from mcrelay._core.health import HealthState
from mcrelay._core.policer import PolicerState

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
TICKS = 90_000


def rtp(sequence, ticks=0, ssrc=0x1234, kind=33, body=b"x" * 20):
    return struct.pack("!BBHII", 0x80, kind, sequence & 0xFFFF, ticks & 0xFFFFFFFF, ssrc) + body


def packet(pid, counter, *, payload=True, pcr=None, flags=0, first=0x47, error=False):
    """One packet of a transport stream; ``flags`` are those of its adaptation field."""
    adapts = pcr is not None or flags > 0 or not payload
    head = struct.pack("!BHB", first, pid | error << 15, adapts << 5 | payload << 4 | counter & 15)
    field = b""
    if adapts:
        clock = b""
        if pcr is not None:
            base, extension = divmod(pcr, 300)
            clock = struct.pack("!IH", base >> 1, (base & 1) << 15 | 0x7E00 | extension)
        size = 183 if not payload else 7
        field = bytes([size, flags | (0x10 if clock else 0)]) + clock
        field += b"\xff" * (size + 1 - len(field))
    return head + field + b"\0" * (184 - len(field))


class Look:
    """A stream under test: what came when, and what was found."""

    def __init__(self, probe, *, rtp=True, transport=False):
        self.probe = probe
        self.state = HealthState(rtp=rtp, transport=transport)

    def take(self, *payloads, at=0.0, every=0.01):
        for i, payload in enumerate(payloads):
            self.probe.look_at(self.state, payload, START + round((at + i * every) * SECOND))
        return self

    @property
    def stream(self):
        return read(self.state.stream)

    @property
    def rtp(self):
        counts = read(self.state.rtp)
        return {key: counts[key] for key in ("packets", "lost", "missing", "duplicated", "reordered")}

    @property
    def of_rtp(self):
        return read(self.state.rtp)

    @property
    def transport(self):
        return read(self.state.transport)


@pytest.fixture
def look(probe):
    return lambda **kinds: Look(probe, **kinds)


def test_each_number_that_is_passed_over_is_missing_and_then_lost(look):
    seen = look().take(*(rtp(i) for i in range(300) if i not in (5, 6, 40)))
    assert seen.rtp == {"packets": 297, "lost": 3, "missing": 0, "duplicated": 0, "reordered": 0}
    seen.take(rtp(302), at=4, every=0)
    assert seen.rtp["missing"] == 2


def test_what_comes_late_or_twice_is_not_lost(look):
    order = [*range(20), 21, 20, 22, 22, 25, 24, 23, 26, 26, *range(27, 300)]
    seen = look().take(*map(rtp, order))
    assert seen.rtp == {"packets": 302, "lost": 0, "missing": 0, "duplicated": 2, "reordered": 3}


def test_a_silence_of_a_second_ends_the_wait_for_what_is_missing(look):
    seen = look().take(*(rtp(i) for i in (0, 1, 3, 4)))
    assert (seen.rtp["lost"], seen.rtp["missing"]) == (0, 1)
    seen.take(rtp(5), at=3)
    assert (seen.rtp["lost"], seen.rtp["missing"]) == (1, 0)
    assert seen.stream["silences"] == 1
    assert seen.stream["silence_ns"] == 3 * SECOND - 30_000_000
    seen.take(rtp(2), at=3.1)
    assert seen.rtp["lost"] == 1, "a counter that goes back is a restart to whoever scrapes it"


@given(st.data())
def test_any_order_within_the_window_is_counted_exactly(probe, data):
    start = data.draw(st.integers(0, 0xFFFF))
    count = data.draw(st.integers(2, 400))
    gone = data.draw(st.sets(st.integers(2, count - 1))) if count > 2 else set()
    twice = data.draw(st.sets(st.integers(2, count - 1))) - gone if count > 2 else set()
    delay = random.Random(data.draw(st.integers()))
    sent = [i for i in range(count) if i not in gone] + sorted(twice)
    order = [0, 1, *sorted((i for i in sent if i > 1), key=lambda i: i + delay.random() * 30)]
    seen = Look(probe).take(*(rtp(start + i) for i in order), every=0.0001)
    came, late, again, highest = set(), 0, 0, -1
    for each in order:
        again += each in came
        late += each not in came and each < highest
        came.add(each)
        highest = max(highest, each)
    counts = seen.rtp
    assert counts["packets"] == len(order)
    assert (counts["duplicated"], counts["reordered"]) == (again, late)
    assert counts["lost"] + counts["missing"] == highest + 1 - len(came)


@pytest.mark.parametrize("step", [1, 2, 62, 63, 64, 65, 126, 127, 128, 129, 1000, 32767])
def test_a_gap_of_any_length_is_lost_in_all(look, step):
    seen = look().take(*(rtp(i) for i in range(200)), *(rtp(199 + step + i) for i in range(200)))
    assert (seen.rtp["lost"], seen.rtp["missing"]) == (step - 1, 0)


def test_a_sender_that_begins_anew_has_lost_nothing(look):
    seen = look().take(*(rtp(i) for i in range(40_000, 40_100)), *(rtp(i) for i in range(30_000, 30_100)))
    assert seen.rtp == {"packets": 200, "lost": 0, "missing": 0, "duplicated": 0, "reordered": 0}
    assert seen.of_rtp["restarts"] == 1


def test_another_ssrc_is_followed_when_it_comes_twice_in_a_row(look):
    seen = look().take(rtp(1), rtp(2), rtp(900, ssrc=7), rtp(3), rtp(4))
    assert seen.rtp["packets"] == 4
    assert (seen.of_rtp["foreign"], seen.of_rtp["ssrc_changes"], seen.of_rtp["ssrc"]) == (1, 0, 0x1234)
    seen.take(rtp(50, ssrc=7), rtp(51, ssrc=7), rtp(53, ssrc=7), at=0.1)
    assert (seen.rtp["packets"], seen.rtp["missing"], seen.rtp["lost"]) == (7, 1, 0)
    assert (seen.of_rtp["foreign"], seen.of_rtp["ssrc_changes"], seen.of_rtp["ssrc"]) == (1, 1, 7)


@pytest.mark.parametrize("clock", [8000, 44_100, 48_000, 90_000])
def test_the_clock_of_a_dynamic_payload_type_is_learnt_from_its_time_stamps(look, clock):
    seen = look().take(*(rtp(i, i * clock // 100, kind=96) for i in range(150)))
    assert (seen.of_rtp["clock_rate"], seen.of_rtp["jitter_most_ns"]) == (0, 0)
    seen.take(*(rtp(i, i * clock // 100, kind=96) for i in range(150, 300)), at=1.5)
    assert seen.of_rtp["clock_rate"] == clock
    assert seen.of_rtp["jitter_ns"] < 100_000  # of time stamps that are rounded


JUNK = (b"", b"x", bytes(11), bytes(40), b"\xc0" * 40, b"\x80\xc8" + bytes(40), b"\x8f\x21" + bytes(30))


def test_what_is_neither_is_counted_as_that(look):
    seen = look(transport=True).take(*JUNK)
    assert seen.stream["unrecognised"] == len(JUNK)
    assert seen.rtp["packets"] == seen.transport["packets"] == 0
    seen = look(rtp=False, transport=True).take(rtp(1), rtp(2))
    assert seen.stream["unrecognised"] == 2


@given(st.lists(st.binary(max_size=600)), st.integers(0, 600))
def test_no_payload_is_read_beyond_its_end(probe, payloads, segment):
    seen = Look(probe, transport=True)
    for each in payloads:
        probe.look_at(seen.state, each, START, segment)
        probe.look_at(seen.state, b"\x47" + each, START, segment)
        probe.look_at(seen.state, b"\x90" + each, START, segment)


def test_every_datagram_of_a_superframe_is_looked_at(look):
    seen = look()
    frame = b"".join(rtp(i) for i in range(40) if i != 7)
    seen.probe.look_at(seen.state, frame, START, 32)
    seen.probe.look_at(seen.state, rtp(40)[:20], START, 0)
    assert seen.rtp == {"packets": 40, "lost": 0, "missing": 1, "duplicated": 0, "reordered": 0}


PATTERNS = {
    "nothing": lambda order, _: order,
    "each fiftieth lost": lambda order, _: [i for i in order if i % 50 != 7],
    "lost at random": lambda order, rng: order[:2] + [i for i in order[2:-1] if rng.random() > 0.1] + order[-1:],
    "a burst of 200 lost": lambda order, _: [i for i in order if not 300 <= i < 500],
    "some in pairs the wrong way round": lambda order, _: [i ^ 1 if i % 60 < 2 and i > 10 else i for i in order],
    "some twice": lambda order, _: [i for i in order for _ in range(1 + (i % 70 == 3))],
    "all of it": lambda order, rng: sorted(
        [i for i in order if i % 40 != 7 or i < 2] + [i for i in order if i % 90 == 3],
        key=lambda i: i + (rng.random() * 6 if i > 20 and not 500 < i < 600 else 0),  # the wrap: tshark loses count
    ),
}


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_figures_of_rtp_are_those_of_tshark(look, tmp_path, pattern):
    """Which takes duplicates off what it calls lost, as RFC 3550, A.3 does."""
    rng = random.Random(pattern)
    order = PATTERNS[pattern](list(range(1000)), rng)
    stamps = sorted(START + i * SECOND // 100 + rng.randrange(SECOND // 200) for i in range(len(order)))
    seen = look()
    capture = tmp_path / "rtp.pcap"
    with capture.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101))  # ns; LINKTYPE_RAW
        for stamp, number in zip(stamps, order, strict=True):
            payload = rtp(65_000 + number, number * TICKS // 100)
            seen.probe.look_at(seen.state, payload, stamp)
            udp = struct.pack("!HHHH", 4000, 5004, 8 + len(payload), 0) + payload
            ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 9, 17, 0, b"\xc0\0\2\1", b"\xe9\xfc\0\1")
            file.write(struct.pack("<IIII", *divmod(stamp, SECOND), *[len(ip + udp)] * 2) + ip + udp)
    command = ["tshark", "-r", str(capture), "-q", "-d", "udp.port==5004,rtp", "-z", "rtp,streams"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (found,) = re.findall(r"0x00001234 .*? (\d+) +(-?\d+) \(.*?%\)((?: +[-.\d]+)+)", said)
    packets, lost, jitter_most = int(found[0]), int(found[1]), float(found[2].split()[-1])
    counts = seen.of_rtp
    assert counts["packets"] == packets == len(order)
    assert counts["lost"] + counts["missing"] - counts["duplicated"] == lost
    assert counts["lost"] + counts["missing"] == 1000 - len(set(order))
    assert counts["jitter_most_ns"] / 1e6 == pytest.approx(jitter_most, abs=0.001)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Four seconds of a transport stream of ffmpeg's, sound and picture, in packets of 188 bytes."""
    file = tmp_path_factory.mktemp("ts") / "made.ts"
    command = [
        "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=640x360:rate=25", "-f", "lavfi",
        "-i", "sine=frequency=440", "-t", "4", "-c:v", "mpeg2video", "-b:v", "2M", "-c:a", "mp2",
        "-muxrate", "3M", "-f", "mpegts", str(file),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    data = file.read_bytes()
    return [data[at : at + 188] for at in range(0, len(data), 188)]


def warnings_of_ffmpeg(packets):
    """By PID, of what is read from a pipe: a file is read twice."""
    command = ["ffmpeg", "-v", "debug", "-f", "mpegts", "-i", "pipe:0", "-map", "0", "-c", "copy", "-f", "null", "-"]
    said = subprocess.run(command, input=b"".join(packets), capture_output=True, check=True).stderr.decode()
    return Counter(int(pid) for pid in re.findall(r"Continuity check failed for pid (\d+)", said))


needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")


@needs_ffmpeg
@pytest.mark.parametrize("in_rtp", [False, True], ids=["plain", "in RTP"])
@pytest.mark.parametrize("pattern", ["none", "each thirtieth", "random", "a burst", "one twice"])
def test_continuity_errors_are_those_that_ffmpeg_warns_of(look, recording, pattern, in_rtp):
    rng = random.Random(pattern)
    datagrams = [recording[at : at + 7] for at in range(0, len(recording), 7)]
    keep = {
        "none": lambda _: 1,
        "each thirtieth": lambda i: i % 30 != 29,
        "random": lambda i: rng.random() > 0.05 or i < 20,
        "a burst": lambda i: not 60 <= i < 75,
        "one twice": lambda i: 1 + (i == 80),
    }[pattern]
    datagrams = [each for i, each in enumerate(datagrams) for _ in range(int(keep(i)))]
    seen = look(transport=True)
    for i, each in enumerate(datagrams):
        payload = b"".join(each)
        seen.take(rtp(i, body=payload) if in_rtp else payload, at=i * 0.0035)
    said = warnings_of_ffmpeg([each for datagram in datagrams for each in datagram])
    assert seen.state.continuity_errors() == dict(said)
    assert bool(said) == (pattern != "none")
    assert seen.transport["packets"] == sum(map(len, datagrams))
    assert seen.transport["sync_errors"] == seen.transport["transport_errors"] == 0
    if pattern == "none":
        assert seen.transport["pcr_gaps"] == 0
        assert seen.transport["bit_rate"] == pytest.approx(3_000_000, rel=0.01)


def test_counters_are_of_packets_with_a_payload_and_jump_where_they_say_so(look):
    seen = look(rtp=False, transport=True).take(
        packet(256, 3),
        packet(256, 3, payload=False),
        packet(256, 4),
        packet(256, 9, flags=0x80),
        packet(256, 10),
        packet(0x1FFF, 5),
        packet(0x1FFF, 5),
        packet(256, 11, error=True),
        packet(256, 11),
    )
    assert seen.transport["continuity_errors"] == 0
    assert (seen.transport["packets"], seen.transport["transport_errors"]) == (9, 1)
    seen.take(packet(256, 13), packet(256, 13, payload=False), packet(256, 12, payload=False), at=0.2)
    assert seen.state.continuity_errors() == {256: 2}


def test_what_has_no_sync_byte_and_what_is_left_over_are_sync_errors(look):
    seen = look(rtp=False, transport=True)
    seen.take(packet(256, 0) + packet(256, 1, first=0x48) + packet(256, 1) + b"\x47\x01")
    assert (seen.transport["packets"], seen.transport["sync_errors"]) == (3, 2)
    assert seen.transport["continuity_errors"] == 0


def test_the_pids_that_are_told_apart_are_bounded_and_the_sum_is_not(look):
    seen = look(rtp=False, transport=True)
    for pid in range(8190):
        seen.take(packet(pid, 1) + packet(pid, 3))
    assert seen.transport["continuity_errors"] == 8190
    assert seen.state.continuity_errors() == dict.fromkeys(range(32), 1)


def clocked(times, stamps, look, pid=256, jumps=()):
    seen = look(rtp=False, transport=True)
    for i, (pcr, stamp) in enumerate(zip(times, stamps, strict=True)):
        flags = 0x80 if i in jumps else 0
        seen.take(packet(pid, i, pcr=round(pcr * 27e6) % (300 << 33), flags=flags), at=stamp)
    return seen


def test_the_jitter_of_a_clock_is_how_its_packets_come_against_what_they_say(look):
    times = [95_443 + 0.04 * i for i in range(100)]  # across the wrap, after 26.5 hours
    rng = random.Random(3)
    stamps = [0.04 * i + rng.random() * 0.004 for i in range(100)]
    jitter = most = 0.0
    for i in range(1, 100):
        jitter += (abs(stamps[i] - stamps[i - 1] - 0.04) - jitter) / 16
        most = max(most, jitter)
    seen = clocked(times, stamps, look)
    assert seen.transport["pcr_gaps"] == 0
    assert seen.transport["pcr_jitter_ns"] / 1e9 == pytest.approx(jitter, abs=1e-6)
    assert seen.transport["pcr_jitter_most_ns"] / 1e9 == pytest.approx(most, abs=1e-6)


def test_a_step_of_more_than_a_tenth_of_a_second_is_a_gap_unless_it_is_announced(look):
    times = [0.0, 0.05, 0.16, 0.2, 5.0, 5.04, 1.0, 1.04]
    stamps = [0.04 * i for i in range(8)]
    assert clocked(times, stamps, look).transport["pcr_gaps"] == 3
    assert clocked(times, stamps, look, jumps={2, 4, 6}).transport["pcr_gaps"] == 0


def test_clocks_of_many_programmes_are_followed_and_the_silent_one_makes_room(look):
    seen = look(rtp=False, transport=True)
    for i in range(50):
        for programme in range(16):
            seen.take(packet(300 + programme, i, pcr=27_000_000 * programme + i * 1_080_000), at=i * 0.04)
    assert seen.transport["pcr_gaps"] == 0
    for i in range(3):
        seen.take(packet(400, i, pcr=5 + i * 1_080_000), at=2 + i * 0.04)
    assert seen.transport["pcr_gaps"] == 0


def test_a_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed(probe):
    for number, bound in enumerate(TIME_BOUNDS_NS):
        assert (probe.time_bucket(bound), probe.time_bucket(bound + 1)) == (number, number + 1)
    assert probe.time_bucket(0) == 0
    assert probe.time_bucket(1 << 63) == len(TIME_BOUNDS_NS)


@pytest.mark.core
@pytest.mark.net
@pytest.mark.parametrize("latency", [False, True], ids=["blocks", "slots"])
def test_the_loop_looks_at_singles_superframes_and_fragments_of_whom_it_lets_in_and_at_what_a_limit_drops(
    namespaces, latency
):
    wire = Wire(namespaces, latency=latency)
    try:
        allowed = [(0xC0000200, 0xFFFFFF00), (0xC0A8A800, 0xFFFFFF00)]  # of the superframes, and of the other frames
        entry = From(
            [To(wire.output_to(wire.sink()))],
            allow=allowed,
            policer=PolicerState(1, False),
            health=HealthState(rtp=True, transport=False),
        )
        ring = wire.ring(ACCEPT_ALL)
        superframes = wire.sender(32)
        with Running(plan_of(1, [ring], [entry])):
            for number in range(10):
                wire.raw.send(frame(rtp(number)))
            wire.raw.send(frame(rtp(99), source="10.9.9.9"))
            for each in parts(rtp(10, body=bytes(2000)), 1000):
                wire.raw.send(each)
            superframes.send(b"".join(rtp(number) for number in range(11, 51) if number != 30))
            for number in range(51, 251):
                wire.raw.send(frame(rtp(number)))
            settle(ring, 10 + 1 + 3 + 1 + 200)
        counts = read(entry.health.rtp)
        assert (counts["packets"], counts["lost"], counts["missing"], counts["foreign"]) == (250, 1, 0, 0)
        received, _, drops = entry.counted
        assert drops["source"] == 1
        assert drops["policer"] > 50
        times = read(entry.times)
        assert sum(times.values()) - times["sum_ns"] == received - sum(drops.values())
        assert times["sum_ns"] > 0
    finally:
        wire.close()
