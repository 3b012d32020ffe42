"""VLANs of inputs and outputs: where the key stands, which rules it tells apart, and where a tag cannot be sent."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface

import pytest

from mcrelay.config import tags
from mcrelay.config.parse import parse_config
from mcrelay.config.writer import config_tables, rule_table, toml_text
from mcrelay.errors import ConfigError
from mcrelay.model.link import Link
from mcrelay.relay.compile import compile_plan

IN = '[rules.x]\ninput = "233.252.0.1:5000%in0"\n'
OUT, SIX = "233.252.0.2:5004%out0", "[ff15::2]:5004%out0"
IN0 = Link("in0", 2, up=True, carrier=True, operstate="UP", mtu=1500, addresses=(IPv4Interface("192.0.2.1/24"),))
OUT0 = replace(
    IN0, name="out0", ifindex=3, mtu=1400, mac="02:00:00:00:00:03", addresses6=(IPv6Interface("2001:db8::1/64"),)
)


def parsed(text):
    return parse_config([("f.toml", text)])


def complaints(text):
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    return [str(each) for each in caught.value.complaints]


def outputs(*ends):
    return f"outputs = [{', '.join(ends)}]\n"


def to(stream=OUT, vlan=100):
    return f'{{ to = "{stream}", vlan = {vlan} }}'


@pytest.mark.parametrize("above", [IN + "vlan = 7\n", "[defaults]\nvlan = 7\n" + IN])
def test_what_a_rule_or_the_defaults_say_is_of_the_input(above):
    rule = parsed(above + outputs(f'"{OUT}"')).config.rules["x"]
    assert (rule.inputs[0].vlan, rule.outputs[0].vlan) == (7, "none")


def test_an_output_is_written_with_its_vlan_and_read_back():
    config = parsed(IN + outputs(to(), to(vlan=200))).config
    assert rule_table(config.rules["x"])["outputs"] == [{"to": OUT, "vlan": 100}, {"to": OUT, "vlan": 200}]
    assert parsed(toml_text(config_tables(config))).config.rules == config.rules
    same = parsed(IN + outputs(to())).config
    assert parsed(toml_text(config_tables(same))).config.rules == same.rules, "one key of all outputs stays at them"


@pytest.mark.parametrize(
    ("value", "problem"),
    [("0", "VLAN 0 is no VLAN; write"), ('"any"', '"any" is not'), ("4095", "4095 is not"), ("true", "true is not")],
)
def test_other_tags_are_refused(value, problem):
    (complaint,) = complaints(IN + outputs(to(vlan=value)))
    assert complaint.startswith("f.toml:3: rules.x.outputs[0].vlan: " + problem)


def test_a_rule_may_send_the_same_to_several_vlans_and_to_each_once():
    config = parsed(IN + outputs(f'"{OUT}"', to(), to(vlan=200))).config
    names = [each.to for each in compile_plan(config, {}).rules[0].outputs]
    assert names == [OUT, f"{OUT} vlan 100", f"{OUT} vlan 200"]
    (complaint,) = complaints(IN + outputs(to(), to()))
    assert f"{OUT} vlan 100 stands there already" in complaint


def test_the_group_of_the_input_may_be_sent_in_another_vlan_on_its_link():
    back = "233.252.0.1:5000%in0"
    parsed(IN + outputs(to(back)))
    (complaint,) = complaints(IN + "vlan = 100\n" + outputs(to(back)))
    assert "233.252.0.1:5000%in0 vlan 100 is the rule's own input" in complaint
    assert complaints(IN + 'vlan = "any"\n' + outputs(to(back)))


def test_a_rule_that_takes_the_vlan_is_fed_by_it():
    def fed(vlan):
        other = f'[rules.y]\ninput = {{ from = "{OUT}", vlan = {vlan} }}\noutputs = ["233.252.0.3:5004%out0"]\n'
        return IN + outputs(to()) + other

    parsed(fed('"none"'))
    parsed(fed(200))
    for vlan in (100, '"any"'):
        (complaint,) = complaints(fed(vlan))
        assert "rules.y.input: rules.x (f.toml:3) sends to this on out0" in complaint


@pytest.mark.parametrize("host", ["192.0.2.7:7000%out0", "192.0.2.255:7000%out0", "[fd00::7]:7000%out0"])
def test_a_host_in_a_vlan_is_refused(host):
    (complaint,) = complaints(IN + outputs(to(host)))
    address = host.rpartition(":")[0].strip("[]")
    assert complaint == (
        f"f.toml:3: rules.x.outputs[0]: who has {address} in VLAN 100 is not known on a link outside it; make the"
        f" VLAN a link (ip link add link out0 type vlan id 100), and send to {address} by that"
    )
    parsed(IN + outputs(to("255.255.255.255:7000%out0")))


def test_a_link_without_ethernet_is_refused_and_in_error():
    config = parsed(IN + outputs(to()))
    tunnel = replace(OUT0, hardware=65534, mac="")
    (complaint,) = tags.link_complaints(config.config, config.where, {"in0": IN0, "out0": tunnel})
    assert "link out0 is no Ethernet link" in str(complaint)
    assert not tags.link_complaints(config.config, config.where, {"in0": IN0, "out0": OUT0})
    (output,) = compile_plan(config.config, {"in0": IN0, "out0": tunnel}).rules[0].outputs
    assert (output.state, output.reason) == ("error", complaint.problem)


def test_what_frames_are_made_of_is_in_the_plan():
    """Of IPv6 with what is larger than the MTU left whole, which an output without a VLAN has cut."""
    ends = (to(), to("255.255.255.255:7000%out0"), to(SIX), f'"{SIX}"')
    config = parsed(IN + outputs(*ends)).config
    made = [
        (each.vlan, each.mac, each.payload_max, str(each.source_address), each.df)
        for each in compile_plan(config, {"in0": IN0, "out0": OUT0}).rules[0].outputs
    ]
    assert made == [
        (100, OUT0.mac, 1372, "192.0.2.1", False),
        (100, OUT0.mac, 1372, "192.0.2.1", False),
        (100, OUT0.mac, 1352, "2001:db8::1", True),
        (0, "", 1352, "2001:db8::1", False),
    ]
