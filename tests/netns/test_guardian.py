"""Memberships behind a switch that prunes: reported again when the link returns, and no trouble of IGMP unnoticed."""

from __future__ import annotations

import json
import re
import sys
import time
from ipaddress import IPv4Address

import pytest
from support import limited as limited_program
from support.igmpwire import Listener, answers, joined, send_query
from support.relay import GROUP, INPUT, SOURCE, relaying
from support.traffic import MCRELAY, assert_exact, receiver, report, send, sender

from mcrelay.commands.lab import forwarding
from mcrelay.igmp import advice, messages
from mcrelay.igmp.protocol import IGMP

pytestmark = pytest.mark.net

CONFIG = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'
ANY_SOURCE = f'[rules.x]\ninput = "{GROUP}:2068%in0"\noutputs = ["239.10.0.1:5004%out0"]\n'


def limited(**limits):
    """`mcrelay` with other limits: no flag exists for them, because nobody should need one."""
    return [sys.executable, limited_program.__file__, json.dumps(limits)]


def listed(relay) -> bool:
    """Whether the switch knows of the group behind the relay's port."""
    return any(GROUP in each for each in relay.lab.mdb().get("to-relay", ()))


def prune(relay, version: int = 3) -> None:
    """One query by hand from another port: the switch prunes for 255 s from then on, and asks nobody again."""
    send_query(relay.lab.source, "eth0", version)
    relay.wait_for(lambda: listed(relay), "entry in the switch")
    time.sleep(1.2)  # the query's response time, in which it floods, and the kernel's second report of the join


def stream(relay):
    """A slow stream that goes on for as long as the test."""
    return sender(relay.lab.source, f"{GROUP}:2068%eth0", "--rate", 200, "--size", 100)


def passed(relay) -> int:
    return relay.rule()["rx_packets"]


def lose_and_regain_carrier(relay) -> None:
    switch = relay.lab.switch
    switch.ip("link set to-relay down")
    relay.wait_for(lambda: relay.state() == "parked", "parked rule")
    assert not listed(relay)
    switch.ip("link set to-relay up")


@pytest.mark.parametrize("what", ["SSM", "ASM", "SSM under a version 2 querier"])
def test_a_stream_resumes_after_a_loss_of_carrier_while_the_querier_is_silent(what):
    version = 2 if "2" in what else 3
    with relaying(ANY_SOURCE if what == "ASM" else CONFIG, querier=False) as relay:
        other = receiver(relay.lab.relay, f"{GROUP}:2068%in0")  # the kernel then says nothing at a leave and join
        prune(relay, version)
        stream(relay)
        relay.wait_for(lambda: passed(relay) > 20, "stream")
        with Listener(relay.lab.switch, "to-relay") as wire:
            lose_and_regain_carrier(relay)
            relay.wait_for(lambda: listed(relay), "entry in the switch", 5)
            before = passed(relay)
            relay.wait_for(lambda: passed(relay) > before + 20, "resumed stream", 2)
            found = answers(wire.messages(), GROUP)
        assert {each.version for each in found} == {version}
        assert {str(each.host) for each in found} == {"192.0.2.1"}
        kinds = {
            (record.kind, record.sources) for each in found for record in each.records if str(record.group) == GROUP
        }
        source = tuple(map(IPv4Address, [SOURCE])) if what == "SSM" else ()
        assert kinds == {(messages.IS_INCLUDE if source else messages.IS_EXCLUDE, source)}
        assert other.poll() is None


def test_without_our_reports_it_would_not_resume():
    """The control: same events, and a guardian that never reports. The kernel says nothing of its own accord."""
    with relaying(CONFIG, querier=False, program=limited(repeats=())) as relay:
        prune(relay)
        stream(relay)
        relay.wait_for(lambda: passed(relay) > 20, "stream")
        with Listener(relay.lab.switch, "to-relay") as wire:
            lose_and_regain_carrier(relay)
            relay.wait_for(lambda: forwarding(relay.lab.switch) and relay.state() == "active", "link")
            time.sleep(0.2)
            before = passed(relay)
            time.sleep(3)
            assert wire.messages() == []
        assert not listed(relay)
        assert passed(relay) == before
        assert GROUP in joined(relay.lab.relay, "in0")


def test_a_port_under_spanning_tree_loses_the_first_reports_and_takes_a_later_one():
    with relaying(CONFIG, querier=False) as relay:
        switch = relay.lab.switch
        switch.ip("link set br0 type bridge stp_state 1 forward_delay 200")
        relay.wait_for(lambda: forwarding(switch), "forwarding ports")
        prune(relay)
        stream(relay)
        relay.wait_for(lambda: passed(relay) > 20, "stream")
        with Listener(switch, "to-relay") as wire:
            lose_and_regain_carrier(relay)
            relay.wait_for(lambda: answers(wire.messages(), GROUP), "report on the wire", 2)
            time.sleep(0.3)
            assert not listed(relay)  # it was sent, and the port took nothing
            took = relay.wait_for(lambda: listed(relay), "entry in the switch", 12)
            assert len(answers(wire.messages(), GROUP)) >= 2
        assert took > 1
        before = passed(relay)
        relay.wait_for(lambda: passed(relay) > before + 20, "resumed stream", 5)


def test_the_first_address_of_a_link_is_reported_at_once():
    with relaying(CONFIG, querier=False, program=limited(repeats=())) as relay:
        time.sleep(1.2)  # the kernel's second report of the join, up to a second after the first (RFC 3376, 8.11)
        relay.lab.relay.ip("addr flush dev in0")
        relay.wait_for(lambda: "addresses=none" in relay.log.read_text(), "word of the loss")
        with Listener(relay.lab.switch, "to-relay") as wire:
            relay.lab.relay.ip("addr add 192.0.2.9/24 dev in0")
            relay.wait_for(lambda: answers(wire.messages(), GROUP), "report", 1)
            assert [str(each.host) for each in wire.messages()] == ["192.0.2.9"]


def warnings(relay, kind: str):
    """What `show links` says of in0; `show groups` must say the same, unless it changed between the two."""
    while True:
        before, groups, texts = link_warnings(relay, kind), relay.show("groups"), link_warnings(relay, kind)
        if before == texts:
            assert [e["text"] for group in groups for e in group["warnings"] if e["kind"] == kind] == texts
            return texts


def link_warnings(relay, kind: str):
    (link,) = [each for each in relay.show("links") if each["ifname"] == "in0"]
    return [each["text"] for each in link["warnings"] if each["kind"] == kind]


def said(relay, kind: str) -> list[str]:
    return [line for line in relay.log.read_text().splitlines() if f"warning={kind}" in line]


def remedies(text: str, start: str) -> str:
    """The command that a warning gives: someone will paste it."""
    (command,) = re.findall(rf"({start} .*?)(?:; or |$)", text)
    return command


def over(relay, kind: str) -> None:
    relay.wait_for(lambda: warnings(relay, kind) == [], f"end of {kind}", 3)
    assert said(relay, kind)[-1].endswith(f"ended link=in0 warning={kind}")


def test_an_older_querier_and_an_ssm_join():
    with relaying(CONFIG, querier=False) as relay:
        send_query(relay.lab.source, "eth0", 3)
        relay.wait_for(lambda: "version=3" in relay.log.read_text(), "querier")
        assert warnings(relay, "older-querier") == []
        for _ in range(3):
            send_query(relay.lab.source, "eth0", 2)
        relay.wait_for(lambda: warnings(relay, "older-querier"), "warning", 3)
        assert relay.show("groups")[0]["version"] == 2
        time.sleep(1.2)
        assert len(said(relay, "older-querier")) == 1
        for noun in ("links", "groups"):
            shown = relay.lab.relay.run(*MCRELAY, "show", noun, "--socket", relay.socket).stdout
            assert "in0: older-querier: 192.0.2.254 queries in IGMP version 2" in shown
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 100)
        send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 100)  # and the stream goes on
        assert_exact(report(sink), 100)


def test_older_queries_can_be_kept_from_the_kernel_as_the_warning_says():
    query = messages.Query(IPv4Address("192.0.2.254"), 2, None)
    text = advice.older_querier(IGMP, "in0", query, [IPv4Address(GROUP)], 2)
    with relaying(CONFIG, querier=False) as relay:
        relay.lab.relay.run("sh", "-c", remedies(text, "nft"))
        with Listener(relay.lab.switch, "to-relay") as wire:
            for version in (2, 1, 3, 2):
                send_query(relay.lab.source, "eth0", version)
            relay.wait_for(lambda: answers(wire.messages(), GROUP), "answer", 3)
            assert {each.version for each in answers(wire.messages(), GROUP)} == {3}
        time.sleep(2)
        (link,) = [each for each in relay.show("links") if each["ifname"] == "in0"]
        assert link["warnings"] == []
        assert relay.show("groups")[0]["version"] == 3


def test_a_querier_that_falls_silent():
    with relaying(CONFIG, querier=False, program=limited(silence=2)) as relay:
        assert warnings(relay, "silent-querier") == []
        send_query(relay.lab.source, "eth0")
        took = relay.wait_for(lambda: warnings(relay, "silent-querier"), "warning", 4)
        assert 1.5 < took < 3.5
        assert "no IGMP query for 2 s; the last came from 192.0.2.254" in warnings(relay, "silent-querier")[0]
        assert len(said(relay, "silent-querier")) == 1
        send_query(relay.lab.source, "eth0")
        over(relay, "silent-querier")


def test_a_firewall_that_drops_igmp():
    rules = "table inet filter { chain input { type filter hook input priority 0; meta l4proto igmp drop; }; }"
    with relaying(CONFIG, querier=False) as relay:
        relay.lab.relay.run("nft", rules)
        send_query(relay.lab.source, "eth0")
        relay.wait_for(lambda: warnings(relay, "unanswered-query"), "warning", 4)
        (text,) = warnings(relay, "unanswered-query")
        assert "firewall" in text
        assert len(said(relay, "unanswered-query")) == 1
        relay.lab.relay.run("sh", "-c", remedies(text, "nft insert"))
        send_query(relay.lab.source, "eth0")
        over(relay, "unanswered-query")


def test_a_reverse_path_filter_that_drops_queries():
    """The lab's rp_filter is 1. 0.0.0.0, as a switch without an address asks, passes it."""
    with relaying(CONFIG, querier=False, program=limited(margin=0.3)) as relay:
        send_query(relay.lab.source, "eth0", source="0.0.0.0")
        time.sleep(2)  # 0.5 that the query allows, the margin, a second until the cause is looked for
        assert warnings(relay, "unanswered-query") == []
        send_query(relay.lab.source, "eth0", source="203.0.113.77")
        relay.wait_for(lambda: warnings(relay, "unanswered-query"), "warning", 3)
        (text,) = warnings(relay, "unanswered-query")
        assert "rp_filter 1, and no route to 203.0.113.77 by in0" in text
        relay.lab.relay.run("sh", "-c", remedies(text, "ip route add"))
        send_query(relay.lab.source, "eth0", source="203.0.113.77")
        over(relay, "unanswered-query")


def test_a_firewall_that_drops_what_the_reverse_path_filter_would_drop_too():
    """Its count stands still, so that the route would not help."""
    rules = "table inet f { chain p { type filter hook prerouting priority -300; meta l4proto igmp drop; }; }"
    with relaying(CONFIG, querier=False, program=limited(margin=0.3)) as relay:
        relay.lab.relay.run("nft", rules)
        time.sleep(2.5)  # until the count has been read
        send_query(relay.lab.source, "eth0", source="203.0.113.77")
        relay.wait_for(lambda: warnings(relay, "unanswered-query"), "warning", 3)
        (text,) = warnings(relay, "unanswered-query")
        assert "A firewall of this host drops them" in text
        assert "ip route" not in text


def test_a_firewall_that_keeps_reports_back():
    rules = "table inet filter { chain output { type filter hook output priority 0; meta l4proto igmp drop; }; }"
    with relaying(CONFIG, querier=False) as relay:
        relay.lab.relay.run("nft", rules)
        send_query(relay.lab.source, "eth0")
        relay.wait_for(lambda: warnings(relay, "unanswered-query"), "warning", 4)
        (text,) = warnings(relay, "unanswered-query")
        assert "A firewall of this host refuses to let IGMP out" in text
        relay.lab.relay.run("sh", "-c", remedies(text, "nft insert"))
        send_query(relay.lab.source, "eth0")
        over(relay, "unanswered-query")


def test_reports_that_vanish_below_the_firewall_are_given_no_remedy():
    rules = "table netdev n { chain e { type filter hook egress device in0 priority 0; ip protocol igmp drop; }; }"
    with relaying(CONFIG, querier=False) as relay:
        relay.lab.relay.run("nft", rules)
        send_query(relay.lab.source, "eth0")
        relay.wait_for(lambda: warnings(relay, "unanswered-query"), "warning", 4)
        (text,) = warnings(relay, "unanswered-query")
        assert "nothing was seen that keeps its reports back" in text
        assert "nft insert" not in text


def test_an_input_link_that_becomes_a_port_at_run_time():
    text = "in0 is a port of br9: take the input from br9"
    with relaying(CONFIG, querier=False) as relay:
        host = relay.lab.relay
        host.ip("link add br9 type bridge", "link set br9 up", "link set in0 master br9")
        relay.wait_for(lambda: relay.show("rules")[0]["reason"] == text, "reason")
        send_query(relay.lab.source, "eth0")
        assert relay.state() == "active"
        relay.wait_for(lambda: warnings(relay, "port"), "warning")
        assert text in warnings(relay, "port")[0]
        shown = host.run(*MCRELAY, "show", "--socket", relay.socket).stdout
        assert f"x: active: {text}" in shown
        assert f"changed rule=x state=active reason='{text}'" in relay.log.read_text()
        checked = host.run(*MCRELAY, "check", "-c", str(relay.config), check=False)
        assert checked.returncode == 2
        assert "input: in0 is a port of br9, where this host" in checked.stderr
        time.sleep(3)
        assert warnings(relay, "unanswered-query") == []  # a port has no say in it
        host.ip("link set in0 nomaster")
        relay.wait_for(lambda: not relay.show("rules")[0]["reason"], "end of it")
        over(relay, "port")


def test_an_older_querier_that_asked_before_the_start():
    with relaying(CONFIG, querier=False) as relay:
        relay.stop()
        send_query(relay.lab.source, "eth0", 2)
        relay.start()
        relay.wait_for(lambda: warnings(relay, "older-querier"), "warning", 3)
        text = "a querier on in0 asked in IGMP version 2 before the relay listened"
        assert warnings(relay, "older-querier")[0].startswith(text)
        assert len(said(relay, "older-querier")) == 1


@pytest.mark.parametrize("where", ["all", "in0"])
def test_a_host_that_is_told_to_speak_an_older_version(where):
    with relaying(CONFIG, querier=False, sysctls={f"ipv4.conf.{where}.force_igmp_version": 2}) as relay:
        relay.wait_for(lambda: warnings(relay, "forced-version"), "warning", 3)
        (text,) = warnings(relay, "forced-version")
        relay.lab.relay.run("sh", "-c", remedies(text, "sysctl -w"))
        over(relay, "forced-version")


PROGRAMS = {
    "no /proc": ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh", *MCRELAY],
    "CAP_NET_RAW alone": ["setpriv", "--bounding-set", "-all,+net_raw", *MCRELAY],
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_it_does_its_work_with_little(what):
    with relaying(CONFIG, querier=False, program=PROGRAMS[what]) as relay:
        prune(relay)
        with Listener(relay.lab.switch, "to-relay") as wire:
            lose_and_regain_carrier(relay)
            relay.wait_for(lambda: listed(relay), "entry in the switch", 5)
            assert answers(wire.messages(), GROUP)
        send_query(relay.lab.source, "eth0", source="203.0.113.77")
        relay.wait_for(lambda: warnings(relay, "unanswered-query"), "warning", 4)
        if what != "no /proc":  # rp_filter cannot be read there
            assert "rp_filter" in warnings(relay, "unanswered-query")[0]


def test_queries_of_a_vlan_on_the_link_concern_the_link_of_that_vlan():
    """A packet socket sees them without their tag (docs/linux.md, L6)."""
    with relaying(CONFIG, querier=False) as relay:
        from support.frames import tagged
        from support.igmpwire import query_frame, send_frame

        for tci in (100, 7):
            send_frame(relay.lab.source, "eth0", tagged(query_frame(2, "203.0.113.9"), tci))
        send_query(relay.lab.source, "eth0", 3)
        relay.wait_for(lambda: "querier=" in relay.log.read_text(), "querier")
        time.sleep(1)
        assert "203.0.113.9" not in relay.log.read_text()
