"""`mcrelay doctor`: each stage broken by itself, and it names that stage and no other."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time

import pytest
from support import limited as limited_program
from support.frames import frame, tagged
from support.igmpwire import send_frame, send_query
from support.mirror import mirrored
from support.relay import GROUP, INPUT, RelayUnderTest, carries, relaying
from support.traffic import MCRELAY, receiver, send, sender, wait_for

pytestmark = pytest.mark.net

OUT = "239.10.0.1:5004%out0"
RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["{OUT}"]\n'
ANY_SOURCE = f'[rules.x]\ninput = "{GROUP}:2068%in0"\noutputs = ["{OUT}"]\n'


def limited(**limits):
    return [sys.executable, limited_program.__file__, json.dumps(limits)]


def asking(namespace, *arguments: str, program=MCRELAY):
    """Start it; it looks for a second, in which 500 datagrams and every report come, unless a test needs longer."""
    duration = () if "--duration" in arguments else ("--duration", "1")
    return namespace.popen(
        *program, "doctor", *arguments, *duration, "-j", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip


def answer(child):
    """What it found, by rule; the exit code says whether anything is broken."""
    out, complaints = child.communicate(timeout=30)
    assert complaints == "", complaints
    found = json.loads(out)
    assert child.returncode == any(each["state"] == "broken" for each in found)
    return found


def doctor(relay, *arguments: str, **options):
    return answer(asking(relay.lab.relay, *arguments, "--socket", relay.socket, **options))


def faults(found, state: str | None = None) -> dict[str, str]:
    """The stages that are not well, with what is said of them."""
    states = {state} if state else {"broken", "warning"}
    return {stage["stage"]: stage["text"] for each in found for stage in each["stages"] if stage["state"] in states}


def stage(found, name: str):
    return next(stage for stage in found[0]["stages"] if stage["stage"] == name)


@contextlib.contextmanager
def streaming(relay, stream: str = f"{GROUP}:2068%eth0", *options: object, namespace=None):
    child = sender(namespace or relay.lab.source, stream, "--rate", 500, "--size", 100, *options)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=10)


def test_a_relay_without_a_fault_is_well_at_every_stage():
    with relaying(RULE) as relay, streaming(relay):
        send_query(relay.lab.source, "eth0")
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        found = doctor(relay)
        assert faults(found) == {}, found
        assert found[0]["rule"] == "x"
        assert [each["stage"] for each in found[0]["stages"]] == [
            "relay", "privileges", "link", "offloads", "membership", "report", "query", "bridge", "frames", "sender",
            "match", "ring", "send", "egress", "echo",
        ]  # fmt: skip
        assert {each["stage"] for each in found[0]["stages"] if each["state"] == "skipped"} == {"bridge"}
        assert "from 192.168.168.55 to 226.2.2.2:2068, untagged, TTL" in stage(found, "frames")["text"]
        shown = relay.lab.relay.run(*MCRELAY, "doctor", "x", "--duration", "1", "--socket", relay.socket).stdout
        assert shown.startswith("x: ok\n")
        assert "  report      ok       an IGMPv3 report of this host left in0\n" in shown
        assert relay.lab.relay.run(*MCRELAY, "doctor", "--socket", relay.socket).returncode == 0


def test_the_kernel_engine_is_well_too(kernel_engine):
    with relaying(RULE + 'engine = "kernel"\n') as relay, streaming(relay):
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        assert faults(doctor(relay)) == {}


def test_without_a_relay_it_looks_for_itself(lab, tmp_path):
    relay = RelayUnderTest(lab, RULE, tmp_path)
    nowhere = ("-c", str(relay.config))
    with streaming(relay):
        found = doctor(relay, *nowhere)
        assert faults(found) == {}, found
        assert "(for this look alone)" in stage(found, "membership")["text"]
        assert stage(found, "relay")["state"] == stage(found, "ring")["state"] == "skipped"
        assert "datagrams match" in stage(found, "match")["text"]
        assert f"{GROUP}@" not in str(lab.mdb())
    assert set(faults(doctor(relay, *nowhere))) == {"frames"}


def test_where_there_is_neither_relay_nor_rule_a_stream_can_be_looked_at(tmp_path):
    command = [*MCRELAY, "doctor", "--socket", str(tmp_path / "x.sock"), "-c", str(tmp_path / "none.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none.toml:0: file: does not exist" in done.stderr
    assert "`mcrelay doctor GROUP:PORT%LINK` needs neither" in done.stderr


def test_a_relay_that_does_not_answer(tmp_path):
    with relaying(RULE) as relay, streaming(relay):
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        relay.process.send_signal(signal.SIGSTOP)
        try:
            found = doctor(relay, "-c", str(relay.config))
        finally:
            relay.process.send_signal(signal.SIGCONT)
        assert set(faults(found, "broken")) == {"relay"} == set(faults(found)), found
        assert "has not answered within 5 s" in faults(found)["relay"]
        assert faults(doctor(relay)) == {}


def test_privileges():
    with relaying(RULE) as relay:
        without = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", *MCRELAY]
        relay.stop()
        arguments = ("-c", str(relay.config))
        found = doctor(relay, *arguments, program=without)
        assert set(faults(found)) == {"privileges"}
        assert "no CAP_NET_RAW" in faults(found, "broken")["privileges"]


def test_privileges_of_the_look_alone():
    with relaying(RULE) as relay, streaming(relay):
        without = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", *MCRELAY]
        assert set(faults(doctor(relay, program=without), "warning")) == {"privileges"}


def test_without_privileges_the_near_misses_of_the_relay_say_what_differs():
    with relaying(RULE) as relay, streaming(relay, f"{GROUP}:2069%eth0"):
        without = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", *MCRELAY]
        found = doctor(relay, "--duration", "3", program=without)
        assert set(faults(found, "broken")) == {"match"}, found
        assert "from 192.168.168.55 to 226.2.2.2:2069, untagged, and the rule takes port 2068" in faults(found)["match"]
        assert f"mcrelay replace x 192.168.168.55@{GROUP}:2069%in0 {OUT}" == stage(found, "match")["remedy"]


def test_a_link_upon_another_is_called_what_it_is(lab, tmp_path):
    lab.relay.ip("link add mv0 link in0 type macvlan mode bridge", "addr add 192.0.2.9/24 dev mv0", "link set mv0 up")
    relay = RelayUnderTest(lab, RULE.replace("%in0", "%mv0"), tmp_path)
    relay.start()
    with streaming(relay):
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        found = doctor(relay)
        assert faults(found) == {}, found
        assert stage(found, "link")["text"].endswith("a macvlan of in0 (bridge)")
    relay.stop()


LINKS = {
    "down": (("link set in0 down",), "in0 is down", "broken"),
    "gone": (("link del in0",), "there is no link in0", "broken"),
    "a port": (("link add br9 type bridge", "link set br9 up", "link set in0 master br9"), "a port of br9", "broken"),
    "without an address": (("addr flush dev in0",), "in0 has no IPv4 address", "warning"),
}  # fmt: skip


@pytest.mark.parametrize("what", LINKS)
def test_link(what):
    lines, text, state = LINKS[what]
    with relaying(ANY_SOURCE) as relay, streaming(relay):
        relay.lab.relay.ip(*lines)
        time.sleep(0.5)
        found = doctor(relay)
        assert set(faults(found)) == {"link"}, found
        assert text in faults(found, state)["link"]


def test_a_link_without_carrier():
    with relaying(RULE) as relay:
        relay.lab.switch.ip("link set to-relay down")
        relay.wait_for(lambda: relay.state() == "parked", "parked rule")
        found = doctor(relay)
        assert set(faults(found)) == {"link"}
        assert "no carrier" in faults(found)["link"]


def test_offloads():
    with relaying(RULE) as relay, streaming(relay):
        relay.lab.relay.run("ethtool", "-K", "in0", "gro", "on", "rx-udp-gro-forwarding", "on")
        found = doctor(relay)
        assert set(faults(found)) == {"offloads"}, found
        relay.lab.relay.run("sh", "-c", stage(found, "offloads")["remedy"])
        assert faults(doctor(relay)) == {}


def test_membership():
    with relaying(RULE, sysctls={"ipv4.igmp_max_memberships": 0}) as relay, streaming(relay):
        found = doctor(relay)
        assert set(faults(found)) == {"membership"}, found
        assert "igmp_max_memberships is 0" in faults(found)["membership"]
        assert stage(found, "membership")["remedy"] == "sysctl -w net.ipv4.igmp_max_memberships=20"


def test_report():
    rules = "table inet filter { chain output { type filter hook output priority 0; meta l4proto igmp drop; }; }"
    with relaying(RULE) as relay, streaming(relay):
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        relay.lab.relay.run("nft", rules)
        found = doctor(relay)
        assert set(faults(found)) == {"report"}, found
        assert "a firewall of this host refuses IGMP (EPERM)" in faults(found)["report"]
        relay.lab.relay.run("sh", "-c", stage(found, "report")["remedy"])
        send_query(relay.lab.source, "eth0")
        relay.wait_for(lambda: not any(each["warnings"] for each in relay.show("links")), "an answer")
        assert faults(doctor(relay)) == {}


def test_a_report_that_vanishes_below_the_firewall_gets_no_remedy():
    rules = "table netdev n { chain e { type filter hook egress device in0 priority 0; ip protocol igmp drop; }; }"
    with relaying(RULE) as relay, streaming(relay):
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        relay.lab.relay.run("nft", rules)
        found = doctor(relay)
        assert set(faults(found)) == {"report"}, found
        assert stage(found, "report")["remedy"] is None


CHAIN = "table inet filter {{ chain input {{ type filter hook {} priority 0; {}; }}; }}"
COUNTED = "meta l4proto igmp counter drop"
QUERIES = {
    "a firewall that counts": (CHAIN.format("input", COUNTED), "192.0.2.254", "dropped"),
    "a firewall before the routing": (CHAIN.format("prerouting", COUNTED), "192.0.2.254", "dropped"),
    "a firewall without counters": (
        CHAIN.format("input", "meta l4proto igmp drop"),
        "192.0.2.254",
        "no counter to tell",
    ),
    "reverse-path filter": ("table inet filter", "203.0.113.77", "the count of the reverse-path filter moved"),
}


@pytest.mark.parametrize("what", QUERIES)
def test_query(what):
    rules, querier, text = QUERIES[what]
    with relaying(RULE, querier=False) as relay, streaming(relay):
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        relay.lab.relay.run("nft", rules)

        def asked():
            child = asking(relay.lab.relay, "--socket", relay.socket)
            while child.poll() is None:
                send_query(relay.lab.source, "eth0", source=querier, allowed=10)
                time.sleep(0.3)
            return answer(child)

        found = asked()
        assert set(faults(found)) == {"query"}, found
        assert text in faults(found, "broken")["query"]
        relay.lab.relay.run("sh", "-c", stage(found, "query")["remedy"])
        assert faults(asked()) == {}


def test_a_query_that_the_relay_has_found_unanswered_before():
    rules = CHAIN.format("input", "meta l4proto igmp drop")
    with relaying(RULE, querier=False) as relay, streaming(relay):
        relay.lab.relay.run("nft", rules)
        send_query(relay.lab.source, "eth0")
        warned = lambda: any(each["warnings"] for each in relay.show("links"))  # noqa: E731
        relay.wait_for(warned, "warning")
        found = doctor(relay)
        assert set(faults(found)) == {"query"}, found
        assert "Let IGMP in and out" in stage(found, "query")["remedy"]


def test_an_older_querier_harms_a_join_of_one_source_alone():
    with relaying(RULE, querier=False) as relay, streaming(relay):
        send_query(relay.lab.source, "eth0", 2)
        relay.wait_for(lambda: any(each["warnings"] for each in relay.show("links")), "warning")
        assert set(faults(doctor(relay), "warning")) == {"query"}


def test_bridge():
    rule = RULE.replace("%in0", "%br9")
    with relaying(rule, program=limited(repeats=())) as relay, streaming(relay):  # or the relay mends it by itself
        host = relay.lab.relay
        host.ip(
            "addr flush dev in0",
            "link add br9 type bridge mcast_snooping 1 mcast_querier 1 mcast_igmp_version 3"
            " mcast_query_response_interval 10 mcast_startup_query_interval 10",
            "addr add 192.0.2.1/24 dev br9", "link set in0 master br9", "link set br9 up",
        )  # fmt: skip
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        assert faults(doctor(relay)) == {}
        time.sleep(5)  # the bridge's last start-up query, whose answer would bring the entry back
        host.run("bridge", "mdb", "del", "dev", "br9", "port", "br9", "grp", GROUP)
        found = doctor(relay)
        assert set(faults(found)) == {"bridge"}, found
        host.run("sh", "-c", stage(found, "bridge")["remedy"])
        assert faults(doctor(relay)) == {}


def test_frames():
    with relaying(RULE) as relay:
        found = doctor(relay, "--duration", "3")
        assert set(faults(found)) == {"frames"}, found
        assert faults(found, "broken")["frames"] == "nothing for 226.2.2.2 arrived on in0 in 3 s"


def test_fragments_are_no_fault():
    with relaying(RULE) as relay, streaming(relay, f"{GROUP}:2068%eth0", "--size", 4000):
        found = doctor(relay)
        assert faults(found) == {}, found


def test_sender():
    with relaying(ANY_SOURCE) as relay, streaming(relay, f"{GROUP}:2068%in0", namespace=relay.lab.relay):
        found = doctor(relay)
        assert set(faults(found)) == {"sender"}, found
        assert "this host itself sends to it on its input link" in faults(found, "broken")["sender"]


def test_a_sender_on_this_host_is_no_fault_where_the_rule_takes_what_it_sends():
    config = ANY_SOURCE + "own = true\n"
    with relaying(config) as relay, streaming(relay, f"{GROUP}:2068%in0", namespace=relay.lab.relay):
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        found = doctor(relay)
        assert faults(found) == {}, found
        assert "which own = true takes" in stage(found, "sender")["text"]
        assert "datagrams taken by" in stage(found, "match")["text"]


def test_match_another_port():
    with relaying(RULE) as relay, streaming(relay, f"{GROUP}:2069%eth0"):
        found = doctor(relay)
        assert set(faults(found)) == {"match"}, found
        assert "the rule takes port 2068" in faults(found, "broken")["match"]
        relay.lab.relay.run("sh", "-c", f"PATH=$PATH {stage(found, 'match')['remedy']} --socket {relay.socket}".replace(
            "mcrelay ", f"{' '.join(MCRELAY)} ", 1))  # fmt: skip
        assert faults(doctor(relay)) == {}


def test_match_another_source():
    with relaying(RULE.replace("192.168.168.55", "192.168.168.56"), querier=False) as relay, streaming(relay):
        found = doctor(relay)
        assert set(faults(found)) == {"match"}, found
        assert "takes source 192.168.168.56 alone" in faults(found)["match"]


def test_match_a_vlan():
    with relaying(RULE, querier=False) as relay:
        child = asking(relay.lab.relay, "--socket", relay.socket)
        while child.poll() is None:
            send_frame(relay.lab.switch, "to-relay", tagged(frame(b"x"), 7))
            time.sleep(0.1)
        found = answer(child)
        assert set(faults(found)) == {"match"}, found
        assert "VLAN 7" in faults(found)["match"]
        assert stage(found, "match")["remedy"].endswith(" --vlan 7")


def test_match_a_rule_that_is_disabled():
    with relaying(RULE + "enabled = false\n") as relay, streaming(relay):
        found = doctor(relay)
        assert set(faults(found)) == {"match"}, found
        assert stage(found, "match")["remedy"] == "mcrelay enable x"


def test_match_a_source_that_is_not_let_in():
    with relaying(ANY_SOURCE + 'allow = ["198.51.100.0/24"]\n') as relay, streaming(relay):
        found = doctor(relay)
        assert set(faults(found)) == {"match"}, found
        assert "`allow` keeps out" in faults(found, "broken")["match"]


def test_a_limit():
    with relaying(RULE + 'limit = "100pps"\n'.replace("pps", "")) as relay, streaming(relay):
        assert set(faults(doctor(relay), "warning")) == {"match"}


def test_a_stream_that_no_rule_takes():
    with relaying(RULE) as relay, streaming(relay, "239.7.7.7:5000%eth0"):
        found = doctor(relay, "239.7.7.7:5000%in0")
        assert set(faults(found)) == {"match"}, found
        assert stage(found, "match")["remedy"] == "mcrelay add NAME 239.7.7.7:5000%in0 GROUP:PORT%LINK"
        assert faults(doctor(relay, f"{GROUP}:2068%in0"))  # the rule that takes it, which nobody sends to
        assert doctor(relay, f"{GROUP}:2068%in0", "--duration", "0.5")[0]["rule"] == "x"


def frames_of(namespace, link: str) -> int:
    """What a link has received by now."""
    (found,) = json.loads(namespace.run("ip", "-s", "-j", "link", "show", "dev", link).stdout)
    return found["stats64"]["rx"]["packets"]


def test_ring():
    config = '[links.in0]\nring = "1MiB"\n' + RULE
    with relaying(config) as relay:
        flood = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 50_000, "--size", 1000)
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        sockets = lambda: relay.lab.relay.run("ss", "-0", "-n", "-H").stdout.count("\n")  # noqa: E731
        before = sockets()
        child = asking(relay.lab.relay, "--duration", "3", "--socket", relay.socket)
        wait_for(lambda: sockets() > before, "the look")
        relay.process.send_signal(signal.SIGSTOP)
        came = frames_of(relay.lab.relay, "in0")
        wait_for(lambda: frames_of(relay.lab.relay, "in0") > came + 3_000, "more than the ring holds")
        relay.process.send_signal(signal.SIGCONT)
        found = answer(child)
        flood.send_signal(signal.SIGINT)
        flood.communicate(timeout=10)
        assert set(faults(found)) == {"ring"}, found
        assert stage(found, "ring")["remedy"] == "raise links.in0.ring"


def test_send():
    rules = "table inet f { chain o { type filter hook output priority 0; udp dport 5004 drop; }; }"
    with relaying(RULE) as relay, streaming(relay):
        relay.lab.relay.run("nft", rules)
        found = doctor(relay)
        assert set(faults(found)) == {"send"}, found
        assert "not sent (blocked)" in faults(found, "broken")["send"]


EGRESSES = {
    "down": ("link set out0 down", "out0 is down"),
    "no address": ("addr flush dev out0", "out0 has no IPv4 address"),
    "gone": ("link del out0", "there is no link out0"),
}


@pytest.mark.parametrize("what", EGRESSES)
def test_egress(what):
    line, text = EGRESSES[what]
    with relaying(RULE) as relay, streaming(relay):
        relay.lab.relay.ip(line)
        relay.wait_for(lambda: relay.state() == "parked", "parked rule")
        found = doctor(relay)
        assert set(faults(found)) == {"egress"}, found
        assert text in faults(found, "broken")["egress"]


def test_an_output_without_a_route():
    with relaying(RULE.replace(OUT, "203.0.113.5:7000")) as relay, streaming(relay):
        found = doctor(relay)
        assert set(faults(found)) == {"egress"}, found
        assert "no route to 203.0.113.5" in faults(found)["egress"]


def test_a_route_for_groups_by_a_gateway_is_said_and_harms_nothing():
    with relaying(RULE) as relay, streaming(relay):
        relay.lab.relay.ip("route add 224.0.0.0/4 via 198.51.100.254 dev out0")  # nobody is there
        found = doctor(relay)
        assert faults(found) == {}, found
        assert "to the group itself and not by 198.51.100.254" in stage(found, "egress")["text"]


def test_an_output_by_a_gateway_names_it_and_has_the_faults_of_its_link():
    with relaying(RULE.replace(OUT, "10.9.0.7:7000"), sinks=2) as relay, streaming(relay):
        host = relay.lab.relay
        host.ip("route add 10.9.0.0/24 via 198.18.1.2")
        relay.lab.sinks[1].ip("addr add 10.9.0.7/32 dev lo")
        sink = receiver(relay.lab.sinks[1], "10.9.0.7:7000")
        relay.wait_for(lambda: relay.state() == "active", "a route")
        found = doctor(relay)
        assert faults(found) == {}, found
        assert "leaves by out1 by the gateway 198.18.1.2, MTU 1500" in stage(found, "egress")["text"]
        relay.lab.sinks[1].ip("link set eth0 down")
        wait_for(lambda: not carries(host, "out1"), "a link without carrier")
        found = doctor(relay)
        sink.kill()
        assert set(faults(found)) == {"egress"}, found
        assert "out1 has no carrier" in faults(found, "broken")["egress"]


def test_an_output_link_without_carrier():
    with relaying(RULE) as relay, streaming(relay):
        relay.lab.sink.ip("link set eth0 down")
        relay.wait_for(lambda: relay.state() == "parked", "parked rule")
        found = doctor(relay)
        assert set(faults(found)) == {"egress"}, found
        assert "out0 has no carrier" in faults(found, "broken")["egress"]


def test_a_queue_that_is_full():
    with relaying(RULE) as relay, streaming(relay):
        relay.lab.relay.run("tc", "qdisc", "replace", "dev", "out0", "root", "tbf", "rate", "100kbit", "burst", "2kb",
                            "limit", "4kb")  # fmt: skip
        found = doctor(relay)
        assert set(faults(found)) == {"send"}, found
        assert "not sent (nobufs)" in faults(found, "broken")["send"]


def test_echo_what_was_sent_comes_back():
    config = '[rules.x]\ninput = "239.1.1.1:5000%l0"\noutputs = ["239.1.1.1:5000%l1"]\n'
    with mirrored(config) as relay, streaming(relay, "239.1.1.1:5000%eth0", namespace=relay.lab.host):
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        found = doctor(relay)
        assert set(faults(found)) == {"echo"}, found
        assert "withheld" in faults(found, "broken")["echo"]


def test_an_output_link_whose_mtu_is_too_small():
    with relaying(RULE) as relay, streaming(relay, f"{GROUP}:2068%eth0", "--size", 1400):
        relay.lab.relay.ip("link set out0 mtu 1000")
        found = doctor(relay)
        assert set(faults(found, "warning")) == {"egress"}, found
        assert stage(found, "egress")["remedy"] == "ip link set out0 mtu 1428"


def test_echo_a_second_sender_to_the_output():
    with relaying(RULE) as relay, streaming(relay), streaming(relay, "239.10.0.1:5004%eth0", namespace=relay.lab.sink):
        found = doctor(relay)
        assert set(faults(found)) == {"echo"}, found
        assert "198.51.100.2 sends to 239.10.0.1:5004 on out0 too" in faults(found, "warning")["echo"]


def test_what_is_asked_wrongly_is_said():
    with relaying(RULE) as relay:
        for asked, text in (("nothing", "there is no rule 'nothing'"), ("239.9.9.9:1", "say on which link")):
            done = relay.lab.relay.run(*MCRELAY, "doctor", asked, "--socket", relay.socket, check=False)
            assert done.returncode == 2
            assert text in done.stderr
        assert send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 1)["sent"] == 1
