"""MLD behind a switch that prunes: told again when a link returns, and no trouble of it unnoticed."""

from __future__ import annotations

import re
import time

import pytest
from support.igmpwire import Listener
from support.mldwire import QUERIER, Watching, join, send_query
from support.relay import relaying
from support.traffic import memberships, wait_for

from mcrelay.commands.lab import SOURCE_ADDRESS6, forwarding, standard_lab
from mcrelay.igmp import mld
from mcrelay.igmp.needs import Limits

pytestmark = pytest.mark.net

ASM, SSM = "ff15::1234", "ff35::5678"
JOINED = ((ASM, None), (SSM, SOURCE_ADDRESS6))


@pytest.fixture
def lab():
    with standard_lab(ipv6=True, querier=False) as lab:
        lab.settle()
        yield lab


def watching(lab, **limits):
    return Watching(lab.relay, "in0", Limits(**{"margin": 0.3, **limits}), JOINED)


def listed(lab) -> set[str]:
    """Which of the groups the switch knows behind the relay's port."""
    return {ASM, f"{SOURCE_ADDRESS6}@{SSM}"} & lab.mdb().get("to-relay", set())


def lose_and_regain_carrier(lab) -> None:
    lab.switch.ip("link set to-relay down")
    time.sleep(1.2)  # the kernel may hold a carrier event back for a second
    assert not listed(lab)
    lab.switch.ip("link set to-relay up")


def remedy(text: str, start: str) -> str:
    """The command that a warning gives: someone will paste it."""
    (command,) = re.findall(rf"({start} .*?)(?:; or |$)", text)
    return command


@pytest.mark.parametrize("reports", [True, False])
def test_after_a_loss_of_carrier_the_switch_hears_of_groups_of_single_sources_too(lab, reports):
    """Without our reports, the control, the kernel tells of the group of any source alone (experiments/018)."""
    helpers = [join(lab.relay, "in0", *each) for each in JOINED]
    with watching(lab, **({} if reports else {"repeats": ()})):
        send_query(lab.source, "eth0")  # from then on the switch prunes, and asks nobody again
        wait_for(lambda: len(listed(lab)) == 2, "entries in the switch", 3)
        time.sleep(1.5)  # the answer's time, and what the kernel repeats of the joins
        lose_and_regain_carrier(lab)
        wait_for(lambda: forwarding(lab.switch) and ASM in listed(lab), "entry in the switch", 4)
        time.sleep(1.5)
        assert listed(lab) == ({ASM, f"{SOURCE_ADDRESS6}@{SSM}"} if reports else {ASM})
    for each in helpers:
        each.close()


def test_reports_come_from_the_link_local_address_in_the_version_of_the_querier(lab):
    helpers = [join(lab.relay, "in0", *each) for each in JOINED]
    with watching(lab) as relay:
        send_query(lab.source, "eth0", 1)
        wait_for(lambda: relay.querier is not None and relay.querier.version == 1, "querier", 3)
        assert str(relay.querier.address) == QUERIER
        time.sleep(1.5)
        with Listener(lab.switch, "to-relay", mld.parse) as wire:
            lose_and_regain_carrier(lab)
            wait_for(lambda: [each for each in wire.messages() if each.version == 1], "report", 4)
            ours = [each for each in wire.messages() if each.version == 1]
        assert all(each.host.is_link_local for each in ours)
        assert {str(group) for each in ours for group in each.answers} >= {ASM, SSM}
    for each in helpers:
        each.close()


def test_queries_that_a_firewall_drops(lab):
    helper = join(lab.relay, "in0", ASM)
    with watching(lab) as relay:
        lab.relay.run(
            "nft",
            "table inet filter {"
            " chain input { type filter hook input priority 0; icmpv6 type mld-listener-query drop; };"
            " chain output { type filter hook output priority 0; }; }",
        )
        send_query(lab.source, "eth0")
        text = relay.wait_for("unanswered-query")
        assert "A firewall of this host drops them between the link and the kernel's MLD" in text
        lab.relay.run("sh", "-c", remedy(text, "nft insert"))
        send_query(lab.source, "eth0")
        relay.wait_for("unanswered-query", gone=True)
        lab.relay.run("nft", "add rule inet filter output icmpv6 type mld2-listener-report drop")
        send_query(lab.source, "eth0")
        text = relay.wait_for("unanswered-query")
        assert "A firewall of this host refuses to let MLD out" in text
        lab.relay.run("sh", "-c", remedy(text, "nft insert"))
        send_query(lab.source, "eth0")
        relay.wait_for("unanswered-query", gone=True)
    helper.close()


def test_a_query_that_is_not_link_local_is_ignored_by_the_kernel(lab):
    helper = join(lab.relay, "in0", ASM)
    with watching(lab) as relay:
        send_query(lab.switch, "to-relay", source=SOURCE_ADDRESS6)  # the bridge too would ignore it
        assert "not link-local" in relay.wait_for("unanswered-query")
    helper.close()


def test_ipv6_switched_off_and_on(lab):
    helper = join(lab.relay, "in0", ASM)
    with watching(lab) as relay:
        lab.relay.sysctl({"ipv6.conf.in0.disable_ipv6": 1})
        text = relay.wait_for("ipv6-disabled")
        lab.relay.run("sh", "-c", remedy(text, "sysctl -w"))
        relay.wait_for("ipv6-disabled", gone=True)
        assert not relay.warnings
    helper.close()


def test_a_link_without_a_link_local_address(lab):
    helper = join(lab.relay, "in0", ASM)
    with watching(lab) as relay:
        lab.relay.run("ip", "-6", "addr", "flush", "dev", "in0", "scope", "link")
        text = relay.wait_for("no-address")
        with Listener(lab.switch, "to-relay", mld.parse) as wire:
            lab.relay.run("sh", "-c", remedy(text, "ip -6 address add"))
            relay.wait_for("no-address", gone=True)
            wait_for(lambda: any(str(each.host) == "fe80::1:1" for each in wire.messages()), "report", 3)
    helper.close()


def test_an_address_that_another_host_has(lab):
    helper = join(lab.relay, "in0", ASM)
    lab.relay.sysctl({"ipv6.conf.in0.accept_dad": 1, "ipv6.conf.in0.dad_transmits": 3})
    lab.source.ip("addr add fe80::77/64 dev eth0 nodad")
    with watching(lab) as relay:
        lab.relay.run("ip", "-6", "addr", "flush", "dev", "in0", "scope", "link")
        lab.relay.ip("addr add fe80::77/64 dev in0")
        text = relay.wait_for("refused-address", seconds=8)
        assert "another host of in0 has fe80::77" in text
    helper.close()


def test_an_older_querier_can_be_kept_from_the_kernel_as_the_warning_says(lab):
    helper = join(lab.relay, "in0", SSM, SOURCE_ADDRESS6)
    with watching(lab) as relay:
        send_query(lab.source, "eth0", 1)
        text = relay.wait_for("older-querier")
        lab.relay.run("sh", "-c", remedy(text, "sysctl -w"))
        relay.wait_for("older-querier", gone=True)
        with Listener(lab.switch, "to-relay", mld.parse) as wire:
            send_query(lab.source, "eth0", 2)
            wait_for(wire.messages, "answer", 3)
            assert {each.version for each in wire.messages()} == {2}
    helper.close()


def test_a_querier_that_falls_silent(lab):
    helper = join(lab.relay, "in0", ASM)
    with watching(lab, silence=2) as relay:
        send_query(lab.source, "eth0")
        assert f"no MLD query for 2 s; the last came from {QUERIER}" in relay.wait_for("silent-querier")
        send_query(lab.source, "eth0")
        relay.wait_for("silent-querier", gone=True)
    helper.close()


def test_more_ipv6_groups_than_one_socket_has_memory_for_are_joined_on_several():
    config = '[rules.x]\ninput = "[ff15::]/116:5000%in0"\noutputs = ["[ff16::]/116:5004%out0"]\n'
    with relaying(config, ipv6=True) as relay:
        mine = lambda: {group for group in memberships(relay.lab.relay, "in0") if group.startswith("ff15::")}  # noqa: E731
        wait_for(lambda: len(mine()) == 4096, "4096 groups", 20)
        assert {each["state"] for each in relay.show("groups")} == {"joined"}
