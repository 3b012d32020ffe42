"""Commands about a relay of IPv6: what show, doctor and explain say of it, and of a link that is not fit for it."""

from __future__ import annotations

import json

import pytest
from support.mldwire import send_query
from support.relay import assert_adds_up, relaying
from support.traffic import MCRELAY, assert_exact, receiver, report, send, sender

from mcrelay.commands.lab import SOURCE_ADDRESS6

pytestmark = pytest.mark.net

STREAM = "[ff35::1234]:5000"
RULES = f"""
[rules.x]
input = "[{SOURCE_ADDRESS6}]@{STREAM}%in0"
outputs = ["[ff15::99]:5004%out0", "239.10.0.1:5004%out0"]
"""


def ask(relay, *command: str):
    """What a command prints with -j, and as text."""
    words = [*MCRELAY, *command, "--socket", relay.socket]
    found = relay.lab.relay.run(*words, "-j", check=False)
    assert found.stdout, found.stderr
    return json.loads(found.stdout), relay.lab.relay.run(*words, check=False).stdout


def stages(relay, what: str) -> dict[str, tuple[str, str, str | None]]:
    (found,) = ask(relay, "doctor", what, "--duration", "2")[0]
    return {each["stage"]: (each["state"], each["text"], each["remedy"]) for each in found["stages"]}


def test_doctor_walks_along_a_stream_of_ipv6():
    with relaying(RULES, ipv6=True) as relay:
        sender(relay.lab.source, f"{STREAM}%eth0", "--rate", 200)
        relay.wait_for(lambda: relay.rule()["rx_packets"] > 20, "stream")
        found = stages(relay, "x")
        assert {stage for stage, (state, *_) in found.items() if state in {"broken", "warning"}} == set(), found
        assert found["report"][1] == "an MLDv2 report of this host left in0"
        assert f"from {SOURCE_ADDRESS6} to {STREAM}, untagged" in found["frames"][1]
        relay.lab.relay.sysctl({"ipv6.conf.in0.disable_ipv6": 1})
        state, text, remedy = stages(relay, "x")["link"]
        assert (state, remedy) == ("broken", "sysctl -w net/ipv6/conf/in0/disable_ipv6=0")
        assert text.startswith("IPv6 is switched off on in0")


def test_show_names_the_querier_of_mld_and_the_version_of_a_group():
    with relaying(RULES, ipv6=True, querier=False) as relay:
        send_query(relay.lab.source, "eth0")
        relay.wait_for(lambda: relay.show("groups")[0]["version"] == 2, "version")
        links, shown = ask(relay, "show", "links")
        (link,) = [each for each in links if each["ifname"] == "in0"]
        assert (link["querier"], link["mld_querier"]["address"]) == (None, "fe80::ff")
        assert "fe80::ff v2" in shown
        (group,), shown = ask(relay, "show", "groups")
        assert shown.split()[:5] == ["LINK", "GROUP", "SOURCE", "STATE", "MLD"]
        assert (group["group"], group["source"], group["state"]) == ("ff35::1234", SOURCE_ADDRESS6, "joined")
        relay.lab.relay.run("ip", "-6", "addr", "flush", "dev", "in0", "scope", "link")
        relay.wait_for(lambda: relay.show("groups")[0]["warnings"], "warning")
        assert "no-address: in0 has no link-local IPv6 address" in ask(relay, "show", "links")[1]


def test_a_relay_that_starts_while_ipv6_is_switched_off_says_so_and_relays_once_it_is_on():
    config = '[rules.six]\ninput = "[ff15::1]:5000%in0"\noutputs = ["[ff15::2]:5004%out0"]\n'
    config += '[rules.four]\ninput = "239.1.1.1:5000%in0"\noutputs = ["239.10.0.1:5004%out0"]\n'
    off = {f"ipv6.conf.{link}.disable_ipv6": 1 for link in ("in0", "out0")}
    with relaying(config, ipv6=True, sysctls=off) as relay:
        assert relay.state("four") == "active"
        assert relay.state("six") != "active"
        links, shown = ask(relay, "show", "links")
        assert {each["ifname"] for each in links for warning in each["warnings"] if warning["kind"] == "ipv6-disabled"}
        assert "sysctl -w net/ipv6/conf/in0/disable_ipv6=0" in " ".join(shown.split())
        sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 500)
        send(relay.lab.source, "239.1.1.1:5000%eth0", "--rate", 2_000, "--count", 500)
        assert_exact(report(sink), 500)
        relay.lab.relay.sysctl(dict.fromkeys(off, 0))
        relay.lab.relay.ip("addr add 2001:db8:1::1/64 dev in0 nodad", "addr add 2001:db8:100::1/64 dev out0 nodad")
        relay.wait_for(lambda: relay.state("six") == "active", "the rule of IPv6")
        relay.heard_by_switch()
        sink = receiver(relay.lab.sink, "[ff15::2]:5004%eth0", "--count", 500)
        send(relay.lab.source, "[ff15::1]:5000%eth0", "--rate", 2_000, "--count", 500)
        assert_exact(report(sink), 500)
        assert_adds_up(relay.at_rest())


def test_explain_puts_a_packet_of_ipv6_through_the_table():
    with relaying(RULES, ipv6=True) as relay:
        found, shown = ask(relay, "explain", f"{STREAM}%in0")
        assert (found["verdict"], found["rule"], found["source"]) == ("relayed", "x", SOURCE_ADDRESS6)
        assert [each["destination"] for each in found["outputs"]] == ["[ff15::99]:5004", "239.10.0.1:5004"]
        assert f"[{SOURCE_ADDRESS6}]:40000 to {STREAM} on in0, untagged" in shown
        found, shown = ask(relay, "explain", f"[2001:db8::9]@{STREAM}%in0")
        assert found["verdict"] == "no_match"
        assert f"rule x takes source {SOURCE_ADDRESS6} alone" in shown
