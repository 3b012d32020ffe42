"""compile_plan: how every rule stands with the links there are."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.steps import growth

from mcrelay.config import presets, schema
from mcrelay.config.parse import parse_config
from mcrelay.errors import NotBuiltError
from mcrelay.model.link import Link, LinkTable, Membership
from mcrelay.model.notation import parse_stream
from mcrelay.model.plan import RingSpec
from mcrelay.model.rule import Config, Input, LinkSettings, Output, Rule
from mcrelay.relay.compile import AUTO_PORTS, auto_port, compile_plan

IN = Link(
    "in0", 4, up=True, carrier=True, operstate="UP", mtu=1500, addresses=(IPv4Interface("192.0.2.1/24"),),
    mac="02:00:00:00:00:04",
)  # fmt: skip
OUT = Link(
    "out0", 5, up=True, carrier=True, operstate="UP", mtu=9000,
    addresses=(IPv4Interface("198.51.100.1/24"), IPv4Interface("198.51.100.99/24")), mac="02:00:00:00:00:05",
)  # fmt: skip
SOURCE_INPUT = "192.168.168.55@226.2.2.2:2068%in0"


def rule(output="239.10.0.1:5004%out0", *, entry=SOURCE_INPUT, name="x", enabled=True, allow=None, **options):
    return Rule(
        name,
        inputs=(Input(parse_stream(entry), allow=allow),),
        outputs=(Output(parse_stream(output), **options),),
        enabled=enabled,
    )


def compiled(*rules, links=(IN, OUT), settings=None):
    config = Config(links=settings or {}, rules={each.name: each for each in rules})
    return compile_plan(config, {link.name: link for link in links})


def only(plan):
    """The one input and the one output of the one rule."""
    (spec,) = plan.rules
    return spec.inputs[0], spec.outputs[0]


def test_a_ring_is_made_as_its_link_says_else_as_the_default_for_all_links():
    both = (rule(), rule("10.9.0.7:5004%in0", entry="239.1.1.1:5000%out0", name="y"))
    common, own = LinkSettings(ring_bytes=4 << 20), LinkSettings("latency")
    rings = compiled(*both, settings={"default": common, "in0": own}).rings
    assert rings == {4: RingSpec("in0", own), 5: RingSpec("out0", common)}


def test_a_rule_whose_links_are_up_is_active_and_says_all_that_the_loop_needs():
    plan = compiled(rule(allow=(IPv4Network("192.168.0.0/16"),)))
    entry, output = only(plan)
    assert (entry.state, entry.reason, entry.live) == ("active", "", True)
    assert (entry.text, entry.iif, entry.ifindex) == (SOURCE_INPUT, "in0", 4)
    assert (entry.group, entry.source, entry.port) == (IPv4Address("226.2.2.2"), IPv4Address("192.168.168.55"), 2068)
    assert entry.allow == (IPv4Network("192.168.0.0/16"),)
    assert (output.state, output.reason) == ("active", "")
    assert (output.to, output.oif, output.ifindex) == ("239.10.0.1:5004%out0", "out0", 5)
    assert (output.source_address, output.bind_source) == (IPv4Address("198.51.100.1"), False)
    assert (output.ttl, output.dscp, output.burst) == (16, None, 16)
    assert output.payload_max == 9000 - 28
    assert plan.rings == {4: RingSpec("in0", LinkSettings())}
    assert plan.memberships == {Membership(4, IPv4Address("226.2.2.2"), IPv4Address("192.168.168.55"))}


def test_no_rules_are_an_empty_plan():
    plan = compiled()
    assert (plan.rules, plan.rings, plan.memberships) == ((), {}, frozenset())


@pytest.mark.parametrize(
    ("what", "links", "enabled", "state", "reason", "live"),
    [
        ("no such link", (OUT,), True, "pending", "link in0 does not exist", False),
        ("link down", (replace(IN, up=False, carrier=False), OUT), True, "parked", "link in0 is down", True),
        ("no carrier", (replace(IN, carrier=False), OUT), True, "parked", "link in0 has no carrier", True),
        ("InfiniBand", (replace(IN, hardware=32), OUT), True, "error", "no Ethernet frames (ARPHRD 32)", False),
        ("InfiniBand and down", (replace(IN, hardware=32, up=False), OUT), True, "error", "ARPHRD 32", False),
        ("tun, WireGuard", (replace(IN, hardware=65534), OUT), True, "active", "", True),
        ("PPP", (replace(IN, hardware=512), OUT), True, "active", "", True),
        ("GRE", (replace(IN, hardware=778), OUT), True, "active", "", True),
        ("IP in IP", (replace(IN, hardware=768), OUT), True, "active", "", True),
        ("loopback", (replace(IN, hardware=772), OUT), True, "active", "", True),
        ("no address", (replace(IN, addresses=()), OUT), True, "active", "", True),
        ("disabled", (IN, OUT), False, "disabled", "", False),
        ("disabled without a link", (OUT,), False, "disabled", "", False),
    ],
)
def test_the_state_of_an_input_follows_its_link(what, links, enabled, state, reason, live):  # noqa: PLR0917
    plan = compiled(rule(enabled=enabled), links=links)
    entry, _ = only(plan)
    assert entry.state == state, what
    assert reason in entry.reason
    assert bool(entry.reason) == bool(reason)
    assert entry.live == live
    assert bool(plan.rings) == bool(plan.memberships) == live


@pytest.mark.parametrize(
    ("what", "link", "reason"),
    [
        ("no such link", None, "link out0 does not exist"),
        ("link down", replace(OUT, up=False), "link out0 is down"),
        ("no carrier", replace(OUT, carrier=False), "link out0 has no carrier"),
        ("no address", replace(OUT, addresses=()), "link out0 has no IPv4 address to send from"),
    ],
)
def test_an_output_whose_link_is_unfit_is_parked_and_its_input_goes_on(what, link, reason):
    entry, output = only(compiled(rule(), links=(IN, link) if link else (IN,)))
    assert (output.state, output.reason) == ("parked", reason), what
    assert entry.state == "active"


def test_a_routed_output_needs_no_link():
    _, output = only(compiled(rule("10.9.0.7:7000", ttl=64), links=(IN,)))
    assert (output.state, output.oif, output.ifindex) == ("active", None, 0)
    assert (output.source_address, output.bind_source, output.payload_max) == (None, False, 0)


def test_a_unicast_output_asks_its_route_for_the_mtu_even_with_a_link():
    _, output = only(compiled(rule("198.51.100.7:7000%out0")))
    assert (output.ifindex, output.payload_max) == (5, 0)


@pytest.mark.parametrize("address", ["198.51.100.1", "198.51.100.99", "192.0.2.1"])
@pytest.mark.parametrize("to", ["239.10.0.1:5004%out0", "10.9.0.7:7000"])
def test_any_address_of_this_host_may_be_the_source(address, to):
    _, output = only(compiled(rule(to, source_address=IPv4Address(address))))
    assert (output.state, output.source_address, output.bind_source) == ("active", IPv4Address(address), True)


@pytest.mark.parametrize("to", ["239.10.0.1:5004%out0", "10.9.0.7:7000"])
def test_a_source_address_that_is_not_ours_parks_the_output(to):
    _, output = only(compiled(rule(to, source_address=IPv4Address("203.0.113.5"))))
    assert (output.state, output.reason) == ("parked", "source address 203.0.113.5 is not an address of this host")


def test_a_source_address_of_ours_does_not_hide_that_the_link_is_down():
    chosen = rule(source_address=IPv4Address("192.0.2.1"))
    _, output = only(compiled(chosen, links=(IN, replace(OUT, up=False))))
    assert (output.state, output.reason) == ("parked", "link out0 is down")


def test_options_reach_the_output():
    _, output = only(compiled(rule(source_port=7777, ttl=3, dscp=46, burst=1)))
    assert (output.source_port, output.exact_port) == (7777, True)
    assert (output.ttl, output.dscp, output.burst) == (3, 46, 1)


def test_one_ring_serves_all_rules_of_a_link_and_has_its_settings():
    wanted = LinkSettings(profile="latency", ring_bytes=1 << 20)
    plan = compiled(
        rule(name="a"),
        rule(name="b", entry="226.2.2.3:1%in0", output="239.10.0.2:1%out0"),
        rule(name="c", entry="226.2.2.4:1%out0", output="239.10.0.3:1%in0"),
        rule(name="d", entry="226.2.2.5:1%gone", output="239.10.0.4:1%in0"),
        settings={"in0": wanted, "gone": wanted},
    )
    assert plan.rings == {4: RingSpec("in0", wanted), 5: RingSpec("out0", LinkSettings())}
    assert [each.name for each in plan.rules] == ["a", "b", "c", "d"]
    assert {each.ifindex for each in plan.memberships} == {4, 5}


def test_two_ports_of_a_group_are_one_membership():
    plan = compiled(
        rule(name="a", entry="226.2.2.2:1%in0"), rule(name="b", entry="226.2.2.2:2%in0", output="239.1.1.1:1%out0")
    )
    assert plan.memberships == {Membership(4, IPv4Address("226.2.2.2"))}


def test_what_has_not_changed_compiles_to_an_equal_value():
    """The engine keeps a socket as long as its OutputSpec is equal, also when other things change."""
    before = compiled(rule(), rule(name="other", entry="226.2.2.9:1%in0"))
    again = compiled(replace(rule(), description="new"), links=(replace(IN, mtu=1400, addresses=()), OUT))
    assert before.rules[0].outputs == again.rules[0].outputs
    assert before.rules[0].inputs == again.rules[0].inputs
    assert before.rings == again.rings


def test_a_link_that_comes_back_with_another_number_is_another_ring_and_output():
    before, again = compiled(rule()), compiled(rule(), links=(replace(IN, ifindex=14), replace(OUT, ifindex=15)))
    assert again.rings.keys() == {14}
    assert before.rules[0].outputs != again.rules[0].outputs


def test_the_automatic_port_never_changes():
    """Written down: a release that changes these numbers breaks receivers' firewalls."""
    assert auto_port("hdmi-lobby", "239.10.0.1:5004%eth0") == 24890
    assert auto_port("x", "10.9.0.7:7000") == 22865
    _, output = only(compiled(rule()))
    assert (output.source_port, output.exact_port) == (auto_port("x", "239.10.0.1:5004%out0"), False)


@given(st.text(max_size=63), st.text(max_size=60))
def test_the_automatic_port_is_in_range(name, to):
    assert auto_port(name, to) in AUTO_PORTS
    assert 20000 <= auto_port(name, to) < 32768


def test_automatic_ports_spread():
    ports = {auto_port(f"rule{i}", f"239.1.{i // 256}.{i % 256}:5000%eth0") for i in range(1000)}
    assert len(ports) > 900


@pytest.mark.parametrize("kind", ["bridge", "bond", "team"])
def test_an_input_on_a_port_goes_on_and_says_where_the_frames_are_to_be_had(kind):
    entry, output = only(compiled(rule(), links=(replace(IN, master="br0", master_kind=kind), OUT)))
    assert (entry.state, entry.reason) == ("active", "in0 is a port of br0: take the input from br0")
    assert (output.state, output.reason) == ("active", "")


def test_an_output_on_a_port_without_an_address_says_which_link_has_one():
    _, output = only(compiled(rule(), links=(IN, replace(OUT, master="br0", master_kind="bridge", addresses=()))))
    assert output.state == "parked"
    assert output.reason == "link out0 has no IPv4 address to send from: it is a port of br0, so send on br0"


@pytest.mark.parametrize(
    ("group", "held", "source"),
    [
        ("239.10.0.1", [("169.254.7.7/16", 253), ("10.20.1.1/24", 0)], "10.20.1.1"),
        ("239.10.0.1", [("10.20.1.1/24", 0), ("10.30.1.1/24", 0)], "10.20.1.1"),
        ("239.10.0.1", [("169.254.7.7/16", 253)], "169.254.7.7"),
        ("239.10.0.1", [("127.0.0.1/8", 254)], "127.0.0.1"),
        ("239.10.0.1", [("127.0.0.1/8", 254), ("10.40.0.1/16", 200)], "10.40.0.1"),
        ("224.0.0.251", [("169.254.7.7/16", 253), ("10.20.1.1/24", 0)], "169.254.7.7"),
        ("224.0.1.129", [("169.254.7.7/16", 253), ("10.20.1.1/24", 0)], "10.20.1.1"),
        ("10.20.1.9", [("10.20.1.1/24", 0)], None),  # the route's
    ],
)
def test_a_group_leaves_with_the_address_of_its_link_that_is_known_farthest(group, held, source):
    addresses, scopes = zip(*((IPv4Interface(address), scope) for address, scope in held), strict=True)
    link = replace(OUT, addresses=addresses, scopes=scopes)
    _, output = only(compiled(rule(f"{group}:5004%out0"), links=(IN, link)))
    assert output.source_address == (IPv4Address(source) if source else None)
    assert output.state == "active"


def test_a_link_is_found_by_its_altname_and_two_rules_cannot_have_one_input_by_two_names():
    eth0 = replace(IN, name="eth0", altnames=("lobby", "uplink"))
    links = LinkTable({"eth0": eth0, "eth1": replace(OUT, name="eth1")})
    text = """
        [rules.a]
        input = "233.252.0.1:5000%lobby"
        outputs = ["233.252.0.9:1%eth1"]
        [rules.b]
        input = "233.252.0.1:5000%eth0"
        outputs = ["233.252.0.9:2%eth1"]
        [rules.c]
        input = "233.252.0.2:5000%uplink"
        outputs = ["233.252.0.9:3%eth1"]
        [links.uplink]
        ring = "8MiB"
    """
    spec = compile_plan(parse_config([("f.toml", text)]).config, links)
    a, b, c = (each.inputs[0] for each in spec.rules)
    assert (a.iif, a.state, c.iif, c.state) == ("eth0", "active", "eth0", "active")
    assert (b.state, b.reason) == ("error", "rule a has the same input, by another name of link eth0")
    assert spec.rings[eth0.ifindex].settings.ring_bytes == 8 << 20
    assert list(links) == ["eth0", "eth1"]


def ends_of(taken: str, to: str, more: str = ""):
    text = f'[rules.x]\ninput = "{taken}"\noutputs = ["{to}"]\n{more}'
    (rule,) = compile_plan(parse_config([("f.toml", text)]).config, {"in0": IN, "out0": OUT}).rules
    return rule.inputs[0], rule.outputs[0]


def test_a_range_is_one_input_with_a_join_for_each_group_and_one_output():
    taken, sent = ends_of("233.252.0.0/20:5000%in0", "239.9.16.0/20%out0")
    assert len(taken.memberships) == taken.group_count == sent.groups == 4096
    assert taken.memberships[4095].group == IPv4Address("233.252.15.255")
    assert taken.takes(IPv4Address("233.252.15.255"))
    assert not taken.takes(IPv4Address("233.252.16.0"))
    assert (sent.address, sent.port, sent.addressed, sent.port_map) == (IPv4Address("239.9.16.0"), 5000, True, ())
    assert sent.sends_to(IPv4Address("239.9.31.255"), 5000)
    assert not sent.sends_to(IPv4Address("239.9.31.255"), 5001)


def test_ports_are_kept_mapped_or_made_one():
    _, kept = ends_of("233.252.0.1:any%in0", "239.9.0.1%out0")
    assert (kept.addressed, kept.ports, kept.port_map, kept.into_one) == (True, "any", (), False)
    _, one = ends_of("233.252.0.1:any%in0", "239.9.0.1:7%out0")
    assert (one.port, one.into_one, one.port_map) == (7, True, ())
    _, mapped = ends_of("233.252.0.1:5000,5002%in0", "239.9.0.1:6000-6001%out0")
    assert mapped.port_map == ((5000, 5000, 6000), (5002, 5002, 6001))
    _, plain = ends_of("233.252.0.1:5000%in0", "239.9.0.1%out0")
    assert not plain.addressed


def test_all_that_is_not_built_yet_is_several_inputs():
    assert {key for key, *_ in schema.NOT_YET} == {"inputs"}


def test_a_rule_with_several_inputs_or_none_is_not_compiled():
    rule = parse_config(
        [("f.toml", '[rules.x]\ninput = "233.252.0.1:5000%in0"\noutputs = ["233.252.0.2%out0"]')]
    ).config.rules["x"]
    for inputs in ((), rule.inputs * 2):
        with pytest.raises(NotBuiltError):
            compile_plan(Config(rules={"x": replace(rule, inputs=inputs)}), {"in0": IN, "out0": OUT})


@pytest.mark.parametrize("output", ["239.10.0.1:5004%out0", "10.9.0.7:7000"])
@pytest.mark.parametrize("source", ["auto", IPv4Address("198.51.100.99")])
def test_a_rule_among_many_rules_and_links_is_compiled_as_fast_as_among_few(output, source):
    def prepare(count):
        rules = {str(i): rule(output, entry=f"239.1.1.1:{5000 + i}%in0", name=str(i)) for i in range(count)}
        rules = {
            name: replace(each, outputs=(replace(each.outputs[0], source_address=source),))
            for name, each in rules.items()
        }
        links = {f"in{i}": replace(IN, name=f"in{i}", ifindex=10 + i) for i in range(count)} | {"out0": OUT}
        return lambda: compile_plan(Config(rules=rules), links)

    assert growth(prepare) < 1.2


def test_what_this_host_sends_is_captured_where_a_live_input_asks_for_it_and_never_on_lo():
    asking = replace(rule(), inputs=(replace(rule().inputs[0], own=True),))
    assert compiled(rule()).rings[IN.ifindex].own is False
    assert compiled(asking).rings[IN.ifindex].own is True
    assert compiled(asking, links=(replace(IN, hardware=772), OUT)).rings[IN.ifindex].own is False


def test_an_address_of_this_host_has_its_port_held_also_where_it_looks_like_a_broadcast():
    wide = replace(IN, addresses=(IPv4Interface("10.0.0.255/23"),))
    plan = compiled(rule(entry="10.0.0.255:5000%in0"), links=(wide, OUT))
    assert plan.ports == {(IPv4Address("10.0.0.255"), 5000)}
    assert compiled(rule(entry="10.0.1.255:5000%in0"), links=(wide, OUT)).ports == frozenset()


@pytest.mark.parametrize("name", [name for name, each in presets.PRESETS.items() if each.searches])
def test_a_rule_that_searches_is_joined_for_and_is_no_engines(name):
    made = presets.rules_of("d", presets.PRESETS[name], ("in0", "out0"), {})
    plan = compiled(*made.values())
    assert plan.rings == {}
    assert plan.forwarded.rules == ()
    assert {each.ifindex for each in plan.memberships} == {IN.ifindex, OUT.ifindex}
    bare = compiled(*made.values(), links=(replace(IN, hardware=65534), OUT))
    assert bare.rules[0].inputs[0].state == "error"
