"""`mcrelay explain`: what it says of a packet is what becomes of the packet."""

from __future__ import annotations

import json

import pytest
from support.relay import GROUP, INPUT, SOURCE, relaying
from support.traffic import MCRELAY, send

pytestmark = pytest.mark.net

RULES = f"""
[rules.x]
input = "{INPUT}"
outputs = ["239.10.0.1:5004%out0", {{ to = "198.51.100.2:7000", ttl = 9 }}]
[rules.few]
input = "239.5.5.5:5000%in0"
outputs = ["239.10.0.2:5004%out0"]
allow = ["192.0.2.0/24"]
[rules.off]
input = "239.6.6.6:5000%in0"
outputs = ["239.10.0.3:5004%out0"]
enabled = false
"""


def explain(relay, *arguments: str):
    """What it says, and with which exit code."""
    command = [*MCRELAY, "explain", *arguments, "--socket", relay.socket]
    done = relay.lab.relay.run(*command, "-j", check=False)
    assert done.stderr == "", done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == (found["verdict"] != "relayed")
    return found, relay.lab.relay.run(*command, check=False).stdout


def test_what_is_relayed_is_named_with_its_rule_and_outputs_and_nothing_is_counted():
    with relaying(RULES) as relay:
        found, shown = explain(relay, f"{GROUP}:2068%in0")
        assert (found["verdict"], found["rule"], found["input"], found["engine"]) == ("relayed", "x", INPUT, "ring")
        assert [each["to"] for each in found["outputs"]] == ["239.10.0.1:5004%out0", "198.51.100.2:7000"]
        assert f"192.168.168.55:40000 to {GROUP}:2068 on in0, untagged\n  relayed: an input takes it\n" in shown
        assert "  to 198.51.100.2:7000 from 198.51.100.1:" in shown
        assert " ttl 9" in shown
        assert relay.link()["rx_frames"] == 0
        assert relay.rule()["rx_packets"] == 0
        assert send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 3)["sent"] == 3
        assert relay.at_rest()["rules"][0]["rx_packets"] == 3


def test_of_a_rule_with_health_it_says_what_was_found_in_the_stream():
    """RTP of 200 numbers, 18 of which never come."""
    numbers = (0, 1, *range(20, 220))
    rule = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\nhealth = "rtp"\n'
    with relaying(rule) as relay:
        found, shown = explain(relay, f"{GROUP}:2068%in0")
        assert found["health"]["rtp"]["packets"] == 0
        with relay.lab.source.socket() as out:
            out.bind((SOURCE, 0))
            for number in numbers:
                out.sendto(b"\x80\x21" + number.to_bytes(2, "big") + bytes(28), (GROUP, 2068))
        relay.at_rest()
        found, shown = explain(relay, f"{GROUP}:2068%in0")
        assert (found["health"]["rtp"]["packets"], found["health"]["rtp"]["lost"]) == (len(numbers), 18)
        assert "  health of that input's stream so far: rtp lost 18, duplicated 0, reordered 0, jitter" in shown
        found, shown = explain(relay, f"{GROUP}:2069%in0")
        assert found["health"] is None
        assert "health" not in shown


MISSES = {
    "another port": ([f"{GROUP}:2069%in0"], "no_match", "rule x takes port 2068"),
    "another source": ([f"192.0.2.9@{GROUP}:2068%in0"], "no_match", "rule x takes source 192.168.168.55 alone"),
    "a VLAN": ([f"{GROUP}:2068%in0", "--vlan", "7"], "vlan", "rule x takes untagged frames"),
    "another group": (["239.5.5.6:5000%in0"], "no_match", "rule few takes group 239.5.5.5"),
    "a source not let in": (["198.51.100.9@239.5.5.5:5000%in0"], "dropped", "its source is not in `allow`"),
    "a rule that is disabled": (["239.6.6.6:5000%in0"], "no_match", "rule off is disabled"),
    "another link": ([f"{GROUP}:2068%out0"], None, "rule x takes it from in0"),
}


@pytest.mark.parametrize("what", MISSES)
def test_what_is_not_relayed_is_explained(what):
    arguments, verdict, text = MISSES[what]
    with relaying(RULES) as relay:
        found, shown = explain(relay, *arguments)
        assert found["verdict"] == verdict
        assert text in shown


def test_a_priority_tag_is_no_vlan():
    with relaying(RULES) as relay:
        assert explain(relay, f"{GROUP}:2068%in0", "--vlan", "0")[0]["verdict"] == "relayed"


def test_what_an_output_sends_is_an_echo():
    loop = '[rules.x]\ninput = "239.10.0.1:5004%in0"\noutputs = ["239.10.0.1:5004%out0"]\nreflect = true\n'
    with relaying(loop) as relay:
        (rule,) = relay.show("rules")
        port = rule["outputs"][0]["source_port"]
        found, shown = explain(relay, "198.51.100.1@239.10.0.1:5004%in0", "--source-port", str(port))
        assert (found["verdict"], found["reason"]) == ("dropped", "echo")
        assert "an output of this relay sends just this" in shown


def test_what_is_asked_wrongly_is_said():
    with relaying(RULES) as relay:
        for asked in (GROUP, f"{GROUP}:2068", "239.1.0.0/24:5000%in0"):
            done = relay.lab.relay.run(*MCRELAY, "explain", asked, "--socket", relay.socket, check=False)
            assert done.returncode == 2
            assert "write GROUP:PORT%LINK" in done.stderr
