"""Which datagrams are to be dropped, and the ruleset that says so."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from mcrelay.config.parse import parse_config
from mcrelay.exclusive.droptable import DropMatch, can_be_named, table_name, transaction, wanted
from mcrelay.model.link import Link
from mcrelay.relay.compile import compile_plan

GROUP, OTHER = IPv4Address("239.1.1.1"), IPv4Address("239.1.1.2")
SOURCE = IPv4Address("192.0.2.9")
LINKS = {
    name: Link(name, index, up=True, carrier=name != "down0", operstate="UP", mtu=1500)
    for index, name in enumerate(("in0", "in1", "down0"), start=7)
}


def drops(text: str, broken=()) -> dict[str, frozenset[DropMatch]]:
    return wanted(compile_plan(parse_config([("f.toml", text)]).config, LINKS), broken)


def rule(name: str, taken: str, more: str = "exclusive = true") -> str:
    return f'[rules.{name}]\ninput = "{taken}"\noutputs = ["10.9.0.7:7000"]\nshared = true\n{more}\n'


def test_what_exclusive_rules_take_is_wanted():
    text = (
        rule("a", "239.1.1.1:5000%in0") + rule("b", "192.0.2.9@239.1.1.2:5000%in1") + rule("c", "239.9.9.9:1%in0", "")
    )
    assert drops(text) == {
        "a": {DropMatch(7, "in0", GROUP, 5000)},
        "b": {DropMatch(8, "in1", OTHER, 5000, SOURCE)},
    }
    assert drops(text, {7: "no memory"})["a"] == frozenset()


def test_a_range_and_several_ports_drop_what_no_more_exact_rule_takes():
    """A datagram of b or c is not a's, though it is of a's groups and ports: nobody drops it."""
    wide = '[rules.a]\ninput = "239.1.1.0/30:5000,5002%in0"\noutputs = ["10.9.0.0/30%out0"]\nexclusive = true\n'
    text = wide.replace("10.9.0.0", "239.9.0.0") + rule("b", "239.1.1.1:5002%in0", "")
    text += '[rules.c]\ninput = "239.1.1.2/31:5000%in0"\noutputs = ["239.9.1.0/31%out0"]\n'
    found = {(str(each.group), each.port) for each in drops(text)["a"]}
    assert found == {
        ("239.1.1.0", 5000), ("239.1.1.0", 5002), ("239.1.1.1", 5000), ("239.1.1.2", 5002), ("239.1.1.3", 5002),
    }  # fmt: skip
    assert all(each.link == "in0" for each in drops(text)["a"])


@pytest.mark.parametrize(
    ("taken", "more", "count"),
    [
        ("239.1.1.1:5000%gone0", "exclusive = true", 0),
        ("239.1.1.1:5000%in0", "exclusive = true\nenabled = false", 0),
        ("239.1.1.1:5000%down0", "exclusive = true", 1),  # parked: the relay takes it as soon as it comes
        ("239.1.1.1:5000%in0", 'exclusive = true\nallow = ["192.0.2.0/24"]\nlimit = "5pps"', 1),
    ],
)
def test_a_rule_that_takes_nothing_drops_nothing(taken, more, count):
    assert len(drops(rule("a", taken, more))["a"]) == count


def test_the_ruleset_is_one_line_that_replaces_the_whole_table():
    found = transaction(
        "mcrelay",
        [
            DropMatch(8, "in1", OTHER, 6000, SOURCE),
            DropMatch(7, "eth0.5", OTHER, 9),
            DropMatch(7, "eth0.5", GROUP, 5000),
        ],
    )
    match = "@ll,96,16 0x0800 ip frag-off & 0x3fff == 0"
    assert found == (
        "add table netdev mcrelay { flags owner; }; delete table netdev mcrelay; table netdev mcrelay { flags owner;"
        ' chain link7 { type filter hook ingress device "eth0.5" priority -500; policy accept;'
        f" iif 7 {match} ip daddr . udp dport {{ 239.1.1.1 . 5000, 239.1.1.2 . 9 }} drop; }};"
        ' chain link8 { type filter hook ingress device "in1" priority -500; policy accept;'
        f" iif 8 {match} ip saddr . ip daddr . udp dport {{ 192.0.2.9 . 239.1.1.2 . 6000 }} drop; }}; }}"
    )


def test_a_table_is_called_after_the_instance():
    assert table_name("/run/mcrelay/mcrelay.sock") == "mcrelay"
    assert table_name("/run/mcrelay-studio2/mcrelay.sock") == "mcrelay-studio2"
    odd = [
        "/run/mcrelay-a b/mcrelay.sock",
        "/run/mcrelay/other.sock",
        "/tmp/mcrelay/mcrelay.sock",
        "/run/x/mcrelay.sock",
    ]
    names = {table_name(each) for each in odd}
    assert len(names) == len(odd)
    assert all(can_be_named(each) and each.startswith("mcrelay-") and len(each) == 16 for each in names)


@pytest.mark.parametrize(
    ("name", "fine"), [("eth0.5", True), ("br-lan", True), ('a"b', False), ("in*", False), ("ä", False)]
)
def test_a_name_that_nft_cannot_write_is_known(name, fine):
    assert can_be_named(name) is fine
