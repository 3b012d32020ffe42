"""What check says of the scopes, prefixes and families of addresses."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from mcrelay.config.ends import In, Out
from mcrelay.config.scopes import of_input, of_output
from mcrelay.model.notation import parse_stream
from mcrelay.model.rule import Input, Output, Rule


def of(found):
    return [f"{'warning: ' if c.warning else ''}{c.problem}; {c.remedy}" for c in found]


def said_of_input(text, allow=None):
    taken = Input(parse_stream(text), allow=tuple(map(ip_network, allow)) if allow else None)
    return of(of_input(In(Rule("a", (taken,), ()), "k", taken), lambda _: ("f", 1)))


def said_of_output(text, source="auto"):
    sent = Output(parse_stream(text), source_address=ip_address(source) if source not in {"auto", "keep"} else source)
    return of(of_output(Out(Rule("a", (), (sent,)), "k", sent), lambda _: ("f", 1)))


@pytest.mark.parametrize(
    "text",
    [
        "[ff15::1]:5000%eth0", "[ff02::fb]:5353%eth0", "[ff05::2]:5000%eth0", "[fd00::5]@[ff3e::1]:5000%eth0",
        "[ff35:20:fd00::1]:5000%eth0", "[ff75:940:fd01:2345:6789:abcd:0:1]:5000%eth0", "233.252.0.1:5000%eth0",
        "[ff01::1]:5000%lo", "[ff15::1000]/116:5000%eth0",
    ],
)  # fmt: skip
def test_what_works_is_not_complained_of(text):
    assert said_of_input(text) == []
    assert said_of_output(text) == []


def test_an_interface_local_group_never_leaves():
    line = (
        "ff01::1 is an interface-local group, which never leaves a host; "
        "name a group of wider scope, e.g. [ff02::1], which is the link's"
    )
    assert said_of_input("[ff01::1]:5000%eth0") == said_of_output("[ff01::1]:5000%eth0") == [line]


def test_who_sends_to_a_group_that_stays_on_the_link_has_a_link_local_address():
    line = (
        "warning: ff02::1234 stays on the link, where hosts send from a link-local address, and fd00::5 is none; "
        "name the sender's address that begins with fe80"
    )
    assert said_of_input("[fd00::5]@[ff02::1234]:5000%eth0") == [line]
    assert said_of_input("[fe80::5]@[ff02::1234]:5000%eth0") == []
    assert said_of_input("[::1]@[ff01::1234]:5000%lo") == []


@pytest.mark.parametrize(
    ("text", "source", "words"),
    [
        ("[ff02::1]:5000%eth0", "fd00::1", "ff02::1 stays on the link, and source_address fd00::1 is no link-local"),
        ("[fe80::7]:5000%eth0", "fd00::1", "fe80::7 stays on the link, and source_address fd00::1 is no link-local"),
        ("[ff15::1]:5000%eth0", "fe80::1", "source_address fe80::1 is a link-local one, and ff15::1 goes beyond the"),
        ("[fd00::7]:5000", "fe80::1", "source_address fe80::1 is a link-local one, and fd00::7 goes beyond the link"),
        ("[ff15::1]:5000%eth0", "192.0.2.1", "source_address 192.0.2.1 is of IPv4, and the output of IPv6; name an"),
        ("233.252.0.1:5000%eth0", "fd00::1", "source_address fd00::1 is of IPv6, and the output of IPv4; name an"),
    ],
)
def test_a_source_has_the_scope_and_family_of_where_it_sends(text, source, words):
    (found,) = said_of_output(text, source)
    assert found.startswith(words)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("[ff02::1]:5000%eth0", "fe80::1"),
        ("[ff15::1]:5000%eth0", "fd00::1"),
        ("[fe80::7]:5000%eth0", "fe80::1"),
        ("[ff02::1]:5000%eth0", "keep"),
    ],
)
def test_a_source_that_fits_is_not_complained_of(text, source):
    assert said_of_output(text, source) == []


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("ff25:20:fd00::1", "the flags of ff25:20:fd00::1 contradict each other; one with a prefix begins with ff3 or"),
        ("ff55:140:fd00::1", "the flags of ff55:140:fd00::1 contradict each other"),
        ("ff35:41:fd00::1", "ff35:41:fd00::1 says a prefix of 65 bits, and 64 have room (RFC 3306)"),
        ("ff35:20:fd00:0:1::1", "ff35:20:fd00:0:1::1 has more of a prefix than the 32 bits that it says (RFC 3306)"),
        ("ff75:40:fd00::1", "ff75:40:fd00::1 names no rendezvous point, as its flags say (RFC 3956)"),
    ],
)
def test_a_group_that_contradicts_its_own_prefix_is_warned_of(group, words):
    (found,) = said_of_output(f"[{group}]:5000%eth0")
    assert found.startswith(f"warning: {words}".replace("; one", ": one"))


def test_source_specific_groups_of_either_family_need_a_source():
    (four,) = said_of_input("232.1.1.1:5000%eth0")
    (six,) = said_of_input("[ff3e::1234]:5000%eth0")
    assert four.endswith("a join there without a source; name the source, e.g. 192.0.2.1@232.1.1.1:5000%eth0")
    assert six.endswith("name the source, e.g. [2001:db8::5]@[ff3e::1234]:5000%eth0")


def test_addresses_of_documents_are_warned_of():
    (found,) = said_of_input("[2001:db8::5]@[ff3e::1]:5000%eth0")
    assert found == (
        "warning: [2001:db8::5] names the sender, and is an address for documentation, which no host has; "
        "name the real address"
    )
    assert "[3fff::1] is sent to, and is an address for documentation" in said_of_output("[3fff::1]:5000")[0]


def test_allow_names_networks_of_the_streams_family():
    assert said_of_input("[ff15::1]:5000%eth0", ["fd00::/8", "192.0.2.0/24"]) == []
    (found,) = said_of_input("[ff15::1]:5000%eth0", ["192.0.2.0/24"])
    assert found.startswith("allow names no IPv6 network, so nothing would ever match; ")
    (found,) = said_of_input("233.252.0.1:5000%eth0", ["fd00::/8"])
    assert found.startswith("allow names no IPv4 network, so nothing would ever match; ")
