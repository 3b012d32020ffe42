"""What the kernel engine alone promises: exact moves, exact accounts, its own fallbacks, and nothing left behind."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import time

import pytest
from support.frames import frame, six
from support.manager import Manager, start_again
from support.relay import GROUP, INPUT, SOURCE, RelayUnderTest, assert_adds_up, every_way, kernel_ways, relaying
from support.testrun import SYSCALL
from support.traffic import MCRELAY, assert_exact, heard, receiver, report, send, sender, wait_for
from support.ways import way

from mcrelay.engine.handover import COUNTERS
from mcrelay.engine.table import KEPT

pytestmark = [pytest.mark.net, pytest.mark.alone]

OUT = "239.10.0.1:5004%out0"
ANY = f"{GROUP}:2068%in0"
RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUT}"]\n'
PROG_QUERY, TCX_INGRESS = 16, 46  # linux/bpf.h


@pytest.fixture(autouse=True)
def _of_the_kernel(monkeypatch, kernel_engine):
    monkeypatch.setattr(RelayUnderTest, "engine", "kernel")


def attached(namespace, link: str = "in0") -> int:
    """Programs on the tcx ingress hook of a link."""

    def ask() -> int:
        request = ctypes.create_string_buffer(
            struct.pack("=6IQ8x", socket.if_nametoindex(link), TCX_INGRESS, 0, 0, 0, 0, 0), 64
        )
        assert ctypes.CDLL(None, use_errno=True).syscall(SYSCALL, PROG_QUERY, request, 64) == 0, ctypes.get_errno()
        return struct.unpack_from("=I", request, 24)[0]

    return namespace.call(ask)


def to_group() -> str:
    """How nft tells the stream that is taken."""
    return f"{'ip' if way().taken == 4 else 'ip6'} daddr {way().source(GROUP)}"


def rule_of(relay, name: str = "x"):
    return next(each for each in relay.show("rules") if each["name"] == name)


def engine_of(relay, name: str = "x"):
    shown = rule_of(relay, name)
    return shown["engine"], shown["engine_reason"] or ""


def forwards(relay) -> bool:
    """False also before the first plan of a process."""
    return any(each["rx_packets"] > 100 for each in relay.show("stats")["rules"])


def counts(relay) -> bool:
    return any(each["rx_packets"] for each in relay.show("stats")["rules"])


def run(relay, *arguments: str) -> str:
    done = subprocess.run([*MCRELAY, *arguments, "--socket", relay.socket], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def replace(relay, *outputs: str, taken: str = INPUT, engine: str = "") -> str:
    """Have the rule be another, without a word of what it was."""
    options = ["--engine", engine] if engine else []
    return run(relay, "replace", "x", way().input(taken), *map(way().output, outputs), *options)


def datagram(payload: bytes, *, source: str = SOURCE) -> bytes:
    """A frame of the rule's stream, with that payload."""
    make = frame if way().taken == 4 else six
    return make(payload, source=way().source(source), group=way().source(GROUP))


def raw(relay, *frames: bytes) -> None:
    with relay.lab.source.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as source:
        source.bind(("eth0", 0))
        for each in frames:
            source.send(each)


@kernel_ways
def test_no_frame_reaches_the_ring_and_nothing_is_left_after_a_stop():
    with relaying(RULE) as relay:
        assert engine_of(relay) == ("kernel", "")
        assert attached(relay.lab.relay) == 1
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 5000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 20_000, "--count", 5000)
        assert_exact(report(sink), 5000)
        relay.at_rest()
        assert (relay.link()["rx_frames"], relay.link()["kernel_frames"]) == (0, 5000)
        assert 0 <= time.time() - relay.rule()["last_packet_time"] < 5
        relay.stop()
        assert attached(relay.lab.relay) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_process_that_dies_leaves_nothing_attached(number):
    with relaying(RULE) as relay:
        assert attached(relay.lab.relay) == 1
        relay.process.send_signal(number)
        relay.process.wait()
        wait_for(lambda: attached(relay.lab.relay) == 0, "the program to go")


@kernel_ways
def test_a_rule_that_moves_between_the_engines_loses_and_doubles_nothing():
    """Its order is kept on the way to the ring; the other way the program may overtake what the ring still has."""
    other = '[rules.y]\ninput = "239.5.5.5:5000%in0"\noutputs = ["239.10.0.9:5004%out0"]\n'
    with relaying(RULE + other) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        second = receiver(relay.lab.sink, "239.10.0.9:5004%eth0")
        streams = [
            sender(relay.lab.source, f"{group}%eth0", "--rate", 10_000, "--count", 60_000)
            for group in (f"{GROUP}:2068", "239.5.5.5:5000")
        ]
        moves = 0
        while streams[0].poll() is None:
            for engine in ("ring", "kernel"):
                replace(relay, OUT, engine=engine)
                assert engine_of(relay)[0] == engine
                moves += 1
        for each in streams:
            assert each.wait(30) == 0
        assert moves > 6
        stats = relay.at_rest()
        assert_adds_up(stats)
        got, untouched = heard(sink, relay.lab.sink), heard(second, relay.lab.sink)
        assert (got["unique"], got["duplicated"], got["corrupted"]) == (60_000, 0, 0)
        assert_exact(untouched, 60_000)
        assert [each["rx_packets"] for each in stats["rules"]] == [60_000, 60_000]
        assert 0 < relay.link()["kernel_frames"] < 120_000


def test_an_output_that_comes_and_goes_touches_no_other_and_is_accounted_for():
    with relaying(RULE) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 50_000)
        stream = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 10_000, "--count", 50_000)
        while stream.poll() is None:
            replace(relay, OUT, "239.10.0.2:5004%out0")
            replace(relay, OUT)
        replace(relay, OUT, "239.10.0.2:5004%out0")
        assert_exact(report(sink), 50_000)
        stats = relay.at_rest()
        assert_adds_up(stats)
        first, second = relay.rule()["outputs"]
        assert (first["since_packets"], first["tx_packets"]) == (0, 50_000)
        assert (second["since_packets"], second["tx_packets"]) == (50_000, 0)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 10)
        relay.at_rest()
        assert relay.rule()["outputs"][1]["tx_packets"] == 10


@kernel_ways
def test_an_output_added_under_load_has_missed_exactly_what_came_before():
    with relaying(RULE) as relay:
        stream = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 50_000, "--count", 100_000)
        relay.wait_for(lambda: relay.rule()["rx_packets"] > 1000, "the stream")
        replace(relay, OUT, "239.10.0.2:5004%out0")
        assert stream.wait(30) == 0
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert 1000 < relay.rule()["outputs"][1]["since_packets"] < 100_000
        assert relay.rule()["outputs"][1]["tx_packets"] == 100_000 - relay.rule()["outputs"][1]["since_packets"]


def test_another_input_for_a_rule_keeps_its_accounts():
    with relaying(RULE) as relay:
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 100)
        replace(relay, OUT, taken="226.2.2.3:2068%in0")
        send(relay.lab.source, "226.2.2.3:2068%eth0", "--count", 50)
        assert_adds_up(relay.at_rest())
        assert relay.rule()["rx_packets"] == relay.rule()["outputs"][0]["tx_packets"] == 150


@pytest.mark.parametrize(
    ("keys", "output", "why"),
    [
        ("", "10.9.0.9:7000", "output 10.9.0.9:7000 is no multicast group"),
        ('allow = ["192.168.0.0/16"]', OUT, "allow is the ring's to hold"),
        ('limit = "1Mpps"', OUT, "limit is the ring's to hold"),
        ('ttl = "keep"', OUT, "ttl is the ring's to keep or decrement"),
    ],
)
def test_a_rule_that_the_program_does_not_treat_goes_by_the_ring_and_says_why(keys, output, why):
    with relaying(
        f'[rules.x]\ninput = "{ANY}"\noutputs = ["{OUT}", "{output}"]\n{keys}\n'.replace(
            f'"{OUT}", "{OUT}"', f'"{OUT}"'
        )
    ) as relay:
        assert engine_of(relay) == ("ring", why)
        assert attached(relay.lab.relay) == 0
        assert f"x: by the ring: {why}" in run(relay, "show", "rules")
        assert f"changed rule=x engine=ring reason={why!r}" in relay.log.read_text()
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 1000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", 1000)
        assert_exact(report(sink), 1000)


def test_without_the_capability_the_ring_relays_and_the_remedy_is_named():
    """Kept only if a rule asks for the engine by the time the relay starts."""
    RelayUnderTest.engine = "ring"  # put back by the fixture
    with relaying(RULE) as relay:
        said = replace(relay, OUT, engine="kernel")
        assert "by the ring: CAP_BPF and CAP_NET_ADMIN are missing" in said
        assert engine_of(relay)[0] == "ring"
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 1000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", 1000)
        assert_exact(report(sink), 1000)
        assert "cap_bpf" not in relay.log.read_text().splitlines()[0]


@kernel_ways
def test_a_second_source_takes_the_stream_to_the_ring_until_it_is_silent_and_nothing_is_lost():
    with relaying(f'[rules.x]\ninput = "{ANY}"\noutputs = ["{OUT}"]\n') as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 10_000, "--count", 5_000)
        raw(relay, datagram(b"from somebody else", source="192.168.168.99"))
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 10_000, "--count", 5_000)
        stats = relay.at_rest()
        got = heard(sink, relay.lab.sink)
        assert got["received"] == 10_001
        assert_adds_up(stats)
        assert relay.rule()["rx_packets"] == 10_001
        raw(relay, datagram(b"1", source="192.168.168.99"), datagram(b"2"))
        shown = engine_of(relay)
        assert shown[0] == "ring"
        assert "until it has been silent" in shown[1]
        time.sleep(0.2)
        before = relay.link()["kernel_frames"]
        raw(relay, datagram(b"3"))
        relay.wait_for(lambda: relay.link()["kernel_frames"] == before + 1, "the program to take it again")
        assert engine_of(relay) == ("kernel", "")


def test_what_the_program_leaves_is_counted_by_the_ring_and_nothing_twice():
    """Each of these once, and a stream that they do not belong to is not touched."""
    with relaying(RULE) as relay:
        odd = [
            frame(b"x" * 40, fragment=0x2000),
            frame(b"x" * 40, port=9),
            frame(b"x" * 40),
        ]
        raw(relay, *odd)
        stats = relay.at_rest()
        assert_adds_up(stats)
        frames = relay.link()["frames"]
        assert (frames["fragment"], frames["no_match"]) == (1, 1)
        assert relay.link()["kernel_frames"] == relay.rule()["rx_packets"] == 1


@every_way
def test_a_wrong_udp_checksum_is_malformed_and_not_relayed_by_either_engine():
    engine = RelayUnderTest.engine
    with relaying(RULE) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
        good = datagram(b"x" * 700)
        raw(relay, good, good[:-1] + b"y", good)
        assert_adds_up(relay.at_rest())
        got = heard(sink, relay.lab.sink)
        assert got["received"] == relay.rule()["rx_packets"] == 2
        assert relay.link()["frames"]["malformed"] == 1
        assert relay.link()["kernel_frames"] == (2 if engine == "kernel" else 0)


def test_an_output_link_that_is_down_or_gone_costs_what_is_counted_and_no_other_output():
    config = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUT}", "239.10.0.2:5004%out1"]\n'
    with relaying(config, sinks=2) as relay:
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 30_000)
        stream = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 10_000, "--count", 30_000)
        time.sleep(0.5)
        relay.lab.relay.ip("link set out1 down")
        time.sleep(0.5)
        relay.lab.relay.ip("link del out1")
        assert stream.wait(30) == 0
        assert_exact(report(sink), 30_000)
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert relay.rule()["outputs"][1]["tx_errors"]["parked"] > 0
        assert engine_of(relay) == ("kernel", "")


@kernel_ways
@pytest.mark.parametrize("exclusive", [True, False])
def test_the_original_is_dropped_by_the_program_where_the_rule_is_exclusive(exclusive):
    """Before nftables' ingress hook; else every one of them gets there."""
    with relaying(RULE + f"exclusive = {str(exclusive).lower()}\n") as relay:
        assert (rule_of(relay)["exclusive"] == {"state": "on", "reason": None}) == exclusive
        chain = f"type filter hook ingress device in0 priority -500; {to_group()} counter name passed;"
        relay.lab.relay.run("nft", f"table netdev test {{ counter passed {{ }}; chain c {{ {chain} }}; }}")
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 2000)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", 2000)
        assert_exact(report(sink), 2000)
        assert_adds_up(relay.at_rest())
        shown = relay.lab.relay.run("nft", "-j", "list", "counter", "netdev", "test", "passed").stdout
        (passed,) = [each["counter"]["packets"] for each in json.loads(shown)["nftables"] if "counter" in each]
        assert passed == (0 if exclusive else 2000)


def test_who_joins_later_gets_the_originals_of_an_exclusive_rule_too():
    with relaying(RULE + "exclusive = true\n") as relay:
        other = relay.lab.relay.popen(*MCRELAY, "recv", f"{GROUP}:2068%in0", "-j")
        relay.wait_for(lambda: rule_of(relay)["exclusive"]["state"] == "refused", "the listener to be seen")
        chain = f"type filter hook ingress device in0 priority -500; ip daddr {GROUP} counter name passed;"
        relay.lab.relay.run("nft", f"table netdev test {{ counter passed {{ }}; chain c {{ {chain} }}; }}")
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 5_000, "--count", 500)
        relay.at_rest()
        shown = relay.lab.relay.run("nft", "-j", "list", "counter", "netdev", "test", "passed").stdout
        (passed,) = [each["counter"]["packets"] for each in json.loads(shown)["nftables"] if "counter" in each]
        other.send_signal(signal.SIGINT)
        other.wait()
        assert passed == 500
        assert relay.rule()["outputs"][0]["tx_packets"] == 500


def test_descriptors_and_maps_do_not_pile_up():
    with relaying(RULE) as relay:
        folder = f"/proc/{relay.process.pid}/fd"
        replace(relay, OUT, engine="kernel")
        before = len(os.listdir(folder))
        for i in range(30):
            replace(relay, OUT, f"239.10.0.{i % 5 + 2}:5004%out0", engine=["ring", "kernel"][i % 2])
        replace(relay, OUT, engine="kernel")
        assert len(os.listdir(folder)) <= before
        assert attached(relay.lab.relay) == 1


def stored(manager) -> bool:
    return sum(each.startswith((KEPT, COUNTERS)) for each in manager.kept) == 5 and len(manager.kept) == 6


def test_the_next_process_goes_on_with_the_counters(tmp_path):
    """Also of outputs that begin or go with it, of a rule with another input, and after several restarts."""
    second = "239.10.0.2:5004%out0"
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.path}
        with relaying(RULE, environment=environment) as relay:

            def again(config: str) -> None:
                relay.wait_for(lambda: stored(manager), "a stored link, its counters and a helper socket")
                relay.process.kill()
                relay.process.wait()
                send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 10)  # counted by the program alone
                relay.write(config)
                start_again(relay, manager, environment)
                relay.wait_for(lambda: counts(relay), "the next process", 40)

            send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 100)
            began = time.time()
            again(RULE.replace(f'"{OUT}"', f'"{OUT}", "{second}"'))
            assert_adds_up(relay.at_rest())
            first, other = relay.rule()["outputs"]
            assert (relay.rule()["rx_packets"], relay.rule()["rx_bytes"]) == (110, 110 * 1316)
            assert (first["since_packets"], first["tx_packets"], first["tx_bytes"]) == (0, 110, 110 * 1316)
            assert (other["since_packets"], other["tx_packets"]) == (110, 0)
            assert began - 1 < relay.rule()["last_packet_time"] < time.time() + 1
            send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 5)
            again(RULE.replace(f'"{OUT}"', f'"{second}"'))
            assert_adds_up(relay.at_rest())
            (other,) = relay.rule()["outputs"]
            assert (relay.rule()["rx_packets"], other["since_packets"], other["tx_packets"]) == (125, 110, 15)
            assert relay.link()["kernel_frames"] == 125
            again(RULE.replace(INPUT, ANY).replace(f'"{OUT}"', f'"{second}"'))
            assert_adds_up(relay.at_rest())
            (other,) = relay.rule()["outputs"]
            assert (relay.rule()["rx_packets"], other["since_packets"], other["tx_packets"]) == (135, 110, 25)


@kernel_ways
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_under_a_manager_loses_doubles_and_reorders_nothing(tmp_path, end):
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.path}
        with relaying(RULE, environment=environment) as relay:
            relay.wait_for(lambda: stored(manager), "a stored link, its counters and a helper socket")
            sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 200_000)
            stream = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 25_000, "--count", 200_000)
            time.sleep(0.5)
            relay.process.send_signal(end)
            relay.process.wait(timeout=5)
            assert attached(relay.lab.relay) == 1
            start_again(relay, manager, environment)
            relay.wait_for(lambda: forwards(relay), "the next process")
            assert engine_of(relay) == ("kernel", "")
            assert attached(relay.lab.relay) == 1
            assert stream.wait(30) == 0
            assert_exact(report(sink), 200_000)
            assert_adds_up(relay.at_rest())
            assert relay.rule()["rx_packets"] == relay.link()["kernel_frames"] == 200_000
            relay.stop()
            manager.drop()
            wait_for(lambda: attached(relay.lab.relay) == 0, "the program to go with the store")


def test_a_process_that_finds_a_link_of_a_rule_that_is_the_rings_by_now_lets_go_of_it(tmp_path):
    """At once, however long the manager takes to let go of its own."""
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.path}
        with relaying(RULE, environment=environment) as relay:
            relay.wait_for(lambda: stored(manager), "a stored link, its counters and a helper socket")
            sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0")
            stream = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 10_000, "--count", 30_000)
            time.sleep(0.5)
            relay.process.kill()
            relay.process.wait()
            manager.attentive.clear()
            relay.config.write_text(RULE)  # without the default: the ring's
            start_again(relay, manager, environment)
            relay.wait_for(lambda: forwards(relay), "the next process")
            assert engine_of(relay)[0] == "ring"
            assert attached(relay.lab.relay) == 0
            assert stream.wait(30) == 0
            relay.at_rest()
            assert attached(relay.lab.relay) == 0
            manager.attentive.set()
            relay.wait_for(lambda: all(KEPT not in each for each in manager.kept), "the store to forget it")
            got = heard(sink, relay.lab.sink)
            assert got["duplicated"] == got["corrupted"] == 0
            assert_adds_up(relay.show("stats"))


def test_rules_of_both_families_and_of_both_engines_share_a_link():
    """What goes in by one family leaves by both, and an extension header takes a stream to the ring."""
    four, other, ours = "239.1.1.1:5000", "[ff15::1]:5000", "[ff15::9]:5000"
    config = (
        f'[rules.four]\ninput = "{four}%in0"\noutputs = ["239.10.0.1:5004%out0", "[ff15::2]:5004%out0"]\n'
        f'[rules.six]\ninput = "{other}%in0"\noutputs = ["239.10.0.3:5004%out0", "[ff15::4]:5004%out0"]\n'
        f'[rules.ring]\ninput = "{ours}%in0"\noutputs = ["[ff15::5]:5004%out0"]\nengine = "ring"\n'
    )
    with relaying(config, ipv6=True) as relay:
        assert [engine_of(relay, name) for name in ("four", "six")] == [("kernel", "")] * 2
        assert engine_of(relay, "ring")[0] == "ring"
        outputs = ["239.10.0.1", "[ff15::2]", "239.10.0.3", "[ff15::4]", "[ff15::5]"]
        sinks = [receiver(relay.lab.sink, f"{each}:5004%eth0", "--count", 3_000) for each in outputs]
        streams = [
            sender(relay.lab.source, f"{each}%eth0", "--count", 3_000, "--rate", 5_000) for each in (four, other, ours)
        ]
        for each in sinks:
            assert_exact(report(each), 3_000)
        assert [each.wait(30) for each in streams] == [0, 0, 0]
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert relay.link()["kernel_frames"] == 6_000
        sink = receiver(relay.lab.sink, "[ff15::4]:5004%eth0", "--count", 100)
        time.sleep(0.2)
        options = [(60, b"\0" + b"\1\4" + bytes(4))]
        raw(relay, *(six(b"%03d" % n, group="ff15::1", port=5000, headers=options) for n in range(100)))
        assert report(sink)["received"] == 100
        assert engine_of(relay, "six")[0] == "ring"
        assert engine_of(relay, "four") == ("kernel", "")
