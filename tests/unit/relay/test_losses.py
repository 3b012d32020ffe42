"""Every loss is said when it begins and when it has ended, with whose it is; a rule is losing in between."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

import pytest

from mcrelay.config.checks import narrow_warnings
from mcrelay.config.parse import parse_config
from mcrelay.model.link import Link
from mcrelay.relay.compile import compile_plan
from mcrelay.relay.losses import LINK_SAYINGS, OUTPUT_SAYINGS, QUIET_SECONDS, LossLog, narrow_outputs

X, Y, Z = "239.1.1.1", "239.1.1.2", "239.1.1.3"
TEXT = "".join(
    f'[rules.{name}]\ninput = "{group}:5000%in0"\n'
    f'outputs = ["10.9.0.7:{port}", {{ to = "239.9.9.9:{port}%out0", df = {df} }}]\n'
    for name, group, port, df in (("x", X, 7000, "true"), ("y", Y, 7001, "false"))
)
TO_SIX = f'[rules.z]\ninput = "{Z}:5000%in0"\noutputs = ["[ff15::1]:1%out0", {{ to = "[ff15::1]:2%out0", vlan = 9 }}]\n'


def links(out_mtu: int = 1500):
    address = (IPv4Interface("10.20.1.1/24"),)
    return {
        "in0": Link("in0", 2, True, True, "UP", 1500),
        "out0": Link(
            "out0",
            3,
            True,
            True,
            "UP",
            out_mtu,
            address,
            mac="02:00:00:00:00:03",
            addresses6=(IPv6Interface("2001:db8::1/64"),),
        ),
    }


SPEC = compile_plan(parse_config([("x.toml", TEXT)]).config, links())
SLOT = ("x", "10.9.0.7:7000")


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage().split(": ")[0] for record in caplog.records]


def errors(**counts: int):
    return {SLOT: dict.fromkeys([*OUTPUT_SAYINGS, "parked"], 0) | counts}


def frames(group: str | None = None, **counts: int):
    address = IPv4Address(group) if group else None
    return {"in0": [{kind: (counts.get(kind, 0), address if kind in counts else None) for kind in LINK_SAYINGS}]}


@pytest.mark.parametrize("kind", OUTPUT_SAYINGS)
def test_an_output_that_loses(said, kind):
    losses = LossLog()
    for second, count in enumerate([0, 5, 50]):
        losses.look(errors(**{kind: count}), frames(), SPEC, second)
    assert losses.losing(SPEC) == {"x"}
    losses.look(errors(**{kind: 50}), frames(), SPEC, 2 + QUIET_SECONDS)
    where = "rule=x output=10.9.0.7:7000"
    assert said() == [f"began {where} losing={kind}", f"ended {where} losing={kind} lost=50"]
    assert losses.losing(SPEC) == set()


@pytest.mark.parametrize(
    ("kind", "remedies"),
    [
        ("nobufs", ["net.core.wmem_max"]),
        ("mtu", ["MTU", "df"]),
        ("noroute", ["route"]),
        ("unreachable", ["nothing listens on the port"]),
        ("blocked", ["this host's nftables output rules", "nft list ruleset", "ip route"]),
        ("ttl", ["ttl"]),
        ("other", ["blackhole", "ip route get"]),
    ],
)
def test_a_loss_of_an_output_is_said_with_what_to_look_at(caplog, kind, remedies):
    losses = LossLog()
    for second, count in enumerate([0, 5]):
        losses.look(errors(**{kind: count}), frames(), SPEC, second)
    (text,) = caplog.messages
    assert all(each in text for each in remedies)


@pytest.mark.parametrize("kind", [kind for kind in LINK_SAYINGS if kind != "ring"])
def test_a_frame_that_cannot_be_relayed_names_its_group_and_rule(said, kind):
    losses = LossLog()
    losses.look({}, frames(Y, **{kind: 3}), SPEC, 1)
    assert losses.losing(SPEC) == {"y"}
    losses.look({}, frames(Y, **{kind: 3}), SPEC, 1 + QUIET_SECONDS)
    assert said() == [f"began link=in0 losing={kind} group={Y} rule=y", f"ended link=in0 losing={kind} lost=3"]


def test_of_two_rings_that_one_names_the_group_whose_count_has_moved(said):
    losses = LossLog()
    losses.look({}, {"in0": frames(Y, fragment=9)["in0"] + frames()["in0"]}, SPEC, 0)
    losses.look({}, {"in0": frames(Y, fragment=9)["in0"] + frames()["in0"]}, SPEC, QUIET_SECONDS)
    losses.look({}, {"in0": frames(Y, fragment=9)["in0"] + frames(X, fragment=1)["in0"]}, SPEC, 20)
    assert said()[2:] == [f"began link=in0 losing=fragment group={X} rule=x"]
    assert losses.losing(SPEC) == {"x"}
    losses.look({}, frames(X, fragment=2), SPEC, 21)  # rings made anew
    losses.look({}, frames(X, fragment=2), SPEC, 21 + QUIET_SECONDS)
    assert said()[3:] == ["ended link=in0 losing=fragment lost=3"]


def test_a_full_ring_concerns_every_rule_of_its_link_and_a_foreign_group_none(said):
    losses = LossLog()
    losses.look({}, frames("239.99.99.99", malformed=7), SPEC, 0)
    assert said() == []
    losses.look({}, frames(ring=7), SPEC, 1)
    assert said() == ["began link=in0 losing=ring"]
    assert losses.losing(SPEC) == {"x", "y"}


def test_a_parked_output_is_a_state_and_said_as_such(said):
    losses = LossLog()
    losses.look(errors(parked=7), frames(), SPEC, 0)
    assert said() == []


def test_an_output_narrower_than_its_input():
    assert list(narrow_outputs(SPEC, links())) == []
    narrow = links(1400)
    parsed = parse_config([("x.toml", TEXT + TO_SIX)])
    found = list(narrow_outputs(compile_plan(parsed.config, narrow), narrow))
    warned = [str(each) for each in narrow_warnings(parsed.config, parsed.where, narrow)]
    fates = [
        ("rule=x output=239.9.9.9:7000%out0:", "1372 bytes are counted as lost (mtu)"),
        ("rule=y output=239.9.9.9:7001%out0:", "1372 bytes leave in fragments"),
        ("rule=z output=[ff15::1]:1%out0:", "1352 bytes leave in fragments"),
        ("rule=z output=[ff15::1]:2%out0 vlan 9:", "1352 bytes are counted as lost (mtu)"),
    ]
    for text, warning, (whose, fate) in zip(found, warned, fates, strict=True):
        assert text.startswith(whose)
        assert f"datagrams of more than {fate}" in text
        assert f"datagrams of more than {fate}" in warning
