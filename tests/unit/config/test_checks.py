"""Rules against themselves, each other, and the links of a machine."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from mcrelay.config import schema, tags
from mcrelay.config.checks import capture_complaints, find, link_warnings, master_complaints, source_warnings
from mcrelay.config.parse import parse_config
from mcrelay.errors import ConfigError
from mcrelay.model.link import Link
from mcrelay.model.notation import parse_stream
from mcrelay.model.rate import Rate
from mcrelay.model.rule import Config, Input, LinkSettings, Output, Rule


def rule(name, taken, *sent, allow=None, vlan="none", ttl=16, source_address="auto", **options):
    """A rule from the texts of its streams; an output without a port has the input's, as config gives it."""
    stream = parse_stream(taken)
    networks = tuple(map(IPv4Network, allow)) if allow else None
    outputs = []
    for text in sent:
        out = parse_stream(text)
        out = replace(out, port=stream.port) if out.port is None else out
        outputs.append(Output(out, ttl=ttl, source_address=source_address))
    return Rule(name, (Input(stream, vlan, networks),), tuple(outputs), **options)


def said(*rules):
    """What is said of the rules: a stands in a.toml, its input on line 1, its outputs from line 2 on, reflect on 9."""

    def where(key):
        _, name, end = key.split(".")
        if end in {"reflect", "exclusive"}:
            return f"{name}.toml", 9
        return f"{name}.toml", 1 if end == "input" else 2 + int(end.removeprefix("outputs[").removesuffix("]"))

    found = find({r.name: r for r in rules}, where)
    return [f"warning: {c}" if c.warning else str(c) for c in found]


def errors(*rules):
    """The same without warnings."""
    return [line for line in said(*rules) if not line.startswith("warning: ")]


@pytest.fixture
def everything_built(monkeypatch):
    monkeypatch.setattr(schema, "NOT_YET", ())


G1, G2, G3 = "233.252.0.1:5000", "233.252.0.2:5000", "233.252.0.3:5000"


def test_ordinary_rules_are_not_complained_of():
    assert not said(
        rule("a", f"{G1}%eth0", f"{G2}%eth1", "10.9.0.7", "10.9.0.7:9", "10.9.0.8%eth2", f"{G1}%eth1"),
        rule("b", f"{G1}%eth2", f"{G3}%eth1"),
        rule("c", "233.252.0.1:5001%eth0", f"{G3}%eth2"),
        rule("d", f"192.0.2.1@{G2}%eth0", "10.9.0.9"),
        rule("e", f"192.0.2.2@{G2}%eth0", "10.9.0.9:1", allow=["192.0.2.0/24"]),
    )


@pytest.mark.parametrize(
    ("taken", "complaints"),
    [
        (
            "233.252.0.1:5000",
            ["233.252.0.1:5000 names no link; add the link that it arrives on, e.g. 233.252.0.1:5000%eth0"],
        ),
        ("233.252.0.1%eth9", ["233.252.0.1%eth9 names no port; add it, e.g. 233.252.0.1:5000%eth9"]),
        (
            "233.252.0.1",
            [
                "233.252.0.1 names no link; add the link that it arrives on, e.g. 233.252.0.1:5000%eth0",
                "233.252.0.1 names no port; add it, e.g. 233.252.0.1:5000%eth0",
            ],
        ),
        (
            "10.9.0.1:5000",
            ["10.9.0.1:5000 names no link; add the link that it arrives on, e.g. 10.9.0.1:5000%eth0"],
        ),
        (
            "255.255.255.255%eth0",
            ["255.255.255.255%eth0 names no port; add it, e.g. 255.255.255.255:5000%eth0"],
        ),
    ],
)
def test_an_input_has_a_link_and_a_port(taken, complaints):
    assert said(rule("a", taken, "10.9.0.7:1")) == [f"a.toml:1: rules.a.input: {c}" for c in complaints]


def test_a_multicast_output_has_a_link():
    assert said(rule("a", f"{G1}%eth0", "10.9.0.7", "233.252.0.2")) == [
        (
            "a.toml:3: rules.a.outputs[1]: 233.252.0.2:5000 names no link; "
            "add the link to send on, e.g. 233.252.0.2:5000%eth0"
        )
    ]


def test_an_output_has_no_source_of_its_own():
    assert said(rule("a", f"{G1}%eth0", f"192.0.2.1@{G2}%eth1")) == [
        (
            "a.toml:2: rules.a.outputs[0]: source 192.0.2.1 stands in an output; "
            'write { to = "233.252.0.2:5000%eth1", source_address = "192.0.2.1" }'
        )
    ]


def test_a_source_outside_its_own_allow_never_matches():
    assert said(rule("a", f"192.0.2.1@{G1}%eth0", "10.9.0.7", allow=["10.0.0.0/8", "198.51.100.0/24"])) == [
        (
            "a.toml:1: rules.a.input: source 192.0.2.1 is outside allow, so nothing would ever match; "
            "add it to allow, or leave allow out of this rule"
        )
    ]


def test_a_rule_may_take_one_family_and_send_the_other():
    assert not errors(rule("a", "[ff15::1]:5000%eth0", f"{G1}%eth1", "10.9.0.7", "[fd00::7]"))
    assert not errors(rule("a", f"{G1}%eth0", "[ff15::1]%eth1", "[fe80::7]%eth1"))
    assert not errors(rule("a", "233.252.1.0/24:5000%eth0", "[ff15::]/120%eth1"))
    (found,) = errors(rule("a", "233.252.1.0/24:5000%eth0", "[ff15::]/121%eth1"))
    assert found.endswith("is not as long a range as the input; both ends have the same length, here /120")
    (found,) = errors(rule("a", f"{G1}%eth0", "[ff15::1]%eth1", source_address="keep"))
    assert "the source address that is kept is of IPv4, and the output sends IPv6; leave source_address out" in found
    (found,) = errors(rule("a", f"{G1}%eth0", "[fe80::7]"))
    assert "[fe80::7]:5000 names no link" in found


def test_source_specific_groups_without_a_source_are_warned_of():
    assert said(rule("a", "232.1.1.1:5000%eth0", "10.9.0.7")) == [
        (
            "warning: a.toml:1: rules.a.input: 232.1.1.1 is for source-specific multicast, and routers ignore a join "
            "there without a source; name the source, e.g. 192.0.2.1@232.1.1.1:5000%eth0"
        )
    ]
    assert not said(rule("a", "192.0.2.1@232.1.1.1:5000%eth0", "232.1.1.1%eth1"))


def test_link_local_groups_sent_to_another_link_are_warned_of():
    assert said(rule("a", "224.0.0.107:5000%eth0", "224.0.0.107%eth1")) == [
        (
            "warning: a.toml:2: rules.a.outputs[0]: 224.0.0.107 is a link-local group, which no router forwards; "
            "say ttl = 1"
        )
    ]


@pytest.mark.parametrize("ttl", [1, 255])
def test_link_local_groups_with_a_fitting_ttl_are_not(ttl):
    assert not said(rule("a", "224.0.0.107:5000%eth0", "224.0.0.107%eth1", ttl=ttl))


@pytest.mark.parametrize("taken", ["2.255.255.255:6454%eth0", "255.255.255.255:6454%eth0", "192.0.2.25:6454%eth0"])
def test_an_input_that_is_no_group_is_taken(taken):
    assert not said(rule("a", taken, "10.9.0.7:1"))


def test_a_broadcast_to_every_host_needs_a_link():
    (found,) = said(rule("a", f"{G1}%eth0", "255.255.255.255:6454"))
    assert "255.255.255.255:6454 names no link; add the link to send on, e.g. 255.255.255.255:6454%eth0" in found


def test_broadcasts_that_rules_pass_to_and_fro_are_a_circle():
    there = rule("a", "255.255.255.255:6454%eth0", "255.255.255.255:6454%eth1")
    back = rule("b", "255.255.255.255:6454%eth1", "255.255.255.255:6454%eth0")
    (found,) = said(there, back)
    assert "rules feed each other in a circle: a -> b -> a" in found


@pytest.mark.parametrize(
    ("taken", "complaint"),
    [
        ("10.9.0.1:5000%eth0", ""),
        ("10.8.0.1:5000%eth0", ""),  # of another link: this host takes it all the same
        ("10.9.0.255:5000%eth0", ""),
        ("10.9.0.7:5000%eth0", "10.9.0.7 is no address of this host, and no broadcast address of eth0"),
    ],
)
def test_an_input_that_no_datagram_of_this_host_is_for_is_warned_of(taken, complaint):
    eth0, eth1 = (
        Link(name, i, up=True, carrier=True, operstate="UP", mtu=1500, addresses=(IPv4Interface(address),))
        for i, (name, address) in enumerate([("eth0", "10.9.0.1/24"), ("eth1", "10.8.0.1/24")], 1)
    )
    config = Config(rules={"a": rule("a", taken, "233.252.0.1%eth1")})
    found = capture_complaints(config, lambda _: ("f.toml", 3), {"eth0": eth0, "eth1": eth1})
    assert [each.problem for each in found] == [complaint] * bool(complaint)


def test_two_rules_with_the_same_input_are_refused():
    a, b = rule("a", f"{G1}%eth0", "10.9.0.7"), rule("b", f"{G1}%eth0", "10.9.0.8")
    assert said(a, b) == [
        "b.toml:1: rules.b.input: rules.a (a.toml:1) has the same input; put all outputs into one rule"
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"taken": f"{G1}%eth1"},
        {"taken": "233.252.0.1:5001%eth0"},
        {"taken": "233.252.0.1:any%eth0"},
        {"taken": "233.252.0.0/24:5000%eth0"},
        {"taken": f"{G1}%eth0", "vlan": 100},
    ],
)
def test_inputs_that_differ_in_link_port_length_or_vlan_are_two(other):
    sent = "233.252.1.0/24%eth1" if "/24" in other["taken"] else "10.9.0.8"
    assert not said(
        rule("a", f"{G1}%eth0", "10.9.0.7"), rule("b", other["taken"], sent, vlan=other.get("vlan", "none"))
    )


def test_inputs_without_link_or_port_are_not_compared():
    portless = "233.252.0.9%eth0"
    found = said(rule("a", G1, "10.9.0.7"), rule("b", G1, "10.9.0.8"), rule("c", portless), rule("d", portless))
    assert len(found) == 4
    assert not [line for line in found if "same input" in line]


def test_a_disabled_rule_takes_part():
    a, b = rule("a", f"{G1}%eth0", "10.9.0.7", enabled=False), rule("b", f"{G1}%eth0", "10.9.0.8")
    assert len(said(a, b)) == len(said(b, a)) == 1


def test_a_group_is_joined_with_or_without_a_source_on_one_link():
    rules = [
        rule("a", f"{G1}%eth0", "10.9.0.1"),
        rule("b", "192.0.2.1@233.252.0.1:6000%eth0", "10.9.0.2"),
        rule("c", "192.0.2.2@233.252.0.1:6000%eth0", "10.9.0.3", vlan=7),
        rule("d", "192.0.2.2@233.252.0.1:6000%eth1", "10.9.0.4"),
    ]
    remedy = "name a source in every rule for this group and link, or in none"
    assert said(*rules[:2]) == [
        (
            "b.toml:1: rules.b.input: takes 233.252.0.1 on eth0 for one source, "
            f"but rules.a (a.toml:1) for any source; {remedy}"
        )
    ]
    assert said(*rules) == [
        (
            "b.toml:1: rules.b.input: takes 233.252.0.1 on eth0 for one source, as does rules.c, "
            f"but rules.a (a.toml:1) for any source; {remedy}"
        )
    ]
    assert said(rules[1], rules[0]) == [
        (
            "a.toml:1: rules.a.input: takes 233.252.0.1 on eth0 for any source, "
            f"but rules.b (b.toml:1) for one source; {remedy}"
        )
    ]


@pytest.mark.parametrize(
    ("taken", "sent"), [(f"{G1}%eth0", "233.252.0.1%eth0"), (f"192.0.2.1@{G1}%eth0", f"{G1}%eth0")]
)
def test_an_output_equal_to_its_input_is_refused_once(taken, sent):
    assert said(rule("a", taken, sent)) == [
        (
            "a.toml:2: rules.a.outputs[0]: 233.252.0.1:5000%eth0 is the rule's own input; "
            "send to another group, port or link"
        )
    ]


def test_the_same_output_twice_in_one_rule_is_refused():
    assert said(rule("a", f"{G1}%eth0", "10.9.0.7", "10.9.0.8", "10.9.0.7:5000", shared=True)) == [
        "a.toml:4: rules.a.outputs[2]: 10.9.0.7:5000 stands there already as outputs[0]; remove one of the two"
    ]


FED = "send to another group or port, or say shared = true in both rules"


def test_one_output_fed_by_two_rules_is_refused():
    assert said(rule("a", f"{G1}%eth0", "10.9.0.7:9"), rule("b", f"{G2}%eth0", "10.9.0.8", "10.9.0.7:9")) == [
        f"b.toml:3: rules.b.outputs[1]: rules.a (a.toml:2) sends to 10.9.0.7:9 too; {FED}"
    ]


def test_rules_that_all_say_shared_may_feed_one_output():
    a = rule("a", f"{G1}%eth0", "10.9.0.7:9", shared=True)
    b = rule("b", f"{G2}%eth0", "10.9.0.7:9", shared=True)
    c = rule("c", f"{G3}%eth0", "10.9.0.7:9")
    assert not said(a, b)
    assert said(a, b, c) == [f"c.toml:2: rules.c.outputs[0]: rules.a (a.toml:2) sends to 10.9.0.7:9 too; {FED}"]
    assert [line.partition(":")[0] for line in said(c, a, b)] == ["a.toml", "b.toml"]


def test_an_input_that_is_another_rules_output_hears_nothing():
    a, b = rule("a", f"{G1}%eth0", f"{G2}%eth1"), rule("b", f"{G2}%eth1", f"{G3}%eth2")
    assert said(a, b) == said(b, a) == [
        ("b.toml:1: rules.b.input: rules.a (a.toml:2) sends to this on eth1, and a relay does not hear itself; "
        "take what rules.a takes: 233.252.0.1:5000%eth0")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "b",
    [
        rule("b", f"{G2}%eth2", f"{G3}%eth3"),
        rule("b", "233.252.0.2:5001%eth1", f"{G3}%eth3"),
        rule("b", f"192.0.2.9@{G2}%eth1", f"{G3}%eth3"),
        rule("b", f"{G2}%eth1", f"{G3}%eth3", allow=["192.0.2.9/32"]),
        rule("b", f"{G2}%eth1", f"{G3}%eth3", vlan=100),
    ],
)
def test_an_input_that_the_output_cannot_be_is_none(b):
    assert not said(rule("a", f"{G1}%eth0", f"{G2}%eth1", source_address=IPv4Address("192.0.2.1")), b)


@pytest.mark.parametrize("taken", [f"192.0.2.1@{G2}%eth1", "233.252.0.2:any%eth1", "233.252.0.0/24:5000%eth1"])
def test_an_input_that_the_output_is_part_of_hears_nothing(taken):
    a = rule("a", "239.1.1.1:5000%eth0", f"{G2}%eth1", source_address=IPv4Address("192.0.2.1"))
    found = said(a, rule("b", taken, "10.9.0.7"))
    assert [line for line in found if "does not hear itself" in line]


def test_a_range_of_outputs_is_heard_by_a_group_within():
    a = rule("a", "239.1.1.0/24:5000%eth0", "233.252.0.0/24%eth1")
    assert [line.partition(":")[0] for line in said(a, rule("b", f"{G2}%eth1", "10.9.0.7"))] == ["b.toml"]


ONE_WAY = "relay in one direction only, or say reflect = true in each of them"


def test_rules_that_feed_each_other_are_one_circle_and_nothing_else():
    a, b = rule("a", f"{G1}%eth0", f"{G2}%eth1"), rule("b", f"{G2}%eth1", "10.9.0.7", f"{G1}%eth0")
    assert said(a, b) == [f"a.toml:2: rules.a.outputs[0]: rules feed each other in a circle: a -> b -> a; {ONE_WAY}"]


def test_a_long_circle_is_named_in_order_and_its_side_ways_are_told_apart():
    rules = [
        rule("out", f"{G1}%eth9", f"{G1}%eth0"),
        rule("a", f"{G1}%eth0", f"{G1}%eth1"),
        rule("b", f"{G1}%eth1", f"{G1}%eth2", f"{G2}%eth5"),
        rule("c", f"{G1}%eth2", f"{G1}%eth0", shared=True),
        rule("tail", f"{G2}%eth5", "10.9.0.7"),
    ]
    rules[0] = replace(rules[0], shared=True)
    hear = "and a relay does not hear itself"
    assert said(*rules) == [
        f"a.toml:2: rules.a.outputs[0]: rules feed each other in a circle: a -> b -> c -> a; {ONE_WAY}",
        (f"a.toml:1: rules.a.input: rules.out (out.toml:2) sends to this on eth0, {hear}; "
        "take what rules.out takes: 233.252.0.1:5000%eth9"),
        (f"tail.toml:1: rules.tail.input: rules.b (b.toml:3) sends to this on eth5, {hear}; "
        "take what rules.b takes: 233.252.0.1:5000%eth1"),
    ]  # fmt: skip


def test_two_circles_are_two_complaints():
    found = said(
        rule("a", f"{G1}%eth0", f"{G1}%eth1"),
        rule("b", f"{G1}%eth1", f"{G1}%eth0"),
        rule("c", f"{G2}%eth0", f"{G2}%eth1"),
        rule("d", f"{G2}%eth1", f"{G2}%eth0"),
    )
    assert [line.rpartition("circle: ")[2] for line in found] == [f"a -> b -> a; {ONE_WAY}", f"c -> d -> c; {ONE_WAY}"]


def test_a_circle_in_which_each_says_reflect_is_allowed():
    a = rule("a", f"{G1}%eth0", f"{G1}%eth1", reflect=True)
    b = rule("b", f"{G1}%eth1", f"{G1}%eth0", reflect=True)
    assert not errors(a, b)
    assert said(a, replace(b, reflect=False)) == [
        f"b.toml:2: rules.b.outputs[0]: rules feed each other in a circle: b -> a -> b; {ONE_WAY}"
    ]


def test_a_circle_without_a_limit_allows_one_relay_only_and_that_is_said():
    a = rule("a", f"{G1}%eth0", f"{G1}%eth1", reflect=True)
    b = rule("b", f"{G1}%eth1", f"{G1}%eth0", reflect=True)
    (line,) = said(a, b)
    assert line.startswith(
        "warning: a.toml:9: rules.a.reflect: rules that reflect each other without a limit allow one"
    )
    assert line.endswith('add a limit to one of them, e.g. "20kpps"')
    limited = replace(b, inputs=(replace(b.inputs[0], limit=Rate(1000, "pps")),))
    assert not said(a, limited)
    assert not said(a, replace(b, outputs=(replace(b.outputs[0], ttl="decrement"),)))


def test_ten_thousand_rules_in_one_circle_are_found_in_a_moment():
    groups = [f"239.0.{n >> 8}.{n & 255}:5000%eth0" for n in range(10_000)]
    rules = [
        rule(f"r{n}", group, after)
        for n, (group, after) in enumerate(zip(groups, groups[1:] + groups[:1], strict=True))
    ]
    assert len(said(*rules)) == 1


@pytest.mark.usefixtures("everything_built")
def test_both_ends_of_a_range_have_the_same_length():
    taken = "233.252.0.0/24:5000%eth0"
    assert not said(rule("a", taken, "233.252.1.0/24%eth1"))
    assert said(rule("a", taken, "239.1.0.0/25%eth1")) == [
        (
            "a.toml:2: rules.a.outputs[0]: 239.1.0.0/25:5000%eth1 is not as long a range as the input; "
            "both ends have the same length, here /24"
        )
    ]
    assert said(rule("a", f"{G1}%eth0", "239.1.0.0/25%eth1")) == [
        (
            "a.toml:2: rules.a.outputs[0]: 239.1.0.0/25:5000%eth1 is a range, and the input is not; "
            "name one group, or a range as input"
        )
    ]


@pytest.mark.usefixtures("everything_built")
def test_port_any_of_an_output_needs_port_any_of_the_input():
    assert not said(rule("a", "233.252.0.1:any%eth0", "10.9.0.7", "10.9.0.8:any", "10.9.0.9:1"))
    assert said(rule("a", f"{G1}%eth0", "10.9.0.7:any")) == [
        "a.toml:2: rules.a.outputs[0]: port any needs an input with port any; name a port, e.g. 5000"
    ]


@pytest.mark.usefixtures("everything_built")
def test_an_output_keeps_the_ports_or_names_as_many():
    taken = "233.252.0.1:5000-5003%eth0"
    assert not said(rule("a", taken, "10.9.0.7", "10.9.0.8:7000,7010,7020,7030", "10.9.0.9:1-4"))
    assert said(rule("a", taken, "10.9.0.7:7000-7002", "10.9.0.8:1")) == [
        (
            "a.toml:2: rules.a.outputs[0]: 10.9.0.7:7000-7002 names 3 ports, and the input has 4 ports; "
            "name as many, or leave them out"
        ),
        (
            "a.toml:3: rules.a.outputs[1]: 10.9.0.8:1 names 1 port, and the input has 4 ports; "
            "name as many, or leave them out"
        ),
    ]
    assert said(rule("a", "233.252.0.1:any%eth0", "10.9.0.7:1-4")) == [
        (
            "a.toml:2: rules.a.outputs[0]: 10.9.0.7:1-4 names 4 ports, and the input takes any; "
            "leave the port out, then each is kept"
        )
    ]


@pytest.mark.usefixtures("everything_built")
def test_a_range_goes_to_groups_and_not_to_a_host():
    assert said(rule("a", "233.252.0.0/24:5000%eth0", "10.9.0.7")) == [
        (
            "a.toml:2: rules.a.outputs[0]: 10.9.0.7:5000 is one host, and the input is a range of groups; "
            "name a range of groups of the same length, here /24"
        )
    ]


@pytest.mark.usefixtures("everything_built")
def test_an_input_that_is_no_group_names_its_ports():
    assert not said(rule("a", "192.0.2.1:7000-7063%eth0", "10.9.0.7"))
    assert said(rule("a", "192.0.2.1:any%eth0", "10.9.0.7")) == [
        (
            "a.toml:1: rules.a.input: 192.0.2.1:any%eth0 is no group, and this host would have to keep every port open "
            "for it; name the ports that are used, 64 at most"
        )
    ]
    assert "keep 65 ports open" in said(rule("a", "192.0.2.1:7000-7064%eth0", "10.9.0.7"))[0]


@pytest.mark.usefixtures("everything_built")
def test_exclusive_needs_ports_that_are_named():
    assert said(rule("a", "233.252.0.1:any%eth0", "10.9.0.7", exclusive=True)) == [
        (
            "a.toml:9: rules.a.exclusive: exclusive would drop every UDP port of the group, also what other programs "
            "of this host listen to; name the ports, or leave exclusive out"
        )
    ]


@pytest.mark.usefixtures("everything_built")
def test_an_input_has_a_bounded_number_of_streams():
    assert not said(rule("a", "233.252.0.0/24:1-256%eth0", "239.1.0.0/24%eth1"))
    assert said(rule("a", "233.252.0.0/24:1-257%eth0", "239.1.0.0/24%eth1")) == [
        (
            "a.toml:1: rules.a.input: 233.252.0.0/24:1-257%eth0 is 65792 streams: 256 groups times 257 ports; "
            "a rule has 65536 at most: say any for the port, or name fewer"
        )
    ]


@pytest.mark.usefixtures("everything_built")
@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("233.252.0.1:5000", "233.252.0.1:any"),
        ("233.252.0.1:5000", "233.252.0.0/24:5000"),
        ("233.252.0.0/24:5000", "233.252.0.0/28:5000"),
        ("233.252.0.0/24:any", "233.252.0.0/28:any"),
    ],
)
def test_the_more_exact_input_takes_what_both_name(taken, other):
    assert not said(rule("a", f"{taken}%eth0", *out_of(taken)), rule("b", f"{other}%eth0", *out_of(other)))


def out_of(taken):
    """An output that the input may have."""
    length = taken.partition("/")[2].partition(":")[0]
    return [f"239.1.{length}.0/{length}:{len(taken)}%eth1" if length else f"10.9.0.{len(taken)}"]


@pytest.mark.usefixtures("everything_built")
def test_two_inputs_with_a_port_in_common_are_refused():
    a, b = rule("a", "233.252.0.1:5000,5002%eth0", "10.9.0.7"), rule("b", "233.252.0.1:5001-5002%eth0", "10.9.0.8")
    assert said(a, b) == [
        (
            "b.toml:1: rules.b.input: rules.a (a.toml:1) takes some of these ports too: 233.252.0.1:5000,5002%eth0; "
            "name each port in one rule alone"
        )
    ]


@pytest.mark.usefixtures("everything_built")
def test_a_range_and_a_group_within_are_joined_alike():
    a = rule("a", "233.252.0.0/24:5000%eth0", "239.1.0.0/24%eth1")
    b = rule("b", "192.0.2.1@233.252.0.9:7000%eth0", "10.9.0.7")
    remedy = "name a source in every rule for this group and link, or in none"
    assert said(a, b) == [
        (
            "b.toml:1: rules.b.input: takes 233.252.0.9 on eth0 for one source, "
            f"but rules.a (a.toml:1) for any source; {remedy}"
        )
    ]
    assert said(b, a) == [
        (
            "a.toml:1: rules.a.input: takes 233.252.0.0/24 on eth0 for any source, "
            f"but rules.b (b.toml:1) for one source; {remedy}"
        )
    ]


@pytest.mark.usefixtures("everything_built")
def test_outputs_that_meet_are_one_output_fed_by_two_rules():
    a = rule("a", "233.252.0.0/24:5000-5001%eth0", "239.1.0.0/24%eth1")
    b = rule("b", "233.252.1.1:5000%eth0", "239.1.0.7:5001%eth1", "239.1.0.7:5002%eth1")
    assert said(a, b) == [f"b.toml:2: rules.b.outputs[0]: rules.a (a.toml:2) sends to 239.1.0.7:5001%eth1 too; {FED}"]
    assert said(b, a) == [f"a.toml:2: rules.a.outputs[0]: rules.b (b.toml:2) sends to 239.1.0.7:5001%eth1 too; {FED}"]


@pytest.mark.usefixtures("everything_built")
def test_two_outputs_of_a_rule_have_nothing_in_common():
    assert said(rule("a", "233.252.0.1:any%eth0", "10.9.0.7", "10.9.0.7:5000")) == [
        "a.toml:3: rules.a.outputs[1]: 10.9.0.7:5000 stands there already in part as outputs[0]; remove one of the two"
    ]


@pytest.mark.usefixtures("everything_built")
@pytest.mark.parametrize(
    ("taken", "sent"),
    [
        ("233.252.0.0/24:5000%eth0", "233.252.0.0/24:5000%eth0"),
        ("233.252.0.1:5000,5001%eth0", "233.252.0.1:5001,5002%eth0"),
        ("233.252.0.1:any%eth0", "233.252.0.1:5000%eth0"),
    ],
)
def test_an_output_that_is_part_of_its_input_is_refused(taken, sent):
    assert said(rule("a", taken, sent)) == [
        f"a.toml:2: rules.a.outputs[0]: {sent} is the rule's own input; send to another group, port or link"
    ]


def test_rules_as_far_as_they_could_be_read_are_compared():
    a = Rule("a", (), (Output(parse_stream("10.9.0.7:9")),))
    b = rule("b", f"{G1}%eth0", "10.9.0.7:9")
    found = find({"a": a, "b": b}, lambda key: (key, 1), {"a": (4,)})
    assert [str(c) for c in found] == [
        (
            "rules.b.outputs[0]:1: rules.b.outputs[0]: rules.a (rules.a.outputs[4]:1) sends to 10.9.0.7:9 too; "
            "send to another group or port, or say shared = true in both rules"
        )
    ]


def test_rules_without_a_file_are_named_without_a_place():
    a, b = rule("a", f"{G1}%eth0", "10.9.0.7"), rule("b", f"{G1}%eth0", "10.9.0.8")
    found = find({"a": a, "b": b}, lambda _: ("command line", 0))
    assert [c.problem for c in found] == ["rules.a has the same input"]


def test_links_that_do_not_exist_are_warned_of_with_near_names():
    config = Config(
        links={"eht0": LinkSettings(), "eth1": LinkSettings(), "default": LinkSettings()},
        rules={
            "x": rule("x", f"{G1}%eth11", f"{G2}%wlan7", "10.9.0.7", f"{G2}%eth1"),
            "off": rule("off", f"{G1}%eth12", f"{G3}%eth12", enabled=False),
        },
    )
    found = link_warnings(config, lambda _: ("f.toml", 3), ["lo", "eth0", "eth1"])
    assert all(c.warning for c in found)
    assert [str(c) for c in found] == [
        "f.toml:3: links.eht0: link eht0 does not exist here; its settings wait until it appears (did you mean eth0?)",
        (
            "f.toml:3: rules.x.input: link eth11 does not exist here; "
            "the rule stays pending until it appears (did you mean eth1?)"
        ),
        "f.toml:3: rules.x.outputs[0]: link wlan7 does not exist here; this output stays parked until it appears",
    ]


def test_an_address_in_the_place_of_a_link_finds_the_link_that_has_it():
    there = {"lo": Link("lo", 1, up=True, carrier=True, operstate="UNKNOWN", mtu=65536)}
    there["in0"] = replace(there["lo"], name="in0", ifindex=2, addresses=(IPv4Interface("10.10.1.1/24"),))
    found = link_warnings(
        Config(rules={"x": rule("x", f"{G1}%10.10.1.1", f"{G2}%in1")}), lambda _: ("f.toml", 3), there
    )
    assert [str(each).rpartition("appears ")[2] for each in found] == ["(did you mean in0?)", "(did you mean in0?)"]


def test_what_another_rule_sends_to_is_no_input_also_where_own_sends_are_taken():
    """The relay knows its own datagrams by their ends, and drops them as echoes."""
    feeder = rule("a", f"{G1}%eth0", f"{G2}%eth1")
    fed = rule("b", f"{G2}%eth1", f"{G3}%eth2")
    (found,) = errors(feeder, replace(fed, inputs=(replace(fed.inputs[0], own=True),)))
    assert "a relay does not hear itself; take what rules.a takes" in found


@pytest.mark.parametrize(
    ("taken", "warned"),
    [
        ('"233.252.0.1:5%in0"', "the senders"),
        ('"192.0.2.9@233.252.0.1:5%in0"', "192.0.2.9"),
        ('"198.51.100.9@233.252.0.1:5%in0"', ""),  # the receivers' neighbour
        ('{ from = "233.252.0.1:5%in0", allow = ["198.51.100.0/25"] }', ""),
        ('{ from = "233.252.0.1:5%in0", allow = ["198.51.100.0/25", "192.0.2.0/24"] }', "the senders"),
    ],
)
def test_a_kept_address_that_receivers_may_have_no_route_to_is_warned_of(taken, warned):
    text = f'[rules.x]\ninput = {taken}\noutputs = [{{ to = "233.252.0.2:5%out0", source_address = "keep" }}]\n'
    parsed = parse_config([("f.toml", text)])
    addresses = (IPv4Interface("198.51.100.1/24"),)
    links = {"out0": Link("out0", 2, True, True, "UP", 1500, addresses)}
    said = [each.problem for each in source_warnings(parsed.config, parsed.where, links)]
    expected = f"receivers without a route back to {warned} drop what keeps that address (rp_filter)"
    assert said == ([expected] if warned else [])


def test_a_group_in_a_vlan_that_is_no_link_is_warned_of_and_goes_with_no_drop_of_originals():
    text = '[rules.x]\ninput = {{ from = "233.252.0.1:5%in0", vlan = {} }}\noutputs = ["233.252.0.2:5%out0"]\n'
    warnings = {}
    for vlan in ("100", '"any"', '"none"'):
        parsed = parse_config([("f.toml", text.format(vlan))])
        warnings[vlan] = [str(each) for each in tags.warnings(parsed.config, parsed.where)]
    problem = "no report goes out in VLAN 100: a switch that snoops has to flood 233.252.0.1 to this host"
    remedy = "have it flood, or make the VLAN a link (ip link add link in0 type vlan id 100), which joins in it"
    assert warnings == {"100": [f"f.toml:2: rules.x.input: {problem}; {remedy}"], '"any"': [], '"none"': []}
    with pytest.raises(ConfigError, match="exclusive drops what has the group and port, in whatever VLAN"):
        parse_config([("f.toml", text.format("100") + "exclusive = true\n")])


PORTS = {
    "bridge": ("a port of br0", "take the input from br0: 239.1.1.1:5000%br0"),
    "bond": ("a port of br0", "take the input from br0: 239.1.1.1:5000%br0"),
    "openvswitch": ("a port of an Open vSwitch", "take the input from its bridge (ovs-vsctl port-to-br eth1 names it)"),
}


@pytest.mark.parametrize("kind", PORTS)
def test_an_input_on_a_port_is_refused_with_the_master_s_name(kind):
    text = '[rules.x]\ninput = "239.1.1.1:5000%eth1"\noutputs = ["239.9.1.1:5004%eth0"]\n'
    rules = parse_config([("f.toml", text)]).config.rules
    port = Link("eth1", 2, True, True, "UP", 1500, master="br0", master_kind=kind)
    (found,) = master_complaints(rules.values(), lambda _: ("f.toml", 2), {"eth1": port})
    whose, remedy = PORTS[kind]
    assert (found.line, found.key, found.warning) == (2, "rules.x.input", False)
    assert found.problem == f"eth1 is {whose}, where this host hears no query, so the stream would end"
    assert found.remedy == remedy
    disabled = parse_config([("f.toml", text + "enabled = false\n")]).config.rules
    assert master_complaints(disabled.values(), lambda _: ("f.toml", 2), {"eth1": port}) == []
