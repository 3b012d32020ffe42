"""Rules of IPv6 beside the kernel engine, which is IPv4's: they go by the ring, say why, and lose nothing."""

from __future__ import annotations

import pytest
from support.relay import assert_adds_up, relaying
from support.traffic import assert_exact, memberships, receiver, report, send, wait_for

pytestmark = [pytest.mark.net, pytest.mark.usefixtures("kernel_engine")]

FOUR = '[rules.four]\ninput = "239.1.1.1:5000%in0"\noutputs = ["239.10.0.1:5004%out0"]\nengine = "kernel"\n'
SIX = '[rules.six]\ninput = "[ff15::1]:5000%in0"\noutputs = ["[ff15::2]:5004%out0"]\nengine = "kernel"\n'


def engine_of(relay, name: str) -> tuple[str, str]:
    rule = next(each for each in relay.show("rules") if each["name"] == name)
    return rule["engine"], rule["engine_reason"] or ""


def both_arrive(relay, *streams: tuple[str, str]) -> None:
    for taken, sent in streams:
        sink = receiver(relay.lab.sink, f"{sent}%eth0", "--count", 2_000)
        send(relay.lab.source, f"{taken}%eth0", "--count", 2_000, "--rate", 5_000)
        assert_exact(report(sink), 2_000)


def test_a_rule_of_ipv6_takes_the_links_rules_to_the_ring_and_gives_them_back():
    four, six = ("239.1.1.1:5000", "239.10.0.1:5004"), ("[ff15::1]:5000", "[ff15::2]:5004")
    with relaying(FOUR, ipv6=True) as relay:
        assert engine_of(relay, "four") == ("kernel", "")
        both_arrive(relay, four)
        relay.reload(FOUR + SIX)
        relay.heard_by_switch()
        engine, reason = engine_of(relay, "four")
        assert engine == "ring"
        assert "in0 has inputs of IPv6 too" in reason
        engine, reason = engine_of(relay, "six")
        assert engine == "ring"
        assert reason.startswith("engine kernel is IPv4's, and input [ff15::1]:5000%in0 is none of it")
        both_arrive(relay, four, six)
        relay.reload(FOUR)
        assert engine_of(relay, "four") == ("kernel", "")
        both_arrive(relay, four)
        assert_adds_up(relay.at_rest())


def test_more_ipv6_groups_than_one_socket_has_memory_for_are_joined_on_several():
    config = '[rules.x]\ninput = "[ff15::]/116:5000%in0"\noutputs = ["[ff16::]/116:5004%out0"]\n'
    with relaying(config, ipv6=True) as relay:
        mine = lambda: {group for group in memberships(relay.lab.relay, "in0") if group.startswith("ff15::")}  # noqa: E731
        wait_for(lambda: len(mine()) == 4096, "4096 groups", 20)
        assert {each["state"] for each in relay.show("groups")} == {"joined"}
