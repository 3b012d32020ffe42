"""Commands about a relay of IPv6: what show, doctor and explain say of it, and of a link that is not fit for it."""

from __future__ import annotations

import json

import pytest
from support.mldwire import send_query
from support.relay import relaying
from support.traffic import MCRELAY, sender

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
        (group,) = ask(relay, "show", "groups")[0]
        assert (group["group"], group["source"], group["state"]) == ("ff35::1234", SOURCE_ADDRESS6, "joined")
        relay.lab.relay.run("ip", "-6", "addr", "flush", "dev", "in0", "scope", "link")
        relay.wait_for(lambda: relay.show("groups")[0]["warnings"], "warning")
        assert "no-address: in0 has no link-local IPv6 address" in ask(relay, "show", "links")[1]


def test_explain_puts_a_packet_of_ipv6_through_the_table():
    with relaying(RULES, ipv6=True) as relay:
        found, shown = ask(relay, "explain", f"{STREAM}%in0")
        assert (found["verdict"], found["rule"], found["source"]) == ("relayed", "x", SOURCE_ADDRESS6)
        assert [each["destination"] for each in found["outputs"]] == ["[ff15::99]:5004", "239.10.0.1:5004"]
        assert f"[{SOURCE_ADDRESS6}]:40000 to {STREAM} on in0, untagged" in shown
        found, shown = ask(relay, "explain", f"[2001:db8::9]@{STREAM}%in0")
        assert found["verdict"] == "no_match"
        assert f"rule x takes source {SOURCE_ADDRESS6} alone" in shown
