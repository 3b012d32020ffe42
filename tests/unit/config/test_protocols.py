"""What is said of rules for well-known protocols: one warning for an output, by group and port."""

from __future__ import annotations

import pytest

from mcrelay.config.parse import parse_config

SSDP, MDNS, AES67 = "239.255.255.250:1900", "224.0.0.251:5353", "239.69.83.171:5004"


def warned(taken: str, sent: str, options: str = "") -> list[str]:
    text = f'[rules.x]\ninput = "{taken}%eth0"\noutputs = [{{ to = "{sent}", ttl = 255 }}]\n{options}\n'
    return [f"{each.key}: {each.problem}; {each.remedy}" for each in parse_config([("x.toml", text)]).warnings]


@pytest.mark.parametrize(
    ("taken", "sent", "problem", "remedy"),
    [
        (MDNS, f"{MDNS}%eth1", "224.0.0.251 is mDNS, and receivers ignore a source port", "say source_port = 5353"),
        (SSDP, f"{SSDP}%eth1", "SSDP is answered by unicast to who asks", "run a proxy for SSDP"),
        (SSDP, "10.9.0.7:1900", "SSDP is answered by unicast to who asks", "run a proxy for SSDP"),
        ("239.255.255.250:3702", "239.255.255.250%eth1", "WS-Discovery is answered by", "a proxy for WS-Discovery"),
        (SSDP, f"{SSDP}%eth1", "SSDP is answered by", 'to search as well, say preset = "ssdp" with'),
        ("[ff02::c]:1900", "[ff02::c]%eth1", "SSDP is answered by", 'say preset = "ssdp6" with'),
        ("[ff05::c]:1900", "[ff05::c]%eth1", "SSDP is answered by", 'say preset = "ssdp6-site" with'),
        ("[ff02::c]:3702", "[ff02::c]%eth1", "WS-Discovery is answered by", 'say preset = "wsd6" with'),
        ("224.244.224.245:30490", "224.244.224.245%eth1", "SOME/IP-SD is answered by", "a proxy for SOME/IP-SD"),
        ("239.192.255.251:30490", "239.192.255.251%eth1", "SOME/IP-SD is answered by", "a proxy for SOME/IP-SD"),
        ("239.255.255.253:427", "239.255.255.253%eth1", "SLP is answered by", "a proxy for SLP"),
        ("224.0.0.252:5355", "224.0.0.252%eth1", "LLMNR is answered by", "a proxy for LLMNR"),
        ("224.0.1.187:5683", "224.0.1.187%eth1", "CoAP is answered by", "a proxy for CoAP"),
        ("224.0.1.129:319", "224.0.1.129%eth1", "port 319 is PTP", "let a boundary clock"),
        ("224.0.0.107:320", "10.9.0.7:320", "port 320 is PTP", "let a boundary clock"),
        (AES67, f"{AES67}%eth1", "239.69.83.171:5004 is AES67", "say source_port = 5004"),
        ("233.252.0.1:5000", "239.69.0.1:5004%eth1", "239.69.0.1:5004 is AES67", "say source_port = 5004"),
    ],
)
def test_each_output_that_would_be_of_no_use_is_warned_of_once(taken, sent, problem, remedy):
    (found,) = warned(taken, sent)
    assert found.startswith(f"rules.x.outputs[0]: {problem}")
    assert remedy in found


@pytest.mark.parametrize(
    ("taken", "sent", "options"),
    [
        (MDNS, f"{MDNS}%eth1", "source_port = 5353"),
        (MDNS, "10.9.0.7:5353", ""),  # to a collector
        (AES67, f"{AES67}%eth1", "source_port = 5004"),
        (AES67, "233.252.0.1:5004%eth1", ""),  # not in the range: anything may be at port 5004
        ("239.255.255.250:1901", "239.255.255.250%eth1", ""),
        ("233.252.0.1:1900", "233.252.0.1%eth1", ""),
        ("233.252.0.1:5000", "233.252.0.2:320%eth1", ""),
    ],
)
def test_others_are_not(taken, sent, options):
    assert warned(taken, sent, options) == []


def test_the_remedies_of_one_output_stand_in_one_warning():
    text = f'[rules.x]\ninput = "{MDNS}%eth0"\noutputs = ["{MDNS}%eth1"]\n'
    (found,) = parse_config([("x.toml", text)]).warnings
    assert found.remedy == "say ttl = 255 and source_port = 5353"
    assert parse_config([("x.toml", f"{text}ttl = 255\nsource_port = 5353\n")]).warnings == ()
