"""What is said of what arrives while a rule gets nothing."""

from __future__ import annotations

from collections import Counter

from mcrelay.commands.sightings import Sighting, describe
from mcrelay.config.parse import parse_rule

WANTED = "192.0.2.7@239.1.1.1:5000%eth1"


def said(*seen, wanted=WANTED):
    rule = parse_rule("x", {"input": wanted, "outputs": ["239.2.2.2:5000%eth0"]}, {})
    return describe(Counter(dict(seen)), rule.inputs[0], "eth1", 2.0)


def sighting(group="239.1.1.1", port=5000, source="192.0.2.7", vlan=0, fragment=False):
    return Sighting(group, port, source, vlan, fragment)


def test_each_difference_is_named():
    assert said((sighting(port=5002), 2000)) == [
        "239.1.1.1 arrives on eth1 from 192.0.2.7 to port 5002, 1000/s; this rule wants port 5000"
    ]
    assert said((sighting(source="192.0.2.8"), 2))[0].endswith("1/s; this rule wants source 192.0.2.7")
    assert "in VLAN 7 from" in said((sighting(vlan=7), 2))[0]
    assert "this rule wants it untagged: take the input from a link of that VLAN" in said((sighting(vlan=7), 2))[0]
    assert "fragments" in said((sighting(fragment=True), 2))[0]
    assert said((sighting(port=5002, source="192.0.2.8"), 2))[0].endswith("wants source 192.0.2.7 and port 5000")


def test_the_rules_own_group_goes_before_others_and_the_busiest_first():
    other = sighting(group="239.9.9.9", port=1)
    assert len(said((other, 10**6), (sighting(port=1), 1), (sighting(port=2), 5))) == 2
    assert "port 2" in said((other, 10**6), (sighting(port=1), 1), (sighting(port=2), 5))[0]
    assert said((other, 1000)) == ["another group: 239.9.9.9 arrives on eth1 to port 1, 500/s"]
    assert said() == []
